-- Settling many outcomes in one call. An outcome that fails does not touch the others.

create or replace function purple_flea.readable_text(object json, field text) returns text
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return object ->> field;
exception when data_exception then
  return null;
end;
$$;
comment on function purple_flea.readable_text(json, text) is
  'Gives a text of an object, or null if Postgres cannot hold it.';

-- jsonb may not hold one of the outcomes. Then each is read on its own, and that one has no state.
create or replace function purple_flea.read_outcomes(outcomes json) returns jsonb
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  outcome json;
  read    jsonb := '[]';
begin
  begin
    return (
      select coalesce(
        jsonb_agg(jsonb_build_object(
          'reference', o ->> 'reference',
          'token', (o ->> 'token')::uuid,
          'state', o ->> 'state',
          'result', o -> 'result',
          'secret', o ->> 'secret'
        ) order by n),
        '[]'
      )
      from jsonb_array_elements(outcomes::jsonb) with ordinality as e (o, n)
    );
  exception when data_exception then
    null;  -- The loop finds out which one it is.
  end;
  for outcome in select o from json_array_elements(outcomes) as o loop
    begin
      read := read || jsonb_build_object(
        'reference', outcome ->> 'reference',
        'token', (outcome ->> 'token')::uuid,
        'state', outcome ->> 'state',
        'result', (outcome -> 'result')::jsonb,
        'secret', outcome ->> 'secret'
      );
    exception when data_exception then
      read := read || jsonb_build_object(
        'reference', purple_flea.readable_text(outcome, 'reference')
      );
    end;
  end loop;
  return read;
end;
$$;
comment on function purple_flea.read_outcomes(json) is
  'Reads an array of {reference, token, state, result, secret}.';

-- The order of the locks is the same for all: job, agent, escrow, close.
create or replace function purple_flea.lock_for_settling(asked text[]) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  ours    text[];
  agents  text[];
  escrows bigint[];
  closes  bigint[];
begin
  ours := array(
    select j.reference
    from purple_flea.jobs j
    where j.reference = any (asked)
    order by j.reference
    for update skip locked
  );
  -- A row of trade_results refers to its agent, for which Postgres takes this very lock.
  agents := array(
    select a.id
    from public.agents a
    where a.id in (select j.agent_id from purple_flea.jobs j where j.reference = any (ours))
    order by a.id
    for key share skip locked
  );
  escrows := array(
    select e.id
    from public.escrow_requests e
    where e.id in (select j.escrow_id from purple_flea.jobs j where j.reference = any (ours))
    order by e.id
    for no key update skip locked
  );
  closes := array(
    select c.id
    from public.close_requests c
    where c.id in (
      select (j.request ->> 'id')::bigint
      from purple_flea.jobs j
      where j.reference = any (ours)
        and j.kind = 'close'
    )
    order by c.id
    for no key update skip locked
  );
  return array(
    select j.reference
    from purple_flea.jobs j
    where j.reference = any (ours)
      and j.agent_id = any (agents)
      and (j.escrow_id is null or j.escrow_id = any (escrows))
      and (j.kind <> 'close' or (j.request ->> 'id')::bigint = any (closes))
  );
end;
$$;
comment on function purple_flea.lock_for_settling(text[]) is
  'Locks jobs and the rows that their outcomes are written to. Gives those jobs of which no other '
  'transaction holds a row.';

-- Settles the usual outcomes in one statement: those of claimed jobs, by their own claimants. The
-- rest, or all if one of them cannot be recorded, is left to settle_job().
create or replace function purple_flea.settle_usual(outcomes jsonb) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- See take().
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  usual jsonb;
begin
  select jsonb_agg(jsonb_build_object(
      'reference', j.reference,
      'result', o.result,
      'state', case
        when o.state = 'unknown' and purple_flea.is_retryable(j.kind) then 'pending'
        else o.state
      end
    ))
    into usual
  from jsonb_to_recordset(outcomes)
    as o (reference text, token uuid, state text, result jsonb, secret text)
  join purple_flea.jobs j using (reference)
  where j.state = 'claimed'
    and j.token = o.token
    and o.secret is null
    and jsonb_typeof(o.result) = 'object'
    and o.state in ('pending', 'executed', 'skipped', 'rejected', 'unknown');
  if usual is null then
    return '{}';
  end if;
  perform purple_flea.apply_all(usual, 'worker');
  return array(select u ->> 'reference' from jsonb_array_elements(usual) as u);
exception when others then
  return '{}';
end;
$$;
comment on function purple_flea.settle_usual(jsonb) is
  'Settles the reports of claimants on their own claimed jobs. Gives the references that it '
  'settled.';

-- A reference that comes twice in one call is no usual case.
create or replace function purple_flea.named_once(outcomes jsonb, free text[]) returns jsonb
  language plpgsql  -- see timing()
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select jsonb_agg(named.outcome)
    from (
      select o as outcome, count(*) over (partition by o ->> 'reference') as times
      from jsonb_array_elements(outcomes) as o
      where o ->> 'reference' = any (free)
    ) as named
    where named.times = 1
  );
end;
$$;
comment on function purple_flea.named_once(jsonb, text[]) is
  'Gives the outcomes of free jobs whose references come once.';

create or replace function purple_flea.settle_alone(
  reference text,
  token     uuid,
  state     text,
  result    jsonb,
  secret    text
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return public.settle_job(reference, token, state, result, secret);
exception
  when data_exception then
    return jsonb_build_object('reference', reference, 'did', 'not_readable');
  when deadlock_detected or serialization_failure or lock_not_available then
    return jsonb_build_object('reference', reference, 'did', 'not_now');
end;
$$;
comment on function purple_flea.settle_alone(text, uuid, text, jsonb, text) is
  'Settles one outcome. Answers not_readable or not_now instead of raising.';

create or replace function public.settle_jobs(outcomes json, protocol integer default 1)
  returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- An application may lock rows that its triggers write to. The function reports such a job again.
  set lock_timeout = '100ms'
  -- See claim_jobs().
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off
  set jit = off
as $$
declare
  most    constant integer     := 100;  -- the outcomes of one claim
  ends    constant timestamptz := clock_timestamp() + interval '2 seconds';  -- the caller waits 5
  read    jsonb;
  free    text[];
  usual   text[];
  outcome record;
  report  jsonb;
  reports jsonb := '[]';
begin
  if json_typeof(outcomes) is distinct from 'array' or json_array_length(outcomes) > most then
    raise exception 'outcomes are an array of at most %', most
      using errcode = 'invalid_parameter_value';
  end if;
  perform purple_flea.commit_synchronously();
  read := purple_flea.read_outcomes(outcomes);
  if jsonb_path_exists(read, '$[*].secret ? (@ != null)') then
    perform purple_flea.hide_parameters();
  end if;
  free := purple_flea.lock_for_settling(
    array(select o ->> 'reference' from jsonb_array_elements(read) as o));
  usual := purple_flea.settle_usual(purple_flea.named_once(read, free));
  if cardinality(usual) = jsonb_array_length(read) then
    perform purple_flea.tell_owners(usual);
    return (
      select coalesce(
        jsonb_agg(
          jsonb_build_object('reference', j.reference, 'did', 'settled', 'state', j.state)
          order by j.reference
        ),
        '[]'
      )
      from purple_flea.jobs j
      where j.reference = any (usual)
    );
  end if;
  for outcome in
    select
      o.*,
      (select j.state from purple_flea.jobs j where j.reference = o.reference) as job_state,
      (o.reference = any (free)) is not true as is_held
    from jsonb_array_elements(read) with ordinality as e (element, n)
    cross join lateral jsonb_to_record(e.element)
      as o (reference text, token uuid, state text, result jsonb, secret text)
    order by o.reference, e.n
  loop
    report := case
      when outcome.state is null then '{"did": "not_readable"}'
      when outcome.reference = any (usual)
        then jsonb_build_object('did', 'settled', 'state', outcome.job_state)
      when (outcome.is_held and outcome.job_state is not null) or clock_timestamp() > ends
        then '{"did": "not_now"}'
      else purple_flea.settle_alone(
        outcome.reference, outcome.token, outcome.state, outcome.result, outcome.secret)
    end || jsonb_build_object('reference', outcome.reference);
    if report ->> 'did' = 'not_now' and settle_jobs.protocol < 2 then
      -- Release 0.1.0 does not know not_now. After an error it reports all outcomes again.
      raise exception 'job % is locked', outcome.reference using errcode = 'lock_not_available';
    end if;
    reports := reports || report;
  end loop;
  perform purple_flea.tell_owners(array(
    select r ->> 'reference' from jsonb_array_elements(reports) as r where r ->> 'did' = 'settled'
  ));
  return reports;
end;
$$;
comment on function public.settle_jobs(json, integer) is
  'Records every outcome of an array of {reference, token, state, result, secret}, as settle_job '
  'does, and tells the owners of the agents over Realtime. An outcome whose rows are locked is '
  'answered not_now. The caller reports it again.';
