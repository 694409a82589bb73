-- The wallet of an agent, for the daily claim.

-- The gateway's daily claim pays to this address, and an escrow names it as its receiver. It goes
-- out with each job, so it is short.
alter table public.agents add column if not exists wallet_address text;
do $$
begin
  if not exists (
    select
    from pg_catalog.pg_constraint t
    where t.conrelid = 'public.agents'::regclass
      and t.conname = 'agents_wallet_address_check'
  ) then
    -- Validated later, outside this transaction, so that no deposit waits for it.
    alter table public.agents add constraint agents_wallet_address_check check (
      octet_length(wallet_address) between 1 and 128 and wallet_address !~ '[[:cntrl:]]'
    ) not valid;
  end if;
end;
$$;
comment on column public.agents.wallet_address is
  'The address of the agent''s wallet. The gateway pays the daily claim to it. Null: there is '
  'none.';

comment on column purple_flea.trade_policies.claim_daily is
  'Whether an agent makes the daily claim. In the live dialect an agent that uses the shared key '
  'makes none.';

-- Functions whose arguments have changed.
drop function if exists purple_flea.is_fresh(text);
