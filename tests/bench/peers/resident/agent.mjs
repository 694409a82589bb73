// The specification's resident agent: it hears of each deposit by postgres_changes, bets at Purple Flea, and inserts the
// result. Nothing remembers a deposit that it has not heard of, and nothing stops a second one of it. Of our own is only
// the column `reference`, by which the bench finds the deposit of a result.

import { createClient } from "@supabase/supabase-js";

const { SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY, PURPLE_FLEA_URL, PURPLE_FLEA_KEY } = process.env;

const MIN_BALANCE = 5;
const WAGER_FRACTION = 0.1;
const CASHOUT_AT = 1.5;

const supabase = createClient(SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY, {
  auth: { persistSession: false, autoRefreshToken: false },
});

async function trade({ id, agent_id, change_type, new_balance }) {
  if (change_type !== "deposit" || new_balance < MIN_BALANCE) {
    return;
  }
  const wager = Math.round(new_balance * WAGER_FRACTION * 100) / 100;
  const reply = await fetch(`${PURPLE_FLEA_URL}/casino/crash`, {
    method: "POST",
    headers: { "content-type": "application/json", "authorization": `Bearer ${PURPLE_FLEA_KEY}` },
    body: JSON.stringify({ agent_id, wager, cashout_at: CASHOUT_AT }),
  });
  if (!reply.ok) {
    throw new Error(`Purple Flea answered ${reply.status}`);
  }
  const { outcome, payout, bet_id } = await reply.json();
  const result = { agent_id, game: "crash", wager, outcome, payout, bet_id, reference: `wallet-change-${id}` };
  const { error } = await supabase.from("trade_results").insert(result);
  if (error) {
    throw new Error(`the result was not inserted: ${error.message}`);
  }
}

await supabase.realtime.setAuth();
supabase
  .channel("wallet-monitor")
  .on("postgres_changes", { event: "INSERT", schema: "public", table: "wallet_changes" }, ({ new: row }) => {
    trade(row).catch((error) => console.error(error.message));
  })
  // The specification waits for SUBSCRIBED, and loses what comes before this message.
  .on("system", {}, ({ extension, status, message }) => {
    if (extension === "postgres_changes") {
      console.log(JSON.stringify({ ready: status === "ok", message }));
    }
  })
  .subscribe((status, error) => console.error(status, error?.message ?? ""));
