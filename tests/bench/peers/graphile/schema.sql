-- The two tables of the specification, and the trigger that makes a job for each deposit.

create table public.wallet_changes (
  id            bigserial     primary key,
  agent_id      text          not null,
  change_type   text          not null,
  change_amount numeric(12,4),
  new_balance   numeric(12,4),
  created_at    timestamptz   not null default now()
);
create table public.trade_results (
  id         bigserial     primary key,
  agent_id   text          not null,
  game       text,
  wager      numeric(12,4),
  outcome    text,
  payout     numeric(12,4),
  created_at timestamptz   not null default now(),
  bet_id     text,
  reference  text          not null unique
);

create function public.make_job() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform graphile_worker.add_job(
    'bet',
    json_build_object(
      'id', new.id, 'agent_id', new.agent_id, 'new_balance', new.new_balance::float8
    )
  );
  return null;
end;
$$;
create trigger make_job
  after insert on public.wallet_changes
  for each row when (new.change_type = 'deposit') execute function public.make_job();
