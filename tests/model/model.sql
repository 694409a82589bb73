-- The model's additions to the database: notifications that are written down instead of sent, a
-- clock that moves, and a copy of everything to go back to. The superuser runs this before the
-- project's own SQL.

-- The database resolves a deadlock at once: the model waits for it in the machine's time.
alter role authenticator  set deadlock_timeout = '50ms';
alter role supabase_admin set deadlock_timeout = '50ms';

-- In place of pg_net: the model itself delivers the notifications that the database posts, late,
-- twice or not at all.
create schema net;
grant usage on schema net to public;

create table net.sent (
  id   bigint generated always as identity primary key,
  body jsonb  not null
);
comment on table net.sent is 'The notifications that the database has posted to the function.';

create function net.http_post(
  url                  text,
  body                 jsonb   default '{}',
  params               jsonb   default '{}',
  headers              jsonb   default '{}',
  timeout_milliseconds integer default 5000
) returns bigint
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into net.sent (body) values (http_post.body) returning id
$$;
comment on function net.http_post(text, jsonb, jsonb, jsonb, integer) is
  'Writes a notification down.';

create schema model;

-- The times in which a policy held bets back, in the model's own books: the test compares the
-- ledger's with these.
create table model.pauses (
  agent_id text,
  held     tstzrange not null
);
comment on table model.pauses is
  'When a policy held back the bets of an agent, or of all agents (null).';

-- The rows that a restore brings back. The queue of notifications is no part of a dump.
create table model.copied (
  place  integer primary key,
  name   text    not null,
  fields text    not null,
  rows   jsonb
);
comment on table model.copied is
  'A copy of the database: each table''s rows, in the order in which they are restored.';

create table model.counters (
  name       text    primary key,
  last_value bigint  not null,
  is_called  boolean not null
);
comment on table model.counters is 'The sequences of the copy.';

create function model.go_past_triggers() returns void
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  select set_config('session_replication_role', 'replica', true)
$$;
comment on function model.go_past_triggers() is
  'Switches off triggers and foreign keys for the rest of the transaction, as no user can.';

-- Lets time pass: every time in the database moves into the past.
create function model.shift(ms bigint) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  step constant interval := ms * interval '1 millisecond';
begin
  perform model.go_past_triggers();
  update purple_flea.jobs j
  set created_at  = j.created_at - step,
      changed_at  = j.changed_at - step,
      due_at      = j.due_at - step,
      expires_at  = j.expires_at - step,
      claimed_at  = j.claimed_at - step,
      lease_until = j.lease_until - step,
      lookup_at   = j.lookup_at - step
  where true;
  update purple_flea.jobs_archive j
  set created_at = j.created_at - step,
      changed_at = j.changed_at - step
  where true;
  update purple_flea.job_troubles t
  set since    = t.since - step,
      retry_at = t.retry_at - step
  where true;
  update purple_flea.pauses p
  set held = tstzrange(lower(p.held) - step, upper(p.held) - step)
  where not isempty(p.held);
  update model.pauses p
  set held = tstzrange(lower(p.held) - step, upper(p.held) - step)
  where not isempty(p.held);
  update purple_flea.rate_stops s set until = s.until - step where true;
  update purple_flea.rate_slots s set held_until = s.held_until - step where true;
  update purple_flea.abandoned_claims c set at = c.at - step where true;
  update purple_flea.watch w set until = w.until - step where w.until > '-infinity';
  update purple_flea.ledger l
  set searched_at = l.searched_at - step,
      swept_at    = l.swept_at - step
  where true;
  update public.wallet_changes w set created_at = w.created_at - step where true;
  update public.trade_results t set created_at = t.created_at - step where true;
  update public.agents a
  set created_at = a.created_at - step,
      balance_at = a.balance_at - step
  where true;
end;
$$;
comment on function model.shift(bigint) is
  'Lets this many milliseconds pass; fewer than none set the clock of the database back.';

-- A restore writes the row of purple_flea.generation anew, as pg_restore does: the ledger notices
-- a restore by that.
create function model.tables() returns table (place bigint, name text, fields text)
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  select t.place, t.name, (
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
    from pg_catalog.pg_attribute a
    where a.attrelid = t.name::regclass
      and a.attnum > 0
      and not a.attisdropped
      and a.attgenerated = ''
  )
  from unnest(array[
    'purple_flea.generation',
    'purple_flea.secrets',
    'public.agents',
    'purple_flea.trade_policies',
    'purple_flea.ledger',
    'purple_flea.watch',
    'purple_flea.pauses',
    'public.wallet_changes',
    'public.escrow_requests',
    'purple_flea.jobs',
    'purple_flea.job_events',
    'purple_flea.jobs_archive',
    'purple_flea.job_events_archive',
    'public.trade_results',
    'purple_flea.job_troubles',
    'purple_flea.rate_slots',
    'purple_flea.rate_stops',
    'purple_flea.abandoned_claims',
    'model.pauses'
  ]) with ordinality as t (name, place)
$$;
comment on function model.tables() is
  'The tables of a dump with their columns, in the order in which a restore can fill them.';

create function model.copy() returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  one    record;
  copied jsonb;
begin
  delete from model.copied c where true;
  delete from model.counters c where true;
  for one in select * from model.tables() loop
    execute format('select jsonb_agg(to_jsonb(t)) from %s t', one.name) into copied;
    insert into model.copied (place, name, fields, rows)
    values (one.place, one.name, one.fields, coalesce(copied, '[]'));
  end loop;
  insert into model.counters (name, last_value, is_called)
  select format('%I.%I', s.schemaname, s.sequencename),
         coalesce(s.last_value, 1),
         s.last_value is not null
  from pg_catalog.pg_sequences s
  where s.schemaname in ('public', 'purple_flea');
end;
$$;
comment on function model.copy() is 'Takes a copy of the database, as a backup does.';

-- Goes back to the copy in place, as `pg_restore --clean` does. A snapshot of the disk brings the
-- row of the generation back with its own xmin, so that the database cannot notice the restore.
create function model.go_back(passed_ms bigint, as_snapshot boolean) returns text[]
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  before text[];
  one    record;
begin
  perform model.go_past_triggers();
  before := array(select j.idempotency_key from purple_flea.all_jobs j);
  for one in select * from model.copied c order by c.place loop
    continue when as_snapshot and one.name = 'purple_flea.generation';
    execute format('delete from %s t where true', one.name);
    execute format(
      'insert into %1$s (%2$s) overriding system value '
      'select %2$s from jsonb_populate_recordset(null::%1$s, $1)',
      one.name,
      one.fields
    ) using one.rows;
  end loop;
  perform setval(c.name, c.last_value, c.is_called) from model.counters c;
  perform model.shift(passed_ms);
  return array(
    select b.idempotency_key
    from unnest(before) as b (idempotency_key)
    where not exists (select from purple_flea.all_jobs j where j.idempotency_key = b.idempotency_key)
  );
end;
$$;
comment on function model.go_back(bigint, boolean) is
  'Restores the copy, which is this many milliseconds old; gives the idempotency keys of the jobs '
  'that the database has lost.';

create function model.pause(agent text, pause boolean) returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.trade_policies (agent_id)
  select agent
  where agent is not null
  on conflict do nothing;
  update purple_flea.trade_policies p
  set paused = pause
  where p.agent_id is not distinct from agent
    and p.paused <> pause;
  if not found then
    return;
  elsif pause then
    insert into model.pauses (agent_id, held) values (agent, tstzrange(clock_timestamp(), null));
  else
    update model.pauses p
    set held = tstzrange(lower(p.held), greatest(lower(p.held), clock_timestamp()))
    where p.agent_id is not distinct from agent
      and upper_inf(p.held);
  end if;
end;
$$;
comment on function model.pause(text, boolean) is
  'Pauses or resumes the bets of an agent, or of all agents (null).';

create function model.held_for(agent text, since timestamptz, up_to timestamptz) returns interval
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(upper(part) - lower(part)), '0')
  from unnest((
    select range_agg(p.held * tstzrange(since, greatest(since, up_to)))
    from model.pauses p
    where p.agent_id = agent or p.agent_id is null
  )) as part
$$;
comment on function model.held_for(text, timestamptz, timestamptz) is
  'How long a policy held an agent''s bets back between two times, by the model''s own books.';

create function model.clear() returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  one record;
begin
  perform model.go_past_triggers();
  for one in
    select *
    from model.tables() t
    where t.name not in ('purple_flea.generation', 'purple_flea.watch', 'purple_flea.ledger')
  loop
    execute format('delete from %s t where %s', one.name, case one.name
      when 'purple_flea.secrets' then
        $c$t.name not in ('purple_flea_function_url', 'purple_flea_webhook_secret')$c$
      when 'purple_flea.trade_policies' then 't.agent_id is not null'
      else 'true'
    end);
  end loop;
  delete from net.sent s where true;
  delete from model.copied c where true;
  update purple_flea.trade_policies p
  set paused        = false,
      claim_faucet  = false,
      claim_daily   = false,
      check_balance = false,
      balance_every = null
  where p.agent_id is null;
  update purple_flea.watch w
  set watcher = null,
      until   = '-infinity'
  where w.only_row;
  update purple_flea.ledger l
  set starts_after    = 0,
      checked_until   = 0,
      seen_until      = 0,
      next_until      = null,
      next_xid        = null,
      searched_at     = null,
      swept_at        = null,
      answers_at_once = false,
      lane_cursor     = ''
  where l.only_row;
  perform setval(format('%I.%I', s.schemaname, s.sequencename), 1, false)
  from pg_catalog.pg_sequences s
  where s.schemaname in ('public', 'purple_flea')
    and s.sequencename <> 'trade_policies_id_seq';
  perform purple_flea.stamp(gen_random_uuid(), 'model');
end;
$$;
comment on function model.clear() is
  'Empties the database, as no user of it can, so that it begins anew with no agents.';
