-- Policies and views compare a user, and never raise.
begin;
\ir setup/neighbours.psql

-- Policies never raise, for any token.
set local role authenticated;
set local request.jwt.claims = '{"sub": "auth0|no-uuid"}';
select lives_ok(
  'select * from public.trade_results',
  'a subject that is no uuid sees nothing, and raises nothing'
);
select is_empty('select * from public.wallet_changes', 'it is no agent''s owner');
set local request.jwt.claims = 'no json';
select is_empty('select * from public.escrow_requests', 'neither do claims that are no JSON');
select is_empty('select * from public.agent_jobs', 'nor in the views');
reset role;

select * from finish();
rollback;
