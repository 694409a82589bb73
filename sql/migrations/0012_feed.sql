-- The event feed: tenants and their members, keys for clients that are no browser, and the events.

-- The names are common. A table of another application is not taken over. A table that an
-- uninstalled ledger left has all of these columns.
do $$
declare
  other text;
begin
  select string_agg(format('public.%s lacks %s', w.table_name, w.column_name), ', ' order by w.n)
    into other
  from unnest(
    array[
      'tenants.id', 'tenants.name', 'tenants.owner_id', 'tenants.created_at',
      'memberships.tenant_id', 'memberships.user_id', 'memberships.role', 'memberships.created_at',
      'api_keys.id', 'api_keys.tenant_id', 'api_keys.hash', 'api_keys.scopes',
      'frame_events.id', 'frame_events.tenant_id', 'frame_events.payload', 'frame_events.position'
    ]
  ) with ordinality as c (called, n)
  cross join lateral (
    select
      c.n,
      split_part(c.called, '.', 1) as table_name,
      split_part(c.called, '.', 2) as column_name
  ) as w
  where to_regclass('public.' || w.table_name) is not null
    and not exists (
      select
      from pg_catalog.pg_attribute a
      where a.attrelid = to_regclass('public.' || w.table_name)
        and a.attname = w.column_name
        and not a.attisdropped
    );
  if other is not null then
    raise exception 'the event feed needs tables whose names are taken: %', other
      using errcode = 'duplicate_table',
            hint    = 'Rename your own tables, or use another database for the ledger.';
  end if;
end;
$$;

create table if not exists public.tenants (
  id         uuid        primary key default gen_random_uuid(),
  name       text        not null,
  owner_id   uuid        unique,
  created_at timestamptz not null default now(),
  constraint tenants_name_check
    check (char_length(name) between 1 and 100)
);
comment on table public.tenants is
  'The parties that own agents, keys and events. Each owner of agents has one; agents without an '
  'owner belong to the tenant named operator.';
comment on column public.tenants.name is 'The name for people, 1 to 100 characters.';
comment on column public.tenants.owner_id is
  'The user whose agents belong to it by default; null: no user''s.';

insert into public.tenants (id, name)
values ('00000000-0000-4000-8000-000000000001', 'operator')
on conflict do nothing;

create table if not exists public.memberships (
  tenant_id  uuid        not null references public.tenants on delete cascade,
  user_id    uuid        not null,
  role       text        not null default 'member',
  created_at timestamptz not null default now(),
  primary key (tenant_id, user_id),
  constraint memberships_role_check
    check (role in ('owner', 'admin', 'member'))
);
comment on table public.memberships is
  'The users who may read a tenant''s rows and events. Owners and admins make its keys, too.';
comment on column public.memberships.role is 'owner, admin or member.';
-- With both columns: whichever index Postgres takes for a policy, it reads one membership.
create index if not exists memberships_user_id_idx
  on public.memberships (user_id, tenant_id);

alter table public.agents add column if not exists tenant_id uuid;
do $$
begin
  if not exists (
    select
    from pg_catalog.pg_constraint t
    where t.conrelid = 'public.agents'::regclass
      and t.conname = 'agents_tenant_id_fkey'
  ) then
    -- Validated later, outside this transaction, so that no deposit waits for it.
    alter table public.agents
      add constraint agents_tenant_id_fkey
      foreign key (tenant_id) references public.tenants on delete restrict not valid;
  end if;
end;
$$;
comment on column public.agents.tenant_id is
  'The tenant that the agent belongs to; null: its owner''s, or the operator''s if it has no '
  'owner.';
create index if not exists agents_tenant_id_idx
  on public.agents (tenant_id)
  where tenant_id is not null;

-- The owners that there are. From now on a trigger makes the tenant of a new owner.
insert into public.tenants (name, owner_id)
select distinct a.owner_id::text, a.owner_id
from public.agents a
where a.owner_id is not null
on conflict do nothing;
-- An owner who left an uninstalled ledger's tenant stays away.
insert into public.memberships (tenant_id, user_id, role)
select t.id, t.owner_id, 'owner'
from public.tenants t
where t.owner_id is not null
  and t.created_at = now()
on conflict do nothing;

create table if not exists public.api_keys (
  id           uuid        primary key default gen_random_uuid(),
  tenant_id    uuid        not null references public.tenants on delete cascade,
  label        text        not null,
  prefix       text        not null,
  hash         bytea       not null unique,
  scopes       text[]      not null,
  created_by   uuid,
  created_at   timestamptz not null default now(),
  last_used_at timestamptz,
  revoked_at   timestamptz,
  use_told_at  timestamptz,
  constraint api_keys_label_check
    check (char_length(label) between 1 and 100),
  constraint api_keys_prefix_check
    check (prefix ~ '^ek_[A-Za-z0-9_-]{8}$'),
  constraint api_keys_hash_check
    check (octet_length(hash) = 32),
  constraint api_keys_scopes_check
    check (scopes <@ '{events:read,records:read}' and scopes <> '{}')
);
comment on table public.api_keys is
  'The keys of a tenant''s clients that are no browser. No table holds a key itself.';
comment on column public.api_keys.label is 'The purpose of the key in its maker''s words.';
comment on column public.api_keys.prefix is
  'The first 11 characters of the key, by which people tell keys apart.';
comment on column public.api_keys.hash is 'The SHA-256 of the key. No role of the API reads it.';
comment on column public.api_keys.scopes is
  'What the key opens: events:read (the feed), records:read (the records that events are about).';
comment on column public.api_keys.created_by is
  'The user who made it; null: the service or the operator. Its member''s leaving revokes it.';
comment on column public.api_keys.last_used_at is 'The last use, exact to a minute.';
comment on column public.api_keys.revoked_at is 'The time from which it opens nothing.';
comment on column public.api_keys.use_told_at is
  'The time of its last api_key.used event. No role of the API reads it.';
create index if not exists api_keys_tenant_id_idx
  on public.api_keys (tenant_id);

-- Not partitioned: Realtime would see the leaves, whose row-level security is off. Without foreign
-- keys: an event outlives its subject, and takes no lock on a tenant.
create table if not exists public.frame_events (
  id          bigint      generated always as identity primary key,
  tenant_id   uuid        not null,
  type        text        not null,
  subject     text        not null,
  payload     jsonb       not null,
  occurred_at timestamptz not null,
  epoch       integer     not null,
  position    bigint      not null,
  constraint frame_events_type_check
    check (type ~ '^[a-z_]+(\.[a-z_]+)+$' and octet_length(type) <= 64),
  constraint frame_events_subject_check
    check (subject ~ '^[a-z_]+:.' and octet_length(subject) <= 256),
  constraint frame_events_payload_check
    check (jsonb_typeof(payload) = 'object')
);
comment on table public.frame_events is
  'The event feed: a row for each event, written by purple_flea.emit() alone, and never changed.';
comment on column public.frame_events.id is
  'The event''s identity. It is no order: a transaction that commits late has low ids.';
comment on column public.frame_events.type is 'The event''s name: public.event_types.';
comment on column public.frame_events.subject is
  'What the event is about, as kind:id. The events of a subject are in order.';
comment on column public.frame_events.payload is
  'The event as subscribers get it: type, tenant_id, occurred_at, and ids, status and actor.';
comment on column public.frame_events.epoch is
  'How often the database had been restored and confirmed before.';
comment on column public.frame_events.position is
  'The writer''s transaction, or the position of the subject''s last event, if that is greater. '
  'The feed is in the order of epoch, position and id.';
-- A tenant's page; the whole feed for deliveries and retention; a subject's last position.
create index if not exists frame_events_tenant_idx
  on public.frame_events (tenant_id, epoch, position, id);
create index if not exists frame_events_order_idx
  on public.frame_events (epoch, position, id);
create index if not exists frame_events_subject_idx
  on public.frame_events (subject, epoch, position);

create table purple_flea.feed (
  only_row boolean  primary key default true check (only_row),
  epoch    integer  not null default 1,
  secret   bytea    not null default
             sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
               || uuid_send(gen_random_uuid())),
  keep_for interval not null default '30 days',
  constraint feed_keep_for_check
    check (keep_for between interval '1 day' and interval '100 years')
);
comment on table purple_flea.feed is 'The event feed''s own state, in one row.';
comment on column purple_flea.feed.epoch is
  'How often the database was restored and confirmed. An event between a restore and its '
  'confirmation already has the next number.';
comment on column purple_flea.feed.secret is 'The secret that cursors are authenticated with.';
comment on column purple_flea.feed.keep_for is 'The age at which a sweep deletes an event.';
-- An uninstalled ledger left its events. Their epochs are older than this feed.
insert into purple_flea.feed (epoch)
select coalesce(max(e.epoch), 0) + 1
from public.frame_events e;

-- Sequences and no columns: they need no lock that a transaction would hold until its end, and they
-- count what a transaction lost even if it is rolled back.
create sequence purple_flea.feed_lost minvalue 0 owned by purple_flea.feed.only_row;
select setval('purple_flea.feed_lost', 0);
comment on sequence purple_flea.feed_lost is
  'How many events could not be written, because a constraint or a trigger refused them.';
create sequence purple_flea.feed_warned minvalue 0 owned by purple_flea.feed.only_row;
select setval('purple_flea.feed_warned', 0);
comment on sequence purple_flea.feed_warned is
  'The time of the last warning about a lost event, in seconds since 1970.';

create table purple_flea.feed_floors (
  tenant_id uuid    primary key,
  epoch     integer not null,
  position  bigint  not null,
  id        bigint  not null
);
comment on table purple_flea.feed_floors is
  'The place of each tenant''s last deleted event. A cursor below it has missed something.';

create table purple_flea.event_types (
  type        text primary key,
  description text not null
);
comment on table purple_flea.event_types is
  'The types of events that this database fires. The files of sql/functions fill it.';

alter table public.tenants          enable row level security;
alter table public.memberships      enable row level security;
alter table public.api_keys         enable row level security;
alter table public.frame_events     enable row level security;
alter table purple_flea.feed        enable row level security;
alter table purple_flea.feed_floors enable row level security;
alter table purple_flea.event_types enable row level security;
