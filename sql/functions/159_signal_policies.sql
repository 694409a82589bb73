-- Signal policies: how an agent answers signals, and which senders it follows outside of its fleet.
-- Owners change both by functions, and read the rows of their own agents.

revoke all
  on
    public.trade_signals, public.signal_policies, public.signal_follows, public.signal_answers
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant select
  on
    public.trade_signals, public.signal_policies, public.signal_follows, public.signal_answers
  to authenticated, service_role;

drop policy if exists trade_signals_owner_reads on public.trade_signals;
create policy trade_signals_owner_reads on public.trade_signals
  for select to authenticated
  using (
    (select a.owner_id from public.agents a where a.id = sender_id)
      = (select purple_flea.caller())
    or (
      select true
      from public.signal_answers w
      join public.agents a on a.id = w.agent_id
      where w.signal_id = trade_signals.id
        and a.owner_id = (select purple_flea.caller())
      limit 1
    )
  );
drop policy if exists trade_signals_service_reads on public.trade_signals;
create policy trade_signals_service_reads on public.trade_signals
  for select to service_role
  using (true);

drop policy if exists signal_policies_owner_reads on public.signal_policies;
create policy signal_policies_owner_reads on public.signal_policies
  for select to authenticated
  using (
    (select a.owner_id from public.agents a where a.id = agent_id) = (select purple_flea.caller())
  );
drop policy if exists signal_policies_service_reads on public.signal_policies;
create policy signal_policies_service_reads on public.signal_policies
  for select to service_role
  using (true);

drop policy if exists signal_follows_owner_reads on public.signal_follows;
create policy signal_follows_owner_reads on public.signal_follows
  for select to authenticated
  using (
    (select a.owner_id from public.agents a where a.id = agent_id) = (select purple_flea.caller())
  );
drop policy if exists signal_follows_service_reads on public.signal_follows;
create policy signal_follows_service_reads on public.signal_follows
  for select to service_role
  using (true);

drop policy if exists signal_answers_owner_reads on public.signal_answers;
create policy signal_answers_owner_reads on public.signal_answers
  for select to authenticated
  using (
    (select a.owner_id from public.agents a where a.id = agent_id) = (select purple_flea.caller())
  );
drop policy if exists signal_answers_service_reads on public.signal_answers;
create policy signal_answers_service_reads on public.signal_answers
  for select to service_role
  using (true);

create or replace function purple_flea.check_signal_policy(policy jsonb) returns void
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  known constant text[] := '{confidence_above,max_size,markets,actions,answers,side,wager}';
  other text;
begin
  if jsonb_typeof(policy) is distinct from 'object' then
    raise exception 'a signal policy is an object' using errcode = 'invalid_parameter_value';
  end if;
  select k into other from jsonb_object_keys(policy) as k where k <> all (known) limit 1;
  if other is not null then
    raise exception 'a signal policy has no %', left(other, 64)
      using errcode = 'invalid_parameter_value', hint = 'It has: ' || array_to_string(known, ', ');
  elsif jsonb_typeof(policy -> 'max_size') is distinct from 'number' then
    raise exception 'a signal policy has a max_size, in US dollars'
      using errcode = 'invalid_parameter_value';
  elsif jsonb_typeof(coalesce(policy -> 'confidence_above', '0')) <> 'number'
    or jsonb_typeof(coalesce(nullif(policy -> 'wager', 'null'), '0')) <> 'number' then
    raise exception 'confidence_above and wager are numbers'
      using errcode = 'invalid_parameter_value';
  elsif jsonb_typeof(coalesce(nullif(policy -> 'markets', 'null'), '[]')) <> 'array'
    or jsonb_typeof(coalesce(policy -> 'actions', '[]')) <> 'array' then
    raise exception 'markets and actions are arrays' using errcode = 'invalid_parameter_value';
  elsif jsonb_path_exists(policy,
    '$.markets[*] ? (
      @.type() != "string" || !(@ like_regex "^[A-Za-z0-9._:/-]{1,20}$")
    )') then
    raise exception 'a market has 1 to 20 characters of A-Z a-z 0-9 . _ : / -'
      using errcode = 'invalid_parameter_value';
  end if;
end;
$$;
comment on function purple_flea.check_signal_policy(jsonb) is
  'Raises invalid_parameter_value for a signal policy of another shape. The table checks the '
  'values.';

create or replace function public.set_signal_policy(agent_id text, policy jsonb) returns jsonb
  language plpgsql
  volatile
  -- No user writes policies.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  given constant jsonb := set_signal_policy.policy;
  kept  public.signal_policies;
begin
  perform purple_flea.refuse_other_owners(set_signal_policy.agent_id);
  if given is null or given = 'null' then
    delete from public.signal_policies p where p.agent_id = set_signal_policy.agent_id;
    return null;
  end if;
  perform purple_flea.check_signal_policy(given);
  insert into public.signal_policies as p
    (agent_id, confidence_above, max_size, markets, actions, answers, side, wager)
  values (
    set_signal_policy.agent_id,
    coalesce((given ->> 'confidence_above')::numeric, 0.75),
    (given ->> 'max_size')::numeric,
    case jsonb_typeof(given -> 'markets')
      when 'array'
        then array(select upper(m) from jsonb_array_elements_text(given -> 'markets') as m)
    end,
    case jsonb_typeof(given -> 'actions')
      when 'array' then array(select jsonb_array_elements_text(given -> 'actions'))
      else '{BUY}'
    end,
    coalesce(given ->> 'answers', 'trade'),
    given ->> 'side',
    (given ->> 'wager')::numeric
  )
  on conflict on constraint signal_policies_pkey do update
  set confidence_above = excluded.confidence_above,
      max_size         = excluded.max_size,
      markets          = excluded.markets,
      actions          = excluded.actions,
      answers          = excluded.answers,
      side             = excluded.side,
      wager            = excluded.wager,
      changed_at       = clock_timestamp()
  returning * into kept;
  return to_jsonb(kept);
exception when check_violation or not_null_violation then
  raise exception 'this is no signal policy: %', sqlerrm
    using errcode = 'invalid_parameter_value',
          hint    = 'docs/signals.md lists what each part may be.';
end;
$$;
comment on function public.set_signal_policy(text, jsonb) is
  'Sets how an agent answers signals: {max_size, confidence_above, markets, actions, answers, side, '
  'wager}; null: it answers none any more. Gives the policy. For the agent''s owner and the '
  'service.';

create or replace function public.follow_signals(
  agent_id  text,
  sender_id text,
  follow    boolean default true
) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 100;  -- senders
begin
  perform purple_flea.refuse_other_owners(follow_signals.agent_id);
  if follow_signals.sender_id is null
    or octet_length(follow_signals.sender_id) not between 1 and 128
    or follow_signals.sender_id = follow_signals.agent_id then
    raise exception 'sender_id is the id of another agent'
      using errcode = 'invalid_parameter_value';
  elsif not coalesce(follow_signals.follow, false) then
    delete from public.signal_follows w
    where w.agent_id = follow_signals.agent_id
      and w.sender_id = follow_signals.sender_id;
  else
    -- Another call for the same agent waits, so that both count right.
    perform from public.agents a where a.id = follow_signals.agent_id for no key update;
    if (
      select count(*)
      from public.signal_follows w
      where w.agent_id = follow_signals.agent_id
        and w.sender_id <> follow_signals.sender_id
    ) >= most then
      raise exception 'an agent follows at most % senders', most
        using errcode = 'invalid_parameter_value';
    end if;
    insert into public.signal_follows (agent_id, sender_id)
    values (follow_signals.agent_id, follow_signals.sender_id)
    on conflict on constraint signal_follows_pkey do nothing;
  end if;
  return (
    select jsonb_build_object(
      'agent_id', follow_signals.agent_id,
      'follows', coalesce(jsonb_agg(w.sender_id order by w.sender_id), '[]')
    )
    from public.signal_follows w
    where w.agent_id = follow_signals.agent_id
  );
end;
$$;
comment on function public.follow_signals(text, text, boolean) is
  'Lets an agent follow a sender outside of its fleet, or no more: {agent_id, follows}. The agents '
  'of one orchestrator follow each other without it. For the agent''s owner and the service.';
