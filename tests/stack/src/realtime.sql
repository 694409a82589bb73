-- A stand-in for the SQL of Supabase Realtime (v2), and not its server: the table of messages, by
-- day, and the functions that write to it, with the unpleasant sides that were measured of the real
-- ones. send() runs as its caller and makes a warning of every error; without a partition of the day
-- a message is lost; a payload must be an object, and gets an id. The roles may read and write the
-- table, and row-level security decides. On a hosted project supautils keeps `postgres` from
-- altering the table; here nothing does. Run by the superuser.

do $$
begin
  if not exists (select from pg_roles where rolname = 'supabase_realtime_admin') then
    create role supabase_realtime_admin nologin noinherit;
  end if;
end;
$$;
grant supabase_realtime_admin to postgres;

create schema realtime;
comment on schema realtime is 'A stand-in for Supabase Realtime, not its own schema.';
grant usage on schema realtime to postgres, anon, authenticated, service_role;
grant all on schema realtime to supabase_realtime_admin;

create table realtime.messages (
  topic       text      not null,
  extension   text      not null,
  payload     jsonb,
  event       text,
  private     boolean   default false,
  updated_at  timestamp not null default now(),
  inserted_at timestamp not null default now(),
  id          uuid      not null default gen_random_uuid(),
  primary key (id, inserted_at)
) partition by range (inserted_at);
alter table realtime.messages enable row level security;
alter table realtime.messages owner to supabase_realtime_admin;
grant select, insert, update on realtime.messages to postgres, anon, authenticated, service_role;

-- Realtime's server makes the partitions, three days ahead.
create function realtime.make_partitions(first date, days integer) returns void
  language plpgsql
as $$
declare
  day date;
begin
  for day in select first + n from generate_series(0, days - 1) as n loop
    execute format(
      'create table if not exists realtime.%I partition of realtime.messages
         for values from (%L) to (%L)',
      'messages_' || to_char(day, 'YYYY_MM_DD'), day, day + 1);
    execute format(
      'alter table realtime.%I owner to supabase_realtime_admin',
      'messages_' || to_char(day, 'YYYY_MM_DD'));
  end loop;
end;
$$;
comment on function realtime.make_partitions(date, integer) is
  'A stand-in for the work of Realtime''s server.';
revoke execute on function realtime.make_partitions(date, integer) from public;
select realtime.make_partitions((now() at time zone 'UTC')::date - 1, 5);

create function realtime.topic() returns text
  language sql
  stable
as $$
  select nullif(current_setting('realtime.topic', true), '')::text
$$;
comment on function realtime.topic() is
  'A stand-in with the same meaning: the topic that a subscriber joins.';

create function realtime.send(
  payload jsonb,
  event   text,
  topic   text,
  private boolean default true
) returns void
  language plpgsql
as $$
declare
  generated_id  uuid;
  final_payload jsonb;
begin
  begin
    generated_id := gen_random_uuid();
    if payload ? 'id' then
      final_payload := payload;
    else
      final_payload := jsonb_set(payload, '{id}', to_jsonb(generated_id));
    end if;
    execute format('set local realtime.topic to %L', topic);
    insert into realtime.messages (id, payload, event, topic, private, extension)
    values (generated_id, final_payload, event, topic, private, 'broadcast');
  exception when others then
    raise warning 'ErrorSendingBroadcastMessage: %', sqlerrm;
  end;
end;
$$;
comment on function realtime.send(jsonb, text, text, boolean) is
  'A stand-in with the same interface: writes a message, or warns.';
