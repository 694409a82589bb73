-- The fleet: which agents are there, and the tasks that an orchestrator assigns to them. The tasks
-- are the orchestrators' words. The ledger executes none of them.

create or replace function purple_flea.refuse_other_owners(agent text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if purple_flea.is_service() then
    if not exists (select from public.agents a where a.id = agent) then
      raise exception 'there is no such agent' using errcode = 'invalid_parameter_value';
    end if;
  -- A stranger does not learn whether the agent exists.
  elsif not exists (
    select
    from public.agents a
    where a.id = agent
      and a.owner_id = purple_flea.caller()
  ) then
    raise exception 'only the owner of the agent may do this'
      using errcode = 'insufficient_privilege',
            hint    = 'Name an agent whose owner_id is the user of your token.';
  end if;
end;
$$;
comment on function purple_flea.refuse_other_owners(text) is
  'Raises, unless the caller of a function that runs as the owner is an agent''s owner, or the '
  'service and the agent exists.';

create or replace function public.heartbeat(agent_id text, task text default null) returns jsonb
  language plpgsql
  volatile
  -- No user writes agents.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  every constant interval    := '5 seconds';
  at    constant timestamptz := clock_timestamp();
begin
  perform purple_flea.refuse_other_owners(heartbeat.agent_id);
  if char_length(heartbeat.task) > 200 then
    raise exception 'a task has at most 200 characters' using errcode = 'invalid_parameter_value';
  end if;
  update public.agents a
  set last_seen_at = at,
      status       = case a.status when 'offline' then 'idle' else a.status end,
      idle_since   = case a.status when 'offline' then at else a.idle_since end,
      -- The agent's own word does not replace an orchestrator's task.
      task         = case
                       when a.task_state is null and heartbeat.task is not null
                         then nullif(heartbeat.task, '')
                       else a.task
                     end
  where a.id = heartbeat.agent_id
    and (
      a.status = 'offline'
      or a.last_seen_at is null
      -- A clock that was set back does not stop the heartbeats.
      or a.last_seen_at not between at - every and at
    );
  return (
    select jsonb_build_object(
      'agent_id', a.id,
      'status', a.status,
      'task', a.task,
      'task_state', a.task_state,
      'last_seen_at', a.last_seen_at
    )
    from public.agents a
    where a.id = heartbeat.agent_id
  );
end;
$$;
comment on function public.heartbeat(text, text) is
  'Says that an agent is there: {agent_id, status, task, task_state, last_seen_at}. An offline '
  'agent becomes idle. The task is the agent''s own word, an empty one deletes it. At most one '
  'heartbeat in 5 seconds is written. For the agent''s owner and the service.';

create or replace function purple_flea.end_heartbeats() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  silent constant interval := '30 seconds';
  most   constant integer  := 1000;  -- each one fires an event
begin
  update public.agents a
  set status = 'offline'
  from (
    select s.id
    from public.agents s
    where s.status <> 'offline'
      and s.last_seen_at < clock_timestamp() - silent
    order by s.last_seen_at
    limit most
    for no key update skip locked
  ) as gone
  where a.id = gone.id;
end;
$$;
comment on function purple_flea.end_heartbeats() is
  'Makes agents offline whose last heartbeat is 30 seconds old. Agents that have never sent one '
  'stay as they are.';

create or replace function purple_flea.follow_payments(escrow bigint default null) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  agents text[] := array(
    select a.id
    from public.agents a
    where a.task_escrow_id is not null
      and (escrow is null or a.task_escrow_id = escrow)
  );
begin
  if agents = '{}' then
    return;
  end if;
  -- A row that an application holds does not delay the settlement. The next sweep comes back to it.
  agents := purple_flea.lock_agents(agents);
  update public.agents a
  set task_state = 'assigned'
  where a.id = any (agents)
    and a.task_state = 'awaiting_payment'
    and exists (
      select
      from purple_flea.jobs j
      where j.escrow_id = a.task_escrow_id
        and j.kind = 'escrow'
        and j.state = 'executed'
    );
  update public.agents a
  set task           = null,
      task_state     = null,
      task_escrow_id = null,
      idle_since     = clock_timestamp()
  where a.id = any (agents)
    and a.task_escrow_id is not null
    and not exists (
      select
      from public.escrow_requests e
      where e.id = a.task_escrow_id
        and e.status = 'pending'
    );
end;
$$;
comment on function purple_flea.follow_payments(bigint) is
  'Lets the task of an escrow begin once the escrow is funded, and frees its agent once the escrow '
  'has ended; without an escrow: all of them.';

create or replace function purple_flea.tell_fleet() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.follow_payments(new.id);
  return null;
end;
$$;
comment on function purple_flea.tell_fleet() is
  'Brings an escrow''s state to the task that it pays for.';

-- tell_escrow() sets auto_release_at when the escrow is funded.
create or replace trigger purple_flea_tell_fleet
  after update on public.escrow_requests
  for each row when (
    old.status is distinct from new.status
    or old.auto_release_at is distinct from new.auto_release_at
  )
  execute function purple_flea.tell_fleet();

create or replace function purple_flea.check_task(
  task            text,
  minimum_balance numeric,
  payment         numeric,
  reference       text
) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant numeric := 99999999.9999;  -- of a column of money
begin
  if task is null or char_length(task) not between 1 and 200 then
    raise exception 'a task has 1 to 200 characters' using errcode = 'invalid_parameter_value';
  -- NaN is greater than every number.
  elsif minimum_balance is null or minimum_balance not between 0 and most then
    raise exception 'minimum_balance is a number from 0 to %', most
      using errcode = 'invalid_parameter_value';
  elsif payment not between 0.0001 and most or payment <> round(payment, 4) then
    raise exception 'payment is a number from 0.0001 to % with at most 4 decimals, or null', most
      using errcode = 'invalid_parameter_value';
  elsif (payment is null) <> (reference is null) then
    raise exception 'a payment has a reference, and a task without one has none'
      using errcode = 'invalid_parameter_value',
            hint    = 'A call that is repeated with the same reference pays once.';
  elsif reference !~ '^[A-Za-z0-9._:-]{1,50}$' then
    raise exception 'a reference is 1 to 50 letters, digits, dots, underscores, colons or hyphens'
      using errcode = 'invalid_parameter_value';
  end if;
end;
$$;
comment on function purple_flea.check_task(text, numeric, numeric, text) is
  'Raises invalid_parameter_value for a task that cannot be assigned.';

create or replace function purple_flea.take_idle_agent(orchestrator text, minimum_balance numeric)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A plan from the time when the table was small would read all of it.
  set enable_seqscan = off
  set enable_sort = off
  set jit = off
as $$
declare
  -- Read once and not for each agent.
  since   constant timestamptz := clock_timestamp() - interval '30 seconds';
  trading constant text[]      := array(
    select distinct j.agent_id from purple_flea.jobs j where j.state = 'claimed'
  );
begin
  return (
    select a.id
    from public.agents a
    where a.orchestrator_id = orchestrator
      and a.status = 'idle'
      and a.task_state is null
      and a.last_seen_at > since
      and a.id <> orchestrator
      -- Purple Flea has told the balance, and of an account of the agent's own.
      and a.api_key <> ''
      and a.balance_at is not null
      and a.balance >= minimum_balance
      and a.id <> all (trading)
    order by a.idle_since, a.id
    limit 1
    -- Another caller takes the next one. A deposit, which refers to the agent, locks nobody out.
    for no key update skip locked
  );
end;
$$;
comment on function purple_flea.take_idle_agent(text, numeric) is
  'Locks the agent of an orchestrator''s fleet that has waited longest for a task, and is there, '
  'idle and not trading, and has at least a balance. Null: there is none.';

-- A payment has a name, so that a repeated call pays once. It stands in the escrow's row, where
-- names of other requests have no such prefix.
create or replace function purple_flea.payment_made(orchestrator_id text, reference text)
  returns jsonb
  language plpgsql
  volatile  -- sees what was committed while it waited
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  made public.escrow_requests;
begin
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:task-payment:' || reference, 5));
  select * into made
  from public.escrow_requests e
  where e.asked_as = 'task-payment:' || reference;
  if not found then
    return null;
  elsif made.sender_id <> payment_made.orchestrator_id then
    raise exception 'this reference names another orchestrator''s payment'
      using errcode = 'invalid_parameter_value';
  end if;
  return jsonb_build_object(
    'state', 'assigned_before',
    'agent_id', made.receiver_id,
    'escrow_id', made.id
  );
end;
$$;
comment on function purple_flea.payment_made(text, text) is
  'Gives the assignment that an orchestrator''s payment of this name belongs to; null if there is '
  'none. Other calls with the name wait for this transaction.';

create or replace function public.assign_task(
  orchestrator_id text,
  task            text,
  minimum_balance numeric,
  payment         numeric default null,
  reference       text    default null
) returns jsonb
  language plpgsql
  volatile
  -- No user writes agents.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  agent  text;
  escrow bigint;
  before jsonb;
begin
  perform purple_flea.refuse_other_owners(assign_task.orchestrator_id);
  perform purple_flea.check_task(
    assign_task.task, minimum_balance, payment, assign_task.reference);
  if payment is not null then
    before := purple_flea.payment_made(assign_task.orchestrator_id, assign_task.reference);
    if before is not null then
      return before;
    end if;
  end if;
  agent := purple_flea.take_idle_agent(assign_task.orchestrator_id, minimum_balance);
  if agent is null then
    return jsonb_build_object('state', 'none_available');
  end if;
  if payment is not null then
    insert into public.escrow_requests (sender_id, receiver_id, amount, description, asked_as)
    values (
      assign_task.orchestrator_id,
      agent,
      payment,
      -- A description has at least three characters.
      case when char_length(assign_task.task) >= 3 then assign_task.task end,
      'task-payment:' || assign_task.reference
    )
    returning id into escrow;
  end if;
  update public.agents a
  set task           = assign_task.task,
      task_state     = case when escrow is null then 'assigned' else 'awaiting_payment' end,
      task_escrow_id = escrow
  where a.id = agent;
  return jsonb_strip_nulls(jsonb_build_object(
    'state', case when escrow is null then 'assigned' else 'awaiting_payment' end,
    'agent_id', agent,
    'escrow_id', escrow
  ));
end;
$$;
comment on function public.assign_task(text, text, numeric, numeric, text) is
  'Assigns a task to one idle agent of an orchestrator''s fleet: {state, agent_id, escrow_id}. The '
  'state is assigned, awaiting_payment (until the escrow of the payment is funded), or '
  'none_available. For the orchestrator''s owner and the service.';

create or replace function public.finish_task(agent_id text) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.refuse_other_owners(finish_task.agent_id);
  update public.agents a
  set task           = null,
      task_state     = null,
      task_escrow_id = null,
      idle_since     = clock_timestamp()
  where a.id = finish_task.agent_id
    and a.task_state = 'assigned';
  if not found and exists (
    select
    from public.agents a
    where a.id = finish_task.agent_id
      and a.task_state = 'awaiting_payment'
  ) then
    raise exception 'the payment of the task is not locked yet, so the task has not begun'
      using errcode = 'object_not_in_prerequisite_state',
            hint    = 'Wait until task_state is assigned. A refused payment frees the agent.';
  end if;
  return jsonb_build_object('agent_id', finish_task.agent_id, 'state', 'free');
end;
$$;
comment on function public.finish_task(text) is
  'Ends an agent''s task, so that it can get another: {agent_id, state: free}. A second call '
  'changes nothing. The escrow that pays for the task goes on. For the agent''s owner and the '
  'service.';

create or replace view public.fleet with (security_barrier) as
  select
    a.id as agent_id,
    a.orchestrator_id,
    case when t.agent_id is null then a.status else 'trading' end as status,
    coalesce(case when a.task_state is not null then a.task end, t.task, a.task) as task,
    a.task_state,
    a.task_escrow_id,
    -- The column is 0 until Purple Flea has told the balance of an account of the agent's own.
    case when a.api_key <> '' and a.balance_at is not null then a.balance end as balance,
    a.balance_at,
    a.last_seen_at
  from public.agents a
  left join (
    select j.agent_id, min(concat_ws(' ', j.kind, j.reference)) as task
    from purple_flea.jobs j
    where j.state = 'claimed'
    group by j.agent_id
  ) as t on t.agent_id = a.id
  where a.owner_id = (select purple_flea.caller());
comment on view public.fleet is
  'One''s own agents as an orchestrator sees them. An agent with a claimed job is trading, and '
  'that job is its task if no orchestrator has assigned one.';
