-- The status machine of submissions, and the publication of promoted ones.

create or replace function purple_flea.approval_of(of_tenant uuid, of_submission uuid) returns text
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(
    (
      select p.approval
      from public.approval_policies p
      where p.tenant_id = of_tenant
        and p.submission_id = of_submission
    ),
    (
      select p.approval
      from public.approval_policies p
      where p.tenant_id = of_tenant
        and p.submission_id is null
    ),
    'required'
  );
end;
$$;
comment on function purple_flea.approval_of(uuid, uuid) is
  'Gives the approval that is in force for a submission: its override''s, else its tenant''s, else '
  'required.';

create or replace function purple_flea.refuse_move(
  thing    text,
  was      text,
  wanted   text,
  possible text[]
) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '% cannot become % from %', thing, coalesce(wanted, 'null'), was
    using errcode = 'check_violation',
          hint    = case cardinality(possible)
                      when 0 then format('%s is final: make a new one.', was)
                      else format(
                        'From %s it may become %s.', was, array_to_string(possible, ' or ')
                      )
                    end;
end;
$$;
comment on function purple_flea.refuse_move(text, text, text, text[]) is
  'Raises the error for a status that may not follow another one, and names those that may.';

create or replace function purple_flea.keep_submission() returns trigger
  language plpgsql
  volatile
  -- A reviewer reads neither the agent's tenant nor an agent of somebody else's.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  possible text[];
begin
  if tg_op = 'INSERT' then
    if new.status is distinct from 'received' then
      raise exception 'a submission begins as received, and not as %', coalesce(new.status, 'null')
        using errcode = 'check_violation',
              hint    = 'Insert it without a status, and move it afterwards.';
    end if;
    -- agents.tenant_id may be null, so a foreign key could not say it.
    if purple_flea.tenant_of(new.agent_id) is distinct from new.tenant_id then
      raise exception 'agent % does not belong to tenant %', new.agent_id, new.tenant_id
        using errcode = 'foreign_key_violation',
              hint    = 'Use the tenant of the agent, and a channel of that tenant.';
    end if;
    return new;
  end if;
  if (new.id, new.tenant_id, new.channel_id, new.agent_id, new.created_at) is distinct from
     (old.id, old.tenant_id, old.channel_id, old.agent_id, old.created_at) then
    raise exception 'a submission keeps its tenant, its channel and its agent'
      using errcode = 'check_violation',
            hint    = 'Change its status and its reason alone, or submit another one.';
  end if;
  if new.status is not distinct from old.status then
    if new.reason is distinct from old.reason then
      raise exception 'the reason of a submission changes with its status alone'
        using errcode = 'check_violation',
              hint    = 'Set reason in the update that sets status to rejected.';
    end if;
    return new;
  end if;
  possible := case old.status
    when 'received'     then array['processing', 'rejected']
    when 'processing'   then array['needs_review', 'approved', 'rejected']
    when 'needs_review' then array['approved', 'rejected']
    when 'approved'     then array['promoted', 'rejected']
    else '{}'
  end;
  if coalesce(new.status <> all (possible), true) then
    perform purple_flea.refuse_move('a submission', old.status, new.status, possible);
  end if;
  if old.status = 'processing'
    and new.status = 'approved'
    and purple_flea.approval_of(old.tenant_id, old.id) <> 'automatic' then
    raise exception 'submission % has to be reviewed', old.id
      using errcode = 'check_violation',
            hint    = 'Move it to needs_review, where an owner or an admin approves it; or set its '
                      'approval to automatic in approval_policies.';
  end if;
  new.changed_at := now();
  return new;
end;
$$;
comment on function purple_flea.keep_submission() is
  'Holds the status machine of submissions: it refuses every other move, and every other change.';

create or replace trigger purple_flea_keep
  before insert or update on public.frame_submissions
  for each row execute function purple_flea.keep_submission();

create or replace function purple_flea.keep_media() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  possible text[];
begin
  if tg_op = 'INSERT' then
    -- Another beginning would be a change that no event tells.
    if new.status is distinct from 'received' then
      raise exception 'media begin as received, and not as %', coalesce(new.status, 'null')
        using errcode = 'check_violation',
              hint    = 'Insert them without a status, and move them afterwards.';
    end if;
    return new;
  end if;
  if (new.id, new.tenant_id, new.submission_id, new.path, new.created_at) is distinct from
     (old.id, old.tenant_id, old.submission_id, old.path, old.created_at) then
    raise exception 'media keep their submission and their path'
      using errcode = 'check_violation',
            hint    = 'Change their status and their reason alone, or insert another row.';
  end if;
  if new.status is not distinct from old.status then
    if new.reason is distinct from old.reason then
      raise exception 'the reason of media changes with their status alone'
        using errcode = 'check_violation',
              hint    = 'Set reason in the update that sets status to failed.';
    end if;
    return new;
  end if;
  possible := case old.status
    when 'received'   then array['processing', 'failed']
    when 'processing' then array['ready', 'failed']
    when 'failed'     then array['processing']
    else '{}'
  end;
  if coalesce(new.status <> all (possible), true) then
    perform purple_flea.refuse_move('a medium', old.status, new.status, possible);
  end if;
  if new.status <> 'failed' then
    new.reason := null;
  end if;
  new.changed_at := now();
  return new;
end;
$$;
comment on function purple_flea.keep_media() is
  'Holds the status machine of media: it refuses every other move, and every other change.';

create or replace trigger purple_flea_keep
  before insert or update on public.frame_media
  for each row execute function purple_flea.keep_media();

create or replace function purple_flea.keep_approval() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (new.id, new.tenant_id, new.submission_id, new.created_at) is distinct from
     (old.id, old.tenant_id, old.submission_id, old.created_at) then
    raise exception 'an approval policy keeps its tenant and its submission'
      using errcode = 'check_violation',
            hint    = 'Change its approval alone, or delete it and insert another one.';
  end if;
  return new;
end;
$$;
comment on function purple_flea.keep_approval() is
  'Keeps an approval policy with its tenant and its submission.';

create or replace trigger purple_flea_keep
  before update on public.approval_policies
  for each row execute function purple_flea.keep_approval();

create or replace function purple_flea.publish_frame() returns trigger
  language plpgsql
  volatile
  -- No role writes the timeline.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Promotions to one channel wait for each other, so that positions have no gap and follow the
  -- order of commits.
  perform from public.channels c where c.id = new.channel_id for no key update;
  insert into public.channel_timeline (channel_id, position, submission_id, tenant_id)
  select new.channel_id, coalesce(max(t.position), 0) + 1, new.id, new.tenant_id
  from public.channel_timeline t
  where t.channel_id = new.channel_id;
  return null;
end;
$$;
comment on function purple_flea.publish_frame() is
  'Publishes a promoted frame: it becomes the newest of its channel''s timeline.';

-- By its name it comes before purple_flea_tell, so that the event finds the frame published.
create or replace trigger purple_flea_publish
  after update on public.frame_submissions
  for each row when (old.status <> new.status and new.status = 'promoted')
  execute function purple_flea.publish_frame();
