-- Who may hear and send on the private topics that a listener joins: doorbell,
-- trade-signals:<agent_id> and agent-fleet:<owner>. The policies are in
-- sql/platform/041_listener_topics.sql. Realtime asks them when a client joins.

-- Looks up one agent. A subscriber's policy that raises would silence the changes for all others.
create or replace function purple_flea.may_signal(topic text) returns boolean
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  prefix constant text := 'trade-signals:';
begin
  return coalesce(
    starts_with(topic, prefix)
    and char_length(topic) <= 255
    and strpos(topic, '/') = 0
    and (
      select a.owner_id
      from public.agents a
      where a.id = substr(topic, char_length(prefix) + 1)
    ) = purple_flea.caller(),
    false
  );
end;
$$;
comment on function purple_flea.may_signal(text) is
  'Says whether a topic of Realtime is trade-signals:<agent_id> of an agent of the caller''s. '
  'Never raises.';

create or replace function purple_flea.is_listener() returns boolean
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(
    (select l.listener_user from purple_flea.ledger l) = purple_flea.caller(), false);
end;
$$;
comment on function purple_flea.is_listener() is
  'Says whether the caller is the user of Supabase Auth as whom listeners join Realtime. Never '
  'raises.';

create or replace function purple_flea.is_listeners_topic(topic text) returns boolean
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(topic = 'doorbell' or topic ~ '^(trade-signals|agent-fleet):', false);
end;
$$;
comment on function purple_flea.is_listeners_topic(text) is
  'Says whether a topic of Realtime is one that listeners join.';
