-- Applies the files in pg_temp.purple_flea_files that the database lacks: one statement, so one
-- transaction and one message. From the first lock to the commit nothing crosses the network,
-- so the distance to the database does not matter. The settings purple_flea.* are its arguments.
do $purple_flea_engine$
declare
  this_release constant text    := current_setting('purple_flea.release');
  allowed      constant text[]  := string_to_array(
    current_setting('purple_flea.allowed_triggers'), ',');
  tries        constant integer := current_setting('purple_flea.tries');
  reapply      constant boolean := current_setting('purple_flea.reapply');
  -- A client that cannot run statements outside a transaction gets those files along with the rest.
  inline       constant boolean := current_setting('purple_flea.inline');
  functions    boolean;
  replaces     boolean;
  locked_at    timestamptz;
  locked_ms    integer;
  applied      text[] := '{}';
  dropped      text[] := '{}';
  later        text[] := '{}';
  platform_was text;
  platform     boolean;
  changed      boolean;
begin
  perform pg_temp.purple_flea_check_server();
  -- Two runs never overlap.
  if not pg_try_advisory_xact_lock(hashtextextended('purple_flea:migrate', 0)) then
    raise exception 'another migration of this database is at work'
      using errcode = 'lock_not_available';
  end if;
  perform pg_temp.purple_flea_refuse_triggers(allowed);
  perform pg_temp.purple_flea_choose_parts();
  perform pg_temp.purple_flea_apply('groundwork');
  if not pg_temp.purple_flea_check_files(this_release, inline) then
    return;
  end if;

  functions := reapply or pg_temp.purple_flea_is_behind(inline);
  replaces  := exists (
    select from pg_temp.purple_flea_foreign_triggers() f where f.is_specifications
  );
  raise info 'applying ';
  if functions or replaces then
    perform pg_temp.purple_flea_lock(tries);
    locked_at := clock_timestamp();
  end if;
  if replaces then
    dropped := pg_temp.purple_flea_replace_trigger();
  end if;
  if functions then
    perform pg_temp.purple_flea_clear();
    applied := pg_temp.purple_flea_apply_release(this_release, inline);
    perform pg_temp.purple_flea_restore_grants();
  end if;

  platform_was := pg_temp.purple_flea_platform();
  perform pg_temp.purple_flea_apply('platform');
  platform  := pg_temp.purple_flea_platform() <> platform_was;
  changed   := functions or replaces or platform;
  locked_ms := extract(epoch from clock_timestamp() - locked_at) * 1000;
  if inline then
    perform pg_temp.purple_flea_validate();
  else
    later := pg_temp.purple_flea_later();
  end if;
  if changed then
    perform pg_notify('pgrst', 'reload schema');
  end if;

  perform pg_temp.purple_flea_tell('report ' || json_build_object(
    'release', this_release,
    'changed', changed,
    'applied', applied,
    'functions', functions,
    'dropped', dropped,
    'platform', platform,
    'locked_ms', coalesce(locked_ms, 0)
  ));
  perform pg_temp.purple_flea_tell('summary ' || concat_ws('; ',
    case when cardinality(applied) > 0 then 'migrations: ' || array_to_string(applied, ', ') end,
    case when functions then 'functions, views and triggers' end,
    case when cardinality(dropped) > 0 then 'dropped: ' || array_to_string(dropped, ', ') end,
    case when platform then 'extensions, publication or cron jobs' end,
    case when locked_ms is not null then format('the tables were locked for %s ms', locked_ms) end
  ));
  if cardinality(later) > 0 or exists (select from pg_temp.purple_flea_not_valid()) then
    perform pg_temp.purple_flea_tell('online ' || array_to_string(later, ' '));
  end if;
end;
$purple_flea_engine$;
