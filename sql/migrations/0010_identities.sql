-- Rows that the ledger could not work with: a table without a primary key, and ids below 1.

-- A publication of all tables, which change data capture makes, lets no row be updated or deleted
-- that has no identity.
alter table purple_flea.rate_slots
  add column id bigint not null generated always as identity primary key;
comment on column purple_flea.rate_slots.id is 'Nothing but the row''s identity.';

-- Ids begin at 1 only by default. A ledger that began without any row, or above all rows below 1,
-- has seen none of them: they are all newer than it.
update purple_flea.ledger l
set starts_after = -9223372036854775808
where l.starts_after = 0
  and not exists (
    select
    from public.wallet_changes w
    where w.id <= 0
      and not exists (select from purple_flea.jobs j where j.wallet_change_id = w.id)
      and not exists (select from purple_flea.jobs_archive a where a.wallet_change_id = w.id)
  );

comment on column public.agents.balance_at is
  'The time of the claim that brought Purple Flea''s last word on the balance.';
