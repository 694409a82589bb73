//! What the function promises, a file a promise, through its front doors: HTTP, SQL and the scripts. The component
//! runs as it is built, on a WASI host, against a simulator of Purple Flea.

mod artifacts;
mod bad_input;
mod by_hand;
mod contract;
mod deposits;
mod descriptors;
mod documents;
mod doorbell;
mod front_door;
mod hang_up;
mod host_program;
mod keys;
mod ledger;
mod ledger_troubles;
mod neighbours;
mod openapi;
mod operators;
mod pgtap;
mod production_host;
mod restores;
mod scripts;
mod services;
mod settings;
mod stand_in_postgres;
mod stand_in_postgrest;
mod stand_ins;
mod statements;
mod strangers;
mod unknown;
mod upgrade;
mod versions;
mod watch;
mod who_may_call;
mod whole_stack;
mod wire;
