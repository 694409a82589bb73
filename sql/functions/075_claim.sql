-- Claiming: what the function calls before it may bet. It gets jobs for as many bets as it can send at once, each with
-- the row and the policy frozen, a lease and a token; and an answer for every deposit that it asked about.

-- What an agent has staked and lost on a day, and what it may yet have: the worst case of what is under way or unknown.
create or replace function purple_flea.spent(agent text, on_day date, but_for text) returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'wagered', coalesce(sum(wager) filter (where state = 'executed'), 0),
    -- Of a trade nobody tells what it lost: all of it counts. (A win without a payout lost nothing.)
    'lost',    coalesce(sum(wager - case when result ? 'market' then 0 else coalesce(payout, wager) end) filter (where state = 'executed'), 0),
    'open',    coalesce(sum(stake) filter (where state in ('claimed', 'unknown')), 0)
  )
  from purple_flea.jobs
  where agent_id = agent and bet_day = on_day and reference <> but_for
$$;
comment on function purple_flea.spent(text, date, text) is 'What an agent staked and lost on a UTC day, in US dollars, without one job.';
revoke all on function purple_flea.spent(text, date, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- What the ledger answers about a job that a caller names.
create or replace function purple_flea.answer(asked text, claim uuid, holding boolean, exhausted jsonb, generation uuid) returns jsonb
  language plpgsql
  volatile  -- sees what the claim has just done
  set search_path = pg_catalog, pg_temp
as $$
declare
  job     purple_flea.jobs;
  rules   purple_flea.effective_policies;
  stopped boolean;
  wait_s  integer;
begin
  select * into job from purple_flea.all_jobs j where j.reference = asked;
  if not found then
    return jsonb_build_object('reference', asked, 'state', 'not_found');
  end if;
  select * into rules from purple_flea.effective_policies p where p.agent_id = job.agent_id;
  stopped := job.state = 'pending' and purple_flea.is_stopped(job.kind, rules.game, rules.account, exhausted);
  wait_s := least(86400, greatest(1, ceil(extract(epoch from
    -- (What is held waits for something else than a time.)
    case when job.state = 'claimed' then job.lease_until when isfinite(job.due_at) then job.due_at else clock_timestamp() + interval '1 minute' end
    - clock_timestamp()))));
  if stopped then
    wait_s := greatest(wait_s, ceil(extract(epoch from (
      select max(e.value::timestamptz) from jsonb_each_text(exhausted) e
      where e.key like replace(purple_flea.call_of(job.kind, rules.game), '_', '\_') || ' %') - clock_timestamp()))::integer);
  end if;
  return jsonb_strip_nulls(jsonb_build_object(
    'reference', asked,
    'agent_id',  job.agent_id,
    'state', case
      when job.state = 'claimed' and job.token = claim then 'claimed'
      when job.state = 'claimed' then 'in_flight'
      when job.state = 'pending' then 'waiting'
      else job.state
    end,
    'reason', case
      when job.state = 'pending' and (rules.paused or holding) then 'paused'
      when job.state = 'pending' and purple_flea.awaits_confirmation(job.kind, job.generation, answer.generation) then 'restore_unconfirmed'
      when stopped then 'rate_limited'
      else job.reason
    end,
    'retry_after_s', case when job.state in ('claimed', 'pending') then wait_s end,
    'result', case when job.state in ('executed', 'skipped', 'rejected') then job.result end
  ));
end;
$$;
comment on function purple_flea.answer(text, uuid, boolean, jsonb, uuid) is 'What the ledger answers about one job.';
revoke all on function purple_flea.answer(text, uuid, boolean, jsonb, uuid) from public, anon, authenticated, service_role, purple_flea_worker;

-- A deposit's row as it is frozen in its job. Its caller has the time zone at UTC.
create or replace function purple_flea.deposit_row(w public.wallet_changes) returns jsonb
  language sql
  stable
  security invoker
  -- Inlined into its callers, which have a search path; with one of its own it could not be.
as $$
  select jsonb_build_object('id', w.id, 'agent_id', w.agent_id, 'change_type', w.change_type,
    'change_amount', w.change_amount, 'new_balance', w.new_balance, 'created_at', w.created_at)
$$;
comment on function purple_flea.deposit_row(public.wallet_changes) is 'A deposit''s row as it is frozen in its job.';
revoke all on function purple_flea.deposit_row(public.wallet_changes) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.stake_of(kind text, request jsonb, w public.wallet_changes, policy purple_flea.trade_policies) returns numeric
  language sql
  immutable
  security invoker
  -- Inlined into its callers, which have a search path; with one of its own it could not be.
as $$
  select case
    when kind = 'deposit' then purple_flea.stake(w.new_balance, policy)
    when kind in ('trade', 'order') then (request ->> 'size')::numeric
  end
$$;
comment on function purple_flea.stake_of(text, jsonb, public.wallet_changes, purple_flea.trade_policies) is 'The most that a job can cost, in US dollars; null for a kind that stakes nothing.';
revoke all on function purple_flea.stake_of(text, jsonb, public.wallet_changes, purple_flea.trade_policies) from public, anon, authenticated, service_role, purple_flea_worker;

-- Brings picked jobs into the claim's hands, with all that they are judged by later.
create or replace function purple_flea.take(picked text[], claim_token uuid, at timestamptz, with_slots boolean) returns void
  language plpgsql  -- as timing()
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A few jobs by their names: any other plan reads all that their agents have ever had.
  set enable_hashjoin = off
  set enable_mergejoin = off
as $$
begin
  update purple_flea.jobs j
  set state = 'claimed', changed_by = 'worker', reason = null, attempts = j.attempts + 1,
      token = claim_token, claimed_at = at, lease_until = at + (purple_flea.timing()).lease, lookup_at = null,
      request  = case j.kind when 'deposit' then purple_flea.deposit_row(taken.w) else j.request end,
      policy   = to_jsonb(taken.p) - 'id' - 'agent_id' - 'limited',
      stake    = purple_flea.stake_of(j.kind, j.request, taken.w, taken.p),
      bet_day  = case when j.kind in ('deposit', 'trade', 'order') then (at at time zone 'UTC')::date end,
      limited  = (taken.p).limited and j.kind in ('deposit', 'trade', 'order'),
      key_name = case when taken.api_key = '' then '' else purple_flea.agent_secret(taken.api_key, purple_flea.call_of(j.kind, (taken.p).game)) end,
      account  = taken.pf_agent_id,
      holds_slot = with_slots and exists (select from purple_flea.rate_slots s where s.reference = j.reference and s.token = claim_token),
      wager = null, payout = null, result = null
  from (
    select t.reference, w, p, a.api_key, a.pf_agent_id
    from unnest(picked) as named (reference)
    join purple_flea.jobs t on t.reference = named.reference
    join public.agents a on a.id = t.agent_id
    left join public.wallet_changes w on w.id = t.wallet_change_id
    cross join lateral (select e.policy_id from purple_flea.effective_policies e where e.agent_id = t.agent_id offset 0) as effective
    join purple_flea.trade_policies p on p.id = effective.policy_id
    offset 0
  ) as taken
  where j.reference = taken.reference;
end;
$$;
comment on function purple_flea.take(text[], uuid, timestamptz, boolean) is 'Claims locked jobs for a token: freezes row, policy, key name and account in them.';
revoke all on function purple_flea.take(text[], uuid, timestamptz, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

-- What a claim's token holds, as the function reads it.
create or replace function purple_flea.held_jobs(claim_token uuid) returns jsonb
  language plpgsql  -- as timing()
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
        'reference', j.reference, 'kind', j.kind, 'bet_key', j.bet_key, 'attempt', j.attempts, 'stake', j.stake,
        'spent', case when j.limited then purple_flea.spent(j.agent_id, j.bet_day, j.reference) end,
        'account', j.account,
        'fresh', case when j.kind = 'faucet' and not exists (select from public.wallet_changes c where c.agent_id = j.agent_id) and exists (
          select from purple_flea.jobs r where r.agent_id = j.agent_id and r.kind = 'registration' and r.state = 'executed') then true end,
        -- Of what is not frozen: what the other side is called by now, which code earns the referral, and what there is to release.
        'counterparty', case when j.kind = 'escrow' then (
          select coalesce(r.pf_agent_id, r.id) from public.agents r where r.id = j.request ->> 'receiver_id') end,
        'referral_code', case when j.kind in ('escrow', 'registration', 'faucet') then o.referral_code end,
        'escrow', case when j.kind in ('escrow_release', 'escrow_cancel') then (
          select jsonb_build_object('id', e.pf_escrow_id, 'status', e.status) from public.escrow_requests e where e.id = j.escrow_id) end,
        'own_key', case when j.key_name <> '' then true end,
        'key', case when j.key_name <> '' then purple_flea.secret(j.key_name) end
      )) || jsonb_build_object('row', j.request, 'policy', j.policy)), '[]')
    from purple_flea.jobs j
    join public.agents a on a.id = j.agent_id
    left join public.agents o on o.id = a.orchestrator_id
    where j.token = claim_token and j.state = 'claimed'
  );
end;
$$;
comment on function purple_flea.held_jobs(uuid) is 'The jobs that a claim holds, with the keys that their calls are made with.';
revoke all on function purple_flea.held_jobs(uuid) from public, anon, authenticated, service_role, purple_flea_worker;

-- A commit that is not flushed can be lost in a crash, and with it the claim, though its bets were made.
create or replace function purple_flea.commit_synchronously() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('synchronous_commit') = 'off' then
    -- For this transaction. (As a function's SET it would end before the commit.)
    perform set_config('synchronous_commit', 'on', true);
  end if;
end;
$$;
comment on function purple_flea.commit_synchronously() is 'Makes this transaction''s commit wait for the disk, whatever the default is.';
revoke all on function purple_flea.commit_synchronously() from public, anon, authenticated, service_role, purple_flea_worker;

-- The function and the ledger change independently. Each claim says which version of their agreement it speaks; a ledger that
-- does not speak it hands out nothing. 1: release 0.1.0. 2: adds patience_ms, abandon_claim, not_now.
create or replace function purple_flea.speaks(protocol integer) returns boolean
  language sql
  immutable
  security invoker
  -- Inlined into its callers, which have a search path; with one of its own it could not be.
as $$
  select coalesce(protocol between 1 and 2, false)
$$;
comment on function purple_flea.speaks(integer) is 'Whether the ledger speaks a version of the protocol between it and the function.';
revoke all on function purple_flea.speaks(integer) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function public.claim_jobs(
  "references" text[] default '{}', "limit" integer default 1, claim uuid default gen_random_uuid(), api text default 'gateway',
  watcher uuid default null, linger_ms integer default 0, protocol integer default 1, patience_ms integer default null,
  after_reply boolean default null)
  returns jsonb
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
  -- Frozen rows have their times in UTC, whatever the session's zone.
  set timezone = 'UTC'
  -- The plans are the same for any arguments, and planning them anew costs more than running them.
  set plan_cache_mode = force_generic_plan
as $$
declare
  most        constant integer := 100;  -- jobs of one claim, or named ones: more than any host sends at once
  linger_most constant integer := 3000; -- what await_jobs() waits at most
  wanted      text[]      := coalesce(claim_jobs."references", '{}');
  slots       integer     := coalesce(claim_jobs."limit", 0);
  claim_token uuid        := coalesce(claim_jobs.claim, gen_random_uuid());
  exhausted   jsonb       := '{}';
  present     uuid;
  limits      boolean;
  late        boolean     := false;
  given_up    boolean;
  picked      text[];
  at          timestamptz;
begin
  if slots not between 0 and most or cardinality(wanted) > most then
    raise exception 'limit and references may be at most %', most using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(claim_jobs.linger_ms, 0) not between 0 and linger_most then
    raise exception 'linger_ms may be at most %', linger_most using errcode = 'invalid_parameter_value';
  end if;
  if not purple_flea.speaks(claim_jobs.protocol) then
    return jsonb_build_object('mismatch', true, 'token', claim_token, 'lease_ms', 0, 'jobs', '[]'::jsonb, 'answers', '[]'::jsonb,
                              'more', false, 'watching', false, 'lookups', false);
  end if;
  perform purple_flea.commit_synchronously();
  update purple_flea.ledger l
  set answers_at_once = claim_jobs.after_reply
  where l.only_row and l.answers_at_once <> claim_jobs.after_reply;
  -- A limit of 0 comes from a function that is paused.
  perform purple_flea.expire(slots = 0);
  -- Asked again with the same claim because the answer got lost: what it holds, and no more, even while the first one
  -- is still at it, or when all that it held is settled.
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:' || claim_token, 1));
  limits := exists (select from purple_flea.rate_limits l where l.api = claim_jobs.api) or exists (select from purple_flea.rate_stops r where r.until > clock_timestamp());
  if limits then
    -- Two claims must not count the same free slot.
    perform pg_advisory_xact_lock(hashtextextended('purple_flea:rate_slots', 2));
    exhausted := purple_flea.exhausted(claim_jobs.api);
  end if;
  present := purple_flea.current_generation();
  -- (No caller asks again for what is archived.)
  given_up := exists (select from purple_flea.abandoned_claims c where c.token = claim_token);
  if slots > 0 and not given_up and not exists (
    select from purple_flea.job_events e where e.token = claim_token and e.to_state = 'claimed' and e.kind = 'transition'
  ) then
    picked := purple_flea.set_done_aside(purple_flea.pick_jobs(wanted, slots, exhausted, present));
    at     := clock_timestamp();
    -- Every lock is held by now. What was waited for may have taken longer than the caller waits for the answer.
    late   := at > statement_timestamp() + make_interval(secs => claim_jobs.patience_ms / 1000.0);
    if late is not true then
      if limits then
        picked := purple_flea.take_slots(picked, claim_jobs.api, exhausted, claim_token, at + (purple_flea.timing()).lease);
      end if;
      perform purple_flea.take(picked, claim_token, at, limits);
    end if;
  end if;
  return jsonb_build_object(
    'token',    claim_token,
    'jobs',     purple_flea.held_jobs(claim_token),
    'lease_ms', (select greatest(0, floor(extract(epoch from min(j.lease_until) - clock_timestamp()) * 1000)::bigint)
                 from purple_flea.jobs j where j.token = claim_token and j.state = 'claimed'),
    'answers',  coalesce((select jsonb_agg(purple_flea.answer(asked, claim_token, slots = 0, exhausted, present)) from unnest(wanted) as asked), '[]'),
    'more',     slots > 0 and purple_flea.is_due(),
    -- (Nobody waits any more whose claim was given up, or is late.)
    'watching', claim_jobs.watcher is not null and claim_jobs.linger_ms > 0 and not given_up and late is not true
      and purple_flea.keep_watch(claim_jobs.watcher, make_interval(secs => claim_jobs.linger_ms / 1000.0)),
    'lookups',  exists (select from purple_flea.jobs j where j.state = 'unknown' and j.lookup_at <= statement_timestamp())
  );
end;
$$;
comment on function public.claim_jobs(text[], integer, uuid, text, uuid, integer, integer, integer, boolean) is 'Claims due jobs, those asked for first, and answers for every reference: claimed, in_flight, executed, skipped, rejected, unknown, dead, waiting or not_found. A claim that is later than patience_ms takes nothing.';
revoke all on function public.claim_jobs(text[], integer, uuid, text, uuid, integer, integer, integer, boolean) from public, anon, authenticated;
grant execute on function public.claim_jobs(text[], integer, uuid, text, uuid, integer, integer, integer, boolean) to service_role, purple_flea_worker;

-- What a caller says that gave a claim up: it has begun none of these jobs and never will under this token. Under the claim's
-- own lock, so that a claim still under way is waited for, and one that comes later finds its token here.
create or replace function public.abandon_claim(claim uuid, never_begun text[] default null) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  gave_back integer;
begin
  if abandon_claim.claim is null then
    raise exception 'a claim is abandoned by its token' using errcode = 'invalid_parameter_value';
  end if;
  perform purple_flea.commit_synchronously();
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:' || abandon_claim.claim, 1));
  insert into purple_flea.abandoned_claims (token) values (abandon_claim.claim) on conflict do nothing;
  gave_back := purple_flea.change_jobs(array(
    select j.reference from purple_flea.jobs j
    where j.token = abandon_claim.claim and j.state = 'claimed'
      and (abandon_claim.never_begun is null or j.reference = any (abandon_claim.never_begun))
    order by j.reference for update
  ), 'give_back');
  return jsonb_build_object('gave_back', gave_back);
end;
$$;
comment on function public.abandon_claim(uuid, text[]) is 'Gives jobs back that their claimant never began, all of the claim''s or those named; the claim takes nothing any more.';
revoke all on function public.abandon_claim(uuid, text[]) from public, anon, authenticated;
grant execute on function public.abandon_claim(uuid, text[]) to service_role, purple_flea_worker;
