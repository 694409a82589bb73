//! What the ledger is asked on behalf of callers other than the function itself: a signed-in user, and an operator.

use super::{
    Ledger,
    object::{self, Object},
    rpc::{self, Connection, LedgerError},
};
use crate::{domain::job::Subject, endpoint::Key, runtime::Runtime};
use serde_json::{Value, json, value::RawValue};

/// What became of an operator's request.
#[derive(Debug)]
pub enum Operated {
    /// It was done; the database's answer, as it is.
    Done(Box<RawValue>),
    /// It was not done.
    Refused {
        /// Why, as a code.
        code: String,
        /// Why, in words.
        detail: String,
    },
}

impl Ledger {
    /// Whether the user whose token this is may act for the agent. The database checks the token, and answers under
    /// row-level security.
    pub async fn may_act_for(
        &self,
        token: &Key,
        subject: &Subject,
        runtime: &impl Runtime,
    ) -> Result<bool, LedgerError> {
        let body = match subject {
            Subject::Agent(id) => json!({ "agent_id": id }),
            Subject::SenderOf(id) => json!({ "escrow_id": id }),
        };
        let reply = self.shown_as(token).call("may_act_for", &body, runtime).await?;
        object::value(rpc::text(&reply)?)?.as_bool().ok_or(LedgerError::Unreadable)
    }

    /// Does what an operator asks for, under the operator's name.
    pub async fn operate(
        &self,
        operation: &str,
        details: &Value,
        operator: &str,
        runtime: &impl Runtime,
    ) -> Result<Operated, LedgerError> {
        let body = json!({ "operation": operation, "details": details, "operator": operator });
        let reply = self.shown_as(&self.operator_key).call("operate", &body, runtime).await?;
        let text = rpc::text(&reply)?;
        let answer = Object::read(text)?;
        if let Some(code) = answer.maybe_text("refused")? {
            return Ok(Operated::Refused { code, detail: answer.text("detail")? });
        }
        if !answer.flag("done")? {
            return Err(LedgerError::Unreadable);
        }
        let done = RawValue::from_string(text.to_owned()).map_err(|_| LedgerError::Unreadable)?;
        Ok(Operated::Done(done))
    }

    /// The same connection with another key.
    fn shown_as(&self, key: &Key) -> Connection {
        Connection { key: key.clone(), ..self.connection.clone() }
    }
}
