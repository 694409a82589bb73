// An owner who hears what became of deposits, with supabase-js. Standard output has a line of JSON for each callback: when
// it was called, in milliseconds since 1970, and which results it got.

import { createClient } from "@supabase/supabase-js";

const { SUPABASE_URL, SUPABASE_KEY, SUPABASE_ACCESS_TOKEN, OWNER_ID } = process.env;

const supabase = createClient(SUPABASE_URL, SUPABASE_KEY, {
  accessToken: async () => SUPABASE_ACCESS_TOKEN,
  auth: { persistSession: false },
});

await supabase.realtime.setAuth();
supabase
  .channel(`owner:${OWNER_ID}`, { config: { private: true } })
  .on("broadcast", { event: "trade_result" }, ({ payload }) => {
    const at_ms = performance.timeOrigin + performance.now(); // Date.now() has whole milliseconds only
    console.log(JSON.stringify({ at_ms, references: payload.results.map(({ reference }) => reference) }));
  })
  .subscribe((status, error) => console.log(JSON.stringify({ status, error: error?.message ?? null })));
