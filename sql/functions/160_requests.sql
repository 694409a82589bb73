-- What a caller asks for by hand rather than by a row: the function's own paths end here. The same reference asks once.

create or replace function public.request_job(kind text, reference text, details jsonb) returns jsonb
  language plpgsql
  volatile
  -- The caller may not write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  agent  text   := coalesce(details ->> 'agent_id', details ->> 'sender_id');
  escrow bigint := (details ->> 'escrow_id')::bigint;
  found  purple_flea.jobs;
  asked  text;
begin
  -- Room for the bet key's random digits; and no name that a row's own job could have.
  if request_job.reference is null or request_job.reference !~ '^[A-Za-z0-9._:-]{1,47}$'
    or (kind in ('trade', 'order', 'balance', 'daily_claim')
        and request_job.reference ~ '^(wallet-change|escrow|faucet|registration|daily_claim)[-:.]') then
    return jsonb_build_object('refused', 'invalid_reference');
  elsif kind not in ('escrow_release', 'escrow_cancel') and not exists (select from public.agents a where a.id = agent) then
    return jsonb_build_object('refused', 'unknown_agent');
  end if;
  case kind
    when 'registration' then
      select j.reference into asked from purple_flea.jobs j
      where j.agent_id = agent and j.kind = 'registration' and j.state in ('pending', 'claimed', 'executed') order by j.created_at desc limit 1;
      if asked is null and (select purple_flea.secret(a.api_key) from public.agents a where a.id = agent) is not null then
        return jsonb_build_object('refused', 'already_registered');
      end if;
      asked := coalesce(asked, purple_flea.make_agent_job(kind, agent, purple_flea.agent_reference(kind, agent)));
    when 'faucet' then
      asked := purple_flea.make_agent_job(kind, agent, purple_flea.agent_reference(kind, agent));
    when 'balance', 'daily_claim' then
      select j.reference into asked from purple_flea.all_jobs j where j.reference = request_job.reference and j.agent_id = agent and j.kind = request_job.kind;
      asked := coalesce(asked, purple_flea.make_agent_job(kind, agent, request_job.reference));
    when 'trade', 'order' then
      -- As the function has it; but a job that cannot be read would keep every claim from its end.
      if coalesce(details ->> 'size', '') !~ '^[0-9]{1,8}(\.[0-9]{1,4})?$' or coalesce(details ->> 'market', '') !~ '^[A-Za-z0-9._:/-]{1,20}$'
        or coalesce(details ->> 'direction', '') not in ('long', 'short') then
        return jsonb_build_object('refused', 'invalid_order');
      end if;
      insert into purple_flea.jobs (reference, bet_key, kind, agent_id, generation, request, due_at, expires_at)
      select request_job.reference, purple_flea.bet_key(request_job.reference), request_job.kind, agent, purple_flea.current_generation(),
             details, statement_timestamp(),
             clock_timestamp() + (purple_flea.timing()).max_age
      -- (A conflict alone could wait for whoever archives it, and then find nothing.)
      where not exists (select from purple_flea.all_jobs j where j.reference = request_job.reference)
      on conflict do nothing;
      asked := request_job.reference;
      select * into found from purple_flea.all_jobs j where j.reference = asked;
      if (found.kind, found.request) is distinct from (request_job.kind, details) then
        return jsonb_build_object('refused', 'reference_taken');
      end if;
    when 'escrow' then
      if not exists (select from public.agents a where a.id = details ->> 'receiver_id') then
        return jsonb_build_object('refused', 'unknown_agent');
      end if;
      insert into public.escrow_requests (sender_id, receiver_id, amount, description, timeout_hours, asked_as)
      values (agent, details ->> 'receiver_id', (details ->> 'amount')::numeric, details ->> 'description',
              (details ->> 'timeout_hours')::integer, request_job.reference)
      on conflict (asked_as) do nothing;
      select 'escrow-' || e.id into asked from public.escrow_requests e
      where e.asked_as = request_job.reference and e.sender_id = agent and e.receiver_id = details ->> 'receiver_id'
        and e.amount = (details ->> 'amount')::numeric;
      if asked is null then
        return jsonb_build_object('refused', 'reference_taken');
      end if;
    when 'escrow_release', 'escrow_cancel' then
      select j.reference into asked from purple_flea.jobs j
      where j.escrow_id = escrow and j.kind = request_job.kind and j.state not in ('skipped', 'rejected', 'dead');
      if not exists (select from public.escrow_requests e where e.id = escrow) then
        return jsonb_build_object('refused', 'unknown_escrow');
      elsif asked is null then
        begin
          -- (Once more, if it came to nothing before.)
          update public.escrow_requests e set requested_status = null where e.id = escrow and e.requested_status is not null;
          update public.escrow_requests e set requested_status = case kind when 'escrow_release' then 'released' else 'cancelled' end
          where e.id = escrow;
        exception when check_violation then
          -- Somebody may have asked for the same at the same time.
          select j.reference into asked from purple_flea.jobs j
          where j.escrow_id = escrow and j.kind = request_job.kind and j.state not in ('skipped', 'rejected', 'dead');
          if asked is not null then
            return jsonb_build_object('reference', asked);
          end if;
          return jsonb_build_object('refused', 'escrow_not_open', 'status', (select e.status from public.escrow_requests e where e.id = escrow),
                                    'requested_status', (select e.requested_status from public.escrow_requests e where e.id = escrow));
        end;
        select j.reference into asked from purple_flea.jobs j
        where j.escrow_id = escrow and j.kind = request_job.kind and j.state = 'pending';
      end if;
    else
      return jsonb_build_object('refused', 'unknown_kind');
  end case;
  -- Whoever asks comes for it at once, and wants to hear how it ends: nobody else takes it in between.
  update purple_flea.jobs j set due_at = clock_timestamp() + interval '1 second'
  where j.reference = asked and j.state = 'pending' and j.attempts = 0 and j.due_at <= clock_timestamp();
  -- No name is left for it: another job has the caller's.
  return case when asked is null then jsonb_build_object('refused', 'reference_taken') else jsonb_build_object('reference', asked) end;
end;
$$;
comment on function public.request_job(text, text, jsonb) is 'Asks for a job of a kind by hand; gives the reference of the one that does it, or why there is none: invalid_reference, unknown_agent, unknown_escrow, already_registered, escrow_not_open, invalid_order, reference_taken, unknown_kind.';
revoke all on function public.request_job(text, text, jsonb) from public, anon, authenticated;
grant execute on function public.request_job(text, text, jsonb) to service_role, purple_flea_worker;

create or replace function purple_flea.record_trade(reference text, order_id text, filled numeric, entry_price numeric default null, position_id text default null) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job   purple_flea.jobs := purple_flea.unknown_job(record_trade.reference);
  -- Of an order by hand what was asked for; of a deposit its policy.
  asked jsonb := case when job.kind = 'deposit' then job.policy else job.request end;
begin
  if asked ->> 'market' is null then
    raise exception 'job % is no trade', job.reference;
  end if;
  perform purple_flea.apply(job, 'executed', jsonb_strip_nulls(jsonb_build_object(
    'status', 'executed', 'reference', job.reference, 'agent_id', job.agent_id, 'market', asked ->> 'market',
    'direction', asked ->> 'direction', 'size', job.stake, 'wager', filled, 'entry_price', entry_price,
    'position_id', position_id, 'order_id', order_id
  )), 'operator');
end;
$$;
comment on function purple_flea.record_trade(text, text, numeric, numeric, text) is 'Records the position that an unknown job turned out to have opened, and makes its row of trade_results.';
revoke all on function purple_flea.record_trade(text, text, numeric, numeric, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.record_escrow(reference text, pf_escrow_id text, fee numeric default null) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job purple_flea.jobs := purple_flea.unknown_job(record_escrow.reference);
begin
  if job.kind <> 'escrow' then
    raise exception 'job % makes no escrow', job.reference;
  end if;
  perform purple_flea.apply(job, 'executed', jsonb_strip_nulls(jsonb_build_object(
    'status', 'executed', 'reference', job.reference, 'agent_id', job.agent_id, 'pf_escrow_id', pf_escrow_id, 'fee', fee
  )), 'operator');
end;
$$;
comment on function purple_flea.record_escrow(text, text, numeric) is 'Records the escrow that an unknown job turned out to have made: it stands at Purple Flea with the job''s bet key in its description.';
revoke all on function purple_flea.record_escrow(text, text, numeric) from public, anon, authenticated, service_role, purple_flea_worker;
