-- Calls that the function makes for others: whether a signed-in user may act for an agent, and what
-- an operator does through the API instead of a SQL console.

-- Row-level security shows a user both sides' escrows, and shows service roles everything. So this
-- function compares the owner, too. It compares the caller's id as text: a `sub` that is no uuid
-- owns nothing, and raises nothing.
create or replace function public.may_act_for(
  agent_id  text   default null,
  escrow_id bigint default null,
  party     text   default 'sender'
) returns boolean
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from public.agents a
    where a.owner_id::text
        = lower(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
      and a.id = any (case
        when may_act_for.escrow_id is null then array[may_act_for.agent_id]
        when may_act_for.agent_id is null then (
          select case may_act_for.party
            when 'sender' then array[e.sender_id]
            when 'receiver' then array[e.receiver_id]
            when 'either' then array[e.sender_id, e.receiver_id]
          end
          from public.escrow_requests e
          where e.id = may_act_for.escrow_id
        )
      end)
  )
$$;
comment on function public.may_act_for(text, bigint, text) is
  'Says whether the signed-in user owns an agent, or the agent that is the sender, the receiver or '
  'either of an escrow. False if both are given, or neither.';

create or replace function purple_flea.name_operator() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- operate() sets it for the transaction.
  name text := nullif(current_setting('purple_flea.operator', true), '');
begin
  if name is not null then
    new.detail := case when jsonb_typeof(new.detail) = 'object' then new.detail else '{}' end
      || jsonb_build_object('operator', name);
  end if;
  return new;
end;
$$;
comment on function purple_flea.name_operator() is
  'Adds the name of an operator that calls through the API to an event''s detail.';

create or replace trigger job_events_operator
  before insert on purple_flea.job_events
  for each row when (new.changed_by not in ('depositor', 'worker', 'sweeper'))
  execute function purple_flea.name_operator();

create or replace function purple_flea.operations()
  returns table (operation text, argument text, type text, required boolean)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  values
    ('history',          'reference',    'string',  true),
    ('retry_job',        'reference',    'string',  true),
    ('release_job',      'reference',    'string',  true),
    ('release_job',      'why',          'string',  true),
    ('close_job',        'reference',    'string',  true),
    ('close_job',        'why',          'string',  true),
    ('record_bet',       'reference',    'string',  true),
    ('record_bet',       'bet_id',       'string',  true),
    ('record_bet',       'wager',        'number',  true),
    ('record_bet',       'won',          'boolean', true),
    -- Purple Flea may have reported a win without its amount.
    ('record_bet',       'payout',       'number',  false),
    ('record_trade',     'reference',    'string',  true),
    ('record_trade',     'order_id',     'string',  true),
    ('record_trade',     'filled',       'number',  true),
    ('record_trade',     'entry_price',  'number',  false),
    ('record_trade',     'position_id',  'string',  false),
    ('record_escrow',    'reference',    'string',  true),
    ('record_escrow',    'pf_escrow_id', 'string',  true),
    ('record_escrow',    'fee',          'number',  false),
    ('confirm_restore',  'nothing_lost', 'boolean', true),
    ('confirm_restore',  'why',          'string',  true),
    ('confirm_restore',  'paused_too',   'boolean', false),
    ('release_restored', 'why',          'string',  true),
    ('declare_restore',  'why',          'string',  true)
$$;
comment on function purple_flea.operations() is
  'Gives the operations of operate() and their arguments, with their types in JSON. status has '
  'none.';

create or replace function purple_flea.wrong_details(operation text, details jsonb) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    case
      when jsonb_typeof(details) is distinct from 'object' then 'The arguments must be an object.'
    end,
    (
      select format('`%s` is missing: it must be a %s.', o.argument, o.type)
      from purple_flea.operations() o
      where o.operation = wrong_details.operation
        and o.required
        and not details ? o.argument
      order by o.argument
      limit 1
    ),
    (
      select case
        when o.argument is null
          then format('`%s` is no argument of %s.', given.name, wrong_details.operation)
        else format('`%s` must be a %s.', given.name, o.type)
      end
      from jsonb_each(details) as given (name, value)
      left join purple_flea.operations() o
        on o.operation = wrong_details.operation
        and o.argument = given.name
      where o.argument is null
        or jsonb_typeof(given.value) <> o.type
      order by given.name
      limit 1
    )
  )
$$;
comment on function purple_flea.wrong_details(text, jsonb) is
  'Says what is wrong with the arguments of an operation: the first fault, or null.';

create or replace function purple_flea.status() returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 100;  -- stuck jobs in one answer
begin
  return jsonb_build_object(
    'health', public.ledger_health(),
    'stuck_jobs', (
      select coalesce(jsonb_agg(to_jsonb(s) order by s.changed_at), '[]')
      from (
        select t.*, t.idempotency_key as bet_key
        from purple_flea.stuck_jobs t
        order by t.changed_at
        limit most
      ) as s
    )
  );
end;
$$;
comment on function purple_flea.status() is 'Gives the ledger''s health and the oldest stuck jobs.';

create or replace function purple_flea.history(of_job text) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 200;  -- events in one answer: the newest
begin
  return jsonb_build_object(
    'job', (
      select jsonb_build_object(
        'reference', j.reference,
        'kind', j.kind,
        'agent_id', j.agent_id,
        'state', j.state,
        'reason', j.reason,
        'attempts', j.attempts,
        'due_at', j.due_at,
        'idempotency_key', j.idempotency_key,
        'stake', j.stake
      )
      from purple_flea.all_jobs j
      where j.reference = of_job
    ),
    'events', (
      select coalesce(jsonb_agg(to_jsonb(e) - 'token' - 'reference' order by e.id), '[]')
      from (
        select *
        from purple_flea.all_job_events a
        where a.reference = of_job
        order by a.id desc
        limit most
      ) as e
    )
  );
end;
$$;
comment on function purple_flea.history(text) is 'Gives a job and its newest events.';

-- The arguments have been checked.
create or replace function purple_flea.perform_operation(operation text, details jsonb)
  returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  job  text := details ->> 'reference';
  said jsonb;
begin
  case operation
    when 'status' then
      return purple_flea.status();
    when 'history' then
      return purple_flea.history(of_job => job);
    when 'retry_job' then
      perform purple_flea.retry_job(reference => job);
    when 'release_job' then
      perform purple_flea.release_job(reference => job, why => details ->> 'why');
    when 'close_job' then
      perform purple_flea.close_job(reference => job, why => details ->> 'why');
    when 'record_bet' then
      perform purple_flea.record_bet(
        reference => job,
        bet_id    => details ->> 'bet_id',
        wager     => (details ->> 'wager')::numeric,
        won       => (details ->> 'won')::boolean,
        payout    => (details ->> 'payout')::numeric
      );
    when 'record_trade' then
      perform purple_flea.record_trade(
        reference   => job,
        order_id    => details ->> 'order_id',
        filled      => (details ->> 'filled')::numeric,
        entry_price => (details ->> 'entry_price')::numeric,
        position_id => details ->> 'position_id'
      );
    when 'record_escrow' then
      perform purple_flea.record_escrow(
        reference    => job,
        pf_escrow_id => details ->> 'pf_escrow_id',
        fee          => (details ->> 'fee')::numeric
      );
    when 'confirm_restore' then
      said := purple_flea.confirm_restore(
        nothing_lost => (details ->> 'nothing_lost')::boolean,
        why          => details ->> 'why',
        paused_too   => coalesce((details ->> 'paused_too')::boolean, false)
      );
    when 'release_restored' then
      said := jsonb_build_object(
        'released', purple_flea.release_restored(why => details ->> 'why'));
    when 'declare_restore' then
      perform purple_flea.declare_restore(why => details ->> 'why');
  end case;
  return case when said is null then '{}' else jsonb_build_object('said', said) end;
end;
$$;
comment on function purple_flea.perform_operation(text, jsonb) is
  'Calls the function of an operator''s operation.';

create or replace function public.operate(operation text, details jsonb, operator text)
  returns jsonb
  language plpgsql
  volatile
  -- The caller may not read or write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  wrong text := purple_flea.wrong_details(operate.operation, operate.details);
begin
  if operate.operator is null or operate.operator !~ '^[a-z0-9._-]{1,32}$' then
    raise exception 'an operator''s name has 1 to 32 of a-z 0-9 . _ -'
      using errcode = 'invalid_parameter_value';
  elsif operate.operation is null
    or (
      operate.operation <> 'status'
      and not exists (
        select from purple_flea.operations() o where o.operation = operate.operation
      )
    ) then
    return jsonb_build_object(
      'refused', 'not_available',
      'detail', 'This database knows no such operation.'
    );
  elsif wrong is not null then
    return jsonb_build_object('refused', 'invalid_details', 'detail', wrong);
  elsif operate.details ? 'reference'
    and not exists (
      select from purple_flea.all_jobs j where j.reference = operate.details ->> 'reference'
    ) then
    return jsonb_build_object(
      'refused', 'unknown_job',
      'detail', format('There is no job %s.', operate.details ->> 'reference')
    );
  end if;
  perform set_config('purple_flea.operator', operate.operator, true);
  begin
    return jsonb_build_object('done', true)
      || purple_flea.perform_operation(operate.operation, operate.details);
  exception
    -- Errors that an operator can cause: the functions' own, and those of constraints and types.
    when raise_exception or integrity_constraint_violation or data_exception then
      return jsonb_build_object('refused', 'not_possible', 'detail', sqlerrm);
  end;
end;
$$;
comment on function public.operate(text, jsonb, text) is
  'Performs an operator''s operation under the operator''s name. Answers {"done": true, …}, or '
  '{"refused": code, "detail": text}.';
