-- Frames: submissions of agents to the channels of a tenant, with their media, the policies that
-- say which of them a person has to review, and the timeline of what was published.

-- The names are common ones, so a table of somebody else may bear one. An uninstalled ledger leaves
-- its own tables, and they have these columns.
do $$
declare
  foreign_ones text;
begin
  select string_agg(format('public.%I', w.table_name), ', ' order by w.table_name) into foreign_ones
  from (values
    ('channels',          array['id', 'tenant_id', 'name', 'created_at']),
    ('frame_submissions', array['id', 'tenant_id', 'channel_id', 'agent_id', 'status', 'reason']),
    ('frame_media',       array['id', 'tenant_id', 'submission_id', 'path', 'status', 'reason']),
    ('approval_policies', array['id', 'tenant_id', 'submission_id', 'approval']),
    ('channel_timeline',  array['channel_id', 'position', 'submission_id', 'tenant_id'])
  ) as w (table_name, columns)
  where to_regclass(format('public.%I', w.table_name)) is not null
    and not w.columns <@ array(
      select a.attname::text
      from pg_catalog.pg_attribute a
      where a.attrelid = to_regclass(format('public.%I', w.table_name))
        and a.attnum > 0
        and not a.attisdropped
    );
  if foreign_ones is not null then
    raise exception 'these tables are there already, and are none of this project''s: %',
      foreign_ones
      using errcode = 'duplicate_table',
            hint    = 'Rename them, or move them to another schema; frames need these names.';
  end if;
end;
$$;

create table if not exists public.channels (
  id         uuid        not null default gen_random_uuid() primary key,
  tenant_id  uuid        not null references public.tenants on delete restrict,
  name       text        not null,
  created_at timestamptz not null default now(),
  constraint channels_name_key unique (tenant_id, name),
  -- The other tables refer to both columns, so that their rows belong to the channel's tenant.
  constraint channels_tenant_key unique (id, tenant_id),
  constraint channels_name_check check (char_length(name) between 1 and 100)
);
comment on table public.channels is 'The channels of tenants, to which agents submit frames.';
comment on column public.channels.name is 'A name of 1 to 100 characters, one of its tenant''s.';
alter table public.channels enable row level security;

create table if not exists public.frame_submissions (
  id         uuid        not null default gen_random_uuid() primary key,
  tenant_id  uuid        not null references public.tenants on delete restrict,
  channel_id uuid        not null,
  agent_id   text        not null references public.agents on delete restrict,
  status     text        not null default 'received',
  reason     text,
  created_at timestamptz not null default now(),
  changed_at timestamptz not null default now(),
  constraint frame_submissions_tenant_key unique (id, tenant_id),
  constraint frame_submissions_channel_key unique (id, channel_id, tenant_id),
  constraint frame_submissions_channel_id_fkey
    foreign key (channel_id, tenant_id)
    references public.channels (id, tenant_id) on delete restrict,
  constraint frame_submissions_status_check
    check (status in (
      'received', 'processing', 'needs_review', 'approved', 'promoted', 'rejected'
    )),
  constraint frame_submissions_reason_check
    check (reason is null or (status = 'rejected' and char_length(reason) between 1 and 500))
);
create index if not exists frame_submissions_tenant_id_idx
  on public.frame_submissions (tenant_id, created_at);
create index if not exists frame_submissions_channel_id_idx
  on public.frame_submissions (channel_id);
create index if not exists frame_submissions_agent_id_idx
  on public.frame_submissions (agent_id);
comment on table public.frame_submissions is 'Frames that agents submit to channels.';
comment on column public.frame_submissions.agent_id is
  'The agent that submits the frame. It belongs to the same tenant when it submits.';
comment on column public.frame_submissions.status is
  'received, processing, needs_review, approved, promoted or rejected. docs/events.md says which '
  'may follow which.';
comment on column public.frame_submissions.reason is
  'Why the frame is rejected, 1 to 500 characters; null if nobody says it, or it is not rejected.';
comment on column public.frame_submissions.changed_at is
  'The beginning of the transaction that moved the status last.';
alter table public.frame_submissions enable row level security;

create table if not exists public.frame_media (
  id            uuid        not null default gen_random_uuid() primary key,
  tenant_id     uuid        not null,
  submission_id uuid        not null,
  path          text        not null,
  status        text        not null default 'received',
  reason        text,
  created_at    timestamptz not null default now(),
  changed_at    timestamptz not null default now(),
  constraint frame_media_submission_id_fkey
    foreign key (submission_id, tenant_id)
    references public.frame_submissions (id, tenant_id) on delete restrict,
  constraint frame_media_path_check
    check (char_length(path) between 1 and 1024),
  constraint frame_media_status_check
    check (status in ('received', 'processing', 'ready', 'failed')),
  constraint frame_media_reason_check
    check (reason is null or (status = 'failed' and char_length(reason) between 1 and 500))
);
create index if not exists frame_media_submission_id_idx on public.frame_media (submission_id);
comment on table public.frame_media is 'The media of frames, and how far their processing is.';
comment on column public.frame_media.path is
  'Where the object is stored, 1 to 1024 characters: the name that the tenant''s storage knows.';
comment on column public.frame_media.status is
  'received, processing, ready or failed. A failed one may be processed again.';
comment on column public.frame_media.reason is
  'Why the processing failed, 1 to 500 characters; null if nobody says it, or it has not failed.';
comment on column public.frame_media.changed_at is
  'The beginning of the transaction that moved the status last.';
alter table public.frame_media enable row level security;

create table if not exists public.approval_policies (
  id            uuid        not null default gen_random_uuid() primary key,
  tenant_id     uuid        not null references public.tenants on delete restrict,
  submission_id uuid,
  approval      text        not null,
  created_at    timestamptz not null default now(),
  -- One a tenant, and one a submission.
  constraint approval_policies_submission_key
    unique nulls not distinct (tenant_id, submission_id),
  constraint approval_policies_submission_id_fkey
    foreign key (submission_id, tenant_id)
    references public.frame_submissions (id, tenant_id) on delete restrict,
  constraint approval_policies_approval_check check (approval in ('required', 'automatic'))
);
create index if not exists approval_policies_submission_id_idx
  on public.approval_policies (submission_id)
  where submission_id is not null;
comment on table public.approval_policies is
  'Which frames a person has to approve: a tenant''s policy, and overrides for one submission.';
comment on column public.approval_policies.submission_id is
  'The submission that the override is for; null for the tenant''s policy.';
comment on column public.approval_policies.approval is
  'required: an owner or an admin of the tenant reviews the frame. automatic: a processed frame '
  'may be approved without that. Without any policy it is required.';
alter table public.approval_policies enable row level security;

create table if not exists public.channel_timeline (
  channel_id    uuid        not null,
  position      bigint      not null,
  submission_id uuid        not null,
  tenant_id     uuid        not null,
  published_at  timestamptz not null default now(),
  constraint channel_timeline_pkey primary key (channel_id, position),
  constraint channel_timeline_submission_id_key unique (submission_id),
  constraint channel_timeline_submission_id_fkey
    foreign key (submission_id, channel_id, tenant_id)
    references public.frame_submissions (id, channel_id, tenant_id) on delete restrict,
  constraint channel_timeline_position_check check (position >= 1)
);
comment on table public.channel_timeline is
  'The frames that a channel has published, in order. Promotion writes it, and nobody changes it.';
comment on column public.channel_timeline.position is
  'The frame''s place in its channel: 1, 2, 3 and so on, without a gap, in the order of commits.';
alter table public.channel_timeline enable row level security;
