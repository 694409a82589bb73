-- Claiming. The function claims jobs before it may bet. It gets as many jobs as it can execute at
-- once, each with its row and its policy frozen, a lease and a token, and an answer for each job
-- that it named.

create or replace function purple_flea.retry_after_s(
  job       purple_flea.jobs,
  game      text,
  stopped   boolean,
  exhausted jsonb
) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most_s constant integer := 86400;  -- a day
  until  timestamptz;
  wait_s integer;
begin
  until := case
    when job.state = 'claimed' then job.lease_until
    when isfinite(job.due_at) then job.due_at
    -- A held job waits for an event and not for a time.
    else clock_timestamp() + interval '1 minute'
  end;
  wait_s := least(most_s, greatest(1, ceil(extract(epoch from until - clock_timestamp()))));
  if stopped then
    select max(e.value::timestamptz) into until
    from jsonb_each_text(exhausted) e
    where e.key like replace(purple_flea.call_of(job.kind, game), '_', '\_') || ' %';
    wait_s := greatest(wait_s, ceil(extract(epoch from until - clock_timestamp())));
  end if;
  return wait_s;
end;
$$;
comment on function purple_flea.retry_after_s(purple_flea.jobs, text, boolean, jsonb) is
  'Gives the seconds after which a caller may ask for a claimed or pending job again.';

create or replace function purple_flea.answer(
  asked      text,
  claim      uuid,
  holding    boolean,
  exhausted  jsonb,
  generation uuid
) returns jsonb
  language plpgsql
  volatile  -- sees the claim's own changes
  set search_path = pg_catalog, pg_temp
as $$
declare
  job     purple_flea.jobs;
  rules   purple_flea.effective_policies;
  stopped boolean;
begin
  select * into job from purple_flea.all_jobs j where j.reference = asked;
  if not found then
    return jsonb_build_object('reference', asked, 'state', 'not_found');
  end if;
  select * into rules from purple_flea.effective_policies p where p.agent_id = job.agent_id;
  stopped := job.state = 'pending'
    and purple_flea.is_stopped(job.kind, rules.game, rules.account, exhausted);
  return jsonb_strip_nulls(jsonb_build_object(
    'reference', asked,
    'agent_id', job.agent_id,
    'state', case
      when job.state = 'claimed' and job.token = claim then 'claimed'
      when job.state = 'claimed' then 'in_flight'
      when job.state = 'pending' then 'waiting'
      else job.state
    end,
    'reason', case
      when job.state <> 'pending' then job.reason
      when rules.paused or holding then 'paused'
      when purple_flea.awaits_confirmation(job.kind, job.generation, answer.generation)
        then 'restore_unconfirmed'
      when stopped then 'rate_limited'
      else job.reason
    end,
    'retry_after_s', case
      when purple_flea.is_under_way(job.state)
        then purple_flea.retry_after_s(job, rules.game, stopped, exhausted)
    end,
    'result', case
      when job.state in ('executed', 'skipped', 'rejected') then job.result
    end
  ));
end;
$$;
comment on function purple_flea.answer(text, uuid, boolean, jsonb, uuid) is
  'Gives the ledger''s answer about one job that a claim names.';

-- A commit that is not flushed can be lost in a crash. The claim would be lost with it, although
-- its bets were made.
create or replace function purple_flea.commit_synchronously() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('synchronous_commit') = 'off' then
    -- For this transaction. A function's SET would end before the commit.
    perform set_config('synchronous_commit', 'on', true);
  end if;
end;
$$;
comment on function purple_flea.commit_synchronously() is
  'Makes this transaction''s commit wait for the disk, whatever the default is.';

-- The function and the ledger are deployed independently. Each claim names the version of the
-- protocol that the function speaks. A ledger that does not speak it hands out no job. 1: release
-- 0.1.0. 2: adds patience_ms, abandon_claim, not_now, policies without a direction. Without a
-- search path of its own, because Postgres inlines no function that has one.
create or replace function purple_flea.speaks(protocol integer) returns boolean
  language sql
  immutable
  security invoker
as $$
  select coalesce(protocol between 1 and 2, false)
$$;
comment on function purple_flea.speaks(integer) is
  'Says whether the ledger speaks a version of the protocol between it and the function.';

-- A caller whose answer got lost repeats its claim. It gets the jobs that the claim holds and no
-- others, even while the first call is still at work, or when all that it held is settled.
create or replace function purple_flea.is_repeated(claim_token uuid) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- No caller repeats the claim of an archived job.
  return exists (
    select
    from purple_flea.job_events e
    where e.token = claim_token
      and e.to_state = 'claimed'
      and e.kind = 'transition'
  );
end;
$$;
comment on function purple_flea.is_repeated(uuid) is 'Says whether a claim has taken jobs before.';

create or replace function purple_flea.counts_slots(of_api text) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (select from purple_flea.rate_limits l where l.api = of_api)
    or exists (select from purple_flea.rate_stops r where r.until > clock_timestamp());
end;
$$;
comment on function purple_flea.counts_slots(text) is
  'Says whether any limit or stop of Purple Flea''s rate holds for a dialect.';

-- Picks and takes jobs for a claim. Returns true if the locks took longer than the caller's
-- patience: then the claim takes nothing.
create or replace function purple_flea.take_next(
  claim_token uuid,
  wanted      text[],
  slots       integer,
  api         text,
  limits      boolean,
  exhausted   jsonb,
  generation  uuid,
  patience_ms integer
) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  picked text[];
  at     timestamptz;
begin
  picked := purple_flea.end_done_before(
    purple_flea.pick_jobs(wanted, slots, exhausted, take_next.generation)
  );
  -- The claim holds every lock by now.
  at := clock_timestamp();
  if at > statement_timestamp() + make_interval(secs => patience_ms / 1000.0) then
    return true;
  end if;
  if limits then
    picked := purple_flea.take_slots(
      picked, api, exhausted, claim_token, at + (purple_flea.timing()).lease);
  end if;
  perform purple_flea.take(picked, claim_token, at, limits);
  return false;
end;
$$;
comment on function
  purple_flea.take_next(uuid, text[], integer, text, boolean, jsonb, uuid, integer) is
  'Claims the next jobs for a token. Returns true, and claims nothing, if it is too late.';

create or replace function purple_flea.check_claim(slots integer, wanted text[], linger_ms integer)
  returns void
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most        constant integer := 100;   -- jobs of one claim: more than any host executes at once
  linger_most constant integer := 3000;  -- milliseconds: the longest wait of await_jobs()
begin
  if slots not between 0 and most or cardinality(wanted) > most then
    raise exception 'limit and references may be at most %', most
      using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(linger_ms, 0) not between 0 and linger_most then
    raise exception 'linger_ms may be at most %', linger_most
      using errcode = 'invalid_parameter_value';
  end if;
end;
$$;
comment on function purple_flea.check_claim(integer, text[], integer) is
  'Refuses a claim that asks for more than one claim gives.';

create or replace function purple_flea.claim_reply(
  claim_token uuid,
  wanted      text[],
  slots       integer,
  exhausted   jsonb,
  generation  uuid,
  protocol    integer
) returns jsonb
  language plpgsql
  volatile  -- sees the claim's own changes
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'token', claim_token,
    'jobs', purple_flea.held_jobs(claim_token, protocol),
    'lease_ms', (
      select greatest(
        0,
        floor(extract(epoch from min(j.lease_until) - clock_timestamp()) * 1000)::bigint
      )
      from purple_flea.jobs j
      where j.token = claim_token
        and j.state = 'claimed'
    ),
    'answers', (
      select coalesce(
        jsonb_agg(purple_flea.answer(
          asked, claim_token, slots = 0, exhausted, claim_reply.generation)),
        '[]'
      )
      from unnest(wanted) as asked
    ),
    'more', slots > 0 and purple_flea.is_due(),
    'lookups', exists (
      select
      from purple_flea.jobs j
      where j.state = 'unknown'
        and j.lookup_at <= statement_timestamp()
    )
  );
end;
$$;
comment on function purple_flea.claim_reply(uuid, text[], integer, jsonb, uuid, integer) is
  'Gives the reply to a claim, except whether its watch goes on.';

create or replace function public.claim_jobs(
  "references" text[]  default '{}',
  "limit"      integer default 1,
  claim        uuid    default gen_random_uuid(),
  api          text    default 'gateway',
  watcher      uuid    default null,
  linger_ms    integer default 0,
  protocol     integer default 1,
  patience_ms  integer default null,
  after_reply  boolean default null
) returns jsonb
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
  -- Frozen rows have their times in UTC, whatever the session's zone.
  set timezone = 'UTC'
  -- The plans are the same for any arguments, and planning costs more than running.
  set plan_cache_mode = force_generic_plan
  -- A session that made its plans while the tables were empty would go on reading them whole.
  set enable_seqscan = off
  set jit = off  -- see expire()
as $$
declare
  wanted      text[]  := coalesce(claim_jobs."references", '{}');
  slots       integer := coalesce(claim_jobs."limit", 0);
  claim_token uuid    := coalesce(claim_jobs.claim, gen_random_uuid());
  exhausted   jsonb   := '{}';
  too_late    boolean := false;
  given_up    boolean;
  limits      boolean;
  present     uuid;
begin
  perform purple_flea.check_claim(slots, wanted, claim_jobs.linger_ms);
  if not purple_flea.speaks(claim_jobs.protocol) then
    return jsonb_build_object(
      'mismatch', true, 'token', claim_token, 'lease_ms', 0, 'jobs', '[]'::jsonb,
      'answers', '[]'::jsonb, 'more', false, 'watching', false, 'lookups', false);
  end if;
  perform purple_flea.commit_synchronously();
  update purple_flea.ledger l
  set answers_at_once = claim_jobs.after_reply
  where l.only_row
    and l.answers_at_once <> claim_jobs.after_reply;
  -- A limit of 0 comes from a function that is paused.
  perform purple_flea.expire(slots = 0);
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:' || claim_token, 1));
  limits := purple_flea.counts_slots(claim_jobs.api);
  if limits then
    -- Two claims must not count the same free slot.
    perform pg_advisory_xact_lock(hashtextextended('purple_flea:rate_slots', 2));
    exhausted := purple_flea.exhausted(claim_jobs.api);
  end if;
  present  := purple_flea.current_generation();
  given_up := exists (select from purple_flea.abandoned_claims c where c.token = claim_token);
  if slots > 0 and not given_up and not purple_flea.is_repeated(claim_token) then
    too_late := purple_flea.take_next(
      claim_token, wanted, slots, claim_jobs.api, limits, exhausted, present,
      claim_jobs.patience_ms);
  end if;
  return purple_flea.claim_reply(
      claim_token, wanted, slots, exhausted, present, claim_jobs.protocol)
    -- The caller of an abandoned or late claim waits no longer.
    || jsonb_build_object('watching',
      claim_jobs.watcher is not null and claim_jobs.linger_ms > 0 and not given_up and not too_late
      and purple_flea.keep_watch(
        claim_jobs.watcher, make_interval(secs => claim_jobs.linger_ms / 1000.0)));
end;
$$;
comment on function
  public.claim_jobs(text[], integer, uuid, text, uuid, integer, integer, integer, boolean) is
  'Claims due jobs, named ones first, and answers for every reference: claimed, in_flight, '
  'executed, skipped, rejected, unknown, dead, waiting or not_found. A claim that is later than '
  'patience_ms takes nothing.';

-- It waits for the claim's own lock: for the end of a claim under way. A claim that comes later
-- finds its token here.
create or replace function public.abandon_claim(claim uuid, never_begun text[] default null)
  returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  gave_back integer;
begin
  if abandon_claim.claim is null then
    raise exception 'a claim is abandoned by its token' using errcode = 'invalid_parameter_value';
  end if;
  perform purple_flea.commit_synchronously();
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:' || abandon_claim.claim, 1));
  insert into purple_flea.abandoned_claims (token)
  values (abandon_claim.claim)
  on conflict do nothing;
  gave_back := purple_flea.change_jobs(array(
    select j.reference
    from purple_flea.jobs j
    where j.token = abandon_claim.claim
      and j.state = 'claimed'
      and (abandon_claim.never_begun is null or j.reference = any (abandon_claim.never_begun))
    order by j.reference
    for update
  ), 'give_back');
  return jsonb_build_object('gave_back', gave_back);
end;
$$;
comment on function public.abandon_claim(uuid, text[]) is
  'Gives jobs back that their worker never began and never will: all of the claim''s, or those '
  'named. The claim takes nothing any more.';
