// Verifies a webhook with npm's standardwebhooks. The arguments are a secret, the headers as JSON, and the body.

import { Webhook } from "standardwebhooks";

const [secret, headers, body] = process.argv.slice(2);
let said = "verified";
try {
  new Webhook(secret).verify(body, JSON.parse(headers));
} catch {
  said = "refused";
}
console.log(said);
