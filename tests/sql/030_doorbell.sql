-- The signature and the publication.
begin;
select plan(6);

-- The vector of Standard Webhooks' own libraries has a body that jsonb writes alike.
select is(
  purple_flea.signature('msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'),
  'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  'SQL signs as Standard Webhooks does'
);
select throws_like($$select purple_flea.signature('a', 1, '{}', 'hunter2')$$, '%not of the form%', 'a secret of another form is refused');
select throws_like($$select purple_flea.signature('a', 1, '{}', null)$$, '%not of the form%', 'a missing secret is refused');

select bag_eq(
  $$select tablename::text from pg_publication_tables where pubname = 'supabase_realtime'$$,
  array['wallet_changes', 'trade_results', 'escrow_requests'],
  'observers see three tables, and not the agents'
);
select is_empty($$
  select p.tablename from pg_publication_tables p
  where pubname = 'supabase_realtime' and not exists (
    select from pg_constraint c where c.conrelid = format('%I.%I', p.schemaname, p.tablename)::regclass and contype = 'p'
  )
$$, 'each with a primary key, or observers would get errors');
select trigger_is('public', 'wallet_changes', 'purple_flea_notify', 'purple_flea', 'notify_of_deposits', 'deposits ring');

select * from finish();
rollback;
