-- This project's own events: of trades, escrows, registrations and agents.

-- A settlement is one statement, so its events are one INSERT. EXCEPT finds the jobs whose state
-- has changed by hashing, however many there are; a join could be planned for few.
create or replace function purple_flea.tell_feed_of_jobs() returns trigger
  language plpgsql
  volatile
  -- The writer of a job may not write events.
  security definer
  set search_path = pg_catalog, pg_temp
  -- Each job is looked up. A plan from the time when a table was empty would read all of it.
  set enable_seqscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  changed text[];
begin
  if not exists (
    select
    from became b
    where b.state in ('executed', 'skipped', 'rejected', 'unknown', 'dead')
  ) then
    return null;
  end if;
  changed := array(
    select c.reference
    from (
      select b.reference, b.state
      from became b
      where b.state in ('executed', 'skipped', 'rejected', 'unknown', 'dead')
      except
      select w.reference, w.state
      from was w
    ) as c
  );
  if changed = '{}' then
    return null;
  end if;
  perform purple_flea.emit_all((
    select jsonb_agg(
      jsonb_build_object(
        'type', case
          when j.kind = 'registration' then 'agent.registered'
          when j.state = 'dead' then 'trade.skipped'
          else 'trade.' || j.state
        end,
        'tenant_id', a.tenant_id,
        'subject', case
          when j.kind = 'registration' then 'agent:' || j.agent_id
          else 'trade:' || j.reference
        end,
        'payload', jsonb_build_object(
          'agent_id', j.agent_id,
          'reference', j.reference,
          'status', j.state,
          'actor', j.changed_by
        )
      )
      order by j.changed_at, j.reference
    )
    from unnest(changed) as c (reference)
    join purple_flea.jobs j using (reference)
    join purple_flea.agent_tenants a on a.agent_id = j.agent_id
    where purple_flea.is_staking(j.kind)
      or j.kind = 'close'
      or (j.kind = 'registration' and j.state = 'executed')
  ));
  return null;
end;
$$;
comment on function purple_flea.tell_feed_of_jobs() is
  'Fires trade.executed, skipped, rejected and unknown, and agent.registered, for the jobs that a '
  'statement has changed.';

create or replace trigger jobs_tell_feed
  after update on purple_flea.jobs
  referencing old table as was new table as became
  for each statement execute function purple_flea.tell_feed_of_jobs();

-- Both parties' tenants hear of it; a tenant that has both parties hears once, as the sender's.
create or replace function purple_flea.tell_feed_of_escrow() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.emit_all((
    select jsonb_agg(
      jsonb_build_object(
        'type', t.type,
        'tenant_id', p.tenant_id,
        'subject', 'escrow:' || new.id,
        'payload', jsonb_build_object(
          'escrow_id', new.id,
          'agent_id', p.agent_id,
          'status', t.status
        )
      )
      order by t.n, p.n
    )
    from (
      select 1 as n, 'escrow.created' as type, 'pending' as status
      where old.pf_escrow_id is null
        and new.pf_escrow_id is not null
      union all
      select
        2,
        case new.status when 'released' then 'escrow.released' else 'escrow.ended' end,
        new.status
      where old.status is distinct from new.status
        and new.status <> 'pending'
    ) as t
    cross join (
      select distinct on (i.tenant_id) i.tenant_id, i.agent_id, i.n
      from (
        values
          (1, new.sender_id, purple_flea.tenant_of(new.sender_id)),
          (2, new.receiver_id, purple_flea.tenant_of(new.receiver_id))
      ) as i (n, agent_id, tenant_id)
      order by i.tenant_id, i.n
    ) as p
  ));
  return null;
end;
$$;
comment on function purple_flea.tell_feed_of_escrow() is
  'Fires escrow.created, escrow.released and escrow.ended for both parties'' tenants.';

create or replace trigger purple_flea_tell_feed
  after update on public.escrow_requests
  for each row when (
    old.status is distinct from new.status
    or (old.pf_escrow_id is null and new.pf_escrow_id is not null)
  )
  execute function purple_flea.tell_feed_of_escrow();

create or replace function purple_flea.tell_feed_of_agent() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.emit(
    case new.status when 'offline' then 'agent.offline' else 'agent.online' end,
    purple_flea.tenant_of(new.id),
    'agent:' || new.id,
    jsonb_build_object('agent_id', new.id, 'status', new.status)
  );
  return null;
end;
$$;
comment on function purple_flea.tell_feed_of_agent() is 'Fires agent.online and agent.offline.';

-- Every settlement updates a balance. Those updates pass without a call.
create or replace trigger purple_flea_tell_feed
  after update of status on public.agents
  for each row when ((old.status = 'offline') <> (new.status = 'offline'))
  execute function purple_flea.tell_feed_of_agent();
