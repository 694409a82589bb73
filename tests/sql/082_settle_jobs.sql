-- Many outcomes in one call: one that fails does not touch the others.
begin;
\ir setup/deposits.psql

-- An outcome that cannot be recorded is kept, and blocks no other one.
create temporary table broken as select pg_temp.deposit('a') as one, pg_temp.deposit('a') as two;
select public.claim_jobs(array[one, two], 2, pg_temp.t('four')) from broken;
select results_eq(
  format(
    $$select did from jsonb_to_recordset(public.settle_jobs(%L::json)) as r (did text)$$,
    jsonb_build_array(
      jsonb_build_object(
        'reference', one,
        'token', pg_temp.t('four'),
        'state', 'executed',
        'result', pg_temp.bet(10, 'b6') || '{"game": "poker"}'
      ),
      jsonb_build_object(
        'reference', one,
        'token', 'nonsense',
        'state', 'executed',
        'result', '{}'::jsonb
      ),
      jsonb_build_object(
        'reference', two,
        'token', pg_temp.t('four'),
        'state', 'executed',
        'result', pg_temp.bet(10, 'b7')
      )
    )
  ),
  array['not_settled', 'not_readable', 'settled'],
  'one that fails does not touch the others'
)
from broken;
select is(result ->> 'bet_id', 'b6', 'its outcome is in the job')
from purple_flea.jobs, broken
where reference = one;
select is(pg_temp.state_of(two), 'executed', 'the other is settled') from broken;
select throws_ok($$select public.settle_jobs('{}')$$, '22023', null, 'outcomes are an array');

-- Settling: an outcome that cannot be recorded does not stop the others.
create temporary table thirty as
  select pg_temp.deposit('a') as reference
  from generate_series(1, 30);
create temporary table token as select gen_random_uuid() as t;
select public.claim_jobs('{}', 100, t) from token;
create temporary table settled as
  select public.settle_jobs(
    (
      select json_agg(
        json_build_object(
          'reference', reference,
          'token', t,
          'state', 'executed',
          'result', case n
            when 7 then (
              '{"game": "crash", "wager": 10, "payout": 15, "outcome": "win", '
              '"nonce": 1e999999}'
            )::json
            when 9 then to_json(pg_temp.bet('b9') || '{"game": "poker"}')
            else to_json(pg_temp.bet('b' || n))
          end
        )
      )
      from
        (select reference, row_number() over (order by reference) as n from thirty) as numbered,
        token
    ),
    2
  ) as s;
select is(
  (select count(*)::int from settled, jsonb_array_elements(s) as r where r ->> 'did' = 'settled'),
  28,
  'the others are settled'
);
select is(
  (
    select array_agg(r ->> 'did' order by r ->> 'did')
    from settled, jsonb_array_elements(s) as r
    where r ->> 'did' <> 'settled'
  ),
  array['not_readable', 'not_settled'],
  'a number that no one can hold, and a game that is none, are told apart'
);
select is(
  (
    select count(*)::int
    from public.trade_results t
    where t.reference in (select reference from thirty)
  ),
  28,
  'with their rows'
);

select * from finish();
rollback;
