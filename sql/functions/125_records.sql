-- The operator records here that Purple Flea has executed an unknown job.

create or replace function purple_flea.record_bet(
  reference text,
  bet_id    text,
  wager     numeric,
  won       boolean,
  payout    numeric
) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job  purple_flea.jobs := purple_flea.unknown_job(record_bet.reference);
  -- A deposit's policy names the game. A requested bet's request does.
  game text             := case job.kind
    when 'deposit' then job.policy ->> 'game'
    when 'bet' then job.request ->> 'game'
  end;
begin
  if game is null or game = 'trade' then
    raise exception 'job % is no bet', job.reference;
  end if;
  perform purple_flea.apply(job, 'executed', jsonb_build_object(
    'status', 'executed',
    'reference', job.reference,
    'agent_id', job.agent_id,
    'game', game,
    'wager', wager,
    'outcome', case when won then 'win' else 'loss' end,
    'payout', payout,
    'bet_id', bet_id
  ), 'operator');
end;
$$;
comment on function purple_flea.record_bet(text, text, numeric, boolean, numeric) is
  'Records the bet that an unknown job turned out to have made, and makes its row of '
  'trade_results.';

create or replace function purple_flea.record_trade(
  reference   text,
  order_id    text,
  filled      numeric,
  entry_price numeric default null,
  position_id text    default null
) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job   purple_flea.jobs := purple_flea.unknown_job(record_trade.reference);
  -- A deposit's policy names the market. Any other job's request does.
  terms jsonb := case when job.kind = 'deposit' then job.policy else job.request end;
begin
  if terms ->> 'market' is null then
    raise exception 'job % is no trade', job.reference;
  end if;
  perform purple_flea.apply(job, 'executed', jsonb_strip_nulls(jsonb_build_object(
    'status', 'executed',
    'reference', job.reference,
    'agent_id', job.agent_id,
    'market', terms ->> 'market',
    'direction', terms ->> 'direction',
    'size', job.stake,
    'wager', filled,
    'entry_price', entry_price,
    'position_id', position_id,
    'order_id', order_id
  )), 'operator');
end;
$$;
comment on function purple_flea.record_trade(text, text, numeric, numeric, text) is
  'Records the position that an unknown job turned out to have opened, and makes its row of '
  'trade_results.';

create or replace function purple_flea.record_escrow(
  reference    text,
  pf_escrow_id text,
  fee          numeric default null
) returns void
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
    'status', 'executed',
    'reference', job.reference,
    'agent_id', job.agent_id,
    'pf_escrow_id', pf_escrow_id,
    'fee', fee
  )), 'operator');
end;
$$;
comment on function purple_flea.record_escrow(text, text, numeric) is
  'Records the escrow that an unknown job turned out to have made. Its description at Purple Flea '
  'ends in the job''s idempotency key.';
