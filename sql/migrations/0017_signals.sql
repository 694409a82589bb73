-- Signals: what an agent tells the agents that follow it, and by which rules these answer. Bets
-- that callers request.

-- A bet counts in the limits of Purple Flea's games. A claim knows the kind of a job and not its
-- game, so a bet counts in the limit of each game.
update purple_flea.rate_limits l
set calls = l.calls || '{bet}'
where l.calls && '{crash,coin-flip,hi-lo}'
  and not l.calls && '{bet}';
comment on column purple_flea.rate_limits.calls is
  'The calls that count together: crash, coin-flip, hi-lo, trade, or a kind of job. A kind may '
  'count in several limits.';

alter table purple_flea.ledger
  add column if not exists accept_public_signals boolean not null default false;
comment on column purple_flea.ledger.accept_public_signals is
  'Whether a signal from the public topic trade-signals counts. Everybody with the anon key can '
  'send there, so everybody could make agents trade. /health names it while it is true.';

-- The state machine gains an arrow: a job whose signal has expired is skipped.
alter table purple_flea.jobs
  drop constraint jobs_transition_check,
  add constraint jobs_transition_check check (
    case state
      when 'pending'
        then previous_state is null
          or previous_state = 'claimed'
          or (previous_state = 'unknown' and changed_by = 'operator')
      when 'claimed'
        then previous_state is not distinct from 'pending'
      when 'executed'
        then previous_state is not null and previous_state in ('claimed', 'unknown')
          or (previous_state is not distinct from 'pending' and changed_by = 'worker')
      when 'skipped'
        then previous_state is not distinct from 'claimed'
          or (previous_state is not distinct from 'pending' and changed_by = 'sweeper'
              and reason in ('already_traded', 'signal_expired'))
      when 'rejected'
        then previous_state is not distinct from 'claimed'
          or (previous_state is not distinct from 'unknown' and changed_by = 'operator')
      when 'unknown'
        then previous_state is not distinct from 'claimed'
          or (previous_state is not distinct from 'pending' and changed_by = 'restore')
      when 'dead'
        then previous_state is not distinct from 'pending'
    end
  ) not valid;

-- A table of the user's own with one of these names stays as it is, and says so at once.
do $$
declare
  missing text;
begin
  select string_agg(format('public.%s.%s', w.name, w.needed), ', ') into missing
  from (values
    ('trade_signals', 'content_hash'), ('signal_policies', 'confidence_above'),
    ('signal_follows', 'sender_id'), ('signal_answers', 'answered_at')
  ) as w (name, needed)
  where to_regclass('public.' || w.name) is not null
    and not exists (
      select
      from pg_catalog.pg_attribute a
      where a.attrelid = to_regclass('public.' || w.name)
        and a.attname = w.needed
    );
  if missing is not null then
    raise exception 'the ledger needs %, and a table of that name has another shape', missing
      using hint = 'Rename your table, and run scripts/migrate again.';
  end if;
end;
$$;

create table if not exists public.trade_signals (
  id           text        primary key,
  sender_id    text        not null references public.agents on delete restrict,
  kind         text        not null default 'trade_signal',
  market       text,
  action       text,
  confidence   numeric,
  size         numeric,
  details      jsonb       not null default '{}',
  came_by      text        not null,
  asked_as     text,
  content_hash text        not null,
  created_at   timestamptz not null default now(),
  expires_at   timestamptz not null,
  constraint trade_signals_id_check
    check (id ~ '^[0-9a-f]{64}$'),
  constraint trade_signals_kind_check
    check (kind in ('trade_signal', 'price', 'risk')),
  constraint trade_signals_market_check
    check (market ~ '^[A-Za-z0-9._:/-]{1,20}$'),
  constraint trade_signals_action_check
    check (action in ('BUY', 'SELL')),
  constraint trade_signals_confidence_check
    check (confidence between 0 and 1),
  -- NaN is greater than every number.
  constraint trade_signals_size_check
    check (size > 0 and size <= 99999999.9999),
  constraint trade_signals_came_by_check
    check (came_by in ('published', 'private_topic', 'public_topic')),
  constraint trade_signals_complete_check check (
    kind <> 'trade_signal'
    or (market is not null and action is not null and confidence is not null and size is not null)
  )
);
comment on table public.trade_signals is
  'What an agent has told the agents that follow it. A sweep deletes rows after 30 days.';
comment on column public.trade_signals.id is
  'sha256 of where the signal came from, its sender, and its name or its payload: the same signal '
  'has the same id, however often it comes.';
comment on column public.trade_signals.sender_id is 'The agent that sent it.';
comment on column public.trade_signals.kind is
  'trade_signal, price or risk. Only the first makes followers trade.';
comment on column public.trade_signals.action is 'BUY, or SELL: a short position.';
comment on column public.trade_signals.confidence is 'How sure the sender is, from 0 to 1.';
comment on column public.trade_signals.size is
  'The size that the sender names, in US dollars. A follower trades at most its own maximum.';
comment on column public.trade_signals.details is
  'The other members of a payload of the kinds price and risk.';
comment on column public.trade_signals.came_by is
  'published (SQL or POST /signals), private_topic (a broadcast that a listener brought in), or '
  'public_topic (only while accept_public_signals is true).';
comment on column public.trade_signals.asked_as is
  'The name that the publisher gave it: one name of a sender is one signal.';
comment on column public.trade_signals.content_hash is
  'sha256 of the payload: a repeated signal has the same one.';
comment on column public.trade_signals.expires_at is
  'The time from which nobody trades on it.';
create index if not exists trade_signals_sender_id_idx
  on public.trade_signals (sender_id, created_at);
create index if not exists trade_signals_created_at_idx
  on public.trade_signals (created_at);
alter table public.trade_signals enable row level security;

create table if not exists public.signal_policies (
  agent_id         text        primary key references public.agents on delete restrict,
  confidence_above numeric     not null default 0.75,
  max_size         numeric     not null,
  markets          text[],
  actions          text[]      not null default '{BUY}',
  answers          text        not null default 'trade',
  side             text,
  wager            numeric,
  changed_at       timestamptz not null default now(),
  constraint signal_policies_confidence_above_check
    check (confidence_above >= 0 and confidence_above < 1),
  constraint signal_policies_max_size_check
    check (max_size >= 0.01 and max_size <= 99999999.9999),
  constraint signal_policies_markets_check check (
    markets is null
    or (cardinality(markets) between 1 and 100 and array_position(markets, null) is null)
  ),
  constraint signal_policies_actions_check
    check (actions <@ '{BUY,SELL}' and cardinality(actions) > 0),
  constraint signal_policies_answers_check
    check (answers in ('trade', 'coin-flip')),
  constraint signal_policies_side_check
    check (side is null or (side in ('heads', 'tails') and answers = 'coin-flip')),
  constraint signal_policies_wager_check check (
    (answers = 'coin-flip') = (wager is not null)
    and (wager is null or (wager between 0.01 and 99999999.99 and wager = round(wager, 2)))
  )
);
comment on table public.signal_policies is
  'How an agent answers signals. An agent without a row answers none.';
comment on column public.signal_policies.confidence_above is
  'The agent answers a signal whose confidence is strictly above this.';
comment on column public.signal_policies.max_size is
  'The most that the agent trades on one signal, in US dollars.';
comment on column public.signal_policies.markets is
  'The markets whose signals the agent answers, in upper case; null: all of them.';
comment on column public.signal_policies.actions is 'BUY, SELL or both.';
comment on column public.signal_policies.answers is
  'trade (the least of the signal''s size and max_size), or coin-flip (a bet of the wager).';
comment on column public.signal_policies.side is 'The side of the coin-flip; null: heads.';
comment on column public.signal_policies.wager is
  'The wager of the coin-flip, in US dollars; null for a trade.';
alter table public.signal_policies enable row level security;

create table if not exists public.signal_follows (
  agent_id   text        not null references public.agents on delete restrict,
  sender_id  text        not null,
  created_at timestamptz not null default now(),
  primary key (agent_id, sender_id),
  constraint signal_follows_sender_id_check
    check (octet_length(sender_id) between 1 and 128 and sender_id <> agent_id)
);
comment on table public.signal_follows is
  'The senders outside of its own fleet whose signals an agent follows. Its owner chooses them.';
-- No foreign key: a row does not tell whether another user's agent exists.
comment on column public.signal_follows.sender_id is
  'The sender''s id. A sender that does not exist sends nothing.';
create index if not exists signal_follows_sender_id_idx
  on public.signal_follows (sender_id, agent_id);
alter table public.signal_follows enable row level security;

create table if not exists public.signal_answers (
  signal_id   text        not null,
  agent_id    text        not null,
  state       text        not null,
  reason      text,
  reference   text,
  answered_at timestamptz not null default clock_timestamp(),
  primary key (signal_id, agent_id),
  constraint signal_answers_state_check
    check (state in ('asked', 'declined', 'waiting', 'told')),
  constraint signal_answers_reference_check
    check ((state = 'asked') = (reference is not null)),
  constraint signal_answers_reason_check
    check ((state in ('declined', 'waiting')) = (reason is not null))
);
comment on table public.signal_answers is
  'What each follower did about a signal: one row for each signal and agent, so at most one job.';
-- No foreign keys: a follower whose row another transaction holds must not stop the others, and
-- a check for each of a thousand answers takes longer than their making.
comment on column public.signal_answers.agent_id is 'The follower.';
comment on column public.signal_answers.state is
  'asked (the job of the reference), declined (for the reason), waiting (the next sweep tries '
  'again), or told (a price or a risk).';
comment on column public.signal_answers.reason is
  'Why there is no job: no_signal_policy, paused, confidence_too_low, other_market, other_action, '
  'size_too_small, signal_expired, agent_locked, or a code of Postgres.';
comment on column public.signal_answers.reference is
  'The job that answers the signal: agent_jobs and trade_results have it.';
create index if not exists signal_answers_agent_id_idx
  on public.signal_answers (agent_id, answered_at);
create index if not exists signal_answers_waiting_idx
  on public.signal_answers (signal_id)
  where state = 'waiting';
alter table public.signal_answers enable row level security;
