-- Secrets and agents' keys: their names, their permitted forms, and that no agent reaches another's
-- key.
begin;
-- No function is called here, and each row would warn of that.
set local client_min_messages = error;
select * from no_plan();
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;

-- Gives the error of a statement that must fail: the message, its detail, hint and context, without
-- the statement itself.
create function pg_temp.failure(statement text) returns text language plpgsql as $$
declare
  message text; detail text; hint text; context text;
begin
  execute statement;
  return 'it did not fail';
exception when others then
  get stacked diagnostics
    message = message_text,
    detail = pg_exception_detail,
    hint = pg_exception_hint,
    context = pg_exception_context;
  return concat_ws(E'\n', sqlstate, message, detail, hint, replace(context, statement, '…'));
end;
$$;

-- Agents, some with ids that look like other agents' secrets.
insert into public.agents (id) values ('plain'), ('no-key');
insert into public.agents (id, api_key)
select id, 'purple_flea_key:' || id
from unnest(array['bob', 'bob.trading', 'bob:x', 'trading_key:bob', 'key:bob', 'bob.unused']) as id;
select is(
  purple_flea.key_name('bob'),
  'purple_flea_key:bob',
  'an agent''s secret has the agent''s id at its end'
);
select is(
  count(distinct purple_flea.key_name(id, p)),
  count(*),
  'and no two agents'' secrets have one name'
)
from public.agents, unnest(array[null, 'trading', 'unused']) as p;
select is(
  purple_flea.agent_of_key(purple_flea.key_name(id, p)),
  id,
  'a name gives its agent back: ' || id
)
from public.agents, unnest(array[null, 'trading']) as p;

select lives_ok($$select purple_flea.set_agent_key('bob', 'sk_of_bob', false)$$, 'a key is set');
select lives_ok(
  $$select purple_flea.set_agent_key('bob', 'sk_trade_of_bob', trading => true)$$,
  'and one for trading'
);
select is(purple_flea.agent_key('purple_flea_key:bob', 'crash'), 'sk_of_bob', 'bets use the one');
select is(
  purple_flea.agent_key('purple_flea_key:bob', 'trade'),
  'sk_trade_of_bob',
  'trades the other'
);
select
  purple_flea.set_agent_key('bob.trading', 'sk_of_bob.trading'),
  purple_flea.set_agent_key('bob:x', 'sk_of_bob:x'),
  purple_flea.set_agent_key('trading_key:bob', 'sk_of_trading_key:bob'),
  purple_flea.set_agent_key('bob.unused', 'sk_of_bob.unused');
select is(
  purple_flea.agent_key('purple_flea_key:bob', c),
  k,
  'an agent that is called like bob''s secrets changes none of them: ' || c
)
from (values ('crash', 'sk_of_bob'), ('trade', 'sk_trade_of_bob')) as v (c, k);
select is(
  purple_flea.agent_key(a.api_key, 'order'),
  'sk_of_' || a.id,
  'and each has its own: ' || a.id
)
from public.agents a
where a.id in ('bob.trading', 'bob:x', 'trading_key:bob', 'bob.unused');
select purple_flea.keep_key('bob', 'sk_second_of_bob');
select is(
  purple_flea.secret('purple_flea_unused_key:bob'),
  'sk_second_of_bob',
  'a second account''s key is kept as unused'
);
select is(
  purple_flea.agent_key('purple_flea_key:bob.unused', 'crash'),
  'sk_of_bob.unused',
  'which is no other agent''s'
);
select is(purple_flea.agent_key(n, 'trade'), null, 'no other name gives a key: ' || n)
from unnest(array['', 'purple_flea_webhook_secret', 'purple_flea_trading_key:nobody', 'bob']) as n;

-- The secrets that a row may name.
create temporary table wrong as
  select unnest(
    array[
      'purple_flea_webhook_secret', 'purple_flea_function_url', 'purple_flea_key:bob',
      'purple_flea_trading_key:plain', 'purple_flea_unused_key:plain', 'purple_flea_key:plain ',
      ' purple_flea_key:plain', 'Purple_flea_key:plain', 'sk_live_a_raw_key_by_mistake',
      'plains_key', ' '
    ]
  ) as n;
grant select on wrong to service_role;
select is(count(*), 11::bigint, 'the values were tried') from wrong;
set local role service_role;
select throws_ok(
  format('update public.agents set api_key = %L where id = ''plain''', n),
  '23514',
  null,
  'no row names ' || n
)
from wrong;
select throws_ok(
  format('insert into public.agents (id, api_key) values (''thief'', %L)', n),
  '23514',
  null,
  'nor a new one ' || n
)
from wrong;
select lives_ok(
  $$update public.agents set api_key = 'purple_flea_key:no-key' where id = 'no-key'$$,
  'a row names its own'
);
select lives_ok($$update public.agents set api_key = '' where id = 'no-key'$$, 'or none');
reset role;
select unalike(
  pg_temp.failure(format('update public.agents set api_key = %L where id = ''plain''', n)),
  '%' || n || '%',
  'the refusal does not quote it: ' || n
)
from wrong
where n ~ '^sk_|plains';
select alike(
  pg_temp.failure(
    $$insert into public.agents (id, api_key) values ('thief', 'sk_live_a_raw_key_by_mistake')$$
  ),
  '%purple_flea.set_agent_key%The agent is thief.%',
  'it names the agent and the remedy'
);
select throws_ok(
  E'insert into public.agents (id) values (''bob\n'')',
  '23514',
  null,
  'an id has no control characters'
);

-- An agent's id and its secrets.
select throws_ok(
  $$update public.agents set id = 'alice', api_key = 'purple_flea_key:alice' where id = 'bob'$$,
  '23514',
  null,
  'an agent with secrets keeps its id'
);
insert into public.agents (id) values ('leaver');
select purple_flea.set_agent_key('leaver', 'sk_of_leaver');
delete from public.agents where id = 'leaver';
select throws_ok(
  $$update public.agents set id = 'leaver' where id = 'plain'$$,
  '23514',
  null,
  'no agent takes the id of secrets that are left'
);
select lives_ok(
  $$update public.agents set id = 'plainer' where id = 'plain'$$,
  'an agent without secrets may take a new id'
);

-- set_agent_key sets the row, too, and makes the waiting jobs due.
insert into public.agents (id) values ('waiting');
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('waiting', 'deposit', 100);
update purple_flea.jobs
set due_at = clock_timestamp() + interval '1 hour', reason = 'agent_without_key'
where agent_id = 'waiting';
select throws_ok(
  $$select purple_flea.set_agent_key('waiting', 'sk_trade_only', true)$$,
  '55000',
  null,
  'an agent with the shared key has no key for trading'
);
select throws_ok(
  $$select purple_flea.set_agent_key('nobody', 'sk_nobodys_key')$$,
  '22023',
  null,
  'an unknown agent gets no key'
);
select lives_ok($$select purple_flea.set_agent_key('waiting', 'sk_waited_for')$$, 'a key is set');
select is(api_key, 'purple_flea_key:waiting', 'and the row names it')
from public.agents
where id = 'waiting';
select ok(due_at <= clock_timestamp(), 'and the jobs that waited for it are due')
from purple_flea.jobs
where agent_id = 'waiting';
select is_empty(
  $$select from purple_flea.jobs where agent_id = 'waiting' and kind = 'registration'$$,
  'and no registration is made'
);
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';

-- White space, and the form of each secret.
select lives_ok(
  $$select purple_flea.set_agent_key('waiting', E' \t\r\nsk_with_a_line_break\r\n\n')$$,
  'white space at both ends'
);
select is(purple_flea.secret('purple_flea_key:waiting'), 'sk_with_a_line_break', 'is taken off');
create temporary table malformed (name text, value text);
insert into malformed
select
  'purple_flea_function_url',
  unnest(
    array[
      '',
      ' ',
      'not a url',
      'function.test/execute-trade',
      'ftp://function.test/',
      'https://',
      'https:///execute-trade',
      'https://user:pass-word-1@function.test/execute-trade',
      'https://user@function.test/',
      'https://function.test/#fragment',
      'https://function.test/a b',
      E'https://function.test/a\nb',
      'http://function.test/execute-trade',
      'http://localhost.evil.test/',
      'http://127.0.0.1.evil.test/',
      'http://10.0.0.1/',
      'https://function.test:0/',
      'https://function.test:65536/',
      'https://function.test:port/',
      'https://föhn.test/',
      'https://-x.test/',
      'https://function.test\@evil.test/',
      'https://function.test/' || repeat('x', 2048)
    ]
  )
union all
select
  'purple_flea_webhook_secret',
  unnest(
    array[
      '',
      'hunter2-hunter2-hunter2',
      'whsec_',
      'whsec_broken!',
      'whsec_c2hvcnQ=',
      'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE',
      'whsec_bG9jYWwgc3RhY2ssIHBsYXkg bW9uZXkgb25seSE=',
      'whsec_' || repeat('AAAA', 22),
      'bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE='
    ]
  )
union all
select
  'purple_flea_key:waiting',
  unnest(
    array[
      '',
      E' \n ',
      'short-1',
      'two words-of-a-key',
      E'a-line\nbreak-within',
      E'a-bell-\x07-within',
      'not-ascii-ключ',
      repeat('k', 513)
    ]
  )
union all
select
  unnest(
    array[
      'stripe', 'x', '', null, 'purple_flea_key', 'purple_flea_key:', 'purple_flea_key:nobody',
      'purple_flea_other_key:bob', ' purple_flea_key:bob'
    ]
  ),
  'a-value-that-fits';
select throws_ok(
  format('select purple_flea.set_secret(%L, %L)', name, value),
  '22023',
  null,
  format('%s is not "%s"', name, regexp_replace(left(value, 60), '[[:cntrl:]]', '·', 'g'))
)
from malformed;
select unalike(
  pg_temp.failure(format('select purple_flea.set_secret(%L, %L)', name, value)),
  '%' || replace(value, '\', '\\') || '%',
  'and no message quotes it'
)
from malformed
where char_length(purple_flea.trimmed(value)) > 6;
select unalike(
  pg_temp.failure($$select purple_flea.set_secret('sk_live_given_first', 'purple_flea_key:bob')$$),
  '%sk_live_given_first%',
  'also with the arguments swapped'
);
select is(
  purple_flea.secret('purple_flea_key:waiting'),
  'sk_with_a_line_break',
  'a refusal changes nothing'
);
select lives_ok(
  format('select purple_flea.set_secret(%L, %L)', n, v),
  format('%s is "%s"', n, regexp_replace(left(v, 60), '[[:cntrl:]]', '·', 'g'))
)
from (
  values
    ('purple_flea_function_url', 'https://function.test'),
    ('purple_flea_function_url', 'https://function.test/execute-trade'),
    (
      'purple_flea_function_url',
      'https://abcdefgh.supabase.co/functions/v1/execute-trade?region=eu-west-1'
    ),
    ('purple_flea_function_url', 'HTTPS://Function.test:8443/'),
    ('purple_flea_function_url', 'https://[2001:db8::1]:443/'),
    ('purple_flea_function_url', 'http://127.0.0.1:3000/execute-trade'),
    ('purple_flea_function_url', 'http://localhost:3000'),
    ('purple_flea_function_url', 'http://[::1]:3000/'),
    ('purple_flea_function_url', E'https://function.test/execute-trade\n'),
    ('purple_flea_webhook_secret', 'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE='),
    ('purple_flea_webhook_secret', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'),
    ('purple_flea_key:bob', repeat('k', 512)),
    ('purple_flea_trading_key:bob', 'sk-!"#$%&/()=?'),
    ('purple_flea_unused_key:bob', '12345678')
) as w (n, v);
select is(
  purple_flea.secret('purple_flea_function_url'),
  'https://function.test/execute-trade',
  'a secret is set and set again'
);

-- Secrets that were stored without set_secret.
insert into public.agents (id) values ('odd');
update purple_flea.secrets set secret = E'sk_two\nlines' where name = 'purple_flea_key:bob.trading';
insert into purple_flea.secrets (name, secret)
values
  ('purple_flea_key:odd', E' sk_stored_by_another_hand\n'),
  ('purple_flea_trading_key:odd', E'\n ');
select is(
  purple_flea.secret('purple_flea_key:odd'),
  'sk_stored_by_another_hand',
  'a key that was stored with white space is usable'
);
select is(
  purple_flea.agent_key('purple_flea_key:odd', 'trade'),
  'sk_stored_by_another_hand',
  'a blank one counts as none'
);
select is(
  purple_flea.secret('purple_flea_key:bob.trading'),
  null,
  'one that no header can carry is not handed out'
);
select results_eq(
  $$
    select purple_flea.secret_trouble(n)
    from unnest(
      array[
        'purple_flea_key:bob', 'purple_flea_key:bob.trading', 'purple_flea_trading_key:odd',
        'purple_flea_key:none'
      ]
    ) as n
  $$,
  array[null, 'malformed', 'missing', 'missing'],
  'an operator is told why'
);
update purple_flea.secrets set secret = E'sk_two lines' where name = 'purple_flea_trading_key:bob';
select is(
  purple_flea.agent_key('purple_flea_key:bob', 'trade'),
  null,
  'a trading key that cannot be used is replaced by no other'
);
select is(purple_flea.agent_key('purple_flea_key:bob', 'crash'), repeat('k', 512), 'bets go on');

-- Texts that Purple Flea gives an agent are short.
select throws_ok(
  format('update public.agents set %I = %L where id = ''odd''', c, v),
  '23514',
  null,
  c || ' is short and plain'
)
from
  unnest(array['pf_agent_id', 'referral_code']) as c,
  unnest(array['', repeat('x', 129), E'a\nb']) as v;
insert into public.agents (id, api_key) values ('long-reply', 'purple_flea_key:long-reply');
update purple_flea.jobs
set due_at = case reference
  when 'registration-long-reply' then clock_timestamp()
  else 'infinity'
end
where state = 'pending';
select is(
  public.settle_job(
    'registration-long-reply',
    (c ->> 'token')::uuid,
    'executed',
    jsonb_build_object('account', repeat('x', 1000), 'referral_code', E'a\tb'),
    'sk_with_a_long_reply'
  ) ->> 'did',
  'settled',
  'a registration whose account cannot be stored is settled'
)
from public.claim_jobs('{registration-long-reply}', 1) as c;
select is(
  purple_flea.secret('purple_flea_key:long-reply'),
  'sk_with_a_long_reply',
  'and its key is kept'
);
select is(pf_agent_id || referral_code, null, 'without the account')
from public.agents
where id = 'long-reply';
-- set_agent_key refuses this key, but a registration that brings it stores it. Otherwise the key
-- would be lost.
insert into public.agents (id, api_key) values ('short-key', 'purple_flea_key:short-key');
select is(purple_flea.keep_key('short-key', 'k1'), true, 'a short key of a registration is kept');
select is(purple_flea.secret('purple_flea_key:short-key'), 'k1', 'and used');

-- With Vault, secrets are in Vault and not in the table. One secret cannot be decrypted.
\ir ../stack/src/vault.sql
select is(purple_flea.secret('purple_flea_key:bob'), null, 'with Vault the table counts no longer');
insert into public.agents (id, api_key)
select 'agent-' || n, 'purple_flea_key:agent-' || n
from generate_series(1, 50) as n;
select purple_flea.set_agent_key('agent-' || n, 'sk_of_agent_' || n)
from generate_series(1, 50) as n;
select is(count(*), 50::bigint, 'secrets go into Vault')
from vault.secrets
where description = 'Purple Flea Edge';
update vault.secrets set secret = 'cannot be decrypted' where name = 'purple_flea_key:agent-7';
select is(
  purple_flea.secret_trouble('purple_flea_key:agent-7'),
  'unreadable',
  'one cannot be decrypted'
);
select lives_ok(
  $$
    update public.agents set api_key = '' where id = 'agent-7';
    update public.agents set api_key = 'purple_flea_key:agent-7' where id = 'agent-7'
  $$,
  'its agent''s row can be written'
);
-- (Its registration was made before it had a key.)
select is(count(*), 1::bigint, 'and asks for no second account')
from purple_flea.jobs
where agent_id = 'agent-7' and kind = 'registration';
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
insert into public.wallet_changes (agent_id, change_type, new_balance)
select 'agent-' || n, 'deposit', 100
from generate_series(1, 50) as n;
create temporary table claimed as
  select j
  from jsonb_array_elements(public.claim_jobs('{}', 64) -> 'jobs') as j;
select is(count(*), 49::bigint, 'of fifty agents all others are claimed with their keys')
from claimed
where j ->> 'key' = 'sk_of_' || replace(j #>> '{row,agent_id}', '-', '_');
select is_empty(
  $$select from claimed where j #>> '{row,agent_id}' = 'agent-7' and j ? 'key'$$,
  'the one that cannot be decrypted is handed out with no key'
);
select is(
  purple_flea.keep_key('agent-7', 'sk_another_account'),
  false,
  'a registration does not replace it'
);
select is(
  purple_flea.secret('purple_flea_unused_key:agent-7'),
  'sk_another_account',
  'its key is kept beside it'
);
select lives_ok($$select purple_flea.set_agent_key('agent-7', 'sk_set_anew')$$, 'an operator does');
select is(
  purple_flea.agent_key('purple_flea_key:agent-7', 'crash'),
  'sk_set_anew',
  'and the agent goes on'
);

-- The API's roles may execute none of these functions.
select ok(
  not has_function_privilege(r, p.oid, 'execute'),
  format('%s does not execute %s', r, p.oid::regprocedure)
)
from pg_proc p, unnest(array['anon', 'authenticated', 'service_role', 'purple_flea_worker']) as r
where p.pronamespace = 'purple_flea'::regnamespace
  and p.proname
    ~ 'secret|key|trimmed|function_url|well_formed|hide_parameters|short_text|guard_agent';

select * from finish();
rollback;
