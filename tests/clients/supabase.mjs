// Makes calls with supabase-js and prints what it gives: a JSON array of {status, code, data}.
//
// The arguments are Supabase's URL, an API key, the token of a signed-in user (or nothing) and the calls, as JSON:
//   {"read": table, "select": columns, "equals": {column: value}}     {"insert": row, "into": table, "select": columns}
//   {"update": values, "of": table, "equals": {…}, "select": columns}     {"call": function, "arguments": {…}}
// "order" names a column other than the id, "schema" another schema than public, and "single" asks for one row.

import { createClient } from "@supabase/supabase-js";

// Without a transport supabase-js does not start on Node.js before 22. Nothing here listens to Realtime.
class NoTransport {}

const [url, key, token, calls] = process.argv.slice(2);
const supabase = createClient(url, key, {
  accessToken: token ? async () => token : undefined,
  auth: { persistSession: false, autoRefreshToken: false },
  realtime: { transport: NoTransport },
});

function start(client, call) {
  if (call.call) return client.rpc(call.call, call.arguments);
  const table = client.from(call.read ?? call.into ?? call.of);
  if (call.insert) return table.insert(call.insert);
  if (call.update) return table.update(call.update);
  return table.select(call.select);
}

const answers = [];
for (const call of JSON.parse(calls)) {
  let query = start(call.schema ? supabase.schema(call.schema) : supabase, call);
  for (const [column, value] of Object.entries(call.equals ?? {})) query = query.eq(column, value);
  if (call.select && !call.read) query = query.select(call.select);
  if (call.read) query = query.order(call.order ?? "id").limit(100);
  if (call.single) query = query.single();
  const { status, error, data } = await query;
  answers.push({ status, code: error?.code ?? null, data });
}
console.log(JSON.stringify(answers));
