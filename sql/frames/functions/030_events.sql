-- The events of frames. Triggers write them in the transaction of the change. Those about one
-- submission, its media and its override have that submission as their subject, so that they keep
-- their order everywhere. For that a writer locks the submission, as purple_flea.emit() wants it.

insert into purple_flea.event_types as known (type, description)
values
  ('frame.submission.created', 'An agent has submitted a frame to a channel.'),
  ('frame.submission.status_changed', 'The status of a submission has moved.'),
  ('frame.media.status_changed', 'The processing of a medium of a frame has moved.'),
  ('frame.approval.changed',
   'An approval policy of the tenant, or an override for one submission, applies from now on.'),
  ('frame.promoted', 'A frame is promoted and published to the timeline of its channel.'),
  ('frame.rejected', 'A frame is rejected.')
on conflict (type) do update
set description = excluded.description;

create or replace function purple_flea.submission_payload(
  submission public.frame_submissions,
  status     text
) returns jsonb
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_strip_nulls(jsonb_build_object(
    'submission_id', submission.id,
    'agent_id',      submission.agent_id,
    'channel_id',    submission.channel_id,
    'status',        status,
    -- The service is no actor.
    'actor',         purple_flea.caller()
  ));
end;
$$;
comment on function purple_flea.submission_payload(public.frame_submissions, text) is
  'Gives the ids of a submission, a status, and the signed-in user who caused an event, if it was '
  'one.';

create or replace function purple_flea.tell_submission() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  subject constant text  := 'submission:' || new.id;
  payload constant jsonb := purple_flea.submission_payload(new, new.status);
begin
  if tg_op = 'INSERT' then
    perform purple_flea.emit('frame.submission.created', new.tenant_id, subject, payload);
    return null;
  end if;
  perform purple_flea.emit('frame.submission.status_changed', new.tenant_id, subject, payload);
  if new.status in ('promoted', 'rejected') then
    perform purple_flea.emit('frame.' || new.status, new.tenant_id, subject, payload);
  end if;
  return null;
end;
$$;
comment on function purple_flea.tell_submission() is
  'Fires the events of a submission: its creation, each move, and its end.';

create or replace trigger purple_flea_tell
  after insert on public.frame_submissions
  for each row execute function purple_flea.tell_submission();
create or replace trigger purple_flea_tell_move
  after update on public.frame_submissions
  for each row when (old.status <> new.status)
  execute function purple_flea.tell_submission();

create or replace function purple_flea.tell_media() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  submission public.frame_submissions;
begin
  -- A lock alone would go unnoticed by a transaction that sees the table as it was before.
  update public.frame_submissions s
  set status = s.status
  where s.id = new.submission_id
  returning s.* into submission;
  perform purple_flea.emit(
    'frame.media.status_changed',
    new.tenant_id,
    'submission:' || new.submission_id,
    purple_flea.submission_payload(submission, new.status)
      || jsonb_build_object('media_id', new.id)
  );
  return null;
end;
$$;
comment on function purple_flea.tell_media() is 'Fires the event of a medium whose status moved.';

create or replace trigger purple_flea_tell
  after update on public.frame_media
  for each row when (old.status <> new.status)
  execute function purple_flea.tell_media();

create or replace function purple_flea.tell_approval() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  policy     constant public.approval_policies := coalesce(new, old);
  status     constant text := case tg_op when 'DELETE' then 'removed' else policy.approval end;
  submission public.frame_submissions;
begin
  -- See tell_media().
  update public.frame_submissions s
  set status = s.status
  where s.id = policy.submission_id
  returning s.* into submission;
  perform purple_flea.emit(
    'frame.approval.changed',
    policy.tenant_id,
    coalesce('submission:' || policy.submission_id, 'policy:' || policy.id),
    purple_flea.submission_payload(submission, status) || jsonb_build_object('policy_id', policy.id)
  );
  return null;
end;
$$;
comment on function purple_flea.tell_approval() is
  'Fires the event of an approval policy or an override that applies, changes or is removed.';

create or replace trigger purple_flea_tell
  after insert or delete on public.approval_policies
  for each row execute function purple_flea.tell_approval();
create or replace trigger purple_flea_tell_change
  after update on public.approval_policies
  for each row when (old.approval <> new.approval)
  execute function purple_flea.tell_approval();
