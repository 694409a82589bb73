-- Access to the frames' tables. The service writes. A member reads the rows of the member's
-- tenants. Owners and admins review submissions. Anonymous callers and strangers get nothing.
-- Supabase's default privileges give three roles everything in `public`, so each privilege is
-- revoked by name before a part of it is granted again.

revoke all
  on
    public.channels, public.frame_submissions, public.frame_media, public.approval_policies,
    public.channel_timeline
  from
    public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;

-- A frame's story ends with promoted or rejected, so nobody deletes a part of it. A policy that is
-- deleted leaves the tenant's policy, or the default, in force.
grant select, insert, update
  on public.channels, public.frame_submissions, public.frame_media
  to service_role;
grant select, insert, update, delete on public.approval_policies to service_role;
grant select on public.channel_timeline to service_role;

grant select
  on
    public.channels, public.frame_submissions, public.frame_media, public.approval_policies,
    public.channel_timeline
  to authenticated;
-- A reviewer moves a submission and says why, and changes nothing else of it.
grant update (status, reason) on public.frame_submissions to authenticated;

-- Each row looks up one membership by its primary key. A policy that collected the caller's tenants
-- or the tenant's members, as Postgres does for `exists`, would do so for each changed row and each
-- subscriber of Realtime.
drop policy if exists channels_member_reads on public.channels;
create policy channels_member_reads on public.channels
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = channels.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists channels_service_writes on public.channels;
create policy channels_service_writes on public.channels
  for all to service_role
  using (true)
  with check (true);

drop policy if exists frame_submissions_member_reads on public.frame_submissions;
create policy frame_submissions_member_reads on public.frame_submissions
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = frame_submissions.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

-- Processing is the service's. The trigger purple_flea_keep knows which move is possible at all.
drop policy if exists frame_submissions_reviewers_move on public.frame_submissions;
create policy frame_submissions_reviewers_move on public.frame_submissions
  for update to authenticated
  using (
    (
      select m.role
      from public.memberships m
      where m.tenant_id = frame_submissions.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) in ('owner', 'admin')
  )
  with check (
    status in ('approved', 'promoted', 'rejected')
    and (
      select m.role
      from public.memberships m
      where m.tenant_id = frame_submissions.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) in ('owner', 'admin')
  );

drop policy if exists frame_submissions_service_writes on public.frame_submissions;
create policy frame_submissions_service_writes on public.frame_submissions
  for all to service_role
  using (true)
  with check (true);

drop policy if exists frame_media_member_reads on public.frame_media;
create policy frame_media_member_reads on public.frame_media
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = frame_media.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists frame_media_service_writes on public.frame_media;
create policy frame_media_service_writes on public.frame_media
  for all to service_role
  using (true)
  with check (true);

drop policy if exists approval_policies_member_reads on public.approval_policies;
create policy approval_policies_member_reads on public.approval_policies
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = approval_policies.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists approval_policies_service_writes on public.approval_policies;
create policy approval_policies_service_writes on public.approval_policies
  for all to service_role
  using (true)
  with check (true);

drop policy if exists channel_timeline_member_reads on public.channel_timeline;
create policy channel_timeline_member_reads on public.channel_timeline
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = channel_timeline.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists channel_timeline_service_reads on public.channel_timeline;
create policy channel_timeline_service_reads on public.channel_timeline
  for select to service_role
  using (true);
