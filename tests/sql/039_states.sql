-- The sets of states agree with each other and with the state machine.
begin;
select * from no_plan();

create temporary view states as
  select unnest(
    array['pending', 'claimed', 'executed', 'skipped', 'rejected', 'unknown', 'dead']
  ) as state;
select matches(
  pg_get_constraintdef(c.oid), '''' || s.state || '''', 'the constraint knows ' || s.state
)
from pg_constraint c, states s where c.conname = 'jobs_state_check';
select set_eq(
  'select state from states where purple_flea.is_final(state)',
  array['executed', 'skipped', 'rejected', 'dead'], 'these states are final'
);
select set_eq(
  'select state from states where purple_flea.ended_without_effect(state)',
  $$select state from states where purple_flea.is_final(state) and state <> 'executed'$$,
  'of the final states one has an effect'
);
select is_empty(
  'select state from states where purple_flea.is_final(state) and purple_flea.is_under_way(state)',
  'no final state is under way'
);
select set_eq(
  $$
    select state
    from states
    where not purple_flea.is_final(state) and not purple_flea.is_under_way(state)
  $$,
  array['unknown'],
  'an unknown job is neither'
);

select * from finish();
rollback;
