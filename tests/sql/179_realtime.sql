-- The stand-in for Realtime's SQL behaves as the real one was measured to behave.
begin;
set local client_min_messages = error;
select * from no_plan();
\ir ../stack/src/realtime.sql

create function pg_temp.sent() returns bigint language sql volatile security definer as $$
  select count(*) from realtime.messages
$$;
grant execute on function pg_temp.sent() to anon, authenticated;
set local role postgres;
select realtime.send('{"a": 1}', 'event', 'topic', true);
select results_eq(
  $$
    select topic, event, private, extension, payload ->> 'a', payload ->> 'id' is not null
    from realtime.messages
  $$,
  $$values ('topic', 'event', true, 'broadcast', '1', true)$$,
  'the owner sends, and the payload gets an id'
);
select realtime.send('{"id": 7}', 'event', 'other', true);
select is(payload, '{"id": 7}', 'unless it has one') from realtime.messages where topic = 'other';
select lives_ok(
  $$select realtime.send('[1]', 'event', 'topic', true)$$,
  'no array fails the sender'
);
select lives_ok($$select realtime.send('1', 'event', 'topic', true)$$, 'and no number');
select is(pg_temp.sent(), 2::bigint, 'but neither is sent');
set local role authenticated;
select lives_ok($$select realtime.send('{}', 'event', 'topic', true)$$, 'a user may call it');
set local role anon;
select lives_ok($$select realtime.send('{}', 'event', 'topic', true)$$, 'and so may anybody');
select is(pg_temp.sent(), 2::bigint, 'but without a policy nothing is sent');
select is_empty('select from realtime.messages', 'or read');
reset role;
select is(
  array_agg(distinct tableoid::regclass::text),
  array['realtime.messages_' || to_char(now() at time zone 'UTC', 'YYYY_MM_DD')],
  'messages are kept by day'
)
from realtime.messages;
do $$
declare
  part regclass;
begin
  for part in select inhrelid from pg_inherits where inhparent = 'realtime.messages'::regclass loop
    execute format('drop table %s', part);
  end loop;
end;
$$;
select lives_ok(
  $$select realtime.send('{}', 'event', 'topic', true)$$,
  'no missing day fails the sender'
);
select is(pg_temp.sent(), 0::bigint, 'and its message is lost');

select * from finish();
rollback;
