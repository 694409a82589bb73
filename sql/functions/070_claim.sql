-- Claiming: what the function calls before it may bet. It gets jobs for as many bets as it can send at once, each with
-- the row and the policy frozen, a lease and a token; and an answer for every deposit that it asked about.

-- What time alone decides. Called by whoever claims, and by the sweeper.
--
-- Wherever rows are looked for by their time it is statement_timestamp(), which an index can be asked for;
-- clock_timestamp() would be compared with every row.
create or replace function purple_flea.expire(holding boolean) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- Whatever the statistics say of the backlog: its first one is found by walking along an index.
  set enable_sort = off
as $$
declare
  most   constant integer := 1000;  -- rows at a time, so that nobody waits long for a lock of ours
  timing record;
  soon   timestamptz;
begin
  timing := purple_flea.timing();
  -- Looked for first, because it is seldom there, and an update costs even then.
  if (select late.lease_until from purple_flea.jobs late where late.state = 'claimed' order by late.lease_until limit 1) < statement_timestamp() then
    -- Nobody knows what became of a claim whose time ran out; what may be asked again is.
    update purple_flea.jobs j
    set state = case when purple_flea.is_repeatable(j.kind) then 'pending' else 'unknown' end,
        changed_by = 'sweeper', reason = 'lease_ran_out', due_at = clock_timestamp(),
        lookup_at = case when not purple_flea.is_repeatable(j.kind) then j.lease_until + timing.lookup_wait end
    where j.reference in (
      select late.reference from purple_flea.jobs late
      where late.state = 'claimed' and late.lease_until < statement_timestamp()
      order by late.lease_until limit most for update skip locked
    );
  end if;
  soon := statement_timestamp() + timing.max_age / 24;
  if (select old.expires_at from purple_flea.jobs old where old.state = 'pending' order by old.expires_at limit 1) < soon then
    -- A pause condemns nothing: what is held back does not grow old.
    update purple_flea.jobs j
    set expires_at = clock_timestamp() + timing.max_age
    where j.reference in (
      select held.reference from purple_flea.jobs held
      join purple_flea.effective_policies p on p.agent_id = held.agent_id
      where held.state = 'pending' and held.expires_at < soon and (expire.holding or p.paused)
      order by held.expires_at limit most for update of held skip locked
    );
    update purple_flea.jobs j
    set state = 'dead', changed_by = 'sweeper', reason = 'too_old'
    where j.reference in (
      select old.reference from purple_flea.jobs old
      join purple_flea.effective_policies p on p.agent_id = old.agent_id and not p.paused
      where old.state = 'pending' and old.expires_at < statement_timestamp() and not expire.holding
      order by old.expires_at limit most for update of old skip locked
    );
  end if;
end;
$$;
comment on function purple_flea.expire(boolean) is 'Ends leases and buries what has waited too long; while bets are held back nothing grows old.';
revoke all on function purple_flea.expire(boolean) from public, anon, authenticated, service_role, purple_flea_worker;

-- Whether it is a job's time: it is due, or it was made by hand just now, and who asked for it has come for it. (Such a
-- job is due a second later. The same bound stands beside each call, for the index.)
create or replace function purple_flea.is_ready(job purple_flea.jobs, wanted text[]) returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select job.due_at <= statement_timestamp() or (job.attempts = 0 and job.reference = any (wanted))
$$;
comment on function purple_flea.is_ready(purple_flea.jobs, text[]) is 'Whether a pending job may be claimed now by somebody who asks for some by name.';
revoke all on function purple_flea.is_ready(purple_flea.jobs, text[]) from public, anon, authenticated, service_role, purple_flea_worker;

-- Which jobs could be claimed now, those that were asked for first. Of an agent with a daily limit: one, and none while
-- another is under way.
create or replace function purple_flea.pick_jobs(wanted text[], most integer, exhausted jsonb) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A backlog grows faster than the statistics on it: without them all of it would be sorted for each claim, where walking
  -- along the index of what is due finds the first ones at once.
  set enable_sort = off
  set enable_bitmapscan = off
as $$
declare
  look_at     constant integer := 1000;  -- waiting jobs that are looked at for one of each agent
  everybodys  purple_flea.trade_policies;
  candidates  text[] := '{}';
  picked      text[] := '{}';
begin
  select * into everybodys from purple_flea.trade_policies p where p.agent_id is null;
  if everybodys.paused then
    return picked;
  end if;
  -- One for each agent with a limit: in the order they are due where that is everybody, otherwise agent by agent.
  if everybodys.limited then
    select array_agg(first.reference order by first.asked desc, first.due_at) into candidates
    from (
      select distinct on (due.agent_id) due.reference, due.asked, due.due_at
      from (
        select j.agent_id, j.reference, j.due_at, j.reference = any (wanted) as asked
        from purple_flea.jobs j
        join purple_flea.effective_policies p on p.agent_id = j.agent_id and p.limited and not p.paused
        where j.state = 'pending' and j.due_at <= statement_timestamp() + interval '1 second' and purple_flea.is_ready(j, wanted)
          and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
        order by j.due_at limit look_at
      ) as due
      order by due.agent_id, due.asked desc, due.due_at
    ) as first;
  elsif exists (select from purple_flea.trade_policies p where p.limited) then
    select array_agg(first.reference order by first.asked desc, first.due_at) into candidates
    from purple_flea.trade_policies p
    cross join lateral (
      select j.reference, j.due_at, j.reference = any (wanted) as asked
      from purple_flea.jobs j
      where j.agent_id = p.agent_id and j.state = 'pending' and j.due_at <= statement_timestamp() + interval '1 second' and purple_flea.is_ready(j, wanted)
        and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, (select a.api_key from public.agents a where a.id = p.agent_id), exhausted))
      order by j.due_at limit 1
    ) as first
    where p.limited and not p.paused;
  end if;
  if cardinality(candidates) > 0 then
    -- Two claims at once must not both find an agent free: whoever comes second does without it. Only when it is locked
    -- is it looked at, in a statement of its own that sees what the other has done.
    select coalesce(array_agg(locked.reference), '{}') into candidates
    from (
      select j.reference, j.agent_id from unnest(candidates) with ordinality as c (reference, n)
      join purple_flea.jobs j using (reference)
      where not exists (select from purple_flea.jobs busy where busy.agent_id = j.agent_id and busy.state = 'claimed')
      order by c.n limit most
    ) as locked
    where pg_try_advisory_xact_lock(hashtextextended('purple_flea:' || locked.agent_id, 0));
    select coalesce(array_agg(still.reference), '{}') into picked
    from (
      select j.reference from purple_flea.jobs j
      where j.reference = any (candidates) and j.state = 'pending'
        and not exists (select from purple_flea.jobs busy where busy.agent_id = j.agent_id and busy.state = 'claimed')
      for update of j skip locked
    ) as still;
  end if;

  if cardinality(wanted) > 0 then
    select picked || coalesce(array_agg(asked.reference), '{}') into picked
    from (
      select j.reference from purple_flea.jobs j
      join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.limited and not p.paused
      where j.reference = any (wanted) and j.state = 'pending' and j.due_at <= statement_timestamp() + interval '1 second' and purple_flea.is_ready(j, wanted)
        and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
      limit most - cardinality(picked) for update of j skip locked
    ) as asked;
  end if;

  select picked || coalesce(array_agg(due.reference), '{}') into picked
  from (
    select j.reference from purple_flea.jobs j
    join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.limited and not p.paused
    where j.state = 'pending' and j.due_at <= statement_timestamp() and j.reference <> all (picked)
      and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
    order by j.due_at limit most - cardinality(picked) for update of j skip locked
  ) as due;
  return picked;
end;
$$;
comment on function purple_flea.pick_jobs(text[], integer, jsonb) is 'Locks the jobs that are to be claimed next.';
revoke all on function purple_flea.pick_jobs(text[], integer, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

-- A restore can bring back what has been done and archived since. It is not done again, and out of the others' way.
create or replace function purple_flea.bury_done(picked text[]) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  done text[] := array(select a.reference from purple_flea.jobs_archive a where a.reference = any (picked));
begin
  if done = '{}' then
    return picked;
  end if;
  update purple_flea.jobs j set state = 'dead', changed_by = 'sweeper', reason = 'done_before' where j.reference = any (done);
  return array(select p.reference from unnest(picked) with ordinality as p (reference, n) where p.reference <> all (done) order by p.n);
end;
$$;
comment on function purple_flea.bury_done(text[]) is 'Which of these locked jobs are yet to be done; those that are archived are dead.';
revoke all on function purple_flea.bury_done(text[]) from public, anon, authenticated, service_role, purple_flea_worker;
create or replace function purple_flea.is_due(at timestamptz default statement_timestamp()) returns boolean
  language plpgsql
  volatile  -- sees what the claim has just done
  set search_path = pg_catalog, pg_temp
  set enable_sort = off  -- as in expire()
as $$
begin
  if (select p.paused from purple_flea.trade_policies p where p.agent_id is null) then
    return false;
  end if;
  return exists (
    select from purple_flea.jobs j
    join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.paused
    where j.state = 'pending' and j.due_at <= is_due.at
    order by j.due_at limit 1
  );
end;
$$;
comment on function purple_flea.is_due(timestamptz) is 'Whether any job is due that is not held back.';
revoke all on function purple_flea.is_due(timestamptz) from public, anon, authenticated, service_role, purple_flea_worker;

-- What an agent has staked and lost on a day, and what it may yet have: the worst case of what is under way or unknown.
create or replace function purple_flea.spent(agent text, on_day date, but_for text) returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'wagered', coalesce(sum(wager) filter (where state = 'executed'), 0),
    -- Of a trade nobody tells what it lost: all of it counts. (A win without a payout lost nothing.)
    'lost',    coalesce(sum(wager - case when result ? 'market' then 0 else coalesce(payout, wager) end) filter (where state = 'executed'), 0),
    'open',    coalesce(sum(stake) filter (where state in ('claimed', 'unknown')), 0)
  )
  from purple_flea.jobs
  where agent_id = agent and bet_day = on_day and reference <> but_for
$$;
comment on function purple_flea.spent(text, date, text) is 'What an agent staked and lost on a UTC day, in US dollars, without one job.';
revoke all on function purple_flea.spent(text, date, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- What there is to say about a deposit that somebody asks for.
create or replace function purple_flea.answer(asked text, claim uuid, holding boolean, exhausted jsonb) returns jsonb
  language plpgsql
  volatile  -- sees what the claim has just done
  set search_path = pg_catalog, pg_temp
as $$
declare
  job     purple_flea.jobs;
  rules   purple_flea.effective_policies;
  stopped boolean;
  wait_s  integer;
begin
  select * into job from purple_flea.all_jobs j where j.reference = asked;
  if not found then
    return jsonb_build_object('reference', asked, 'state', 'not_found');
  end if;
  select * into rules from purple_flea.effective_policies p where p.agent_id = job.agent_id;
  stopped := job.state = 'pending' and purple_flea.is_stopped(job.kind, rules.game, rules.account, exhausted);
  wait_s := least(86400, greatest(1, ceil(extract(epoch from
    -- (What is held waits for something else than a time.)
    case when job.state = 'claimed' then job.lease_until when isfinite(job.due_at) then job.due_at else clock_timestamp() + interval '1 minute' end
    - clock_timestamp()))));
  if stopped then
    wait_s := greatest(wait_s, ceil(extract(epoch from (
      select max(e.value::timestamptz) from jsonb_each_text(exhausted) e
      where e.key like replace(purple_flea.call_of(job.kind, rules.game), '_', '\_') || ' %') - clock_timestamp()))::integer);
  end if;
  return jsonb_strip_nulls(jsonb_build_object(
    'reference', asked,
    'agent_id',  job.agent_id,
    'state', case
      when job.state = 'claimed' and job.token = claim then 'claimed'
      when job.state = 'claimed' then 'in_flight'
      when job.state = 'pending' then 'waiting'
      else job.state
    end,
    'reason', case
      when job.state = 'pending' and (rules.paused or holding) then 'paused'
      when stopped then 'rate_limited'
      else job.reason
    end,
    'retry_after_s', case when job.state in ('claimed', 'pending') then wait_s end,
    'result', case when job.state in ('executed', 'skipped', 'rejected') then job.result end
  ));
end;
$$;
comment on function purple_flea.answer(text, uuid, boolean, jsonb) is 'What there is to say about one deposit.';
revoke all on function purple_flea.answer(text, uuid, boolean, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;
create or replace function public.claim_jobs(
  "references" text[] default '{}', "limit" integer default 1, claim uuid default gen_random_uuid(), api text default 'gateway',
  watcher uuid default null, linger_ms integer default 0)
  returns jsonb
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
  -- Frozen rows have their times in UTC, whatever the session's zone.
  set timezone = 'UTC'
as $$
declare
  most        constant integer := 100;  -- bets of one claim, or deposits asked about: more than any host sends at once
  linger_most constant integer := 3000; -- what await_jobs() waits at most
  wanted      text[]      := coalesce(claim_jobs."references", '{}');
  slots       integer     := coalesce(claim_jobs."limit", 0);
  claim_token uuid        := coalesce(claim_jobs.claim, gen_random_uuid());
  exhausted   jsonb       := '{}';
  limits      boolean;
  picked      text[];
  claim_time  timestamptz;
  claimed     jsonb;
  lease_end   timestamptz;
begin
  if slots not between 0 and most or cardinality(wanted) > most then
    raise exception 'limit and references may be at most %', most using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(claim_jobs.linger_ms, 0) not between 0 and linger_most then
    raise exception 'linger_ms may be at most %', linger_most using errcode = 'invalid_parameter_value';
  end if;
  -- A limit of 0 comes from a function that is paused.
  perform purple_flea.expire(slots = 0);
  -- Asked again with the same claim because the answer got lost: what it holds, and no more, even while the first one
  -- is still at it, or when all that it held is settled.
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:' || claim_token, 1));
  limits := exists (select from purple_flea.rate_limits l where l.api = claim_jobs.api) or exists (select from purple_flea.rate_stops r where r.until > clock_timestamp());
  if limits then
    -- Two claims must not count the same free slot.
    perform pg_advisory_xact_lock(hashtextextended('purple_flea:rate_slots', 2));
    exhausted := purple_flea.exhausted(claim_jobs.api);
  end if;
  -- (Nobody asks again for what is archived.)
  if slots > 0 and not exists (
    select from purple_flea.job_events e where e.token = claim_token and e.to_state = 'claimed' and e.kind = 'transition'
  ) then
    picked     := purple_flea.bury_done(purple_flea.pick_jobs(wanted, slots, exhausted));
    claim_time := clock_timestamp();
    lease_end  := claim_time + (purple_flea.timing()).lease;
    if limits then
      picked := purple_flea.take_slots(picked, claim_jobs.api, exhausted, claim_token, lease_end);
    end if;
    update purple_flea.jobs j
    set state = 'claimed', changed_by = 'worker', reason = null, attempts = j.attempts + 1,
        token = claim_token, claimed_at = claim_time, lease_until = lease_end, lookup_at = null,
        request = case j.kind
          when 'deposit' then jsonb_build_object('id', w.id, 'agent_id', w.agent_id, 'change_type', w.change_type,
            'change_amount', w.change_amount, 'new_balance', w.new_balance, 'created_at', w.created_at)
          else j.request
        end,
        policy = to_jsonb(p) - 'id' - 'agent_id' - 'limited',
        stake = case
          when j.kind = 'deposit' then purple_flea.stake(w.new_balance, p)
          when j.kind in ('trade', 'order') then (j.request ->> 'size')::numeric
        end,
        bet_day = case when j.kind in ('deposit', 'trade', 'order') then (claim_time at time zone 'UTC')::date end,
        limited = p.limited and j.kind in ('deposit', 'trade', 'order'),
        holds_slot = limits and exists (select from purple_flea.rate_slots s where s.reference = j.reference and s.token = claim_token),
        wager = null, payout = null, result = null
    from purple_flea.jobs t
    left join public.wallet_changes w on w.id = t.wallet_change_id
    join purple_flea.effective_policies e on e.agent_id = t.agent_id
    join purple_flea.trade_policies p on p.id = e.policy_id
    where t.reference = any (picked) and j.reference = t.reference;
  end if;
  select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
      'reference', j.reference, 'kind', j.kind, 'bet_key', j.bet_key, 'attempt', j.attempts, 'stake', j.stake,
      'spent', case when j.limited then purple_flea.spent(j.agent_id, j.bet_day, j.reference) end,
      'account', a.pf_agent_id,
      'fresh', case when j.kind = 'faucet' and not exists (select from public.wallet_changes c where c.agent_id = j.agent_id) and exists (
        select from purple_flea.jobs r where r.agent_id = j.agent_id and r.kind = 'registration' and r.state = 'executed') then true end,
      -- Of what is not frozen: who the other side is by now, who is to earn the referral, and what there is to release.
      'counterparty', case when j.kind = 'escrow' then (
        select coalesce(r.pf_agent_id, r.id) from public.agents r where r.id = j.request ->> 'receiver_id') end,
      'referral_code', case when j.kind in ('escrow', 'registration', 'faucet') then o.referral_code end,
      'escrow', case when j.kind in ('escrow_release', 'escrow_cancel') then (
        select jsonb_build_object('id', e.pf_escrow_id, 'status', e.status) from public.escrow_requests e where e.id = j.escrow_id) end,
      'own_key', case when a.api_key <> '' then true end,
      'key', case when a.api_key <> '' then purple_flea.agent_key(a.api_key, purple_flea.call_of(j.kind, j.policy ->> 'game')) end
    )) || jsonb_build_object('row', j.request, 'policy', j.policy)), '[]'), min(j.lease_until) into claimed, lease_end
  from purple_flea.jobs j
  join public.agents a on a.id = j.agent_id
  left join public.agents o on o.id = a.orchestrator_id
  where j.token = claim_token and j.state = 'claimed';
  return jsonb_build_object(
    'token',    claim_token,
    'lease_ms', greatest(0, floor(extract(epoch from lease_end - clock_timestamp()) * 1000)::bigint),
    'jobs',     claimed,
    'answers',  coalesce((select jsonb_agg(purple_flea.answer(asked, claim_token, slots = 0, exhausted)) from unnest(wanted) as asked), '[]'),
    'more',     slots > 0 and purple_flea.is_due(),
    'watching', claim_jobs.watcher is not null and claim_jobs.linger_ms > 0
      and purple_flea.keep_watch(claim_jobs.watcher, make_interval(secs => claim_jobs.linger_ms / 1000.0)),
    'lookups',  exists (select from purple_flea.jobs j where j.state = 'unknown' and j.lookup_at <= statement_timestamp())
  );
end;
$$;
comment on function public.claim_jobs(text[], integer, uuid, text, uuid, integer) is 'Claims due jobs, those asked for first, and answers for every reference: claimed, in_flight, executed, skipped, rejected, unknown, dead, waiting or not_found.';
revoke all on function public.claim_jobs(text[], integer, uuid, text, uuid, integer) from public, anon, authenticated;
grant execute on function public.claim_jobs(text[], integer, uuid, text, uuid, integer) to service_role, purple_flea_worker;
