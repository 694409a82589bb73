-- Bets that callers request count in the limits of Purple Flea's games. A claim knows the kind of a
-- job and not its game, so a bet counts in the limit of each game.
update purple_flea.rate_limits l
set calls = l.calls || '{bet}'
where l.api = 'live'
  and l.calls && '{crash,coin-flip,hi-lo}'
  and not l.calls && '{bet}';
comment on column purple_flea.rate_limits.calls is
  'The calls that count together: crash, coin-flip, hi-lo, trade, or a kind of job. A kind may '
  'count in several limits.';
