// Prints the signature that npm's standardwebhooks makes. The arguments are a secret, an id, a time in seconds and a body.

import { Webhook } from "standardwebhooks";

const [secret, id, unix_s, body] = process.argv.slice(2);
console.log(new Webhook(secret).sign(id, new Date(Number(unix_s) * 1000), body));
