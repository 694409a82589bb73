-- Reading the feed by key and cursor: pages in order, each state of a bad request, and restores.
begin;
\ir setup/feed.psql

select pg_temp.fire('a', n::text) from generate_series(1, 5) as n;
select pg_temp.fire('b', 'of-b');
select is(pg_temp.said(pg_temp.read('a')), '', 'what is not committed is not read');
select pg_temp.settle();
select is(pg_temp.said(pg_temp.read('a')), '1 2 3 4 5', 'a page holds a tenant''s events in order');
select is(pg_temp.said(pg_temp.read('b')), 'of-b', 'and no other''s');
select is(
  pg_temp.read('a') #> '{events,0,event}',
  (select payload from public.frame_events where subject = 'trade:1'),
  'each with its payload'
);
select is(pg_temp.read('a') -> 'more', 'false', 'there is no more');

-- Pages.
create temporary table pages as select pg_temp.read('a', most => 2) as one;
select is(pg_temp.said(one), '1 2', 'a page has a length') from pages;
select is(one -> 'more', 'true', 'and says that there is more') from pages;
select is(
  pg_temp.said(pg_temp.read('a', one ->> 'next')),
  '3 4 5',
  'the next one goes on after it'
)
from pages;
select is(
  pg_temp.said(pg_temp.read('a', one #>> '{events,0,cursor}')),
  '2 3 4 5',
  'or after any event of it'
)
from pages;
select is(
  pg_temp.said(pg_temp.read('a', (pg_temp.read('a', one ->> 'next') ->> 'next'))),
  '',
  'after the last there is none'
)
from pages;
select is(
  pg_temp.read('a', pg_temp.read('a') ->> 'next') ->> 'next',
  pg_temp.read('a') ->> 'next',
  'and the cursor stays'
);
select is(
  pg_temp.read('a', 'latest') ->> 'next',
  pg_temp.read('a') ->> 'next',
  'latest goes on after the newest event'
);
select is(pg_temp.said(pg_temp.read('a', 'latest')), '', 'and gives none');
select matches(
  pg_temp.read('nobodys', 'latest') ->> 'next', '^[A-Za-z0-9_-]{52}$', 'also where there was none');
select is(pg_temp.read('nobodys') -> 'events', '[]', 'an empty feed is an empty page');
select pg_temp.fire('nobodys', 'first');
select pg_temp.settle();
select is(
  pg_temp.said(pg_temp.read('nobodys', (select pg_temp.read('nobodys', 'latest') ->> 'next'))),
  '',
  'and the last event of a feed has none after it'
);

-- Types.
select pg_temp.fire('a', n::text, 'test.unknown') from generate_series(6, 7) as n;
select pg_temp.settle();
select is(
  pg_temp.said(pg_temp.read('a', types => '{test.unknown}')),
  '6 7',
  'a client may ask for some types'
);
select is(
  pg_temp.said(pg_temp.read('a', types => '{test.unknown,test.executed}', most => 6)),
  '1 2 3 4 5 6',
  'or for more of them'
);
select is(
  pg_temp.read('a', types => '{agent.offline}') ->> 'next',
  pg_temp.read('a') ->> 'next',
  'a page without any goes on after all that it has looked at'
);
select is(
  pg_temp.said(pg_temp.read('a', types => '{test.unknown}', most => 1)),
  '6',
  'a page of types has a length, too'
);
select is(
  pg_temp.said(
    pg_temp.read('a', pg_temp.read('a', types => '{test.unknown}', most => 1) ->> 'next')),
  '7',
  'and goes on after its last event'
);
select is(
  pg_temp.said(pg_temp.read('a', types => '{}')),
  '1 2 3 4 5 6 7',
  'no types are all types'
);
select is(
  pg_temp.read('a', types => t) ->> 'state',
  'unknown_type',
  'an unknown type is named: ' || t::text
)
from (values ('{test.unknown,test.lost}'::text[]), ('{null}'), ('{""}')) as v (t);
select ok(
  pg_temp.read('a', types => '{x}') -> 'known' ? 'test.executed',
  'with the types that there are'
);
insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position)
select pg_temp.tenant('b'), 'test.skipped', 'trade:many', '{"reference": "many"}', now(), 1, 100
from generate_series(1, 6000) as n;
create temporary table sparse as select pg_temp.read('b', types => '{test.rejected}') as one;
select is(
  concat(pg_temp.said(one), one -> 'more'),
  'true',
  'a page for a rare type looks at 5,000 events, and says that there is more'
)
from sparse;
select is(
  concat(pg_temp.said(two), two -> 'more'),
  'false',
  'and the next one goes on from there'
)
from sparse, pg_temp.read('b', one ->> 'next', '{test.rejected}') as two;

-- A page reads its own events, and the next one, however many there are.
insert into public.frame_events
  (tenant_id, type, subject, payload, occurred_at, epoch, position)
select pg_temp.tenant('nobodys'), 'test.rejected', 'trade:' || n, '{}', now(), 1, 200
from generate_series(1, 30000) as n;
analyze public.frame_events;
-- An index counts the entries that a walk reads; the table counts the rows of other scans.
create function pg_temp.rows_read() returns bigint language sql volatile as $$
  select pg_stat_get_xact_tuples_returned('public.frame_events'::regclass)
    + sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::bigint
  from pg_index i
  where i.indrelid = 'public.frame_events'::regclass
$$;
create temporary table counted (name text, n bigint);
create temporary table middle as select pg_temp.read('nobodys', most => 1000) ->> 'next' as cursor;
do $$
declare
  was bigint;
  what record;
begin
  for what in
    select *
    from middle m
    cross join lateral (
      values
        ('from the beginning', null, null::text[]),
        ('from the middle', m.cursor, null),
        ('from the end', 'latest', null),
        ('of a type', m.cursor, '{test.rejected}'),
        ('of a rare type', m.cursor, '{agent.offline}')
    ) as v (name, after, types)
  loop
    was := pg_temp.rows_read();
    perform pg_temp.read('nobodys', what.after, what.types);
    insert into counted values (what.name, pg_temp.rows_read() - was);
  end loop;
end;
$$;
select cmp_ok(
  n,
  '<=',
  case when name = 'of a rare type' then 10000 else 101 end::bigint,
  'a page ' || name || ' is a walk along an index'
)
from counted;

-- Bad requests.
select is(
  pg_temp.read('b', pg_temp.read('a') ->> 'next') ->> 'state',
  'cursor_invalid',
  'another tenant''s cursor is none'
);
select is(pg_temp.read('a', c) ->> 'state', 'cursor_invalid', 'nor is a forged one: ' || c)
from unnest(
  array['', 'x', repeat('A', 52), 'LATEST', '''; --', repeat('A', 100000)]
    || array(
      -- Each byte of a cursor is guarded.
      select translate(
        encode(
          set_byte(c.bytes, n, get_byte(c.bytes, n) # 1),
          'base64'
        ),
        '+/',
        '-_'
      )
      from (
        select decode(translate(pg_temp.read('a') ->> 'next', '-_', '+/'), 'base64') as bytes
      ) as c, generate_series(0, 38) as n
    )
) as c;
select throws_ok(
  format('select pg_temp.read(''a'', most => %s)', n),
  '22023',
  null,
  'a page of ' || n || ' is refused'
)
from unnest(array[0, -1, 1001, 10001]) as n;
select is(
  public.read_events('x', 'x', '{x}') ->> 'state',
  'unauthorized',
  'a stranger learns nothing else'
);
insert into keys
select 'records', public.create_api_key(pg_temp.tenant('a'), 'r', '{records:read}');
select is(pg_temp.read('records') ->> 'state', 'forbidden', 'a key without the scope reads none');

-- The end of the feed is below the oldest open transaction, which here is this one.
insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position)
select
  pg_temp.tenant('a'), 'test.executed', 'trade:x', jsonb_build_object('reference', name), now(), 1,
  at
from (values
  ('below', pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1),
  ('at', pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
) as v (name, at);
select is(
  pg_temp.said(pg_temp.read('a', types => '{test.executed}')),
  '1 2 3 4 5 below',
  'an event at the oldest open transaction waits'
);

-- Who may call it.
set local role authenticated;
select throws_ok('select public.read_events(''x'')', '42501', null, 'a user has no use for it');
set local role anon;
select throws_ok('select public.read_events(''x'')', '42501', null, 'nor has an anonymous caller');
set local role purple_flea_worker;
select is(public.read_events('x') ->> 'state', 'unauthorized', 'the worker calls it');
select isnt_empty('select from public.event_types', 'and reads the types');
reset role;

-- A restore.
create temporary table before as select pg_temp.read('a', most => 1) ->> 'next' as cursor;
select purple_flea.declare_restore('tested');
select is(
  pg_temp.read('a', cursor) ->> 'state',
  'restore_unconfirmed',
  'an unconfirmed database is not read'
)
from before;
select pg_temp.fire('a', 'meanwhile');
select purple_flea.confirm_restore(nothing_lost => true);
select pg_temp.fire('a', 'since');
select pg_temp.settle();
create temporary table refused as select pg_temp.read('a', cursor) as answer from before;
select is(
  answer ->> 'state',
  'cursor_of_another_generation',
  'a cursor from before is told of the restore'
)
from refused;
select is(
  pg_temp.said(pg_temp.read('a', answer ->> 'start')),
  'meanwhile since',
  'and starts with the events since, also those from before the confirmation'
)
from refused;
select is(
  pg_temp.said(pg_temp.read('a', types => '{test.executed}')),
  -- settle() has moved one of the two before the other.
  '1 2 3 4 5 at below meanwhile since',
  'a new reader gets older epochs as a whole, and first'
);
select is(pg_temp.read('b', cursor) ->> 'state', 'cursor_invalid', 'another tenant''s stays none')
from before;

select * from finish();
rollback;
