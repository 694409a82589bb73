//! Answers Inngest: `GET` tells about the function, `PUT` registers the workflows, and `POST` runs one or goes on with it.
//!
//! Every answer of this path has the form that Inngest reads, refusals too, and names our version: without that Inngest
//! does not take an answer.

use super::{large_bodies::LargeBodies, media_type::is_json, problem::Problem, query};
use crate::{
    config::Settings,
    inngest::{
        Inngest, SDK, SDK_HEADER, SERVER_KIND,
        answer::{Answer, reply, set_retry},
        call::Call,
        client::RegisterError,
        op::quoted,
        run::{Run, StepError},
        workflow::Workflow,
    },
    log::Line,
    runtime::Runtime,
    workflows::{self, Host},
};
use futures::future::LocalBoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header::CONTENT_LENGTH, request::Parts,
};

/// The header with the version of the protocol between a server and an app.
const REQ_VERSION: HeaderName = HeaderName::from_static("x-inngest-req-version");

/// The header with how an app has registered.
const SYNC_KIND: HeaderName = HeaderName::from_static("x-inngest-sync-kind");

/// Longest id of a deployment, in characters.
const DEPLOY_ID_LIMIT_CHARS: usize = 128;

/// The parameters of the query that have a meaning.
#[derive(Default)]
struct Query {
    function: Option<String>,
    step: Option<String>,
    deploy_id: Option<String>,
    probe: Option<String>,
}

impl Query {
    fn read(query: Option<&str>) -> Self {
        let mut read = Self::default();
        for (name, value) in query::parameters(query) {
            match name.as_str() {
                "fnId" => read.function = Some(value),
                "stepId" => read.step = Some(value),
                "deployId" => read.deploy_id = Some(value),
                "probe" => read.probe = Some(value),
                _ => {}
            }
        }
        read
    }
}

/// The workflows, and what they need of the world.
pub struct App<'a, C> {
    /// Inngest.
    pub inngest: &'a Inngest,
    /// The workflows.
    pub workflows: Vec<Workflow<C>>,
    /// The context that the workflows get beside their run.
    pub context: C,
    /// The room for large bodies.
    pub large_bodies: &'a LargeBodies,
}

/// An admitted request.
pub struct Admitted<'a> {
    /// Whether the request is signed.
    pub is_signed: bool,
    /// The request without its body.
    pub head: &'a Parts,
    /// The body.
    pub body: &'a [u8],
}

/// Answers an admitted request.
pub async fn answer(
    settings: &Settings,
    inngest: &Inngest,
    admitted: Admitted<'_>,
    large_bodies: &LargeBodies,
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    let workflows = workflows::registered(settings);
    let context = Host { settings, runtime };
    App { inngest, workflows, context, large_bodies }.answer(admitted, runtime, line).await
}

impl<C> App<'_, C> {
    /// Answers an admitted request.
    pub async fn answer(
        &self,
        Admitted { is_signed, head, body }: Admitted<'_>,
        runtime: &impl Runtime,
        line: &mut Line,
    ) -> Result<Response<Vec<u8>>, Problem> {
        let query = Query::read(head.uri.query());
        if head.method == Method::GET {
            let introspection = self.inngest.introspection(self.workflows.len(), is_signed);
            return Ok(reply(StatusCode::OK, introspection));
        }
        if head.method == Method::PUT {
            return Ok(self.register(&query, &head.headers, runtime, line).await);
        }
        if query.probe.as_deref() == Some("trust") {
            line.decision = Some("probed");
            let mut empty = Response::new(Vec::new());
            empty.headers_mut().insert(CONTENT_LENGTH, 0.into());
            return Ok(empty);
        }
        if !is_json(&head.headers) {
            return Err(Problem::UnsupportedMediaType);
        }
        let function = query.function.unwrap_or_default();
        let answer = match self.workflows.iter().find(|workflow| workflow.full_id() == function) {
            None => Answer::of_unknown_function(&function),
            Some(workflow) => {
                let mut call = Call::read(body, query.step.as_deref())?;
                line.reference = Some(call.run_id.clone());
                line.attempt = Some(call.attempt);
                self.run(workflow, &mut call, runtime).await
            }
        };
        line.decision = Some(answer.outcome);
        line.cause = answer.cause.map(|cause| format!("{function} {cause}"));
        Ok(answer.response)
    }

    /// Runs a workflow's function from its top to the first step without a memo, or to its end.
    async fn run(&self, workflow: &Workflow<C>, call: &mut Call, runtime: &impl Runtime) -> Answer {
        let mut _room = None;
        if call.lacks_state {
            _room = self.large_bodies.room(runtime).await;
            if _room.is_none() {
                return Answer::of_error(&StepError::retry("busy", "other large calls are being answered"));
            }
            if let Err(error) = self.inngest.complete(call, runtime).await {
                return Answer::of_error(&error);
            }
        }
        if !workflow.is_started_by(&call.event) {
            let message = "the event of this call does not start this function";
            return Answer::of_error(&StepError::last("event_of_another_function", message));
        }
        let send = |events| -> LocalBoxFuture<'_, _> { Box::pin(self.inngest.send_events(events, runtime)) };
        let run = Run::new(call, &send);
        let ended = (workflow.run)(&run, &self.context).await;
        Answer::of(&run, ended)
    }

    /// Registers the workflows. Anyone may ask for it, as Inngest's own server does without a signature: what is
    /// registered, and where, is in the settings.
    async fn register(
        &self,
        query: &Query,
        headers: &HeaderMap,
        runtime: &impl Runtime,
        line: &mut Line,
    ) -> Response<Vec<u8>> {
        let Some(serve_url) = &self.inngest.serve_url else {
            line.decision = Some("not_registered");
            return registered(Err("`inngest_serve_url` is not set"));
        };
        let deploy_id = query.deploy_id.as_deref().filter(|id| id.len() <= DEPLOY_ID_LIMIT_CHARS);
        let kind = headers.get(SERVER_KIND).filter(|kind| *kind == "dev" || *kind == "cloud").cloned();
        let functions = self.workflows.iter().map(|workflow| workflow.registration(serve_url)).collect();
        let result = self.inngest.register(serve_url, functions, deploy_id, kind, runtime).await;
        line.decision = Some(if result.is_ok() { "registered" } else { "not_registered" });
        registered(result.map_err(|error| match error {
            RegisterError::NotReached(error) => {
                line.cause = Some(error.cause().to_owned());
                "Inngest was not reached: see `inngest_api_url`"
            }
            RegisterError::KeyRefused => "Inngest refuses the signing key: see `inngest_signing_key`",
            RegisterError::Refused(status) => {
                line.cause = Some(format!("status_{status}"));
                "Inngest refuses the registration: the log has the status"
            }
            RegisterError::Unreadable => "Inngest's reply has another form",
        }))
    }
}

fn registered(result: Result<bool, &str>) -> Response<Vec<u8>> {
    let (status, message, modified) = match result {
        Ok(modified) => (StatusCode::OK, "Successfully registered", modified),
        Err(message) => (StatusCode::INTERNAL_SERVER_ERROR, message, false),
    };
    let mut response = reply(status, format!(r#"{{"message":{},"modified":{modified}}}"#, quoted(message)));
    response.headers_mut().insert(SYNC_KIND, HeaderValue::from_static("out_of_band"));
    response
}

/// Answers with a problem, in Inngest's form. A refusal that the same bytes would meet again is final.
pub fn refuse(problem: &Problem) -> Response<Vec<u8>> {
    if let Problem::Unauthorized(_) = problem {
        return reply(StatusCode::UNAUTHORIZED, r#"{"message":"Unauthorized"}"#.to_owned());
    }
    let as_problem = problem.response(None);
    let body = format!(r#"{{"name":{},"message":{}}}"#, quoted(problem.code()), quoted(&problem.detail()));
    let mut response = reply(as_problem.status(), body);
    if as_problem.status().is_client_error() && !matches!(problem, Problem::IncompleteBody) {
        set_retry(&mut response, true, None);
    }
    for (name, value) in as_problem.headers() {
        if !response.headers().contains_key(name) {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
    response
}

/// Adds the headers that every answer has.
pub fn sign_off(response: &mut Response<Vec<u8>>) {
    let headers = response.headers_mut();
    headers.insert(SDK_HEADER, HeaderValue::from_static(SDK));
    headers.insert(REQ_VERSION, HeaderValue::from_static("2"));
}
