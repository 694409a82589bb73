-- Bets that callers request: one coin-flip, crash or hi-lo, under the policy of its agent.

-- The function checks the same. A job that no worker can read would never end.
create or replace function purple_flea.is_bet(details jsonb) returns boolean
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  cashout_at constant text := details ->> 'cashout_at';
begin
  if coalesce(details ->> 'wager', '') !~ '^[0-9]{1,8}(\.[0-9]{1,4})?$' then
    return false;
  end if;
  -- Each game has its own parameter and no other, so that no request is read as another game.
  return case details ->> 'game'
    when 'coin-flip' then
      coalesce(details ->> 'side', '') in ('heads', 'tails')
      and not details ?| array['cashout_at', 'guess']
    when 'crash' then
      not details ?| array['side', 'guess']
      and case
        when cashout_at ~ '^[0-9]{1,3}(\.[0-9]{1,2})?$'
          then cashout_at::numeric between 1.01 and 100
        else false
      end
    when 'hi-lo' then
      coalesce(details ->> 'guess', '') in ('higher', 'lower')
      and not details ?| array['side', 'cashout_at']
    else false
  end;
end;
$$;
comment on function purple_flea.is_bet(jsonb) is
  'Says whether a request names a bet: its game, the parameter of that game, and a wager.';

create or replace function purple_flea.request_bet(reference text, agent text, details jsonb)
  returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not purple_flea.is_bet(details) then
    return purple_flea.refused('invalid_bet');
  end if;
  return purple_flea.request_stake('bet', request_bet.reference, agent, details);
end;
$$;
comment on function purple_flea.request_bet(text, text, jsonb) is 'Asks for a bet.';
