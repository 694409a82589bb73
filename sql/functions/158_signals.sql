-- Signals: how one comes in. The same signal has the same id, so it counts once, by any way and
-- however often it comes. 162_signal_answers.sql makes the followers' jobs.

create or replace function purple_flea.is_number_within(value jsonb, low numeric, high numeric)
  returns boolean
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- JSON has no NaN, and a text is no number.
  return coalesce(
    case jsonb_typeof(value)
      when 'number' then value::numeric between low and high
    end,
    false
  );
end;
$$;
comment on function purple_flea.is_number_within(jsonb, numeric, numeric) is
  'Says whether a JSON value is a number between two others.';

-- The end of a signal that names none, and the latest one.
create or replace function purple_flea.signal_expiry(payload jsonb, at timestamptz)
  returns timestamptz
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  usual constant interval := '5 minutes';
begin
  return case
    when payload -> 'expires_at' is null then at + usual
    when jsonb_typeof(payload -> 'expires_at') = 'string'
      then purple_flea.readable_time(payload ->> 'expires_at')
  end;
end;
$$;
comment on function purple_flea.signal_expiry(jsonb, timestamptz) is
  'Gives the time from which nobody trades on a signal; null if the payload names none that can be '
  'read.';

create or replace function purple_flea.trouble_of_content(payload jsonb) returns text
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most   constant numeric := 99999999.9999;  -- of a column of money
  cent   constant numeric := 0.01;
  trades constant boolean := coalesce(payload ->> 'kind', 'trade_signal') = 'trade_signal';
begin
  -- Of a price and a risk each of these may be missing.
  return case
    when coalesce(payload -> 'market', 'null')::text !~ '^"[A-Za-z0-9._:/-]{1,20}"$'
      and (trades or payload ? 'market')
      then 'invalid_market'
    when coalesce(payload -> 'action', 'null') not in ('"BUY"', '"SELL"')
      and (trades or payload ? 'action')
      then 'invalid_action'
    when not purple_flea.is_number_within(payload -> 'confidence', 0, 1)
      and (trades or payload ? 'confidence')
      then 'invalid_confidence'
    when not purple_flea.is_number_within(payload -> 'size', cent, most)
      and (trades or payload ? 'size')
      then 'invalid_size'
  end;
end;
$$;
comment on function purple_flea.trouble_of_content(jsonb) is
  'Says what is wrong with the market, the action, the confidence or the size of a signal; null: '
  'nothing.';

create or replace function purple_flea.trouble_of_signal(payload jsonb, at timestamptz)
  returns text
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most_bytes   constant integer  := 262144;
  most_stored  constant integer  := 4 * most_bytes;
  most_numbers constant integer  := 100;
  most_details constant integer  := 8192;  -- bytes that are kept
  longest      constant interval := '24 hours';
  expires      timestamptz;
  trouble      text;
begin
  if jsonb_typeof(payload) is distinct from 'object' then
    return 'not_an_object';
  -- The text of a short number like 1e131071 has 131,072 digits, so the numbers are counted before
  -- the payload becomes text.
  elsif pg_column_size(payload) > most_stored
    or (
      select count(*)
      from jsonb_path_query(payload, '$.** ? (@.type() == "number")')
    ) > most_numbers
    or octet_length(payload::text) > most_bytes then
    return 'too_large';
  elsif coalesce(payload -> 'kind', '"trade_signal"')
    not in ('"trade_signal"', '"price"', '"risk"') then
    return 'invalid_kind';
  end if;
  trouble := purple_flea.trouble_of_content(payload);
  if trouble is not null then
    return trouble;
  end if;
  expires := purple_flea.signal_expiry(payload, at);
  return case
    when expires is null or not isfinite(expires) then 'invalid_expires_at'
    when expires <= at then 'signal_expired'
    when expires > at + longest then 'expires_too_late'
    when octet_length(purple_flea.signal_details(payload)::text) > most_details
      then 'details_too_large'
  end;
exception when statement_too_complex then
  -- Thousands of arrays, one in the other.
  return 'too_large';
end;
$$;
comment on function purple_flea.trouble_of_signal(jsonb, timestamptz) is
  'Says why a payload is no signal, as a code; null: it is one.';

create or replace function purple_flea.signal_details(payload jsonb) returns jsonb
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when coalesce(payload ->> 'kind', 'trade_signal') = 'trade_signal' then '{}'
    else payload
      - '{agent_id,kind,market,action,confidence,size,expires_at,id,ts,event}'::text[]
  end;
end;
$$;
comment on function purple_flea.signal_details(jsonb) is
  'Gives the members of a price or a risk that are kept as they are.';

create or replace function purple_flea.hash_of(content jsonb) returns text
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return encode(sha256(convert_to(content::text, 'UTF8')), 'hex');
end;
$$;
comment on function purple_flea.hash_of(jsonb) is
  'Gives the sha256 of a JSON value in Postgres'' own form, as hexadecimal digits.';

create or replace function purple_flea.refused_signal(reason text, id text default null)
  returns jsonb
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object('signal_id', id, 'reason', reason, 'state', 'refused');
end;
$$;
comment on function purple_flea.refused_signal(text, text) is
  'Gives the answer to a signal that does not count.';

-- A signal writes an answer for each of up to 10,000 followers, so a sender has a limit. A repeated
-- signal writes nothing. Signals at the same moment may exceed the limit by a few.
create or replace function purple_flea.sends_too_often(sender text, id text, at timestamptz)
  returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer  := 60;  -- signals of a sender
  each constant interval := '1 minute';
begin
  return not exists (select from public.trade_signals s where s.id = sends_too_often.id)
    and (
      select count(*)
      from (
        select
        from public.trade_signals s
        where s.sender_id = sender
          and s.created_at > at - each
        limit most
      ) as recent
    ) = most;
end;
$$;
comment on function purple_flea.sends_too_often(text, text, timestamptz) is
  'Says whether a sender has sent 60 other signals within a minute.';

-- The caller has found nothing wrong with the payload.
create or replace function purple_flea.keep_signal(
  id       text,
  sender   text,
  came_by  text,
  asked_as text,
  payload  jsonb,
  at       timestamptz
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  hash constant text := purple_flea.hash_of(payload);
  kept public.trade_signals;
begin
  if purple_flea.sends_too_often(sender, keep_signal.id, at) then
    return purple_flea.refused_signal('too_many_signals', keep_signal.id);
  end if;
  insert into public.trade_signals (
    id, sender_id, kind, market, action, confidence, size, details, came_by, asked_as,
    content_hash, created_at, expires_at
  )
  values (
    keep_signal.id,
    sender,
    coalesce(payload ->> 'kind', 'trade_signal'),
    payload ->> 'market',
    payload ->> 'action',
    (payload ->> 'confidence')::numeric,
    (payload ->> 'size')::numeric,
    purple_flea.signal_details(payload),
    keep_signal.came_by,
    keep_signal.asked_as,
    hash,
    at,
    purple_flea.signal_expiry(payload, at)
  )
  -- The same signal may come in another transaction at this moment. This one waits for its end.
  on conflict on constraint trade_signals_pkey do nothing
  returning * into kept;
  if found then
    return purple_flea.spread_signal(kept)
      || jsonb_build_object('state', 'published', 'signal_id', kept.id);
  end if;
  select * into kept from public.trade_signals s where s.id = keep_signal.id;
  if kept.content_hash is distinct from hash then
    return purple_flea.refused_signal('reference_taken', keep_signal.id);
  end if;
  return jsonb_build_object('state', 'repeated', 'signal_id', kept.id);
end;
$$;
comment on function purple_flea.keep_signal(text, text, text, text, jsonb, timestamptz) is
  'Records a signal once, and spreads it: {state, signal_id, followers, jobs}.';

create or replace function purple_flea.is_trusted_sender() returns boolean
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The function checks the signature of a request before it publishes as the worker.
  return purple_flea.is_service()
    or coalesce(nullif(current_setting('role'), 'none'), session_user) = 'purple_flea_worker';
end;
$$;
comment on function purple_flea.is_trusted_sender() is
  'Says whether the caller of a function that runs as the owner may publish for every agent.';

create or replace function public.publish_signal(signal jsonb) returns jsonb
  language plpgsql
  volatile
  -- No user writes signals.
  security definer
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'  -- of a time without a zone
as $$
declare
  at      constant timestamptz := clock_timestamp();
  -- Of an array both are null.
  sender  constant text        := signal ->> 'agent_id';
  named   constant text        := signal ->> 'id';
  trouble text;
begin
  if jsonb_typeof(signal) is distinct from 'object' then
    return purple_flea.refused_signal('not_an_object');
  elsif not purple_flea.is_trusted_sender() then
    perform purple_flea.refuse_other_owners(sender);
  elsif not exists (select from public.agents a where a.id = sender) then
    return purple_flea.refused_signal('unknown_sender');
  end if;
  trouble := purple_flea.trouble_of_signal(signal, at);
  if trouble is not null then
    return purple_flea.refused_signal(trouble);
  elsif named !~ '^[A-Za-z0-9._:-]{1,64}$' then
    return purple_flea.refused_signal('invalid_id');
  end if;
  return purple_flea.keep_signal(
    purple_flea.hash_of(jsonb_build_array(
      'published', sender, coalesce(named, gen_random_uuid()::text))),
    sender,
    'published',
    named,
    signal - '{agent_id,id}'::text[],
    at
  );
end;
$$;
comment on function public.publish_signal(jsonb) is
  'Publishes a signal of an agent, {agent_id, market, action, confidence, size, kind, expires_at, '
  'id}, and makes its followers'' jobs: {state, signal_id, reason, followers, jobs}. The state is '
  'published, repeated (the sender''s signal with this id is there) or refused. For the agent''s '
  'owner, the service and the function''s worker.';

-- The topic proves the sender: only its owner can send to trade-signals:<agent_id>.
create or replace function public.take_broadcast_signal(
  sender  text,
  payload jsonb,
  private boolean default true
) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'  -- of a time without a zone
as $$
declare
  at      constant timestamptz := clock_timestamp();
  topic   constant text        := case
    when take_broadcast_signal.private then 'trade-signals:' || sender
    else 'trade-signals'
  end;
  trouble text;
begin
  if not coalesce(take_broadcast_signal.private, false)
    and not (select l.accept_public_signals from purple_flea.ledger l) then
    return purple_flea.refused_signal('public_not_accepted');
  elsif not exists (select from public.agents a where a.id = sender) then
    return purple_flea.refused_signal('unknown_sender');
  end if;
  trouble := purple_flea.trouble_of_signal(payload, at);
  if trouble is not null then
    return purple_flea.refused_signal(trouble);
  -- Without it a second signal with the same content would be the first one again.
  elsif coalesce(jsonb_typeof(payload -> 'ts'), 'null') not in ('string', 'number') then
    return purple_flea.refused_signal('no_ts');
  elsif payload ->> 'agent_id' <> sender then
    return purple_flea.refused_signal('other_sender');
  end if;
  return purple_flea.keep_signal(
    purple_flea.hash_of(jsonb_build_array(topic, sender, payload)),
    sender,
    case when take_broadcast_signal.private then 'private_topic' else 'public_topic' end,
    null,
    payload,
    at
  );
end;
$$;
comment on function public.take_broadcast_signal(text, jsonb, boolean) is
  'Takes a signal that a client has sent over Realtime, on the private topic '
  'trade-signals:<sender> or on the public one: {state, signal_id, reason, followers, jobs}. The '
  'state is published, repeated or refused. Never raises for a payload. For listeners.';

-- A sender without a follower that answers needs no topic.
create or replace function public.signal_senders(
  after text    default null,
  most  integer default 500
) returns jsonb
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  limit_most constant integer := 1000;  -- senders of one answer
  senders    text[];
begin
  if signal_senders.most is null or signal_senders.most not between 1 and limit_most then
    raise exception 'most is 1 to %', limit_most using errcode = 'invalid_parameter_value';
  end if;
  senders := array(
    with fleet as (
      select a.orchestrator_id as boss, a.id as follower
      from public.signal_policies p
      join public.agents a on a.id = p.agent_id
      where a.orchestrator_id is not null
    ),
    found as (
      select f.boss as id from fleet f
      union
      -- Those of the same fleet, except an agent that is its only follower.
      select s.id
      from (select f.boss, min(f.follower) as one, count(*) as n from fleet f group by f.boss) as b
      join public.agents s on s.orchestrator_id = b.boss
      where b.n > 1
        or s.id <> b.one
      union
      select w.sender_id
      from public.signal_follows w
      join public.signal_policies p on p.agent_id = w.agent_id
    )
    select a.id
    from found f
    join public.agents a on a.id = f.id
    where signal_senders.after is null
      or a.id > signal_senders.after
    order by a.id
    limit signal_senders.most + 1
  );
  return jsonb_build_object(
    'senders', to_jsonb(senders[1:signal_senders.most]),
    'more', cardinality(senders) > signal_senders.most
  );
end;
$$;
comment on function public.signal_senders(text, integer) is
  'Gives the agents whose signals some agent with a signal policy follows, in the order of their '
  'ids, after one of them: {senders, more}. For listeners, which join the topic '
  'trade-signals:<agent_id> of each.';
