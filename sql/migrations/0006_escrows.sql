-- What Purple Flea says about an escrow, and the steps that only its live API has: completion and
-- dispute.

-- An uninstalled ledger leaves its tables as they are, so the columns may be there.
alter table public.escrow_requests
  add column if not exists dispute_reason  text,
  add column if not exists auto_release_at timestamptz,
  add column if not exists completed_at    timestamptz,
  add column if not exists referral_due    numeric(12,4),
  add column if not exists tx_hash         text,
  drop constraint if exists escrow_requests_dispute_reason_check,
  add constraint escrow_requests_dispute_reason_check
    check (char_length(dispute_reason) between 1 and 200),
  drop constraint if exists escrow_requests_requested_status_check,
  add constraint escrow_requests_requested_status_check
    check (requested_status in ('released', 'cancelled', 'completed', 'disputed'));
comment on column public.escrow_requests.requested_status is
  'The status that an owner requests: released, cancelled or disputed by the sender''s, completed '
  'or disputed by the receiver''s.';
comment on column public.escrow_requests.dispute_reason is
  'The reason of a dispute, 1 to 200 characters.';
comment on column public.escrow_requests.auto_release_at is
  'The time at which Purple Flea ends the escrow by itself. A worker then reads how it ended.';
comment on column public.escrow_requests.completed_at is
  'The time at which the ledger learned that the receiver has delivered.';
comment on column public.escrow_requests.referral_due is
  'The share of the fee, in US dollars, that Purple Flea pays the sender''s orchestrator when it '
  'releases or refunds the escrow: 15 %. Null if no referral code was sent.';
comment on column public.escrow_requests.referral_earned is
  'The earnings of the sender''s orchestrator in US dollars. Where the reply of the release got '
  'lost, or a timeout ended the escrow, they are referral_due.';
comment on column public.escrow_requests.tx_hash is
  'The transaction of the last step on its chain, if Purple Flea tells it.';

-- Escrows of earlier releases. Purple Flea's default timeout is 24 hours.
update public.escrow_requests e
set auto_release_at = e.created_at + make_interval(hours => coalesce(e.timeout_hours, 24))
where e.status = 'pending'
  and e.pf_escrow_id is not null;

create index if not exists escrow_requests_open_idx
  on public.escrow_requests (auto_release_at)
  where status = 'pending' and pf_escrow_id is not null;

-- It has a third argument now.
drop function if exists public.may_act_for(text, bigint);
