-- Tenants: whose agents, keys and events are whose, and who may read and manage them.

create or replace function purple_flea.operator_tenant() returns uuid
  language plpgsql  -- see timing()
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return '00000000-0000-4000-8000-000000000001';
end;
$$;
comment on function purple_flea.operator_tenant() is
  'Gives the tenant of agents without an owner.';

-- The owner becomes a member once, with the tenant. An owner who left it stays away.
create or replace function purple_flea.make_tenant(owner uuid) returns uuid
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  tenant uuid := (select t.id from public.tenants t where t.owner_id = owner);
begin
  if tenant is not null then
    return tenant;
  end if;
  insert into public.tenants (name, owner_id)
  values (owner::text, owner)
  on conflict (owner_id) do nothing
  returning id into tenant;
  if tenant is not null then
    insert into public.memberships (tenant_id, user_id, role) values (tenant, owner, 'owner');
    return tenant;
  end if;
  -- Another transaction made it at the same time.
  return (select t.id from public.tenants t where t.owner_id = owner);
end;
$$;
comment on function purple_flea.make_tenant(uuid) is
  'Gives a user''s own tenant, and makes it with the user as its owner if there is none.';

create or replace function purple_flea.tenant_of(agent_id text) returns uuid
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  agent record;
begin
  select a.tenant_id, a.owner_id into agent from public.agents a where a.id = tenant_of.agent_id;
  return case
    when agent.tenant_id is not null then agent.tenant_id
    when agent.owner_id is not null then purple_flea.make_tenant(agent.owner_id)
    else purple_flea.operator_tenant()
  end;
end;
$$;
comment on function purple_flea.tenant_of(text) is
  'Gives the tenant that an agent belongs to: its own, its owner''s, or the operator''s.';

create or replace view purple_flea.agent_tenants as
  select
    a.id                                                          as agent_id,
    coalesce(a.tenant_id, t.id, purple_flea.operator_tenant()) as tenant_id
  from public.agents a
  left join public.tenants t on t.owner_id = a.owner_id;
comment on view purple_flea.agent_tenants is 'The tenant that each agent belongs to.';

create or replace function purple_flea.welcome_owner() returns trigger
  language plpgsql
  volatile
  -- A role that writes agents need not write tenants.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.make_tenant(new.owner_id);
  -- The tenant may be about to be deleted. Then it is made anew.
  perform from public.tenants t where t.owner_id = new.owner_id for key share;
  if not found then
    perform purple_flea.make_tenant(new.owner_id);
  end if;
  return null;
end;
$$;
comment on function purple_flea.welcome_owner() is
  'Makes the tenant of an agent''s owner, and keeps it until the agent is committed.';

create or replace trigger purple_flea_welcome
  after insert on public.agents
  for each row when (new.owner_id is not null)
  execute function purple_flea.welcome_owner();
create or replace trigger purple_flea_welcome_new
  after update of owner_id, tenant_id on public.agents
  for each row when (
    new.owner_id is not null
    and (
      new.owner_id is distinct from old.owner_id
      or (new.tenant_id is null and old.tenant_id is not null)
    )
  )
  execute function purple_flea.welcome_owner();

create or replace function purple_flea.keep_operator() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'the operator''s tenant cannot be taken away: '
    'agents without an owner belong to it'
    using errcode = 'check_violation';
end;
$$;
comment on function purple_flea.keep_operator() is
  'Refuses to delete the operator''s tenant, or to give it another id.';

create or replace trigger purple_flea_keep
  before delete on public.tenants
  for each row when (old.id = '00000000-0000-4000-8000-000000000001')
  execute function purple_flea.keep_operator();
create or replace trigger purple_flea_keep_id
  before update of id on public.tenants
  for each row when (old.id = '00000000-0000-4000-8000-000000000001' and new.id <> old.id)
  execute function purple_flea.keep_operator();

-- Without this tenant the events of its owner's agents would be the operator's.
create or replace function purple_flea.keep_owners_tenant() returns trigger
  language plpgsql
  volatile
  -- A role that writes tenants need not read agents.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from public.agents a where a.owner_id = old.owner_id and a.tenant_id is null
  ) then
    raise exception 'the agents of its owner belong to the tenant'
      using errcode = 'foreign_key_violation',
            hint    = 'Put them into another tenant first: agents.tenant_id.';
  end if;
  return case tg_op when 'DELETE' then old else new end;
end;
$$;
comment on function purple_flea.keep_owners_tenant() is
  'Refuses to delete the tenant of an owner of agents, or to give it another owner.';

create or replace trigger purple_flea_keep_owners
  before delete on public.tenants
  for each row when (old.owner_id is not null)
  execute function purple_flea.keep_owners_tenant();
create or replace trigger purple_flea_keep_owner
  before update of owner_id on public.tenants
  for each row when (old.owner_id is not null and new.owner_id is distinct from old.owner_id)
  execute function purple_flea.keep_owners_tenant();

-- For the policies. It reads memberships past their own policy, which would call itself.
create or replace function purple_flea.is_member(tenant uuid) returns boolean
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select
    from public.memberships m
    where m.tenant_id = tenant
      and m.user_id = purple_flea.caller()
  );
end;
$$;
comment on function purple_flea.is_member(uuid) is
  'Says whether the caller is a member of a tenant. Never raises.';

-- A topic that names no tenant is nobody's. Realtime asks when a subscriber joins.
create or replace function purple_flea.may_follow(topic text) returns boolean
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when topic ~ '^tenant:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      then purple_flea.is_member(substr(topic, 8)::uuid)
    else false
  end;
end;
$$;
comment on function purple_flea.may_follow(text) is
  'Says whether the caller may subscribe to a topic of Realtime: tenant:<id> of a tenant of the '
  'caller''s. Never raises.';

-- A definer's function runs as the owner. The setting names the role that the API took for its
-- caller; without one the session's own role calls.
create or replace function purple_flea.is_service() returns boolean
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  asking constant name := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
  return asking = 'service_role' or pg_has_role(asking, current_user, 'usage');
end;
$$;
comment on function purple_flea.is_service() is
  'Says whether the service or the owner calls a function that runs as the owner.';

create or replace function purple_flea.may_manage(tenant uuid) returns boolean
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return purple_flea.is_service() or exists (
    select
    from public.memberships m
    where m.tenant_id = tenant
      and m.user_id = purple_flea.caller()
      and m.role in ('owner', 'admin')
  );
end;
$$;
comment on function purple_flea.may_manage(uuid) is
  'Says whether the caller of a function that runs as the owner is an owner or an admin of a '
  'tenant, the service, or the database''s owner.';

create or replace function purple_flea.refuse_strangers(tenant uuid) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The end of the membership waits for what the caller makes, and ends it, too.
  perform
  from public.memberships m
  where m.tenant_id = refuse_strangers.tenant
    and m.user_id = purple_flea.caller()
  for share;
  if not purple_flea.may_manage(tenant) then
    raise exception 'only an owner or an admin of the tenant may do this'
      using errcode = 'insufficient_privilege';
  end if;
end;
$$;
comment on function purple_flea.refuse_strangers(uuid) is
  'Raises insufficient_privilege, unless the caller may manage a tenant. Locks the caller''s '
  'membership.';
