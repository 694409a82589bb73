-- The status machines of submissions and media, the policies of approval, the timeline of channels,
-- and the events of all of them.
begin;
\ir ../setup/frames.psql

-- The events of one walk.
select pg_temp.submit();
select is(
  (select status from public.frame_submissions where id = pg_temp.n('frame')),
  'received',
  'a submission begins as received'
);
select results_eq(
  $$select type, tenant_id, subject from pg_temp.fired()$$,
  $$
    values ('frame.submission.created', pg_temp.n('ours'), 'submission:' || pg_temp.n('frame'))
  $$,
  'and its creation is an event of its tenant'
);
select pg_temp.walk(array['processing', 'needs_review']);
select results_eq(
  $$select payload - 'occurred_at' from pg_temp.fired()$$,
  $$
    select jsonb_build_object(
      'type', 'frame.submission.status_changed',
      'tenant_id', pg_temp.n('ours'),
      'submission_id', pg_temp.n('frame'),
      'agent_id', 'ours',
      'channel_id', pg_temp.n('channel'),
      'status', s
    )
    from unnest(array['processing', 'needs_review']) s
  $$,
  'two moves in one moment are two events in order, with the members of the contract'
);
select pg_temp.walk(array['approved', 'promoted']);
select is(
  pg_temp.told(),
  array[
    'frame.submission.status_changed approved',
    'frame.submission.status_changed promoted',
    'frame.promoted promoted'
  ],
  'a promotion is a move, and then an event of its own'
);
select results_eq(
  $$select channel_id, position, submission_id, tenant_id from public.channel_timeline$$,
  $$select pg_temp.n('channel'), 1::bigint, pg_temp.n('frame'), pg_temp.n('ours')$$,
  'a promoted frame is the first of its channel''s timeline'
);

-- No event without a change.
select lives_ok($$select pg_temp.move('promoted')$$, 'a frame may be moved to where it is');
update public.frame_submissions set agent_id = agent_id where id = pg_temp.n('frame');
insert into public.frame_submissions (id, tenant_id, channel_id, agent_id, status)
values (pg_temp.n('frame'), pg_temp.n('ours'), pg_temp.n('channel'), 'ours', 'received')
on conflict (id) do nothing;
select is(pg_temp.told(), '{}', 'an update that changes nothing is no event');
select is(
  (select count(*) from public.channel_timeline),
  1::bigint,
  'and publishes nothing again'
);
savepoint before;
select pg_temp.submit('second frame');
rollback to before;
select is(pg_temp.told(), '{}', 'a change that is rolled back is no event');

-- Every pair of statuses.
create function pg_temp.way_to(status text) returns text[] language sql as $$
  select case status
    when 'received'     then '{}'
    when 'processing'   then '{processing}'
    when 'needs_review' then '{processing,needs_review}'
    when 'approved'     then '{processing,needs_review,approved}'
    when 'promoted'     then '{processing,needs_review,approved,promoted}'
    when 'rejected'     then '{rejected}'
  end::text[]
$$;
create function pg_temp.can_move(was text, wanted text) returns boolean language plpgsql as $$
declare
  can boolean := true;
begin
  begin
    perform pg_temp.submit('second frame');
    perform pg_temp.walk(pg_temp.way_to(was), 'second frame');
    begin
      perform pg_temp.move(wanted, 'second frame');
    exception when check_violation then
      can := false;
    end;
    raise exception using errcode = 'P0099';
  exception when sqlstate 'P0099' then
    return can;
  end;
end;
$$;
select is(
  pg_temp.can_move(was, wanted),
  (was, wanted) in (
    ('received', 'processing'), ('received', 'rejected'),
    ('processing', 'needs_review'), ('processing', 'rejected'),
    ('needs_review', 'approved'), ('needs_review', 'rejected'),
    ('approved', 'promoted'), ('approved', 'rejected')
  ),
  format('from %s to %s', was, wanted)
)
from
  unnest(
    array['received', 'processing', 'needs_review', 'approved', 'promoted', 'rejected']
  ) as was,
  unnest(
    array['received', 'processing', 'needs_review', 'approved', 'promoted', 'rejected', 'lost']
  ) as wanted
where was <> wanted;
select is(pg_temp.told(), '{}', 'a move that is refused is no event');

-- The words of a refusal.
create function pg_temp.words(statement text, out message text, out hint text)
  language plpgsql
as $$
begin
  execute statement;
exception when others then
  get stacked diagnostics message = message_text, hint = pg_exception_hint;
end;
$$;
select pg_temp.submit('second frame');
select is(
  pg_temp.words($$select pg_temp.move('promoted', 'second frame')$$)::text,
  '("a submission cannot become promoted from received",'
    '"From received it may become processing or rejected.")',
  'a refusal says which moves are possible'
);
select is(
  pg_temp.words($$select pg_temp.move('approved')$$)::text,
  '("a submission cannot become approved from promoted","promoted is final: make a new one.")',
  'or that there is none'
);
select is(
  (pg_temp.words($$select pg_temp.move(null, 'second frame')$$)).message,
  'a submission cannot become null from received',
  'a submission without a status is refused'
);
select throws_ok(
  format(
    'insert into public.frame_submissions (tenant_id, channel_id, agent_id, status)
     values (%L, %L, ''ours'', %L)',
    pg_temp.n('ours'), pg_temp.n('channel'), s
  ),
  '23514',
  'a submission begins as received, and not as ' || s,
  'a submission does not begin as ' || s
)
from unnest(array['processing', 'needs_review', 'approved', 'promoted', 'rejected', 'lost']) as s;
select throws_ok(
  format(
    'update public.frame_submissions set %s where id = %L', change, pg_temp.n('second frame')
  ),
  '23514',
  'a submission keeps its tenant, its channel and its agent',
  'refused: ' || change
)
from unnest(array[
  'agent_id = ''theirs''',
  format('channel_id = %L', pg_temp.n('second channel')),
  format('tenant_id = %L', pg_temp.n('theirs')),
  'id = gen_random_uuid()',
  'created_at = created_at - interval ''1 s'''
]) as change;

-- Reasons.
select throws_ok(
  $$update public.frame_submissions set reason = 'x' where id = pg_temp.n('second frame')$$,
  '23514',
  'the reason of a submission changes with its status alone',
  'a reason comes with a rejection'
);
select throws_ok(
  $$
    update public.frame_submissions set status = 'processing', reason = 'x'
    where id = pg_temp.n('second frame')
  $$,
  '23514',
  null,
  'and with no other move'
);
select count(*) from pg_temp.fired();
update public.frame_submissions
set status = 'rejected', reason = 'too dark'
where id = pg_temp.n('second frame');
select is(
  pg_temp.told(),
  array['frame.submission.status_changed rejected', 'frame.rejected rejected'],
  'a rejection is a move, and then an event of its own'
);
select throws_ok(
  $$update public.frame_submissions set reason = 'y' where id = pg_temp.n('second frame')$$,
  '23514',
  null,
  'a rejected frame keeps its reason'
);

-- Media.
insert into public.frame_media (id, tenant_id, submission_id, path)
values (pg_temp.n('medium'), pg_temp.n('ours'), pg_temp.n('frame'), 'frames/1.png');
select is(pg_temp.told(), '{}', 'a new medium has no processing that changed');
update public.frame_media set status = 'processing' where id = pg_temp.n('medium');
update public.frame_media
set status = 'failed', reason = 'no picture'
where id = pg_temp.n('medium');
update public.frame_media set status = 'failed' where id = pg_temp.n('medium');
update public.frame_media set status = 'processing' where id = pg_temp.n('medium');
select is(
  (select reason from public.frame_media where id = pg_temp.n('medium')),
  null,
  'a medium that is processed again has no reason to have failed'
);
update public.frame_media set status = 'ready' where id = pg_temp.n('medium');
select results_eq(
  $$select subject, payload - 'occurred_at' from pg_temp.fired()$$,
  $$
    select
      'submission:' || pg_temp.n('frame'),
      jsonb_build_object(
        'type', 'frame.media.status_changed',
        'tenant_id', pg_temp.n('ours'),
        'submission_id', pg_temp.n('frame'),
        'agent_id', 'ours',
        'channel_id', pg_temp.n('channel'),
        'media_id', pg_temp.n('medium'),
        'status', s
      )
    from unnest(array['processing', 'failed', 'processing', 'ready']) s
  $$,
  'each change of a medium''s processing is an event of its submission'
);
select is(
  pg_temp.words(
    $$update public.frame_media set status = 'processing' where id = pg_temp.n('medium')$$
  )::text,
  '("a medium cannot become processing from ready","ready is final: make a new one.")',
  'a medium that is ready stays so'
);
select throws_ok(
  format('update public.frame_media set %s where id = %L', change, pg_temp.n('medium')),
  '23514',
  null,
  'refused: ' || change
)
from unnest(array[
  'path = ''other''', 'reason = ''x''', 'id = gen_random_uuid()',
  format('submission_id = %L', pg_temp.n('second frame')),
  format('tenant_id = %L', pg_temp.n('theirs')),
  'status = ''lost''', 'status = null'
]) as change;
select throws_ok(
  format(
    'insert into public.frame_media (tenant_id, submission_id, path, status)
     values (%L, %L, ''x'', ''ready'')',
    pg_temp.n('ours'), pg_temp.n('frame')
  ),
  '23514',
  'media begin as received, and not as ready',
  'a medium is ready after its processing alone'
);

-- Approval.
create function pg_temp.becomes_approved(name text) returns boolean language plpgsql as $$
begin
  perform pg_temp.move('approved', name);
  return true;
exception when check_violation then
  return false;
end;
$$;
insert into named (name) select 'frame ' || n from generate_series(1, 6) as n;
select pg_temp.submit('frame ' || n), pg_temp.move('processing', 'frame ' || n)
from generate_series(1, 6) as n;
select count(*) from pg_temp.fired();
select is(
  (pg_temp.words($$select pg_temp.move('approved', 'frame 1')$$)).message,
  format('submission %s has to be reviewed', pg_temp.n('frame 1')),
  'without a policy a person reviews'
);
select matches(
  (pg_temp.words($$select pg_temp.move('approved', 'frame 1')$$)).hint,
  'needs_review.*approval_policies',
  'and the refusal says what to do'
);
insert into public.approval_policies (id, tenant_id, approval)
values (pg_temp.n('policy'), pg_temp.n('ours'), 'automatic');
select ok(pg_temp.becomes_approved('frame 1'), 'a tenant''s policy lets frames pass');
insert into public.approval_policies (id, tenant_id, submission_id, approval)
values (pg_temp.n('override'), pg_temp.n('ours'), pg_temp.n('frame 2'), 'required');
select ok(not pg_temp.becomes_approved('frame 2'), 'an override goes before the tenant''s policy');
select ok(pg_temp.becomes_approved('frame 3'), 'and is for its submission alone');
update public.approval_policies set approval = 'required' where id = pg_temp.n('policy');
update public.approval_policies set approval = 'required' where tenant_id = pg_temp.n('ours');
select ok(not pg_temp.becomes_approved('frame 4'), 'a changed policy holds at once');
update public.approval_policies set approval = 'automatic' where id = pg_temp.n('override');
select ok(pg_temp.becomes_approved('frame 2'), 'and so does a changed override');
delete from public.approval_policies where id = pg_temp.n('policy');
delete from public.approval_policies where id = pg_temp.n('override');
select ok(not pg_temp.becomes_approved('frame 5'), 'without a policy a person reviews again');
select results_eq(
  $$
    select subject, payload ->> 'policy_id', payload ->> 'submission_id', payload ->> 'status'
    from pg_temp.fired()
    where type = 'frame.approval.changed'
  $$,
  $$
    select
      coalesce('submission:' || pg_temp.n(of_submission), 'policy:' || pg_temp.n('policy')),
      pg_temp.n(policy)::text,
      pg_temp.n(of_submission)::text,
      status
    from (values
      (1, 'policy', null, 'automatic'),
      (2, 'override', 'frame 2', 'required'),
      (3, 'policy', null, 'required'),
      (4, 'override', 'frame 2', 'automatic'),
      (5, 'policy', null, 'removed'),
      (6, 'override', 'frame 2', 'removed')
    ) as w (place, policy, of_submission, status)
    order by place
  $$,
  'each policy that applies, changes or goes is an event'
);
insert into public.approval_policies (tenant_id, approval)
values (pg_temp.n('ours'), 'required');
select throws_ok(
  format(
    'insert into public.approval_policies (tenant_id, approval) values (%L, ''automatic'')',
    pg_temp.n('ours')
  ),
  '23505',
  null,
  'a tenant has one policy'
);
select throws_ok(
  format(
    'update public.approval_policies set %s where tenant_id = %L', change, pg_temp.n('ours')
  ),
  '23514',
  null,
  'refused: ' || change
)
from unnest(array[
  'approval = ''perhaps''', 'id = gen_random_uuid()',
  format('submission_id = %L', pg_temp.n('frame 6')),
  format('tenant_id = %L', pg_temp.n('theirs'))
]) as change;

-- Timelines.
insert into named (name) select 'show ' || n from generate_series(1, 5) as n;
select
  pg_temp.submit('show ' || n, case when n % 2 = 0 then 'second channel' else 'channel' end),
  pg_temp.walk('{processing,needs_review,approved,promoted}', 'show ' || n)
from generate_series(1, 5) as n;
select results_eq(
  $$
    select t.position, n.name
    from public.channel_timeline t
    join named n on n.id = t.submission_id
    order by t.channel_id = pg_temp.n('channel'), t.position
  $$,
  $$
    values
      (1::bigint, 'show 2'), (2::bigint, 'show 4'),
      (1::bigint, 'frame'), (2::bigint, 'show 1'), (3::bigint, 'show 3'), (4::bigint, 'show 5')
  $$,
  'each channel counts its own frames, without a gap'
);

-- One tenant.
select throws_ok(
  format(
    'insert into public.frame_submissions (tenant_id, channel_id, agent_id) values (%L, %L, %L)',
    pg_temp.n(tenant), pg_temp.n(channel), agent
  ),
  '23503',
  null,
  format('%s with %s of %s is refused', tenant, channel, agent)
)
from (values
  ('ours', 'their channel', 'ours'),
  ('ours', 'channel', 'theirs'),
  ('ours', 'their channel', 'theirs'),
  ('theirs', 'channel', 'ours'),
  ('theirs', 'channel', 'theirs'),
  ('theirs', 'their channel', 'ours'),
  ('ours', 'channel', 'nobody')
) as w (tenant, channel, agent);
select throws_ok(
  format(statement, pg_temp.n('theirs'), pg_temp.n('frame 6')),
  '23503',
  null,
  'another tenant''s submission is refused: ' || split_part(statement, E'\n', 1)
)
from unnest(array[
  'insert into public.frame_media (tenant_id, submission_id, path) values (%L, %L, ''x'')',
  'insert into public.approval_policies (tenant_id, submission_id, approval)
   values (%L, %L, ''automatic'')',
  'insert into public.channel_timeline (tenant_id, submission_id, channel_id, position)
   values (%L, %L, pg_temp.n(''their channel''), 1)'
]) as statement;
select throws_ok(
  format(
    'insert into public.channel_timeline (tenant_id, submission_id, channel_id, position)
     values (%L, %L, %L, 99)',
    pg_temp.n('ours'), pg_temp.n('frame 6'), pg_temp.n('second channel')
  ),
  '23503',
  null,
  'no frame is published in another channel'
);
select throws_ok(
  format(
    'insert into public.channels (tenant_id, name) values (%L, %L)', pg_temp.n('ours'), name
  ),
  state,
  null,
  why
)
from (values
  ('news', '23505', 'a name is one of its tenant''s'),
  ('', '23514', 'a channel has a name'),
  (repeat('x', 101), '23514', 'of 100 characters at most')
) as w (name, state, why);

select * from finish();
rollback;
