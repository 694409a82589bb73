-- A claim carries the key of its call.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, referral_code) values ('plain', 'ref_plain');
insert into public.agents (id) values ('other'), ('keyed');
select purple_flea.set_agent_key('keyed', 'sk_keyed_own');
insert into purple_flea.trade_policies (agent_id, game) values ('keyed', 'crash');

-- Keys.
select purple_flea.set_secret('purple_flea_trading_key:keyed', 'sk_trade_own');
update purple_flea.trade_policies set game = 'trade', market = 'BTC' where agent_id = 'keyed';
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('keyed', 'deposit', 100);
select is(
  public.claim_jobs('{}', 1) #>> '{jobs,0,key}',
  'sk_trade_own',
  'trading has a key of its own where there is one'
);
select is_empty(
  $$
    select from purple_flea.jobs j
    where j::text like '%sk_trade_own%'
    union all
    select from purple_flea.job_events e
    where e::text like '%sk_trade_own%'
  $$,
  'which stands nowhere else'
);

select * from finish();
rollback;
