-- Sets of states that rules depend on. The constraint jobs_transition_check says which state may
-- follow which. These functions have no search path of their own, because Postgres inlines no
-- function that has one, and only an inlined list matches the partial indexes of jobs.

create or replace function purple_flea.is_final(state text) returns boolean
  language sql
  immutable
as $$
  select state in ('executed', 'skipped', 'rejected', 'dead')
$$;
comment on function purple_flea.is_final(text) is 'Says whether a job never leaves this state.';

create or replace function purple_flea.ended_without_effect(state text) returns boolean
  language sql
  immutable
as $$
  select state in ('skipped', 'rejected', 'dead')
$$;
comment on function purple_flea.ended_without_effect(text) is
  'Says whether a job in this state has ended, and Purple Flea has executed nothing for it.';

create or replace function purple_flea.is_under_way(state text) returns boolean
  language sql
  immutable
as $$
  select state in ('pending', 'claimed')
$$;
comment on function purple_flea.is_under_way(text) is
  'Says whether a job in this state is yet to be executed, or a worker is executing it.';
