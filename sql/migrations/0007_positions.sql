-- Positions: the leverage and the direction with which a trade opens one, and requests to close
-- one.

-- A direction that nobody has chosen is null. The default of earlier releases was `long`; a policy
-- that trades keeps it.
alter table purple_flea.trade_policies
  alter column direction drop not null,
  alter column direction drop default,
  add column leverage integer,
  add constraint trade_policies_leverage_check
    check (leverage between 1 and 50);
update purple_flea.trade_policies set direction = null where direction = 'long' and game <> 'trade';
comment on column purple_flea.trade_policies.direction is
  'long or short, for a trade; null: the gateway gets none, the live dialect long.';
comment on column purple_flea.trade_policies.leverage is
  'The leverage of a trade in the live dialect, and the most that a requested trade may have: 1 to '
  '50; null: Purple Flea''s own 5.';

alter table public.trade_results add column if not exists leverage numeric;
comment on column public.trade_results.direction is
  'long or short, of a trade; null if nobody chose one and Purple Flea does not say it.';
comment on column public.trade_results.leverage is
  'The leverage that Purple Flea used, if it says it.';

-- A table of this name that is there already is brought to this shape, as in 0001.
create schema purple_flea_wanted;

create table purple_flea_wanted.close_requests (
  id          bigint        generated always as identity primary key,
  agent_id    text          not null references public.agents on delete restrict,
  position_id text          not null,
  created_at  timestamptz   not null default now(),
  status      text          not null default 'pending',
  exit_price  numeric,
  pnl         numeric(12,4),
  fee         numeric(12,4),
  reason      text,
  constraint close_requests_position_id_check
    check (position_id ~ '^[A-Za-z0-9._:-]{1,64}$'),
  constraint close_requests_status_check
    check (status in ('pending', 'closed', 'refused'))
);
create index close_requests_agent_id_idx
  on purple_flea_wanted.close_requests (agent_id);
-- The database's own guard of "one close for each position".
create unique index close_requests_position_idx
  on purple_flea_wanted.close_requests (agent_id, position_id)
  where status in ('pending', 'closed');
select pg_temp.purple_flea_adopt('close_requests', 'public');

drop schema purple_flea_wanted;

comment on table public.close_requests is 'Requests to close an agent''s positions.';
comment on column public.close_requests.agent_id is 'The agent that owns the position.';
comment on column public.close_requests.position_id is
  'Purple Flea''s id of the position: trade_results.position_id.';
comment on column public.close_requests.status is
  'pending, closed or refused. Only Purple Flea''s answers set it.';
comment on column public.close_requests.exit_price is
  'The price at which it was closed, if Purple Flea says it.';
comment on column public.close_requests.pnl is
  'The profit in US dollars, negative for a loss, without the fees.';
comment on column public.close_requests.fee is 'Purple Flea''s fee for the close in US dollars.';
comment on column public.close_requests.reason is
  'Why it is not closed, as a code; null if it is.';
alter table public.close_requests enable row level security;

-- The released servers count opened and closed positions each by its own path.
insert into purple_flea.rate_limits (api, calls, per, most, within)
values ('live', '{close}', 'deployment', 30, '60 seconds')
on conflict do nothing;

-- Requests that an uninstalled ledger left open have no job any more.
update public.close_requests c
set status = 'refused',
    reason = 'ledger_uninstalled'
where c.status = 'pending';
