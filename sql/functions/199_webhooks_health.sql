-- The health of webhooks, for ledger_health().

create or replace function purple_flea.webhooks_health() returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- A listener claims at least once a minute (its --poll-ms), and the ledger notes it every ten
  -- seconds.
  patience constant interval := '2 minutes';
  at       constant timestamptz := clock_timestamp();
begin
  return (
    select jsonb_build_object(
      'active', count(*) filter (where s.state = 'active'),
      'disabled', count(*) filter (where s.state = 'disabled'),
      'failing', count(*) filter (where s.state = 'active' and s.first_failure_at is not null),
      'held_back', count(*) filter (where s.state = 'active' and s.held_back_since is not null),
      'pending', coalesce(sum(p.pending), 0),
      'oldest_due_s', floor(extract(
        epoch from at - min(p.due_at) filter (where p.due_at <= at)
      ))::bigint,
      'listener', case
        when (select l.claimed_at from purple_flea.listeners l) > at - patience then 'ok'
        when count(*) filter (where s.state = 'active' and s.created_at < at - patience) = 0
          then 'not_needed'
        else 'missing'
      end
    )
    from public.event_subscriptions s
    join purple_flea.subscription_progress p on p.subscription_id = s.id
  );
end;
$$;
comment on function purple_flea.webhooks_health() is
  'Counts the webhook subscriptions and their pending deliveries, and says whether a listener '
  'claims them: ok, missing, or not_needed.';
