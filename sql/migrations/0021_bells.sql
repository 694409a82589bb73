-- Which bells were sent. A transaction relies on a bell only if it sees the bell's row: the row
-- stands exactly if the message does, also where a subtransaction is rolled back.
create table if not exists purple_flea.doorbell_bells (
  -- Two transactions may ring in the same millisecond, and none waits for the other.
  id         bigint generated always as identity primary key,
  rung_at_ms bigint not null
);
comment on table purple_flea.doorbell_bells is
  'The bells that were sent. A sweep deletes rows after a minute.';
comment on column purple_flea.doorbell_bells.rung_at_ms is
  'The time of the bell, in milliseconds since 1970, as in doorbell_rung_at.';
create index if not exists doorbell_bells_rung_at_ms_idx
  on purple_flea.doorbell_bells (rung_at_ms);
alter table purple_flea.doorbell_bells enable row level security;

-- A transaction that has committed can have rolled its bell back.
drop sequence if exists purple_flea.doorbell_rung_by;
drop function if exists purple_flea.relies_on_bell();
