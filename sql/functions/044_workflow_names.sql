-- The names and the limits of workflows' jobs. A money step of a workflow is a job whose name
-- depends on the event and not on the run. So an event that is sent again, a second server and a
-- rerun find the job that there is.

-- Without a search path of its own, because Postgres inlines no function that has one.
create or replace function purple_flea.is_of_workflow(reference text) returns boolean
  language sql
  immutable
as $$
  select reference ~ '^wf-[0-9a-f]{32}$'
$$;
comment on function purple_flea.is_of_workflow(text) is
  'Says whether a name is that of a workflow''s job. Callers may not choose such a name.';

-- A function and a step are names of ours and have one line. So no other event leads to the same
-- three lines.
create or replace function purple_flea.workflow_reference(
  function_id text,
  event_id    text,
  step        text
) returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return 'wf-' || left(
    encode(
      sha256(convert_to(concat_ws(E'\n', function_id, event_id, step), 'UTF8')),
      'hex'
    ),
    32
  );
end;
$$;
comment on function purple_flea.workflow_reference(text, text, text) is
  'Gives the name of the job of a workflow''s step.';

create or replace function purple_flea.workflow_limits(
  -- From one attempt to the next. Inngest waits 15 s, 30 s and 1 min before its three retries, and
  -- a run that another one holds up has its turn after minutes.
  out renewal interval,
  -- From the first attempt on, whatever renews it. An alert of an hour ago is no reason to trade.
  out bound   interval
)
  language plpgsql  -- see timing()
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  renewal := interval '15 minutes';
  bound   := interval '1 hour';
end;
$$;
comment on function purple_flea.workflow_limits() is
  'Gives how long a workflow''s job waits for the next attempt of its step, and for all of them.';
