-- Notifications: the signature, the trigger, once a transaction.
begin;
\ir setup/ages.psql

-- The vector of Standard Webhooks' own libraries has a body that jsonb writes alike.
select is(
  purple_flea.signature(
    'msg_p5jXN8AQM9LWM0D4loKWxJek',
    1614265330,
    '{"test": 2432232314}',
    'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
  ),
  'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  'SQL signs as Standard Webhooks does'
);
select throws_like(
  $$select purple_flea.signature('a', 1, '{}', 'hunter2')$$,
  '%not of the form%',
  'a secret of another form is refused'
);
select throws_like(
  $$select purple_flea.signature('a', 1, '{}', null)$$,
  '%not of the form%',
  'a missing secret is refused'
);

select trigger_is(
  'public',
  'wallet_changes',
  'purple_flea_notify',
  'purple_flea',
  'notify_of_deposits',
  'deposits notify'
);

-- Notifications: one a transaction, for any number of statements.
create schema if not exists net;
create temporary table posts (body jsonb, headers jsonb, timeout integer);
create function net.http_post(url text, body jsonb, headers jsonb, timeout_milliseconds integer)
  returns bigint
  language sql
as $$
  insert into posts (body, headers, timeout)
  values (body, headers, timeout_milliseconds)
  returning 1::bigint
$$;
grant usage on schema net to public;
grant all on posts to public;
select
  purple_flea.set_secret('purple_flea_function_url', 'http://127.0.0.1:9/execute-trade'),
  purple_flea.set_secret(
    'purple_flea_webhook_secret',
    'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE='
  );
select set_config('purple_flea.notified_in', '', true);
select pg_temp.deposit('a') from generate_series(1, 30);
select is((select count(*)::int from posts), 1, 'many statements of one transaction notify once');
select is((select timeout from posts), 15000, 'and wait for the function''s work');
select public.claim_jobs('{}', 1, after_reply => true);
select set_config('purple_flea.notified_in', '', true);
delete from posts where true;
select pg_temp.deposit('a');
select is(
  (select timeout from posts),
  2000,
  'a function that answers at once is given two seconds'
);

select * from finish();
rollback;
