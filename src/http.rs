//! HTTP: routes, admission, and replies.

pub mod admission;
pub mod dispatch;
pub mod execute_trade;
pub mod feed;
pub mod health;
pub mod heartbeat;
pub mod inngest;
pub mod large_bodies;
pub mod media_type;
pub mod operation;
pub mod operator;
pub mod problem;
pub mod purple_flea_webhook;
pub mod query;
pub mod refusal;
pub mod request_job;
pub mod response;
pub mod route;
pub mod router;
pub mod signals;
