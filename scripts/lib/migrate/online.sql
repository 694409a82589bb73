-- The beginning of what follows the transaction, statement by statement: for psql, which has run
-- the session's settings already.
select pg_try_advisory_lock(hashtextextended('purple_flea:migrate', 0)) as alone \gset
\if :alone
\else
  do $$
  begin
    raise exception 'another migration of this database is at work'
      using errcode = 'lock_not_available';
  end;
  $$;
\endif
