-- How the database notifies the function: through pg_net, or over Realtime to a listener.

alter table purple_flea.ledger
  add column if not exists notify_by text not null default 'pg_net',
  drop constraint if exists ledger_notify_by_check,
  add constraint ledger_notify_by_check check (notify_by in ('pg_net', 'realtime'));
comment on column purple_flea.ledger.notify_by is
  'How triggers notify the function: pg_net, or realtime (a message on the private topic doorbell, '
  'on which a listener calls the function). The sweeper uses pg_net with either.';
alter table purple_flea.ledger
  add column if not exists listener_user uuid;
comment on column purple_flea.ledger.listener_user is
  'The user of Supabase Auth as whom listeners join Realtime, where they cannot join as the role '
  'purple_flea_worker; null: none.';

-- Sequences, because no deposit waits for another one's row.
create sequence if not exists purple_flea.doorbell_spent
  minvalue 0 owned by purple_flea.ledger.only_row;
select setval('purple_flea.doorbell_spent', 0);
comment on sequence purple_flea.doorbell_spent is
  'The time up to which the rate of bells is spent, in tenths of a second since 1970.';
create sequence if not exists purple_flea.doorbell_rung_at
  minvalue 0 owned by purple_flea.ledger.only_row;
select setval('purple_flea.doorbell_rung_at', 0);
comment on sequence purple_flea.doorbell_rung_at is
  'The time of the last bell, in milliseconds since 1970. Its transaction may still be open.';
create sequence if not exists purple_flea.doorbell_rung_by
  minvalue 0 owned by purple_flea.ledger.only_row;
select setval('purple_flea.doorbell_rung_by', 0);
comment on sequence purple_flea.doorbell_rung_by is
  'The transaction of the last bell.';
