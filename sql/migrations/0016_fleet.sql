-- The fleet: heartbeats of agents, and the tasks that orchestrators assign to them.

alter table public.agents
  add column if not exists last_seen_at   timestamptz,
  add column if not exists task           text,
  add column if not exists task_state     text,
  add column if not exists task_escrow_id bigint,
  -- One time for all rows that are there, so this rewrites none.
  add column if not exists idle_since     timestamptz not null default now(),
  drop constraint if exists agents_task_check,
  drop constraint if exists agents_task_state_check,
  add constraint agents_task_check
    check (char_length(task) between 1 and 200) not valid,
  add constraint agents_task_state_check check (
    case task_state
      when 'awaiting_payment' then task is not null and task_escrow_id is not null
      when 'assigned' then task is not null
      else task_state is null and task_escrow_id is null
    end
  ) not valid;
comment on column public.agents.last_seen_at is
  'The last heartbeat, exact to 5 seconds; null: the agent has never sent one.';
comment on column public.agents.task is
  'The task that an orchestrator has assigned or, without one, the agent''s own word in its '
  'heartbeat: at most 200 characters.';
comment on column public.agents.task_state is
  'awaiting_payment (the task''s escrow is not funded yet) or assigned; null: the agent has no '
  'task of an orchestrator.';
comment on column public.agents.task_escrow_id is
  'The escrow that pays for the task. It is no foreign key: an escrow that is deleted frees the '
  'agent.';
comment on column public.agents.idle_since is
  'The time since which the agent waits for a task: its last task ended then, or it came online.';

-- The free agents of an orchestrator, the longest waiting first; the agents whose heartbeats may be
-- too old; the agent of an escrow. No index has the balance, which every settlement writes.
create index if not exists agents_free_idx
  on public.agents (orchestrator_id, idle_since, id)
  where status = 'idle' and task_state is null and last_seen_at is not null;
create index if not exists agents_last_seen_at_idx
  on public.agents (last_seen_at)
  where status <> 'offline';
create unique index if not exists agents_task_escrow_id_idx
  on public.agents (task_escrow_id)
  where task_escrow_id is not null;

-- An escrow that an uninstalled ledger had not made has no job any more.
update public.agents a
set task           = null,
    task_state     = null,
    task_escrow_id = null,
    idle_since     = now()
where a.task_state = 'awaiting_payment';
