// Follows Realtime with supabase-js. The arguments are Supabase's URL, an API key, a user's token (or nothing) and the
// milliseconds between two heartbeats.
// Standard input has commands, a line of JSON each, and standard output what happens, in the same form:
//   {"do": "join", "topic": …, "config": {…}, "changes": [{"event": …, "table": …, "filter": …}], "events": […]}
//   {"do": "send" | "track" | "untrack" | "leave", "topic": …, "event": …, "payload": …}     {"do": "token", "token": …}

import { createInterface } from "node:readline";
import { createClient } from "@supabase/supabase-js";

const [url, key, token, heartbeat] = process.argv.slice(1);
const supabase = createClient(url, key, {
  auth: { persistSession: false, autoRefreshToken: false },
  realtime: { heartbeatIntervalMs: Number(heartbeat), reconnectAfterMs: () => 50 },
});
if (token) await supabase.realtime.setAuth(token);

const tell = (what) => console.log(JSON.stringify(what));
const channels = new Map();

async function join({ topic, config, changes, presence }) {
  const channel = supabase.channel(topic, { config });
  channels.set(topic, channel);
  channel.on("broadcast", { event: "*" }, ({ event, payload, meta }) => tell({ topic, event, payload, meta }));
  channel.on("system", {}, (system) => tell({ topic, system }));
  for (const change of changes ?? []) {
    channel.on("postgres_changes", { schema: "public", ...change }, (row) =>
      tell({ topic, change: row.eventType, new: row.new, old: row.old, errors: row.errors ?? null }));
  }
  if (presence) {
    channel.on("presence", { event: "sync" }, () => tell({ topic, present: channel.presenceState() }));
  }
  channel.subscribe((status, error) => tell({ topic, status, error: error?.message ?? null }));
}

async function perform(command) {
  const channel = channels.get(command.topic);
  switch (command.do) {
    case "join": return join(command);
    case "token": return supabase.realtime.setAuth(command.token);
    case "send":
      return tell({ sent: await channel.send({ type: "broadcast", event: command.event, payload: command.payload }) });
    case "track": return tell({ tracked: await channel.track(command.payload) });
    case "untrack": return tell({ untracked: await channel.untrack() });
    case "leave": return tell({ left: await supabase.removeChannel(channel) });
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  perform(JSON.parse(line)).catch((error) => tell({ failed: error.message }));
}
