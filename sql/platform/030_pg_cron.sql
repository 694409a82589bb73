-- The sweeper's timer. With pg_cron the database has its own. Before version 1.5 pg_cron knows no
-- seconds, and runs the job each minute.
do $$
declare
  version text;
begin
  if not exists (select from pg_catalog.pg_extension e where e.extname = 'pg_cron')
    and exists (select from pg_catalog.pg_available_extensions e where e.name = 'pg_cron') then
    begin
      create extension pg_cron;
    exception when others then
      raise notice 'pg_cron could not be enabled (%)', sqlerrm;
    end;
  end if;
  select e.extversion into version from pg_catalog.pg_extension e where e.extname = 'pg_cron';
  if version is null then
    raise notice 'without pg_cron a timer of yours has to call purple_flea.sweep() '
      'every 10 seconds: docs/deploy/supabase.md has one';
    return;
  end if;
  begin
    -- Release 0.1.0 gave the job this name.
    perform cron.unschedule(j.jobid) from cron.job j where j.jobname = 'purple-flea-ring';
    perform cron.schedule(
      'purple-flea-sweep',
      case
        when regexp_match(version, '^(\d+)\.(\d+)')::integer[] >= array[1, 5] then '10 seconds'
        else '* * * * *'
      end,
      'select purple_flea.sweep()'
    );
    -- pg_cron itself keeps a row for each run, for ever. A run that failed may have no end, or
    -- neither begin nor end: then its number tells that it is old.
    perform cron.schedule('purple-flea-prune', '7 * * * *', $prune$
      delete from cron.job_run_details d
      using cron.job j
      where d.jobid = j.jobid
        and j.jobname like 'purple-flea-%'
        and case
          when coalesce(d.end_time, d.start_time) is not null
            then coalesce(d.end_time, d.start_time) < now() - interval '1 hour'
          else d.runid < (select max(r.runid) - 1000 from cron.job_run_details r)
        end
    $prune$);
  exception when others then
    raise notice 'pg_cron takes no job from this role (%): '
      'a timer of yours has to call purple_flea.sweep() every 10 seconds', sqlerrm;
  end;
end;
$$;
