-- With pg_cron nobody has to set anything up. Before 1.5 it knows no seconds, and minutes have to do.
do $$
declare
  version text;
begin
  if not exists (select from pg_catalog.pg_extension where extname = 'pg_cron')
    and exists (select from pg_catalog.pg_available_extensions where name = 'pg_cron') then
    begin
      create extension pg_cron;
    exception when others then
      raise notice 'pg_cron could not be enabled (%)', sqlerrm;
    end;
  end if;
  select extversion into version from pg_catalog.pg_extension where extname = 'pg_cron';
  if version is null then
    raise notice 'without pg_cron somebody has to call purple_flea.ring() every 10 seconds: the README has a timer for it';
    return;
  end if;
  begin
  perform cron.schedule('purple-flea-ring',
    case when regexp_match(version, '^(\d+)\.(\d+)')::integer[] >= array[1, 5] then '10 seconds' else '* * * * *' end,
    'select purple_flea.ring()');
  -- It keeps a row for each run, for ever.
  perform cron.schedule('purple-flea-prune', '7 * * * *', $prune$
    delete from cron.job_run_details d using cron.job j
    where d.jobid = j.jobid and j.jobname like 'purple-flea-%' and d.end_time < now() - interval '1 hour'
  $prune$);
  exception when others then
    raise notice 'pg_cron is there, but takes no job from us (%): somebody has to call purple_flea.ring()', sqlerrm;
  end;
end;
$$;
