-- The signature, the secrets and the publication.
begin;
select plan(16);

-- The vector of Standard Webhooks' own libraries has a body that jsonb writes alike.
select is(
  purple_flea.signature('msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'),
  'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  'SQL signs as Standard Webhooks does'
);
select throws_like($$select purple_flea.signature('a', 1, '{}', 'hunter2')$$, '%not of the form%', 'a secret of another form is refused');
select throws_like($$select purple_flea.signature('a', 1, '{}', null)$$, '%not of the form%', 'a missing secret is refused');

-- Without Vault: the owner-only table.
select is(purple_flea.secret('x'), null, 'a secret that nobody set is null');
select lives_ok($$select purple_flea.set_secret('x', 'first')$$, 'a secret can be set');
select is(purple_flea.secret('x'), 'first', 'and read');
select lives_ok($$select purple_flea.set_secret('x', 'second')$$, 'and set again');
select is(purple_flea.secret('x'), 'second', 'and read again');
select lives_ok($$select purple_flea.set_secret('blank', '  ')$$, 'a blank secret can be set');
select is(purple_flea.secret('blank'), null, 'and counts as none');

-- With Vault (a stand-in of its interface): Vault, and not the table.
create schema vault;
create table vault.stored (id uuid primary key default gen_random_uuid(), name text unique, decrypted_secret text);
create view vault.decrypted_secrets as select * from vault.stored;
create function vault.create_secret(new_secret text, new_name text, new_description text) returns uuid language sql as
  $$insert into vault.stored (name, decrypted_secret) values (new_name, new_secret) returning id$$;
create function vault.update_secret(secret_id uuid, new_secret text) returns void language sql as
  $$update vault.stored set decrypted_secret = new_secret where id = secret_id$$;
select is(purple_flea.secret('x'), null, 'with Vault the table counts no longer');
select lives_ok($$select purple_flea.set_secret('x', 'in Vault'), purple_flea.set_secret('x', 'again in Vault')$$, 'secrets go into Vault');
select is(purple_flea.secret('x'), 'again in Vault', 'and come from there');

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
select trigger_is('public', 'wallet_changes', 'purple_flea_doorbell', 'purple_flea', 'ring_doorbell', 'deposits ring');

select * from finish();
rollback;
