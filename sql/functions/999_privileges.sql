-- The least privilege for each role, after every function and view is made. Postgres lets PUBLIC
-- execute each new function, and Supabase's default privileges give everything in `public` to anon,
-- authenticated and service_role. So all is revoked by name, and the few grants follow.
--
-- Default privileges would not do: those of a schema cannot take away what PUBLIC gets by default,
-- and those of the role would change the other functions of the same database.

-- The private schema. Only the owner may use it.
revoke all
  on schema purple_flea
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
revoke all
  on all tables in schema purple_flea
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
revoke all
  on all sequences in schema purple_flea
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
revoke execute
  on all functions in schema purple_flea
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
-- Policies and views evaluate them as the role that reads.
grant execute on function purple_flea.caller() to authenticated, service_role;
grant execute
  on function
    purple_flea.is_listener(), purple_flea.is_member(uuid), purple_flea.may_follow(text),
    purple_flea.may_signal(text)
  to authenticated;
grant execute
  on function purple_flea.is_listeners_topic(text)
  to anon, authenticated, purple_flea_worker;

-- The API. A function that is not granted below may be called by its owner alone.
revoke execute
  on function
    public.abandon_claim, public.await_jobs, public.claim_jobs, public.claim_lookups,
    public.claim_deliveries, public.create_api_key, public.create_event_subscription,
    public.delete_event_subscription, public.enable_event_subscription, public.end_watch,
    public.ledger_health, public.may_act_for, public.operate, public.read_events,
    public.read_record, public.redeliver_events, public.request_job, public.revoke_api_key,
    public.settle_deliveries, public.settle_job, public.settle_jobs
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant execute
  on function
    public.abandon_claim, public.await_jobs, public.claim_jobs, public.claim_lookups,
    public.end_watch, public.ledger_health, public.read_events, public.read_record,
    public.request_job, public.settle_job, public.settle_jobs
  to service_role, purple_flea_worker;
grant execute
  on function public.claim_deliveries, public.settle_deliveries
  to service_role, purple_flea_worker;
-- They check that the caller manages the tenant.
grant execute
  on function
    public.create_api_key, public.create_event_subscription, public.delete_event_subscription,
    public.enable_event_subscription, public.redeliver_events, public.revoke_api_key
  to authenticated, service_role;
revoke execute
  on function public.leave_feed_seat, public.take_feed_seat
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant execute
  on function public.leave_feed_seat, public.take_feed_seat
  to service_role, purple_flea_worker;
-- Listeners call them.
revoke execute
  on function public.fleet_owners, public.look_after_bell, public.report_presence
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant execute
  on function public.fleet_owners, public.look_after_bell, public.report_presence
  to service_role, purple_flea_worker;
-- They check that the caller owns the agent.
revoke execute
  on function public.assign_task, public.finish_task, public.heartbeat
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant execute
  on function public.assign_task, public.finish_task, public.heartbeat
  to authenticated, service_role;
revoke execute
  on function
    public.claim_workflow_step, public.end_workflow_step, public.workflow_account,
    public.workflow_escrow
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant execute
  on function
    public.claim_workflow_step, public.end_workflow_step, public.workflow_account,
    public.workflow_escrow
  to service_role, purple_flea_worker;
revoke execute
  on function
    public.follow_signals, public.publish_signal, public.set_signal_policy, public.signal_senders,
    public.take_broadcast_signal
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant execute
  on function public.follow_signals, public.set_signal_policy
  to authenticated, service_role;
-- The worker publishes what the function has found signed.
grant execute on function public.publish_signal to authenticated, service_role, purple_flea_worker;
grant execute
  on function public.signal_senders, public.take_broadcast_signal
  to service_role, purple_flea_worker;
grant execute on function public.may_act_for to authenticated;
grant execute on function public.operate to service_role, purple_flea_operator;

revoke all
  on public.agent_jobs, public.event_types, public.fleet, public.referral_earnings
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant select on public.agent_jobs, public.fleet to authenticated;
grant select on public.referral_earnings to authenticated, service_role;
grant select on public.event_types to authenticated, service_role, purple_flea_worker;
