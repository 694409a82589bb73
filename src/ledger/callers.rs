//! Calls of the ledger on behalf of a signed-in user or an operator.

use super::{
    Ledger,
    object::{self, Object, Unreadable},
    rpc::{self, Connection, LedgerError},
};
use crate::{domain::job::Subject, endpoint::Key, runtime::Runtime};
use serde_json::{Value, json, value::RawValue};

/// The ledger's answer to an operator's request.
#[derive(Debug)]
pub enum OperatorReply {
    /// The ledger has performed the operation. This is the database's answer, unchanged.
    Completed(Box<RawValue>),
    /// The ledger refused the operation.
    Refused {
        /// The reason, as a code.
        code: String,
        /// The reason, as a sentence.
        detail: String,
    },
}

/// The ledger's answer to a signal.
#[derive(Debug)]
pub struct Published {
    /// `published`, `repeated` or `refused`.
    pub state: String,
    /// The signal's id, if it counts.
    pub signal_id: Option<String>,
    /// The reason of a refusal, as a code.
    pub reason: Option<String>,
    /// The number of agents that follow the sender; `None` for a repeated signal.
    pub followers: Option<u64>,
    /// The number of jobs that the signal made; `None` for a repeated signal.
    pub jobs: Option<u64>,
}

impl Published {
    fn read(answer: &Object) -> Result<Self, Unreadable> {
        Ok(Self {
            state: answer.text("state")?,
            signal_id: answer.maybe_text("signal_id")?,
            reason: answer.maybe_text("reason")?,
            followers: answer.maybe_integer("followers")?,
            jobs: answer.maybe_integer("jobs")?,
        })
    }
}

impl Ledger {
    /// Returns whether the token's owner may act for the agent. The database checks the token, and answers
    /// under row-level security.
    pub async fn may_act_for(
        &self,
        token: &Key,
        subject: &Subject,
        runtime: &impl Runtime,
    ) -> Result<bool, LedgerError> {
        let body = match subject {
            Subject::Agent(id) => json!({ "agent_id": id }),
            Subject::SenderOf(id) => json!({ "escrow_id": id }),
            Subject::ReceiverOf(id) => json!({ "escrow_id": id, "party": "receiver" }),
            Subject::PartyOf(id) => json!({ "escrow_id": id, "party": "either" }),
        };
        let reply = self.connection_with(token).call_once("may_act_for", &body, runtime).await?;
        object::value(rpc::text(&reply)?)?.as_bool().ok_or(LedgerError::Unreadable)
    }

    /// Records an agent's heartbeat for the token's owner, and returns what the database knows of the agent. The
    /// database checks the token, and refuses another owner's agent with 403.
    pub async fn heartbeat(
        &self,
        token: &Key,
        agent_id: &str,
        task: Option<&str>,
        runtime: &impl Runtime,
    ) -> Result<Box<RawValue>, LedgerError> {
        let body = json!({ "agent_id": agent_id, "task": task });
        let reply = self.connection_with(token).call_once("heartbeat", &body, runtime).await?;
        let text = rpc::text(&reply)?;
        Object::read(text)?;
        RawValue::from_string(text.to_owned()).map_err(|_| LedgerError::Unreadable)
    }

    /// Publishes a signal: for the token's owner, or with our own key for a caller that may act for every agent. A
    /// signal has a name, so a repeated call publishes nothing more.
    pub async fn publish_signal(
        &self,
        token: Option<&Key>,
        signal: &Value,
        runtime: &impl Runtime,
    ) -> Result<Published, LedgerError> {
        let body = json!({ "signal": signal });
        let reply = match token {
            Some(token) => self.connection_with(token).call_once("publish_signal", &body, runtime).await?,
            None => self.connection.call("publish_signal", &body, runtime).await?,
        };
        Ok(Published::read(&Object::read(rpc::text(&reply)?)?)?)
    }

    /// Performs an operator's operation, under the operator's name.
    pub async fn operate(
        &self,
        operation: &str,
        details: &Value,
        operator: &str,
        runtime: &impl Runtime,
    ) -> Result<OperatorReply, LedgerError> {
        let body = json!({ "operation": operation, "details": details, "operator": operator });
        let reply = self.connection_with(&self.operator_key).call("operate", &body, runtime).await?;
        let text = rpc::text(&reply)?;
        let answer = Object::read(text)?;
        if let Some(code) = answer.maybe_text("refused")? {
            return Ok(OperatorReply::Refused { code, detail: answer.text("detail")? });
        }
        if !answer.flag("done")? {
            return Err(LedgerError::Unreadable);
        }
        let answer = RawValue::from_string(text.to_owned()).map_err(|_| LedgerError::Unreadable)?;
        Ok(OperatorReply::Completed(answer))
    }

    /// Returns the same connection with another key.
    fn connection_with(&self, key: &Key) -> Connection {
        Connection { key: key.clone(), ..self.connection.clone() }
    }
}
