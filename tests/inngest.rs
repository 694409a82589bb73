//! Inngest's protocol: the documented exchanges, word for word; whole runs against a server; and what is refused.
//!
//! The app of these tests runs in this process, by the product's own code ([`app`]). The component's own door is tried, too.

mod app;
mod door;
mod exchanges;
mod runs;
