// A resident agent beside the ledger. The ledger bets: this program makes no bet and writes no result. It hears what
// became of deposits, says that its agent is there, sends signals, and hears those of others. README.md explains it.

import { readFile, rename, writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { createClient } from "@supabase/supabase-js";

const { SUPABASE_URL, SUPABASE_KEY, SUPABASE_ACCESS_TOKEN, SUPABASE_EMAIL, SUPABASE_PASSWORD, AGENT_ID } = process.env;
const STATE_FILE = process.env.STATE_FILE ?? "agent-state.json";
const REJOIN_MS = Number(process.env.REJOIN_MS ?? 5000);
const HEARTBEAT_MS = 10_000;
const LOOK_BACK_IDS = 1000; // a row may be committed after one with a higher id
const SEEN_LIMIT = 5000; // executed results: more than LOOK_BACK_IDS, or an old one would come twice

if (!SUPABASE_URL || !SUPABASE_KEY || !AGENT_ID || !(SUPABASE_ACCESS_TOKEN || (SUPABASE_EMAIL && SUPABASE_PASSWORD))) {
  console.error("Set SUPABASE_URL, SUPABASE_KEY (the anon or publishable key), AGENT_ID, and either SUPABASE_EMAIL and " +
    "SUPABASE_PASSWORD or SUPABASE_ACCESS_TOKEN: those of the agent's owner.");
  process.exit(2);
}

const supabase = createClient(SUPABASE_URL, SUPABASE_KEY, {
  ...(SUPABASE_ACCESS_TOKEN && { accessToken: async () => SUPABASE_ACCESS_TOKEN }),
  auth: { persistSession: false },
});

/** Prints a line of JSON. */
const tell = (what, details) => console.log(JSON.stringify({ at: new Date().toISOString(), what, ...details }));

/** Signs in, and gives the owner's id. */
async function signIn() {
  if (SUPABASE_ACCESS_TOKEN) {
    return JSON.parse(Buffer.from(SUPABASE_ACCESS_TOKEN.split(".")[1], "base64url")).sub;
  }
  const { data, error } = await supabase.auth.signInWithPassword({ email: SUPABASE_EMAIL, password: SUPABASE_PASSWORD });
  if (error) throw error;
  return data.user.id;
}

// The state survives the end of this program: the highest id that it has read, and the results that it has taken.
const state = { last: 0, seen: [] };
try {
  Object.assign(state, JSON.parse(await readFile(STATE_FILE, "utf8")));
} catch (error) {
  if (error.code !== "ENOENT") throw error;
}
const seen = new Set(state.seen);
let saving = Promise.resolve();

/** Saves the state, one save after the other. A crash leaves the old file or the new one. */
function save() {
  saving = saving.catch(() => {}).then(async () => {
    // Only rows of executed results are read again.
    state.seen = [...seen].filter((key) => key.endsWith(" executed")).slice(-SEEN_LIMIT);
    await writeFile(`${STATE_FILE}.new`, JSON.stringify(state));
    await rename(`${STATE_FILE}.new`, STATE_FILE);
  });
  return saving;
}

/** Takes a result once. Your own work belongs here. */
function take(result) {
  const key = `${result.reference} ${result.state}`;
  if (seen.has(key)) return;
  seen.add(key);
  const { reference, agent_id, state: outcome_state, game, wager, payout, outcome, reason } = result;
  tell("result", { reference, agent_id, state: outcome_state, game, wager, payout, outcome, reason });
}

/** Reads what came while nobody listened. */
async function catchUp() {
  for (let after = state.last - LOOK_BACK_IDS; ;) {
    const { data: rows, error } = await supabase
      .from("trade_results").select().gt("id", after).order("id").limit(1000);
    if (error) throw error;
    if (rows.length === 0) break;
    for (const row of rows) take({ ...row, state: "executed" });
    after = rows.at(-1).id;
    state.last = Math.max(state.last, after);
  }
  await save();
  tell("caught_up", { last: state.last });
}

/** Keeps a private channel joined for ever, and calls `joined` after each join. */
function keep(topic, config, listen, joined) {
  const channel = supabase.channel(topic, { config: { private: true, ...config } });
  let left = false;
  listen(channel);
  channel.subscribe(async (status, error) => {
    if (status === "SUBSCRIBED") {
      tell("joined", { topic });
      // The next join does this again if it fails.
      await Promise.resolve(joined(channel)).catch((failure) => {
        tell("failed", { topic, why: failure.message });
        leave();
      });
    } else {
      tell("left", { topic, status, why: error?.message });
      leave();
    }
  });
  function leave() {
    if (left) return;
    left = true;
    // A refused channel stalls all channels of its socket, so it is removed before the next try.
    setTimeout(async () => {
      await supabase.removeChannel(channel);
      await supabase.realtime.setAuth();
      keep(topic, config, listen, joined);
    }, REJOIN_MS * (1 + Math.random()));
  }
}

/** Tells the database that the agent is there, and learns of its task. */
async function heartbeat() {
  const { data, error } = await supabase.rpc("heartbeat", { agent_id: AGENT_ID, task: process.env.AGENT_TASK ?? null });
  if (error) tell("failed", { why: `heartbeat: ${error.message}` });
  else if (data.task !== heartbeat.task) tell("task", { task: (heartbeat.task = data.task), task_state: data.task_state });
}

const owner = await signIn();
await supabase.realtime.setAuth(); // without it the first join is an anonymous one, and stays so
await heartbeat();
setInterval(heartbeat, HEARTBEAT_MS);

keep(`owner:${owner}`, {}, (channel) => channel
  .on("broadcast", { event: "trade_result" }, ({ payload }) => {
    payload.results.forEach(take);
    save().catch((error) => tell("failed", { why: error.message }));
  })
  .on("broadcast", { event: "signal" }, ({ payload }) => tell("signal", payload)), catchUp);

keep(`agent-fleet:${owner}`, { presence: { key: AGENT_ID, enabled: true } }, (channel) => channel
  .on("presence", { event: "sync" }, () => tell("present", { agents: Object.keys(channel.presenceState()).sort() })),
(channel) => channel.track({ agent_id: AGENT_ID, status: "idle" }));

// A line of standard input is a signal, such as {"market": "BTC", "action": "BUY", "confidence": 0.9, "size": 5}. The
// topic proves its sender. `ts` makes a repeat of the same signal another one.
let signals;
keep(`trade-signals:${AGENT_ID}`, { broadcast: { ack: true } }, (channel) => channel, (channel) => { signals = channel; });
for await (const line of createInterface({ input: process.stdin })) {
  try {
    const payload = { ts: new Date().toISOString(), ...JSON.parse(line) };
    const sent = signals ? await signals.send({ type: "broadcast", event: "trade_signal", payload }) : "not joined";
    tell("sent", { sent, signal: payload });
  } catch (error) {
    tell("failed", { why: `${line}: ${error.message}` });
  }
}
