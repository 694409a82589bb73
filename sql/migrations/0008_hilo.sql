-- Hi-lo, a game of the live dialect, and Kelly's limit on a bet.

alter table purple_flea.trade_policies
  add column guess text not null default 'higher',
  add column risk_factor numeric(7,6),
  drop constraint trade_policies_game_check,
  add constraint trade_policies_game_check check (
    game in ('crash', 'coin-flip', 'hi-lo')
    or (game = 'trade' and market is not null)
  ),
  add constraint trade_policies_guess_check
    check (guess in ('higher', 'lower')),
  add constraint trade_policies_risk_factor_check
    check (risk_factor between 0.1 and 1);
comment on column purple_flea.trade_policies.game is
  'The game for deposits: crash, coin-flip, hi-lo or trade. The gateway has no hi-lo.';
comment on column purple_flea.trade_policies.guess is
  'higher or lower, for hi-lo: how the second card compares with the first.';
comment on column purple_flea.trade_policies.risk_factor is
  'The fraction of Kelly''s bet that one bet may stake in the live dialect: 0.1 to 1; null: no '
  'such limit.';

-- An existing policy gets the limit only if its bets are within the limit. The others go on as
-- before: their accounts may hold more than the wallets from which they stake.
update purple_flea.trade_policies p
set risk_factor = 0.25
where p.wager_fraction <= 0.25 * case p.game
  when 'crash' then 0.995 / p.cashout_at
  else 0.5
end;
alter table purple_flea.trade_policies alter column risk_factor set default 0.25;

-- The released servers count by address and path, and by account for all games together.
insert into purple_flea.rate_limits (api, calls, per, most, within)
values ('live', '{hi-lo}', 'deployment', 60, '60 seconds')
on conflict do nothing;
update purple_flea.rate_limits l
set calls = '{crash,coin-flip,hi-lo}'
where l.api = 'live'
  and l.per = 'account'
  and l.calls = '{crash,coin-flip}';
comment on column purple_flea.rate_limits.calls is
  'The calls that count together: crash, coin-flip, hi-lo, trade, or a kind of job.';
