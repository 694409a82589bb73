-- The seats of requests that wait for an event. A host gives each instance of the function only
-- some requests at once, and makes more instances as it needs them. So a limit of one instance
-- would not limit the calls that all of them make to the database.

create table if not exists purple_flea.feed_seats (
  seat   smallint    primary key,
  waiter uuid,
  until  timestamptz not null default '-infinity'
);
comment on table purple_flea.feed_seats is
  'A row for each request to GET /events that may wait at the same time.';
comment on column purple_flea.feed_seats.waiter is 'The function''s name for the request.';
comment on column purple_flea.feed_seats.until is
  'The seat is free after this time, also if the request has ended without leaving it.';

insert into purple_flea.feed_seats (seat)
select n
from generate_series(1, 32) as n
on conflict do nothing;

alter table purple_flea.feed_seats enable row level security;
