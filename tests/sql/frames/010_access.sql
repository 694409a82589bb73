-- Who reads and writes the frames' tables, and who acts in their events.
begin;
\ir ../setup/frames.psql

create temporary view tables as
  select unnest(array[
    'channels', 'frame_submissions', 'frame_media', 'approval_policies', 'channel_timeline'
  ]) as name;
grant select on tables to public;

-- A row of ours in each table.
select pg_temp.submit();
insert into public.frame_media (id, tenant_id, submission_id, path)
values (pg_temp.n('medium'), pg_temp.n('ours'), pg_temp.n('frame'), 'frames/1.png');
insert into public.approval_policies (id, tenant_id, approval)
values (pg_temp.n('policy'), pg_temp.n('ours'), 'required');
select pg_temp.submit('second frame');
select pg_temp.walk('{processing,needs_review,approved,promoted}', 'second frame');
insert into public.frame_submissions (id, tenant_id, channel_id, agent_id)
values (pg_temp.n('their frame'), pg_temp.n('theirs'), pg_temp.n('their channel'), 'theirs');
-- The tenants whose rows the caller sees in a table.
create function pg_temp.seen(in_table text) returns uuid[] language plpgsql as $$
declare
  found uuid[];
begin
  execute format('select array(select distinct t.tenant_id from public.%I t)', in_table) into found;
  return found;
end;
$$;
grant execute on function pg_temp.seen(text) to public;

-- Members read.
create function pg_temp.seen_by(name text, in_table text) returns uuid[] language plpgsql as $$
declare
  seen uuid[];
begin
  perform pg_temp.sign_in(name);
  seen := pg_temp.seen(in_table);
  reset role;
  return seen;
end;
$$;
select is(
  pg_temp.seen_by(u, t.name),
  array[pg_temp.n('ours')],
  format('the %s reads our %s, and no other', u, t.name)
)
from tables t, unnest(array['owner', 'admin', 'member']) as u;
select is(pg_temp.seen_by('stranger', t.name), '{}', 'a stranger sees no ' || t.name) from tables t;
select is(
  pg_temp.seen_by('their owner', t.name),
  case
    when t.name in ('channels', 'frame_submissions') then array[pg_temp.n('theirs')]
    else '{}'
  end,
  'the owner of another tenant sees none of our ' || t.name
)
from tables t;
delete from public.memberships where user_id = pg_temp.n('member');
select is(
  pg_temp.seen_by('member', t.name),
  '{}',
  'a former member at once sees no ' || t.name
)
from tables t;
insert into public.memberships (tenant_id, user_id, role)
values (pg_temp.n('ours'), pg_temp.n('member'), 'member');

-- Policies never raise.
create function pg_temp.seen_with(claims text, in_table text) returns uuid[]
  language plpgsql
as $$
declare
  seen uuid[];
begin
  perform set_config('role', 'authenticated', true),
    set_config('request.jwt.claims', claims, true);
  seen := pg_temp.seen(in_table);
  reset role;
  return seen;
end;
$$;
select is(
  pg_temp.seen_with(claims, t.name),
  '{}',
  format('claims like %s see no %s, and raise nothing', claims, t.name)
)
from tables t, unnest(array['', '{}', '{"sub": "auth0|42"}', '{"sub": null}', 'no json']) as claims;
set local role anon;
set local request.jwt.claims = '';
select throws_ok(format('select * from public.%I', t.name), '42501', null, 'anon: ' || t.name)
from tables t;
reset role;

-- A policy reads one membership by its key, however many tenants a user has.
insert into public.tenants (name, owner_id)
select 'another', md5(n::text)::uuid from generate_series(1, 3000) as n;
insert into public.memberships (tenant_id, user_id)
select t.id, pg_temp.n('member') from public.tenants t where t.name = 'another';
analyze public.memberships;
create function pg_temp.plan(of_table text) returns text language plpgsql as $$
declare
  line text;
  plan text := '';
begin
  perform pg_temp.sign_in('member');
  for line in execute format('explain (costs off) select * from public.%I', of_table) loop
    plan := plan || line || E'\n';
  end loop;
  reset role;
  return plan;
end;
$$;
select ok(
  plan ~ 'Index Cond: \(\((tenant_id = .* AND \(user_id|user_id = .* AND \(tenant_id)'
    and plan not like '%hashed%',
  'a row of ' || t.name || ' costs one look-up of its membership'
)
from tables t
cross join lateral pg_temp.plan(t.name) as plan;

-- Nobody but the service writes.
create function pg_temp.tried(statement text) returns text language plpgsql as $$
declare
  changed bigint;
begin
  execute statement;
  get diagnostics changed = row_count;
  return changed;
exception when others then
  return sqlstate;
end;
$$;
grant execute on function pg_temp.tried(text) to public;
create temporary table writes (place integer, statement text);
insert into writes
values
  (1, 'insert into public.channels (tenant_id, name) values (pg_temp.n(''ours''), ''x'')'),
  (2, 'update public.channels set name = ''x'' where true'),
  (3, 'delete from public.channels where true'),
  (4, 'insert into public.frame_submissions (tenant_id, channel_id, agent_id)
       values (pg_temp.n(''ours''), pg_temp.n(''channel''), ''ours'')'),
  (5, 'update public.frame_submissions set changed_at = now() where true'),
  (6, 'delete from public.frame_submissions where true'),
  (7, 'insert into public.frame_media (tenant_id, submission_id, path)
       values (pg_temp.n(''ours''), pg_temp.n(''frame''), ''x'')'),
  (8, 'update public.frame_media set status = ''processing'' where true'),
  (9, 'delete from public.frame_media where true'),
  (10, 'insert into public.approval_policies (tenant_id, submission_id, approval)
        values (pg_temp.n(''ours''), pg_temp.n(''frame''), ''automatic'')'),
  (11, 'update public.approval_policies set approval = ''automatic'' where true'),
  (12, 'delete from public.approval_policies where submission_id is not null'),
  (13, 'insert into public.channel_timeline (channel_id, position, submission_id, tenant_id)
        values (pg_temp.n(''channel''), 9, pg_temp.n(''frame''), pg_temp.n(''ours''))'),
  (14, 'update public.channel_timeline set position = 9 where true'),
  (15, 'delete from public.channel_timeline where true'),
  (16, 'truncate public.channel_timeline');
grant select on writes to public;
select pg_temp.sign_in('owner');
select is(
  pg_temp.tried(w.statement),
  '42501',
  'an owner may not: ' || split_part(w.statement, E'\n', 1)
)
from writes w
order by w.place;
set local role service_role;
set local request.jwt.claims = '{"role": "service_role"}';
select is(
  array(select pg_temp.tried(w.statement) from writes w where place <> 2 order by w.place),
  array[
    '1', '42501',
    '1', '4', '42501',
    '1', '2', '42501',
    '1', '2', '1',
    '42501', '42501', '42501', '42501'
  ],
  'the service writes, and neither ends a story nor writes a timeline'
);
reset role;

-- Reviewers move.
select count(*) from pg_temp.fired();
create function pg_temp.moves(who text, wanted text, name text, why text default null) returns text
  language plpgsql
as $$
declare
  said text;
begin
  perform pg_temp.sign_in(who);
  said := pg_temp.tried(format(
    'update public.frame_submissions set status = %L, reason = %L where id = %L',
    wanted, why, pg_temp.n(name)
  ));
  reset role;
  return said;
end;
$$;
select is(pg_temp.moves('owner', 'processing', 'frame'), '42501', 'no reviewer processes');
select is(pg_temp.moves('owner', 'approved', 'frame'), '23514', 'nor leaves out a step');
select pg_temp.walk(array['processing']);
select is(pg_temp.moves('owner', 'needs_review', 'frame'), '42501', 'nor says what to review');
select pg_temp.walk(array['needs_review']);
select count(*) from pg_temp.fired();
select is(
  pg_temp.moves(u, 'approved', 'frame'),
  '0',
  format('the %s reviews nothing', u)
)
from unnest(array['member', 'stranger', 'their owner']) as u;
select is(pg_temp.moves('admin', 'approved', 'frame'), '1', 'an admin approves');
select is(pg_temp.moves('owner', 'promoted', 'frame'), '1', 'an owner promotes');
select is(
  pg_temp.moves('owner', 'rejected', 'their frame'),
  '0',
  'an owner reviews nothing of another tenant'
);
select is(pg_temp.moves('their owner', 'rejected', 'their frame', 'x'), '1', 'the other one does');
select results_eq(
  $$select type, payload ->> 'submission_id', payload ->> 'actor' from pg_temp.fired()$$,
  $$
    values
      ('frame.submission.status_changed', pg_temp.n('frame')::text, pg_temp.n('admin')::text),
      ('frame.submission.status_changed', pg_temp.n('frame')::text, pg_temp.n('owner')::text),
      ('frame.promoted', pg_temp.n('frame')::text, pg_temp.n('owner')::text),
      (
        'frame.submission.status_changed',
        pg_temp.n('their frame')::text,
        pg_temp.n('their owner')::text
      ),
      ('frame.rejected', pg_temp.n('their frame')::text, pg_temp.n('their owner')::text)
  $$,
  'an event names the user who caused it'
);
insert into named (name) values ('third frame');
select pg_temp.submit('third frame');
update public.memberships set role = 'member' where user_id = pg_temp.n('admin');
select is(
  pg_temp.moves('admin', 'rejected', 'third frame'),
  '0',
  'an admin who is none any more at once reviews nothing'
);

select * from finish();
rollback;
