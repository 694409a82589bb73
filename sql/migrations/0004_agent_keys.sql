-- Gives each agent's secrets names that belong to the agent alone, and the agents' rows with them.
--
--   before (release 0.1.0)                      after
--   <agents.api_key>                            purple_flea_key:<agents.id>
--   <agents.api_key>.trading                    purple_flea_trading_key:<agents.id>
--   <agents.api_key>.unused                     purple_flea_unused_key:<agents.id>
--   purple_flea_agent_<agents.id>, likewise,
--     where agents.api_key is empty

-- The specification's own schema holds keys in agents.api_key. They move into the vault. A secret
-- that this project made is renamed. Any other is copied, because another application may use it.
-- No message quotes a value of agents.api_key.

-- A failure of this constraint would print the row. The trigger purple_flea_guard checks the same,
-- and more, without printing it.
alter table public.agents drop constraint if exists agents_api_key_check;

create temporary table purple_flea_secrets (
  name text primary key,
  id   uuid,
  ours boolean not null
) on commit drop;

do $$
begin
  -- One of the two does not exist, so neither may be named outside `execute`. Neither statement
  -- decrypts a secret.
  if to_regclass('vault.decrypted_secrets') is not null then
    execute 'insert into pg_temp.purple_flea_secrets
             select name, id, coalesce(description, '''') = ''Purple Flea Edge''
             from vault.decrypted_secrets
             where name is not null';
  else
    execute 'insert into pg_temp.purple_flea_secrets
             select name, null, true
             from purple_flea.secrets';
  end if;
end;
$$;

-- The kind of each row's api_key: settled (it is right already), name (of a secret), key, pending
-- (a name whose key is yet to come), blank, or odd.
create temporary table purple_flea_agents on commit drop as
select
  a.id,
  a.api_key as was,
  btrim(a.api_key, E' \t\n\v\f\r') as trimmed,
  'purple_flea_key:' || a.id as name,
  case
    when a.api_key = '' or a.api_key = 'purple_flea_key:' || a.id then 'settled'
    when btrim(a.api_key, E' \t\n\v\f\r') = '' then 'blank'
    when exists (select from purple_flea_secrets s where s.name = a.api_key) then 'name'
    -- Release 0.1.0 registered the agent of each row that named a missing secret.
    when exists (
      select
      from purple_flea.jobs j
      where j.agent_id = a.id
        and j.kind = 'registration'
    ) then 'pending'
    when not (
      btrim(a.api_key, E' \t\n\v\f\r') ~ '^[!-~]{8,}$'
      and char_length(a.api_key) <= 512
    ) then case
      -- A ledger that has never had a job comes from the specification's schema, in which every
      -- value was meant as a key.
      when exists (select from purple_flea.jobs) then 'pending'
      else 'odd'
    end
    when not exists (select from purple_flea.jobs)
      or a.api_key ~ '^\s*(sk|pk|pf)_'
      or (char_length(a.api_key) >= 20 and a.api_key !~ '^purple_flea_')
      then 'key'
    else 'pending'
  end as kind
from public.agents a;

-- The old and the new name of each secret.
create temporary table purple_flea_moves on commit drop as
select
  a.id as agent,
  s.name as was,
  s.id as secret_id,
  s.ours,
  p.purpose,
  'purple_flea_' || coalesce(p.purpose || '_', '') || 'key:' || a.id as name,
  a.was <> '' as named
from purple_flea_agents a
cross join (
  values
    (null, ''),
    ('trading', '.trading'),
    ('unused', '.unused')
) as p (purpose, suffix)
join purple_flea_secrets s
  on s.name = coalesce(nullif(a.was, ''), 'purple_flea_agent_' || a.id) || p.suffix
where a.kind in ('settled', 'name', 'pending', 'key')
  and a.was <> a.name
  -- A secret that no row names moves only if its name is this project's own and no other agent's.
  and (a.was <> '' or s.ours);
delete from purple_flea_moves m
where not m.named
  and (
    exists (select from purple_flea_moves o where o.was = m.was and o.agent <> m.agent)
    or exists (select from purple_flea_secrets s where s.name = m.name)
  );

do $$
declare
  shown constant integer := 50;  -- agents that a message names
  stop  text;
begin
  select format(
      '%s agents hold in api_key what can be no key (8 to 512 visible ASCII characters) '
      'and names no secret; set it to '''' or to the agent''s key: %s',
      count(*),
      string_agg(o.id, ', ' order by o.id) filter (where o.n <= shown)
    )
    into stop
  from (
    select a.id, row_number() over (order by a.id) as n
    from purple_flea_agents a
    where a.kind = 'odd'
  ) as o
  having count(*) > 0;
  if stop is not null then
    raise exception '%', stop using errcode = 'check_violation';
  end if;
  select format(
      'one secret is two things, and only you know whose it is; store it under another name, '
      'and set agents.api_key or the name of the other secret anew: %s',
      string_agg(
        distinct format(
          'the key of agent %s is the %s key of agent %s',
          o.agent, m.purpose, m.agent
        ),
        '; '
      )
    )
    into stop
  from purple_flea_moves m
  join purple_flea_moves o
    on o.was = m.was
    and o.agent <> m.agent
    and o.purpose is null
  where m.purpose is not null
  having count(*) > 0;
  if stop is not null then
    raise exception '%', stop using errcode = 'check_violation';
  end if;
  select format(
      'secrets of these names are there already, and others are to become them; '
      'rename or delete them: %s',
      string_agg(s.name, ', ' order by s.name)
    )
    into stop
  from purple_flea_secrets s
  where s.name in (
    select m.name from purple_flea_moves m
    union all
    select a.name from purple_flea_agents a where a.kind = 'key'
  )
  having count(*) > 0;
  if stop is not null then
    raise exception '%', stop using errcode = 'check_violation';
  end if;
end;
$$;

-- An update of api_key makes registrations and notifies the function, and an application's trigger
-- may send rows elsewhere. None of them is to see this update. Each is put back as it was.
create temporary table purple_flea_triggers on commit drop as
select t.tgname, t.tgenabled
from pg_catalog.pg_trigger t
where t.tgrelid = 'public.agents'::regclass
  and not t.tgisinternal
  and t.tgenabled <> 'D';

-- Renames or copies the secrets.
do $$
declare
  to_vault constant boolean := to_regclass('vault.decrypted_secrets') is not null;
  moved    record;
  value    text;
  copied   boolean;
  lost     text[] := '{}';
begin
  for moved in
    select
      v.*,
      row_number() over (partition by v.was order by v.agent desc) = 1 as last
    from purple_flea_moves v
    order by v.was, v.agent
  loop
    copied := not (moved.ours and moved.last);
    begin
      if not to_vault and copied then
        execute 'insert into purple_flea.secrets (name, secret)
                 select $2, s.secret from purple_flea.secrets s where s.name = $1'
          using moved.was, moved.name;
      elsif not to_vault then
        execute 'update purple_flea.secrets set name = $2 where name = $1'
          using moved.was, moved.name;
      elsif copied then
        execute 'select decrypted_secret from vault.decrypted_secrets where id = $1'
          into strict value using moved.secret_id;
        execute 'select vault.create_secret($1, $2, $3)'
          using value, moved.name, 'Purple Flea Edge';
      else
        execute 'select vault.update_secret(secret_id => $1, new_name => $2)'
          using moved.secret_id, moved.name;
      end if;
    exception when others then
      -- A secret that cannot be decrypted keeps its name, and keeps no other from moving. A lock or
      -- a shutdown is no such case.
      if not to_vault or sqlstate ~ '^(40|53|55|57)' then
        raise;
      end if;
      lost := lost || moved.agent;
    end;
  end loop;
  if cardinality(lost) > 0 then
    raise notice 'a secret of these agents cannot be read and keeps its old name; '
      'store it anew with purple_flea.set_agent_key: %', array_to_string(lost, ', ');
  end if;
end;
$$;

-- Stores the keys that rows held.
do $$
declare
  to_vault constant boolean := to_regclass('vault.decrypted_secrets') is not null;
  held     record;
  moved    text[] := '{}';
begin
  for held in
    select
      a.id,
      a.trimmed,
      'purple_flea_' || case a.kind when 'pending' then 'unused_' else '' end
        || 'key:' || a.id as name
    from purple_flea_agents a
    where a.kind = 'key'
      -- A value with a key's prefix is kept although a registration is under way: as unused, so
      -- that it is not lost.
      or (
        a.kind = 'pending'
        and a.was ~ '^\s*(sk|pk|pf)_'
        and not exists (
          select from purple_flea_moves v where v.agent = a.id and v.purpose = 'unused'
        )
        and not exists (
          select from purple_flea_secrets s where s.name = 'purple_flea_unused_key:' || a.id
        )
      )
    order by a.id
  loop
    if to_vault then
      execute 'select vault.create_secret($1, $2, $3)'
        using held.trimmed, held.name, 'Purple Flea Edge';
    else
      execute 'insert into purple_flea.secrets (name, secret) values ($1, $2)'
        using held.name, held.trimmed;
    end if;
    moved := moved || held.id;
  end loop;
  if cardinality(moved) > 0 then
    raise notice 'agents.api_key held keys; they are in the vault now, '
      'and also in earlier backups of the table: %', array_to_string(moved, ', ');
  end if;
end;
$$;

-- Names the secrets in the rows.
do $$
declare
  off record;
begin
  for off in select t.* from purple_flea_triggers t loop
    execute format('alter table public.agents disable trigger %I', off.tgname);
  end loop;
  update public.agents a
  set api_key = case c.kind when 'blank' then '' else c.name end
  from purple_flea_agents c
  where c.id = a.id
    and c.kind in ('name', 'key', 'pending', 'blank');
  for off in select t.* from purple_flea_triggers t loop
    execute format(
      'alter table public.agents enable %s trigger %I',
      case off.tgenabled when 'R' then 'replica' when 'A' then 'always' else '' end,
      off.tgname);
  end loop;
end;
$$;

-- Calls that count against a limit are counted by account, and an account is known by the name of
-- its key.
update purple_flea.rate_slots s
set account = c.name
from purple_flea.jobs j
join purple_flea_agents c on c.id = j.agent_id
where j.reference = s.reference
  and s.account = c.was
  and c.was not in ('', c.name);
insert into purple_flea.rate_stops (call, account, until)
select r.call, c.name, r.until
from purple_flea.rate_stops r
join purple_flea_agents c on c.was = r.account
where c.was not in ('', c.name)
on conflict do nothing;
delete from purple_flea.rate_stops r
where exists (
  select
  from purple_flea_agents c
  where c.was = r.account
    and c.was not in ('', c.name)
);

drop table purple_flea_moves, purple_flea_agents, purple_flea_secrets, purple_flea_triggers;

comment on column public.agents.api_key is
  'Empty: the agent uses the shared key. Otherwise purple_flea_key:<its id>, the name of the '
  'secret that holds its own key; never the key itself.';

-- Purple Flea's name for an agent goes out with each job. One value of a megabyte would make a
-- whole claim unreadable.
do $$
declare
  wanted record;
begin
  for wanted in
    select c.name, c.column_name
    from (
      values
        ('agents_pf_agent_id_check', 'pf_agent_id'),
        ('agents_referral_code_check', 'referral_code')
    ) as c (name, column_name)
    where not exists (
      select
      from pg_catalog.pg_constraint t
      where t.conrelid = 'public.agents'::regclass
        and t.conname = c.name
    )
  loop
    -- Validated later, outside this transaction, so that no deposit waits for it.
    execute format(
      'alter table public.agents add constraint %I check (
         octet_length(%2$I) between 1 and 128 and %2$I !~ ''[[:cntrl:]]''
       ) not valid',
      wanted.name, wanted.column_name);
  end loop;
end;
$$;
