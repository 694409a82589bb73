-- How many messages a second the database sends over Realtime. Realtime drops what is above the
-- tenant's own rate (100 a second on average over a minute) without a sign. A sender of too
-- many makes every subscriber deaf for the rest of that minute.

alter table purple_flea.ledger
  add column if not exists realtime_events_per_s integer not null default 50,
  drop constraint if exists ledger_realtime_events_per_s_check,
  add constraint ledger_realtime_events_per_s_check
    check (realtime_events_per_s between 0 and 10000);
comment on column purple_flea.ledger.realtime_events_per_s is
  'The messages a second that the database sends over Realtime, on average over 10 seconds; 0: '
  'none.';

-- Sequences, because a settlement does not wait for another one's row, and because a rollback takes
-- no count back.
create sequence purple_flea.realtime_spent minvalue 0 owned by purple_flea.ledger.only_row;
select setval('purple_flea.realtime_spent', 0);
comment on sequence purple_flea.realtime_spent is
  'The time up to which the rate of messages is spent, in units of a second divided by the rate.';
create sequence purple_flea.realtime_dropped minvalue 0 owned by purple_flea.ledger.only_row;
select setval('purple_flea.realtime_dropped', 0);
comment on sequence purple_flea.realtime_dropped is
  'How many messages were not sent, because they were above the rate.';
create sequence purple_flea.realtime_warned minvalue 0 owned by purple_flea.ledger.only_row;
select setval('purple_flea.realtime_warned', 0);
comment on sequence purple_flea.realtime_warned is
  'The time of the last warning of Realtime, in seconds since 1970.';
