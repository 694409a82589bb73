-- For operators: what the workflows' money steps did.

-- The view is dropped first, because its columns may differ from the last release's.
drop view if exists purple_flea.workflow_runs;
create view purple_flea.workflow_runs as
  select
    s.function_id,
    s.run_id,
    s.last_run_id,
    s.event_id,
    s.step,
    s.agent_id,
    s.kind,
    s.job,
    j.state,
    j.reason,
    s.asked,
    s.subject,
    s.created_at,
    s.asked_at,
    j.changed_at,
    j.result
  from purple_flea.workflow_steps s
  left join purple_flea.all_jobs j on j.reference = s.job;
comment on view purple_flea.workflow_runs is
  'The money steps of workflows, with the state of each step''s job. A step that only reads is in '
  'Inngest''s own record of the run.';
