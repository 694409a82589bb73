-- Reading the record that an event is about, by the key of its tenant.
begin;
\ir setup/feed.psql

create function pg_temp.record(name text, kind text, id text) returns jsonb language sql as $$
  select public.read_record(pg_temp.hash(name), kind, id)
$$;
insert into public.wallet_changes (id, agent_id, change_type, change_amount, new_balance)
values (990001, 'a', 'deposit', 100, 100.5);
create temporary table claimed as
  select (public.claim_jobs('{wallet-change-990001}', 1) ->> 'token')::uuid as token;
select public.settle_job(
  'wallet-change-990001',
  token,
  'executed',
  '{"status": "executed", "game": "crash", "wager": 10.05, "payout": 15, "outcome": "win",
    "bet_id": "b1"}'
)
from claimed;
select is(
  pg_temp.record('a', 'trade', 'wallet-change-990001') #>> '{record,status}',
  'executed',
  'a trade is read by its reference'
);
select is(
  pg_temp.record('a', 'trade', 'wallet-change-990001') #> '{record,result,wager}',
  '10.0500',
  'with its result, in decimals'
);
insert into public.escrow_requests (id, sender_id, receiver_id, amount)
values (990001, 'a', 'b', 12.34), (990002, 'b', 'nobodys', 1);
select is(
  pg_temp.record(name, 'escrow', '990001') #> '{record,amount}',
  '12.3400',
  'both parties of an escrow read it: ' || name
)
from unnest(array['a', 'b']) as name;
select is(
  pg_temp.record('a', 'agent', 'a') #>> '{record,tenant_id}',
  pg_temp.tenant('a')::text,
  'an agent has its tenant'
);
alter table public.agents add column password text default 'a user''s own';
select ok(
  not pg_temp.record('a', 'agent', 'a') -> 'record' ? 'password',
  'but no column that is not of the ledger'
);
alter table public.agents drop column password;
select ok(
  not pg_temp.record('a', 'agent', 'a') -> 'record' ? 'api_key',
  'and does not name its secret'
);
select is(
  pg_temp.record('a', 'api_key', made ->> 'id') #>> '{record,prefix}',
  made ->> 'prefix',
  'a key is read by its id'
)
from keys where name = 'a';
select ok(
  not pg_temp.record('a', 'api_key', made ->> 'id') -> 'record' ?| array['hash', 'use_told_at'],
  'without its hash'
)
from keys where name = 'a';

select is(
  pg_temp.record(name, kind, id) ->> 'state',
  'not_found',
  format('another tenant''s %s is not found, nor one that is none: %s', kind, id)
)
from (
  values
    ('b', 'trade', 'wallet-change-990001'),
    ('a', 'trade', 'no-such-job'),
    ('a', 'trade', 'registration-a'),
    ('a', 'escrow', '990002'),
    ('a', 'escrow', '1 or true'),
    ('a', 'escrow', '99999999999999999999999'),
    ('a', 'agent', 'b'),
    ('b', 'agent', 'a'),
    ('a', 'agent', ''),
    ('a', 'api_key', 'x'),
    ('b', 'api_key', (select made ->> 'id' from keys where name = 'a')),
    ('a', 'api_key', '00000000-0000-4000-8000-000000000001')
) as v (name, kind, id);
select is(pg_temp.record('a', 'agent', null) ->> 'state', 'not_found', 'no id finds nothing');
select is(
  pg_temp.record('a', kind, 'a') ->> 'state',
  'unknown_kind',
  'there is no such kind: ' || kind
)
from unnest(
  array['', 'bet', 'made', 'job', 'agent(uuid, text); --', 'AGENT', repeat('a', 300)]
) as kind;
select is(pg_temp.record('a', null, 'a') ->> 'state', 'unknown_kind', 'nor is null one');
insert into keys select 'events', public.create_api_key(pg_temp.tenant('a'), 'e', '{events:read}');
select is(
  pg_temp.record('events', 'agent', 'a') ->> 'state',
  'forbidden',
  'a key needs the scope records:read'
);
select is(
  public.read_record('x', 'no such kind', 'a') ->> 'state',
  'unauthorized',
  'a stranger learns nothing'
);
set local role authenticated;
select throws_ok(
  'select public.read_record(''x'', ''a'', ''b'')',
  '42501',
  null,
  'a user has no use for it'
);

select * from finish();
rollback;
