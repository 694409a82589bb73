-- The beginning of the statements that follow the transaction one by one. psql has run the
-- session's settings already.
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
