-- Pauses. The ledger records how long bets were held back, so that no job grows old meanwhile. A
-- claim that computed it from the present would forget a pause that ended while no sweeper came.

create or replace function purple_flea.record_pause() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  was_paused boolean := tg_op <> 'INSERT' and old.paused;
  is_paused  boolean := tg_op <> 'DELETE' and new.paused;
begin
  if was_paused and not is_paused then
    update purple_flea.pauses p
    -- The clock may have been set back since.
    set held = tstzrange(lower(p.held), greatest(lower(p.held), clock_timestamp()))
    where p.agent_id is not distinct from old.agent_id
      and p.by = 'policy'
      and upper_inf(p.held);
  elsif is_paused and not was_paused then
    insert into purple_flea.pauses (agent_id, held, by)
    values (new.agent_id, tstzrange(clock_timestamp(), null), 'policy');
  end if;
  return null;
end;
$$;
comment on function purple_flea.record_pause() is 'Records when a policy''s pause begins and ends.';

create or replace trigger trade_policies_record_pause
  after insert or update or delete on purple_flea.trade_policies
  for each row execute function purple_flea.record_pause();

-- A function whose own setting is `paused` claims no jobs. Each such claim holds bets back for the
-- next minute. The ledger writes the row at most twice a minute.
create or replace function purple_flea.record_hold() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  at   constant timestamptz := clock_timestamp();
  last purple_flea.pauses;
begin
  select * into last
  from purple_flea.pauses p
  where p.by = 'function'
  order by p.id desc
  limit 1
  for update skip locked;
  if found and upper(last.held) > at then
    update purple_flea.pauses p
    set held = tstzrange(lower(p.held), at + interval '1 minute')
    where p.id = last.id
      and upper(p.held) < at + interval '30 seconds';
  elsif found or not exists (
    select from purple_flea.pauses p where p.by = 'function' and upper(p.held) > at
  ) then
    insert into purple_flea.pauses (held, by)
    values (tstzrange(at, at + interval '1 minute'), 'function');
  end if;
end;
$$;
comment on function purple_flea.record_hold() is
  'Records that the function holds bets back by its own setting.';

create or replace function purple_flea.held_for(agent text, since timestamptz) returns interval
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(upper(part) - lower(part)), '0')
  from unnest((
    select range_agg(p.held * tstzrange(since, greatest(since, clock_timestamp())))
    from purple_flea.pauses p
    where (p.agent_id = agent or p.agent_id is null)
      and p.held && tstzrange(since, greatest(since, clock_timestamp()))
  )) as part
$$;
comment on function purple_flea.held_for(text, timestamptz) is
  'Gives the time for which an agent''s bets have been held back since a time.';

create or replace function purple_flea.is_held(agent text) returns boolean
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from purple_flea.pauses p
    where (p.agent_id = agent or p.agent_id is null)
      and (upper_inf(p.held) or upper(p.held) > clock_timestamp())
  )
$$;
comment on function purple_flea.is_held(text) is 'Says whether an agent''s bets are held back now.';
