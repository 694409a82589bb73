-- The records that the events of frames are about, and the types of these events.
begin;
\ir ../setup/frames.psql

select pg_temp.submit();
select pg_temp.walk('{processing,needs_review,approved,promoted}');
insert into public.frame_media (id, tenant_id, submission_id, path)
values (pg_temp.n('medium'), pg_temp.n('ours'), pg_temp.n('frame'), 'frames/1.png');
insert into public.approval_policies (id, tenant_id, approval)
values (pg_temp.n('policy'), pg_temp.n('ours'), 'required');

create temporary view records as
  select kind, pg_temp.n(name) as id
  from (values
    ('submission', 'frame'), ('media', 'medium'), ('channel', 'channel'), ('policy', 'policy')
  ) as r (kind, name);
create function pg_temp.record(kind text, tenant text, id text) returns jsonb
  language plpgsql
as $$
declare
  found jsonb;
begin
  execute format('select purple_flea.%I($1, $2)', 'record_' || kind)
    into found
    using pg_temp.n(tenant), id;
  return found;
end;
$$;
select is(
  pg_temp.record(r.kind, 'ours', r.id::text) ->> 'id',
  r.id::text,
  format('a %s is found by its id', r.kind)
)
from records r;
select is(
  pg_temp.record(r.kind, 'ours', upper(r.id::text)) ->> 'id',
  r.id::text,
  format('a %s is found however its id is written', r.kind)
)
from records r;
select is(
  pg_temp.record(r.kind, 'theirs', r.id::text),
  null,
  format('a %s is none of another tenant''s', r.kind)
)
from records r;
select is(
  pg_temp.record(r.kind, 'ours', w.id),
  null,
  format('%L is the id of no %s', w.id, r.kind)
)
from
  records r,
  unnest(array[gen_random_uuid()::text, '', '7', 'x', 'null', repeat('f', 128), null]) as w (id);

select is(
  purple_flea.record_submission(pg_temp.n('ours'), pg_temp.n('frame')::text)
    - array['created_at', 'changed_at'],
  jsonb_build_object(
    'id', pg_temp.n('frame'),
    'tenant_id', pg_temp.n('ours'),
    'channel_id', pg_temp.n('channel'),
    'agent_id', 'ours',
    'status', 'promoted',
    'reason', null
  ),
  'a submission has all of its columns'
);
select is(
  purple_flea.record_channel(pg_temp.n('ours'), pg_temp.n('channel')::text)
    #- '{timeline,0,published_at}' #- '{created_at}',
  jsonb_build_object(
    'id', pg_temp.n('channel'),
    'tenant_id', pg_temp.n('ours'),
    'name', 'news',
    'timeline', jsonb_build_array(
      jsonb_build_object('position', 1, 'submission_id', pg_temp.n('frame'))
    )
  ),
  'a channel has its timeline'
);
select is(
  purple_flea.record_channel(pg_temp.n('ours'), pg_temp.n('second channel')::text) -> 'timeline',
  '[]',
  'which is empty at first'
);
insert into named (name) select 'show ' || n from generate_series(1, 101) as n;
select
  pg_temp.submit('show ' || n, 'second channel'),
  pg_temp.walk('{processing,needs_review,approved,promoted}', 'show ' || n)
from generate_series(1, 101) as n;
select is(
  array[
    t -> 0 ->> 'position',
    t -> -1 ->> 'position',
    jsonb_array_length(t)::text
  ],
  array['101', '2', '100'],
  'and then shows the newest 100 frames, the newest first'
)
from (
  select
    purple_flea.record_channel(pg_temp.n('ours'), pg_temp.n('second channel')::text) -> 'timeline'
      as t
) as c;

select set_eq(
  $$select e.type from public.event_types e where e.type like 'frame.%'$$,
  array[
    'frame.submission.created', 'frame.submission.status_changed', 'frame.media.status_changed',
    'frame.approval.changed', 'frame.promoted', 'frame.rejected'
  ],
  'the types of the feed include those of frames'
);

select * from finish();
rollback;
