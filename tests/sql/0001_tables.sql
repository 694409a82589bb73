-- The specification's tables: names, types, defaults, and refused values.
begin;
select plan(49);

select columns_are(
  'public',
  'agents',
  array[
    'id', 'api_key', 'balance', 'status', 'created_at', 'owner_id', 'pf_agent_id',
    'referral_code', 'orchestrator_id', 'balance_at', 'wallet_address', 'tenant_id',
    'last_seen_at', 'task', 'task_state', 'task_escrow_id', 'idle_since'
  ]
);
select columns_are(
  'public',
  'wallet_changes',
  array['id', 'agent_id', 'change_type', 'change_amount', 'new_balance', 'created_at']
);
select columns_are(
  'public',
  'trade_results',
  array[
    'id', 'agent_id', 'game', 'wager', 'outcome', 'payout', 'created_at', 'reference', 'bet_id',
    'market', 'direction', 'entry_price', 'position_id', 'order_id', 'proof', 'leverage'
  ]
);
select columns_are(
  'public',
  'escrow_requests',
  array[
    'id', 'sender_id', 'receiver_id', 'amount', 'pf_escrow_id', 'status', 'created_at',
    'requested_status', 'description', 'timeout_hours', 'fee', 'referral_earned', 'reason',
    'asked_as', 'dispute_reason', 'auto_release_at', 'completed_at', 'referral_due', 'tx_hash'
  ]
);

select col_type_is('public', 'agents', 'id', 'text', 'agents.id has its type');
select col_type_is('public', 'agents', 'balance', 'numeric(12,4)', 'agents.balance has its type');
select col_type_is('public', 'agents', 'owner_id', 'uuid', 'agents.owner_id has its type');
select col_type_is('public', 'wallet_changes', 'id', 'bigint', 'wallet_changes.id has its type');
select col_type_is(
  'public',
  'wallet_changes',
  'change_amount',
  'numeric(12,4)',
  'wallet_changes.change_amount has its type'
);
select col_type_is(
  'public',
  'wallet_changes',
  'new_balance',
  'numeric(12,4)',
  'wallet_changes.new_balance has its type'
);
select col_type_is(
  'public',
  'trade_results',
  'wager',
  'numeric(12,4)',
  'trade_results.wager has its type'
);
select col_type_is(
  'public',
  'trade_results',
  'payout',
  'numeric(12,4)',
  'trade_results.payout has its type'
);
select col_type_is(
  'public',
  'escrow_requests',
  'amount',
  'numeric(12,4)',
  'escrow_requests.amount has its type'
);
select col_default_is('public', 'agents', 'api_key', ''::text, 'agents.api_key has its default');
select col_default_is(
  'public',
  'agents',
  'balance',
  '0'::numeric,
  'agents.balance has its default'
);
select col_default_is('public', 'agents', 'status', 'idle'::text, 'agents.status has its default');
select col_default_is(
  'public',
  'escrow_requests',
  'status',
  'pending'::text,
  'escrow_requests.status has its default'
);
select col_not_null('public', t, c, format('%s.%s is never null', t, c))
from (
  values
    ('agents', 'api_key'), ('agents', 'balance'), ('agents', 'status'), ('agents', 'created_at'),
    ('wallet_changes', 'agent_id'), ('wallet_changes', 'change_type'),
    ('wallet_changes', 'created_at'), ('trade_results', 'agent_id'),
    ('escrow_requests', 'sender_id'), ('escrow_requests', 'receiver_id'),
    ('escrow_requests', 'amount'), ('escrow_requests', 'status')
) as c (t, c);
select col_is_null('public', 'wallet_changes', 'change_amount', 'change_amount may be null');
select col_is_null('public', 'wallet_changes', 'new_balance', 'new_balance may be null');

select is_empty(
  $$
    select conrelid::regclass, conname
    from pg_constraint c
    where contype = 'f'
      and connamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
      and not exists (
        select from pg_index i
        where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1]
      )
  $$,
  'every foreign key has an index'
);
select is_empty(
  $$
    select conname
    from pg_constraint
    where contype = 'f'
      and connamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
      and confdeltype <> 'r'
      and conrelid not in (
        'purple_flea.trade_policies'::regclass,
        'purple_flea.pauses'::regclass,
        'purple_flea.job_troubles'::regclass
      )
      and confrelid not in (
        'public.tenants'::regclass,
        'public.event_subscriptions'::regclass,
        'purple_flea.subscription_progress'::regclass
      )
  $$,
  'no row that money hangs on goes with its agent'
);

insert into public.agents (id) values ('a'), ('b');
select throws_ok(
  $$insert into public.agents (id) values ('')$$,
  '23514',
  null,
  'an agent has a name'
);
select throws_ok(
  $$insert into public.agents (id, status) values ('c', 'asleep')$$,
  '23514',
  null,
  'an agent is idle, trading or offline'
);
select throws_ok(
  $$insert into public.agents (id, balance) values ('c', -1)$$,
  '23514',
  null,
  'a balance is not negative'
);
select throws_ok(
  $$insert into public.agents (id, balance) values ('c', 'NaN')$$,
  '23514',
  null,
  'a balance is a number'
);
select throws_ok(
  $$insert into public.wallet_changes (agent_id, change_type) values ('nobody', 'deposit')$$,
  '23503',
  null,
  'a wallet is an agent''s'
);
select throws_ok(
  $$insert into public.wallet_changes (agent_id, change_type) values ('a', 'gift')$$,
  '23514',
  null,
  'a change is a deposit, a withdrawal or a payout'
);
select throws_ok(
  $$
    insert into public.wallet_changes (agent_id, change_type, change_amount)
    values ('a', 'deposit', -1)
  $$,
  '23514',
  null,
  'a deposit is not negative'
);
select throws_ok(
  $$
    insert into public.wallet_changes (agent_id, change_type, new_balance)
    values ('a', 'deposit', 'NaN')
  $$,
  '23514',
  null,
  'a new balance is a number'
);
select throws_ok(
  $$
    insert into public.wallet_changes (agent_id, change_type, new_balance)
    values ('a', 'deposit', 100000000)
  $$,
  '22003',
  null,
  'an amount fits the column'
);
select lives_ok(
  $$
    insert into public.wallet_changes (agent_id, change_type, change_amount)
    values ('a', 'withdrawal', -1)
  $$,
  'a withdrawal may be negative'
);
select throws_ok(
  $$insert into public.trade_results (agent_id, game) values ('a', 'poker')$$,
  '23514',
  null,
  'a game is one of three'
);
select throws_ok(
  $$insert into public.trade_results (agent_id, outcome) values ('a', 'draw')$$,
  '23514',
  null,
  'an outcome is win or loss'
);
select throws_ok(
  $$insert into public.trade_results (agent_id, payout) values ('a', -1)$$,
  '23514',
  null,
  'a payout is not negative'
);
select throws_ok(
  $$insert into public.escrow_requests (sender_id, receiver_id, amount) values ('a', 'b', 0)$$,
  '23514',
  null,
  'an escrow holds something'
);
select throws_ok(
  $$insert into public.escrow_requests (sender_id, receiver_id, amount) values ('a', 'a', 1)$$,
  '23514',
  null,
  'an escrow has two sides'
);
select throws_ok(
  $$delete from public.agents where id = 'a'$$,
  '23503',
  null,
  'an agent with wallet changes stays'
);

select * from finish();
rollback;
