-- Workflows that an Inngest server drives: which step of which run asked for which job, and the
-- subscriptions that send events to Inngest.

create table purple_flea.workflow_steps (
  reference   text        primary key,
  function_id text        not null,
  event_id    text        not null,
  step        text        not null,
  run_id      text        not null,
  last_run_id text        not null,
  agent_id    text        not null,
  kind        text        not null,
  details     jsonb       not null,
  subject     text,
  job         text        not null,
  asked       integer     not null default 1,
  created_at  timestamptz not null default clock_timestamp(),
  asked_at    timestamptz not null default clock_timestamp(),
  constraint workflow_steps_reference_check
    check (reference ~ '^wf-[0-9a-f]{32}$'),
  constraint workflow_steps_asked_check
    check (asked > 0)
);
comment on table purple_flea.workflow_steps is
  'The money steps of workflows. A row stays for good, as the name of its job does: the same event '
  'gets the same outcome, however late it comes again.';
comment on column purple_flea.workflow_steps.reference is
  'wf- and 32 hexadecimal digits of the hash of function, event and step: the name of the job.';
comment on column purple_flea.workflow_steps.function_id is
  'The workflow: trade-on-price-alert, for example.';
comment on column purple_flea.workflow_steps.event_id is
  'The id of the event that the run began with. Of a cron it is the time of the fire.';
comment on column purple_flea.workflow_steps.step is 'The name of the step in its workflow.';
comment on column purple_flea.workflow_steps.run_id is
  'Inngest''s id of the run that asked first. It is no part of the name.';
comment on column purple_flea.workflow_steps.last_run_id is
  'The run that asked last: another one after a rerun, or if the same event came twice.';
comment on column purple_flea.workflow_steps.agent_id is 'The agent whose money it is.';
comment on column purple_flea.workflow_steps.details is
  'What was asked for. The same step that asks for something else is refused.';
comment on column purple_flea.workflow_steps.subject is
  'The event''s own name of the escrow that the step makes; null for any other step.';
comment on column purple_flea.workflow_steps.job is
  'The job that answers: the one of this name, or one that an owner asked for before.';
comment on column purple_flea.workflow_steps.asked is
  'How often an attempt has asked: 1 without any trouble.';
comment on column purple_flea.workflow_steps.asked_at is 'The time of the last attempt.';

-- The escrow of a subject; the runs of a time.
create index workflow_steps_subject_idx
  on purple_flea.workflow_steps (subject)
  where subject is not null;
create index workflow_steps_created_at_idx
  on purple_flea.workflow_steps (created_at);
create index workflow_steps_job_idx
  on purple_flea.workflow_steps (job);

alter table purple_flea.workflow_steps enable row level security;

alter table public.event_subscriptions
  add column if not exists format text not null default 'standard',
  drop constraint if exists event_subscriptions_format_check,
  add constraint event_subscriptions_format_check
    check (format in ('standard', 'inngest')) not valid;
comment on column public.event_subscriptions.format is
  'standard (a signed Standard Webhook), or inngest: an event for the event API of Inngest, whose '
  'event key is the subscription''s secret.';

-- It has two more arguments now.
drop function if exists public.create_event_subscription(uuid, text, text[]);
