// The function as its specification has it, in TypeScript: no signature, no ledger, floats. It shows the cost of the
// same deposit on Deno.

const url = Deno.env.get("PURPLE_FLEA_URL");
const key = Deno.env.get("PURPLE_FLEA_KEY");

const MIN_BALANCE = 5;
const WAGER_FRACTION = 0.1;
const CASHOUT_AT = 1.5;

async function executeTrade(request: Request): Promise<Response> {
  if (request.method !== "POST") {
    return new Response("Method not allowed", { status: 405 });
  }
  const row = await request.json();
  if (row.change_type !== "deposit" || row.new_balance < MIN_BALANCE) {
    return Response.json({ status: "skipped" });
  }
  const wager = Math.round(row.new_balance * WAGER_FRACTION * 100) / 100;
  const reply = await fetch(`${url}/casino/crash`, {
    method: "POST",
    headers: { "content-type": "application/json", "authorization": `Bearer ${key}` },
    body: JSON.stringify({ agent_id: row.agent_id, wager, cashout_at: CASHOUT_AT }),
  });
  return Response.json(await reply.json());
}

Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT")), onListen: () => {} }, executeTrade);
