-- Completions, disputes, looks at open escrows, and what the referrals earn.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, referral_code) values ('boss', 'ref_boss');
insert into public.agents (id, orchestrator_id) values ('buyer', 'boss');
insert into public.agents (id, wallet_address) values ('artist', '0xa1');

-- Makes an escrow of the buyer for the artist, and settles its creation.
create function pg_temp.escrow(outcome jsonb) returns bigint language plpgsql as $$
declare
  made bigint;
begin
  insert into public.escrow_requests (sender_id, receiver_id, amount)
  values ('buyer', 'artist', 10)
  returning id into made;
  perform pg_temp.hold_all_but('escrow-' || made);
  perform pg_temp.settle(
    'escrow-' || made,
    pg_temp.claim('escrow-' || made),
    'executed',
    '{"pf_escrow_id": "esc_1", "fee": 0.1}' || outcome
  );
  return made;
end;
$$;
create function pg_temp.row(escrow bigint) returns public.escrow_requests language sql as $$
  select * from public.escrow_requests where id = escrow
$$;
-- Lets a time pass for an escrow's timeout.
create function pg_temp.time_out(escrow bigint) returns void language sql as $$
  update public.escrow_requests
  set auto_release_at = clock_timestamp() - interval '1 hour'
  where id = escrow
$$;

-- The receiver's address goes with the creation, and the reply's times and shares stay.
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('buyer', 'artist', 1);
create temporary table a as select 'escrow-' || max(id) as one from public.escrow_requests;
select is(pg_temp.claim(one) ->> 'counterparty_address', '0xa1', 'the receiver''s address is sent')
from a;
create temporary table e as select pg_temp.escrow(
  '{"auto_release_at": "2030-01-02T03:04:05Z", "referral_due": 0.015, "tx_hash": "0xfe"}'
) as id;
select results_eq(
  format(
    'select auto_release_at, referral_due, referral_earned, tx_hash
     from public.escrow_requests where id = %s', id),
  $$values ('2030-01-02T03:04:05Z'::timestamptz, 0.0150, null::numeric, '0xfe')$$,
  'a creation''s timeout, share and transaction are kept'
)
from e;
select is(
  (pg_temp.row(pg_temp.escrow('{}'))).auto_release_at,
  now() + interval '24 hours',
  'without a time in the reply it is Purple Flea''s own'
);

-- The receiver completes, and the escrow stays open.
update public.escrow_requests set requested_status = 'completed' where id = (select id from e);
select is((pg_temp.job('escrow-' || id || '-complete')).agent_id, 'artist', 'the receiver completes')
from e;
update public.escrow_requests set requested_status = 'released' where id = (select id from e);
select is(
  (pg_temp.job('escrow-' || id || '-release')).agent_id,
  'buyer',
  'the sender releases meanwhile: no party waits for the other''s step'
)
from e;
select throws_ok(
  format('update public.escrow_requests set requested_status = ''cancelled'' where id = %s', id),
  '23514',
  null,
  'a release and a cancellation exclude each other'
)
from e;
select pg_temp.hold_all_but('escrow-' || id || '-complete') from e;
select pg_temp.settle(
  'escrow-' || id || '-complete',
  pg_temp.claim('escrow-' || id || '-complete'),
  'executed',
  '{"pf_escrow_id": "esc_1", "escrow_status": "completed"}'
)
from e;
select ok(
  (pg_temp.row(id)).status = 'pending' and (pg_temp.row(id)).completed_at is not null,
  'a completed escrow is open, and says when'
)
from e;
-- The release's reply is lost: the state is read, and it names no referral.
select pg_temp.hold_all_but('escrow-' || id || '-release') from e;
select pg_temp.settle(
  'escrow-' || id || '-release',
  pg_temp.claim('escrow-' || id || '-release'),
  'executed',
  '{"pf_escrow_id": "esc_1", "escrow_status": "released", "fee": 0.1}'
)
from e;
select is((pg_temp.row(id)).referral_earned, 0.0150, 'a lost reply loses no referral') from e;

-- A dispute by either party.
create temporary table d as select pg_temp.escrow('{}') as id;
select is(
  public.request_job(
    'escrow_dispute', 'x', jsonb_build_object('escrow_id', id, 'agent_id', 'boss')
  ) ->> 'refused',
  'unknown_escrow',
  'no third agent disputes'
)
from d;
select is(
  public.request_job(
    'escrow_dispute',
    'x',
    jsonb_build_object('escrow_id', id, 'agent_id', 'artist', 'reason', 'not paid')
  ) ->> 'reference',
  'escrow-' || id || '-dispute',
  'the receiver disputes by a call'
)
from d;
select is(
  array[j.agent_id, j.request ->> 'agent_id', j.request ->> 'reason'],
  array['artist', 'artist', 'not paid'],
  'with its own account and its reason'
)
from d
cross join lateral pg_temp.job('escrow-' || d.id || '-dispute') as j;
select pg_temp.hold_all_but('escrow-' || id || '-dispute') from d;
select pg_temp.settle(
  'escrow-' || id || '-dispute',
  pg_temp.claim('escrow-' || id || '-dispute'),
  'executed',
  '{"pf_escrow_id": "esc_1", "escrow_status": "disputed"}'
)
from d;
select is((pg_temp.row(id)).status, 'disputed', 'a disputed escrow is disputed') from d;
select is(
  public.request_job('escrow_release', 'x', jsonb_build_object('escrow_id', id)) ->> 'refused',
  'escrow_not_open',
  'and no step follows'
)
from d;

-- Looks: from the timeout on, every hour, until the escrow is over.
create temporary table t as select pg_temp.escrow('{"referral_due": 0.015}') as id;
select purple_flea.make_escrow_looks(10);
select is((pg_temp.job('escrow-' || id || '-status')).reference, null, 'no look before the timeout')
from t;
select pg_temp.time_out(id) from t;
select purple_flea.sweep_part('timely jobs');
select purple_flea.make_escrow_looks(10);
select is((pg_temp.job('escrow-' || id || '-status')).state, 'pending', 'one look after the timeout')
from t;
select pg_temp.hold_all_but('escrow-' || id || '-status') from t;
select pg_temp.settle(
  'escrow-' || id || '-status',
  pg_temp.claim('escrow-' || id || '-status'),
  'pending',
  '{"reason": "escrow_completed", "retry_after_s": 3600}'
)
from t;
select ok(
  j.state = 'pending'
    and j.due_at > clock_timestamp() + interval '55 minutes'
    and (pg_temp.row(t.id)).completed_at is not null
    and (pg_temp.row(t.id)).reason is null,
  'an open escrow is looked at an hour later'
)
from t
cross join lateral pg_temp.job('escrow-' || t.id || '-status') as j;
select is(
  public.request_job('escrow_status', 'x', jsonb_build_object('escrow_id', id)) ->> 'reference',
  'escrow-' || id || '-status',
  'a caller asks for the same look'
)
from t;
select ok(
  (pg_temp.job('escrow-' || id || '-status')).due_at <= clock_timestamp() + interval '1 second',
  'at once'
)
from t;
select pg_temp.settle(
  'escrow-' || id || '-status',
  pg_temp.claim('escrow-' || id || '-status'),
  'executed',
  '{"pf_escrow_id": "esc_1", "escrow_status": "refunded", "fee": 0.1}'
)
from t;
select results_eq(
  format('select status, referral_earned from public.escrow_requests where id = %s', id),
  $$values ('refunded', 0.0150)$$,
  'a refund at the timeout is written back, with its referral'
)
from t;
create temporary table u as select pg_temp.escrow('{}') as id;
select pg_temp.time_out(id) from u;
select purple_flea.make_escrow_looks(10);
update purple_flea.jobs set expires_at = clock_timestamp() where reference like 'escrow-%-status' and state = 'pending';
select purple_flea.expire(false);
select purple_flea.make_escrow_looks(10);
select is(
  (pg_temp.job('escrow-' || id || '-status-2')).state,
  'pending',
  'a look that became too old is followed by another'
)
from u;
select is(
  public.request_job('escrow_status', 'x', '{"escrow_id": 0}') ->> 'refused',
  'unknown_escrow',
  'a missing escrow has no state'
);

-- The owners of both sides, by row.
update public.agents set owner_id = '00000000-0000-0000-0000-000000000001' where id = 'buyer';
update public.agents set owner_id = '00000000-0000-0000-0000-000000000002' where id = 'artist';
create temporary table w as select pg_temp.escrow('{}') as id;
grant select on w to authenticated;
set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000002"}';
select throws_ok(
  $$update public.escrow_requests set completed_at = now() where id = (select id from w)$$,
  '42501',
  null,
  'no owner writes Purple Flea''s values'
);
set local purple_flea.acting_party = 'boss';
select lives_ok(
  $$
    update public.escrow_requests
    set requested_status = 'disputed', dispute_reason = 'not paid'
    where id = (select id from w)
  $$,
  'the receiver''s owner disputes by row, and names no other agent for it'
);
reset role;
select is((pg_temp.job('escrow-' || id || '-dispute')).agent_id, 'artist', 'for the receiver') from w;
select is(
  array[
    public.may_act_for(escrow_id => w.id, party => 'receiver'),
    public.may_act_for(escrow_id => w.id),
    public.may_act_for(escrow_id => w.id, party => 'either'),
    public.may_act_for(escrow_id => w.id, party => 'anybody')
  ],
  array[true, false, true, false],
  'the receiver''s owner acts for the receiver alone'
)
from w;
set local request.jwt.claims = '';

-- The sender's owner completes nothing: the job would show the receiver's key.
create temporary table v as select pg_temp.escrow('{}') as id;
grant select on v to authenticated;
set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000001"}';
select throws_ok(
  $$update public.escrow_requests set requested_status = 'completed' where id = (select id from v)$$,
  '42501',
  null,
  'the sender''s owner may not complete'
);
select lives_ok(
  $$update public.escrow_requests set requested_status = 'disputed' where id = (select id from v)$$,
  'but dispute'
);
reset role;
set local request.jwt.claims = '';
select is(
  array[(pg_temp.job('escrow-' || id || '-dispute')).agent_id, (pg_temp.row(id)).dispute_reason],
  array['buyer', null],
  'for the sender, and in its own words'
)
from v;

-- An escrow waits for its receiver's registration, and not for its sender's.
insert into public.agents (id, api_key)
values ('new-sender', 'purple_flea_key:new-sender'), ('new-receiver', 'purple_flea_key:new-receiver');
insert into public.escrow_requests (sender_id, receiver_id, amount)
values ('new-sender', 'new-receiver', 3);
create temporary table b as select 'escrow-' || max(id) as one from public.escrow_requests;
create function pg_temp.registered(agent text) returns void language plpgsql as $$
begin
  -- The escrow's own due time stays.
  update purple_flea.jobs
  set due_at = clock_timestamp()
  where reference = 'registration-' || agent;
  perform pg_temp.settle(
    'registration-' || agent,
    pg_temp.claim('registration-' || agent),
    'executed',
    jsonb_build_object('account', 'ag_' || agent),
    'sk_' || agent
  );
end;
$$;
select pg_temp.registered('new-sender');
select is((pg_temp.job(one)).due_at, 'infinity', 'the sender''s registration lets it wait') from b;
select pg_temp.registered('new-receiver');
select ok((pg_temp.job(one)).due_at <= clock_timestamp(), 'the receiver''s lets it go') from b;

-- The casino's share of lost bets, up to three orchestrators up.
insert into public.agents (id, referral_code) values ('top', 'ref_top'), ('middle', 'ref_middle');
insert into public.agents (id, api_key) values ('player', 'purple_flea_key:player');
create function pg_temp.register(agent text, by_code text) returns void language plpgsql as $$
declare
  name text := purple_flea.make_agent_job('registration', agent, 'registration-' || agent);
begin
  perform pg_temp.hold_all_but(name);
  perform pg_temp.settle(
    name,
    pg_temp.claim(name),
    'executed',
    jsonb_build_object('account', 'ag_' || agent, 'referred_by', by_code)
  );
end;
$$;
select pg_temp.register('player', 'ref_middle');
select pg_temp.register('middle', 'ref_top');
select pg_temp.register('player', 'ref_middle');
insert into public.trade_results (agent_id, game, wager, outcome, payout, proof)
values
  ('player', 'crash', 5.25, 'loss', 0, '{}'),
  ('player', 'crash', 0.04, 'loss', 0, '{}'),
  ('player', 'crash', 5, 'win', 7.5, '{}'),
  ('player', 'crash', 5, 'loss', 0, null);
select results_eq(
  $$
    select orchestrator_id, escrows, bets, lost, bets_earned
    from public.referral_earnings
    where orchestrator_id in ('top', 'middle')
    order by orchestrator_id
  $$,
  $$values ('middle', 0::bigint, 2::bigint, 5.2900, 0.53), ('top', 0::bigint, 2::bigint, 5.2900, 0.26)$$,
  'each orchestrator earns its level''s share of each lost bet, in whole cents'
);
select results_eq(
  $$
    select escrows, amount, fees, earned
    from public.referral_earnings
    where orchestrator_id = 'boss'
  $$,
  $$values (2::bigint, 20.0000, 0.2000, 0.0300)$$,
  'released and refunded escrows earn'
);

select * from finish();
rollback;
