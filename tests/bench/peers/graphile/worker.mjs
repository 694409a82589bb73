// What a careful team would pick instead of this project: graphile-worker on Node. A trigger makes a job for each
// deposit, NOTIFY wakes the worker, and the task makes the bet and inserts its row. The row is unique for its deposit, so
// there is one row a deposit. A worker that dies between the bet and the row bets again.

import { run } from "graphile-worker";

const { DATABASE_URL, PURPLE_FLEA_URL, PURPLE_FLEA_KEY } = process.env;

const MIN_BALANCE = 5;
const WAGER_FRACTION = 0.1;
const CASHOUT_AT = 1.5;

const insert = `insert into public.trade_results (agent_id, game, wager, outcome, payout, bet_id, reference)
  values ($1, 'crash', $2, $3, $4, $5, $6) on conflict (reference) do nothing`;

async function bet({ id, agent_id, new_balance }, { withPgClient }) {
  if (new_balance < MIN_BALANCE) {
    return;
  }
  const reference = `wallet-change-${id}`;
  const wager = Math.round(new_balance * WAGER_FRACTION * 100) / 100;
  const reply = await fetch(`${PURPLE_FLEA_URL}/casino/crash`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "authorization": `Bearer ${PURPLE_FLEA_KEY}`,
      "idempotency-key": reference,
    },
    body: JSON.stringify({ agent_id, wager, cashout_at: CASHOUT_AT }),
  });
  if (!reply.ok) {
    throw new Error(`Purple Flea answered ${reply.status}`);
  }
  const { outcome, payout, bet_id } = await reply.json();
  const values = [agent_id, wager, outcome, payout, bet_id, reference];
  await withPgClient((client) => client.query({ name: "insert", text: insert, values }));
}

// As many bets at once as the function makes, and as many connections as PostgREST has.
const worker = await run({
  connectionString: DATABASE_URL,
  concurrency: 64,
  maxPoolSize: 10,
  taskList: { bet },
});
await worker.promise;
