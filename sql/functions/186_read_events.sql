-- Reading the feed: pages in order, from a cursor on. The end of the feed is below the oldest open
-- transaction (184_emit.sql says why), so a page is never followed by an event that belongs into
-- it.

-- A tenant's events are named by a range of frame_events_tenant_idx: (tenant_id, epoch, position,
-- id) above one place and below another. Said as tenant_id = tenant, the query could as well walk
-- frame_events_order_idx and leave other tenants' events out. Postgres prefers that if its sample
-- of the table shows one tenant alone, and a tenant with few events would wait for a walk along
-- all events of that one.

-- One walk along frame_events_tenant_idx. With types it looks at a limited number of events, so
-- that a rare type costs no walk along the whole feed. Then the page ends there, perhaps without
-- events.
create or replace function purple_flea.page_of_events(
  tenant         uuid,
  after_epoch    integer,
  after_position bigint,
  after_id       bigint,
  end_epoch      integer,
  end_position   bigint,
  wanted         text[],
  most           integer
) returns table (epoch integer, "position" bigint, id bigint, payload jsonb)
  language plpgsql
  stable  -- see answer_after()
  security invoker
  set search_path = pg_catalog, pg_temp
  -- The walk, whatever the statistics say.
  set enable_sort = off
  set enable_bitmapscan = off
  set enable_seqscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
begin
  if wanted is null then
    return query
      select e.epoch, e.position, e.id, e.payload
      from public.frame_events e
      where (e.tenant_id, e.epoch, e.position, e.id)
          > (tenant, after_epoch, after_position, after_id)
        and (e.tenant_id, e.epoch, e.position) < (tenant, end_epoch, end_position)
      order by e.tenant_id, e.epoch, e.position, e.id
      limit most;
  else
    return query
      select w.epoch, w.position, w.id, w.payload
      from (
        select e.epoch, e.position, e.id, e.type, e.payload
        from public.frame_events e
        where (e.tenant_id, e.epoch, e.position, e.id)
            > (tenant, after_epoch, after_position, after_id)
          and (e.tenant_id, e.epoch, e.position) < (tenant, end_epoch, end_position)
        order by e.tenant_id, e.epoch, e.position, e.id
        limit purple_flea.look_most()
      ) as w
      where w.type = any (wanted)
      limit most;
  end if;
end;
$$;
comment on function
  purple_flea.page_of_events(
    uuid, integer, bigint, bigint, integer, bigint, text[], integer) is
  'Gives a tenant''s events between two places, in order: at most so many of the wanted types.';

create or replace function purple_flea.look_most() returns integer
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return 5000;
end;
$$;
comment on function purple_flea.look_most() is
  'Gives the number of events that one page looks at for those of the wanted types.';

create or replace function purple_flea.last_looked_at(
  tenant         uuid,
  after_epoch    integer,
  after_position bigint,
  after_id       bigint,
  end_epoch      integer,
  end_position   bigint
) returns table (epoch integer, "position" bigint, id bigint, looked bigint)
  language plpgsql
  stable  -- see answer_after()
  security invoker
  set search_path = pg_catalog, pg_temp
  set enable_bitmapscan = off
  set enable_seqscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
begin
  return query
    select w.epoch, w.position, w.id, w.n
    from (
      select e.epoch, e.position, e.id, row_number() over () as n
      from (
        select t.epoch, t.position, t.id
        from public.frame_events t
        where (t.tenant_id, t.epoch, t.position, t.id)
            > (tenant, after_epoch, after_position, after_id)
          and (t.tenant_id, t.epoch, t.position) < (tenant, end_epoch, end_position)
        order by t.tenant_id, t.epoch, t.position, t.id
        limit purple_flea.look_most()
      ) as e
    ) as w
    order by w.n desc
    limit 1;
end;
$$;
comment on function
  purple_flea.last_looked_at(uuid, integer, bigint, bigint, integer, bigint) is
  'Gives the last of the events that a page looks at, and how many it looks at.';

-- A place below the floor has missed deleted events.
create or replace function purple_flea.place_after(
  seal         bytea[],
  tenant       uuid,
  after        text,
  end_epoch    integer,
  end_position bigint,
  out epoch    integer,
  out "position" bigint,
  out id       bigint,
  out trouble  text
)
  language plpgsql
  stable  -- see answer_after()
  security invoker
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  set enable_bitmapscan = off
  set enable_seqscan = off
  set jit = off
as $$
declare
  floor record;
begin
  -- Before the first event: before all, or after the last one that was deleted.
  select coalesce(f.epoch, 0) as epoch, coalesce(f.position, 0) as position, coalesce(f.id, 0) as id
    into floor
  from (select) as always
  left join purple_flea.feed_floors f on f.tenant_id = tenant;
  if after is null then
    epoch := floor.epoch; position := floor.position; id := floor.id;
    return;
  elsif after = 'latest' then
    -- The last event, and not the end: a crash can take back transaction numbers above it.
    select e.epoch, e.position, e.id
      into place_after.epoch, place_after.position, place_after.id
    from public.frame_events e
    where e.tenant_id >= tenant
      and (e.tenant_id, e.epoch, e.position) < (tenant, end_epoch, end_position)
    order by e.tenant_id desc, e.epoch desc, e.position desc, e.id desc
    limit 1;
    if not found then
      epoch := floor.epoch; position := floor.position; id := floor.id;
    end if;
    return;
  end if;
  select c.epoch, c.position, c.id, c.trouble
    into place_after.epoch, place_after.position, place_after.id, place_after.trouble
  from purple_flea.read_cursor(seal, tenant, after) as c;
  if trouble = 'cursor_of_another_generation' then
    -- The beginning of the present epoch.
    epoch := end_epoch; position := 0; id := 0;
    if (epoch, position, id) < (floor.epoch, floor.position, floor.id) then
      epoch := floor.epoch; position := floor.position; id := floor.id;
    end if;
  elsif trouble is null
    and (epoch, position, id) < (floor.epoch, floor.position, floor.id) then
    epoch := floor.epoch; position := floor.position; id := floor.id;
    trouble := 'cursor_too_old';
  end if;
end;
$$;
comment on function purple_flea.place_after(bytea[], uuid, text, integer, bigint) is
  'Gives the place from which a client reads on, and the trouble of its cursor: cursor_invalid, '
  'cursor_too_old or cursor_of_another_generation, with the place to start from; or null.';

-- The caller has the place to read from. A page without the wanted number of events ends behind all
-- that it has looked at.
create or replace function purple_flea.answer_with_page(
  seal           bytea[],
  tenant         uuid,
  after_epoch    integer,
  after_position bigint,
  after_id       bigint,
  end_epoch      integer,
  end_position   bigint,
  wanted         text[],
  most           integer
) returns jsonb
  language plpgsql
  stable  -- see answer_after()
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  events jsonb;
  number integer;
  looked record;
  next   text := purple_flea.make_cursor(seal, tenant, after_epoch, after_position, after_id);
  more   boolean;
begin
  -- One more than asked tells whether there is more.
  select
    coalesce(
      jsonb_agg(
        jsonb_build_object(
          'id', p.id,
          'cursor', purple_flea.make_cursor(seal, tenant, p.epoch, p.position, p.id),
          'event', p.payload
        )
        order by p.n
      ) filter (where p.n <= most),
      '[]'
    ),
    count(*)
    into events, number
  from (
    select e.*, row_number() over () as n
    from purple_flea.page_of_events(
      tenant, after_epoch, after_position, after_id, end_epoch, end_position, wanted, most + 1
    ) as e
  ) as p;
  more := number > most;
  next := coalesce(events #>> '{-1,cursor}', next);
  if wanted is not null and not more then
    select l.* into looked
    from purple_flea.last_looked_at(
      tenant, after_epoch, after_position, after_id, end_epoch, end_position) as l;
    if found then
      next := purple_flea.make_cursor(seal, tenant, looked.epoch, looked.position, looked.id);
      more := looked.looked >= purple_flea.look_most();
    end if;
  end if;
  return jsonb_build_object('state', 'ok', 'events', events, 'next', next, 'more', more);
end;
$$;
comment on function
  purple_flea.answer_with_page(
    bytea[], uuid, integer, bigint, bigint, integer, bigint, text[], integer) is
  'Gives the answer of read_events() with the events between two places.';

-- Stable, as all that it calls: its statements see one state of the table. Events that a sweep
-- deletes between two of them would otherwise be missing from the page without a word.
create or replace function purple_flea.answer_after(
  seal         bytea[],
  tenant       uuid,
  after        text,
  end_epoch    integer,
  end_position bigint,
  wanted       text[],
  most         integer
) returns jsonb
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  place constant record := purple_flea.place_after(seal, tenant, after, end_epoch, end_position);
begin
  if place.trouble = 'cursor_invalid' then
    return '{"state": "cursor_invalid"}';
  elsif place.trouble is not null then
    return jsonb_build_object(
      'state', place.trouble,
      'start', purple_flea.make_cursor(seal, tenant, place.epoch, place.position, place.id)
    );
  end if;
  return purple_flea.answer_with_page(
    seal, tenant, place.epoch, place.position, place.id, end_epoch, end_position, wanted, most
  );
end;
$$;
comment on function
  purple_flea.answer_after(bytea[], uuid, text, integer, bigint, text[], integer) is
  'Gives the answer of read_events() to a key that may read: a page after a cursor, or the trouble '
  'of the cursor.';

create or replace function purple_flea.refuse_reading(
  key    public.api_keys,
  wanted text[]
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if key.id is null then
    return '{"state": "unauthorized"}';
  elsif not 'events:read' = any (key.scopes) then
    return '{"state": "forbidden"}';
  elsif exists (
    select
    from unnest(wanted) as w
    where w is null
      or not exists (select from purple_flea.event_types t where t.type = w)
  ) then
    return jsonb_build_object(
      'state', 'unknown_type',
      'known', (select jsonb_agg(t.type order by t.type) from purple_flea.event_types t)
    );
  end if;
  return null;
end;
$$;
comment on function purple_flea.refuse_reading(public.api_keys, text[]) is
  'Gives the answer to a key that opens no events, or to types that there are not; or null.';

create or replace function public.read_events(
  key_hash text,
  after    text    default null,
  types    text[]  default null,
  most     integer default 100
) returns jsonb
  language plpgsql
  volatile
  -- The caller may read neither keys nor the feed's secret.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  key        constant public.api_keys := purple_flea.key_of(key_hash);
  generation constant uuid            := purple_flea.current_generation();
  asked      constant integer         := coalesce(read_events.most, 100);
  wanted     constant text[]          := nullif(read_events.types, '{}');
  refusal    constant jsonb           := purple_flea.refuse_reading(key, wanted);
  feed       record;
begin
  if asked not between 1 and 1000 then
    raise exception 'most is 1 to 1000' using errcode = 'invalid_parameter_value';
  elsif refusal is not null then
    return refusal;
  end if;
  perform purple_flea.note_use(key);
  feed := purple_flea.feed_now();
  if generation is null or feed.epoch is null then
    return '{"state": "restore_unconfirmed"}';
  end if;
  return purple_flea.answer_after(
    purple_flea.cursor_seal(generation), key.tenant_id, after, feed.epoch, feed.below, wanted, asked
  );
end;
$$;
comment on function public.read_events(text, text, text[], integer) is
  'Gives the events of a key''s tenant after a cursor, in order: {state: ok, events: [{id, cursor, '
  'event}], next, more}. The other states: unauthorized, forbidden, unknown_type, cursor_invalid, '
  'cursor_too_old, cursor_of_another_generation (both with start), restore_unconfirmed.';
