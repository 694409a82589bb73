-- Settles the outcomes that a function's log holds. The caller has filled pg_temp.given, a row for
-- each line of the log. It skips a line that is no JSON or has another subject. An outcome that
-- is recorded already changes nothing.
create function pg_temp.outcome(line text) returns jsonb
  language plpgsql
as $$
declare
  -- A host may put a prefix before each line.
  object jsonb := substr(line, nullif(position('{' in line), 0))::jsonb;
begin
  if object ->> 'event' = 'settle'
    and object ->> 'code' in ('not_settled', 'not_settled_yet')
    and object ? 'token' then
    return object;
  end if;
  return null;
exception when others then
  return null;
end;
$$;

create function pg_temp.record(outcome jsonb) returns text
  language plpgsql
as $$
begin
  return public.settle_job(
    outcome ->> 'reference',
    (outcome ->> 'token')::uuid,
    outcome ->> 'state',
    outcome -> 'result'
  ) ->> 'did';
exception when others then
  return 'failed: ' || sqlerrm;
end;
$$;

select o.outcome ->> 'reference' || ' ' || pg_temp.record(o.outcome)
from (
  select distinct on (g.outcome ->> 'reference', g.outcome ->> 'token', g.outcome ->> 'state')
    g.outcome
  from (select pg_temp.outcome(value) as outcome from pg_temp.given) as g
  where g.outcome is not null
) as o
order by 1;
