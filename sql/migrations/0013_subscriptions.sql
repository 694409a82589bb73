-- Webhook subscriptions: who wants which events, what is still to be delivered, and how it went.

create table if not exists public.event_subscriptions (
  id               uuid        primary key default gen_random_uuid(),
  tenant_id        uuid        not null references public.tenants on delete cascade,
  url              text        not null,
  types            text[]      not null default '{}',
  created_by       uuid,
  created_at       timestamptz not null default now(),
  state            text        not null default 'active',
  disabled_reason  text,
  disabled_at      timestamptz,
  last_success_at  timestamptz,
  first_failure_at timestamptz,
  held_back_since  timestamptz,
  constraint event_subscriptions_url_check
    check (url ~ '^https://' and char_length(url) <= 2048),
  constraint event_subscriptions_state_check
    check (state in ('active', 'disabled')),
  constraint event_subscriptions_disabled_reason_check
    check ((state = 'disabled') = (disabled_reason is not null)),
  constraint event_subscriptions_disabled_at_check
    check ((state = 'disabled') = (disabled_at is not null))
);
comment on table public.event_subscriptions is
  'The receivers that a tenant''s events are sent to. Functions of the owner change it. A '
  'subscription''s secret is in the vault, as purple_flea_subscription:<id>.';
comment on column public.event_subscriptions.url is
  'The receiver''s address: https, without a user, a query and a fragment.';
comment on column public.event_subscriptions.types is
  'The types of events that are sent; empty: all of them.';
comment on column public.event_subscriptions.created_by is
  'The user who made it; null: the service or the operator.';
comment on column public.event_subscriptions.state is
  'active, or disabled: then nothing is sent, and its place in the feed stays.';
comment on column public.event_subscriptions.disabled_reason is
  'gone (the receiver answered 410), failing (a day without a success), or ledger_uninstalled.';
comment on column public.event_subscriptions.first_failure_at is
  'The first failure since the last success; null: the last attempt succeeded.';
comment on column public.event_subscriptions.held_back_since is
  'The time since which it gets no new events, because too many deliveries are pending; null '
  'otherwise. It misses none: they wait in the feed.';
create index if not exists event_subscriptions_tenant_id_idx
  on public.event_subscriptions (tenant_id);

create table if not exists public.event_delivery_attempts (
  id              bigint      generated always as identity primary key,
  subscription_id uuid        not null,
  tenant_id       uuid        not null,
  event_id        bigint      not null,
  webhook_id      text        not null,
  attempt         integer     not null,
  at              timestamptz not null,
  outcome         text        not null,
  status          integer,
  error           text,
  ms              integer,
  next_attempt_at timestamptz,
  constraint event_delivery_attempts_outcome_check
    check (outcome in ('delivered', 'failed', 'given_up'))
);
comment on table public.event_delivery_attempts is
  'The log of attempts to deliver an event. A sweep deletes rows after 7 days.';
comment on column public.event_delivery_attempts.webhook_id is
  'The header webhook-id, the same for every attempt of an event.';
comment on column public.event_delivery_attempts.attempt is 'The number of the attempt, from 1.';
comment on column public.event_delivery_attempts.outcome is
  'delivered, failed (there is another attempt), or given_up.';
comment on column public.event_delivery_attempts.status is
  'The HTTP status of the answer; null without one.';
comment on column public.event_delivery_attempts.error is
  'Why it failed, as a code; null if it did not.';
comment on column public.event_delivery_attempts.ms is 'How long it took, in milliseconds.';
comment on column public.event_delivery_attempts.next_attempt_at is
  'The time of the next attempt; null if there is none.';
create index if not exists event_delivery_attempts_subscription_idx
  on public.event_delivery_attempts (subscription_id, id);
create index if not exists event_delivery_attempts_at_idx
  on public.event_delivery_attempts (at);

create table purple_flea.subscription_progress (
  subscription_id uuid        primary key
                    references public.event_subscriptions on delete cascade,
  tenant_id       uuid        not null,
  epoch           integer     not null,
  position        bigint      not null,
  event_id        bigint      not null,
  pending         integer     not null default 0 check (pending >= 0),
  due_at          timestamptz
);
comment on table purple_flea.subscription_progress is
  'How far each subscription is. Every function that changes a subscription''s deliveries holds '
  'the lock of its row here.';
comment on column purple_flea.subscription_progress.epoch is
  'With position and event_id: the place in the feed up to which there are deliveries.';
comment on column purple_flea.subscription_progress.pending is 'How many deliveries it has.';
comment on column purple_flea.subscription_progress.due_at is
  'The time from which a claim may find something; null: nothing waits, or it is disabled.';
create index subscription_progress_due_idx
  on purple_flea.subscription_progress (due_at)
  where due_at is not null;

create table purple_flea.event_deliveries (
  subscription_id uuid        not null
                    references purple_flea.subscription_progress on delete cascade,
  event_id        bigint      not null,
  subject         text        not null,
  epoch           integer     not null,
  position        bigint      not null,
  webhook_id      text        not null,
  attempts        integer     not null default 0,
  due_at          timestamptz,
  token           uuid,
  primary key (subscription_id, event_id)
);
comment on table purple_flea.event_deliveries is
  'The events that are still to be delivered. A delivered one is deleted.';
comment on column purple_flea.event_deliveries.due_at is
  'The time of the next attempt, or the end of the lease of a claimed delivery; null: it waits for '
  'the delivery before it of the same subject.';
comment on column purple_flea.event_deliveries.token is
  'The claim that has it; null: it is not claimed. A claim whose lease is over has it in vain.';
-- The due ones; the order within a subject; the claimed ones.
create index event_deliveries_due_idx
  on purple_flea.event_deliveries (subscription_id, due_at)
  where due_at is not null;
create index event_deliveries_subject_idx
  on purple_flea.event_deliveries (subscription_id, subject, epoch, position, event_id);
create index event_deliveries_claimed_idx
  on purple_flea.event_deliveries (subscription_id, due_at)
  where token is not null;

create table purple_flea.listeners (
  only_row   boolean     primary key default true check (only_row),
  claimed_at timestamptz
);
comment on table purple_flea.listeners is 'When a listener claimed last, in one row.';
comment on column purple_flea.listeners.claimed_at is
  'The time of the last claim of deliveries, exact to ten seconds.';
insert into purple_flea.listeners default values;

alter table public.event_subscriptions        enable row level security;
alter table public.event_delivery_attempts    enable row level security;
alter table purple_flea.subscription_progress enable row level security;
alter table purple_flea.event_deliveries      enable row level security;
alter table purple_flea.listeners             enable row level security;

-- An uninstalled ledger left its subscriptions. Their secrets may be gone. An owner enables them,
-- and they begin with this feed.
update public.event_subscriptions s
set state           = 'disabled',
    disabled_reason = 'ledger_uninstalled',
    disabled_at     = now()
where s.state = 'active';
insert into purple_flea.subscription_progress
  (subscription_id, tenant_id, epoch, position, event_id)
select s.id, s.tenant_id, f.epoch, 0, 0
from public.event_subscriptions s
cross join purple_flea.feed f;
