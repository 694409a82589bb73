//! Requests to the functions, and runs of a function for a request.

use super::{
    Sequence,
    instance::Instance,
    parts::{Part, RequestId},
    sequence::TOKEN,
};
use http::{Request, StatusCode};
use purple_flea_edge::{
    config,
    http::{
        dispatch::AfterReply,
        router::{self, Body, Memory},
    },
    time_budget,
};
use serde_json::Value;
use std::{fmt, time::Duration};

/// A request to a function.
#[derive(Clone)]
pub(super) struct Post {
    path: &'static str,
    /// The operation that the body names; empty where it need not name one.
    operation: &'static str,
    body: Value,
    webhook_id: Option<String>,
}

impl Sequence<'_> {
    pub(super) fn any_function(&mut self) -> usize {
        let function = self.chance.usize(0..self.functions.len());
        if function > 0 && self.world.record.keeps(Part::SecondFunction) { function } else { 0 }
    }

    pub(super) async fn post(&mut self, post: Post, alone: bool) {
        let function = self.any_function();
        self.post_to(function, post, alone).await;
    }

    /// Posts to a function, unless the request is left out.
    ///
    /// `alone`: nothing else runs meanwhile.
    pub(super) async fn post_to(&self, function: usize, post: Post, alone: bool) {
        let request = self.world.next_request();
        if self.world.record.keeps(Part::Request(request)) {
            self.world.tell(format!("function {function} gets {post} ({})", Part::Request(request)));
            self.execute(function, &post, alone, request).await;
        }
    }

    /// Posts to a function while nothing goes wrong. No run leaves such a request out, because the promises need it.
    pub(super) async fn post_calmly(&mut self, post: Post) {
        let function = self.any_function();
        let request = self.world.next_request();
        self.world.trace(|| format!("function {function} gets {post} ({})", Part::Request(request)));
        self.execute(function, &post, false, request).await;
    }

    /// Runs a function for a request until the function is done or dies, or its host ends it.
    async fn execute(&self, function: usize, post: &Post, alone: bool, request: RequestId) {
        let settings = &self.functions[function];
        let instance = Instance::new(&self.world, request, self.seed, alone);
        tokio::select! {
            biased;
            () = run(settings, post.request(), &instance) => {}
            () = instance.death() => {}
            () = self.world.schedule.sleep(Duration::from_secs(time_budget::HOST_LIFE_S)) => {}
        }
        instance.clean_up().await;
    }
}

/// Lets a function answer a request, and go on after its reply.
async fn run(settings: &config::Checked, request: Request<Body>, instance: &Instance<'_>) {
    let (response, later) = router::respond(settings, &Memory::empty(), request, instance).await;
    assert_ne!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    if let (Some(later), Ok(settings)) = (later, settings) {
        AfterReply::run(later, settings, instance).await;
    }
}

impl Post {
    pub(super) fn notifying(body: Value) -> Self {
        Self { path: "/execute-trade", operation: "", body, webhook_id: None }
    }

    pub(super) fn asking(path: &'static str, operation: &'static str, body: Value) -> Self {
        Self { path, operation, body, webhook_id: None }
    }

    /// Gives the request an ID: two requests with the same ID ask for the same job.
    pub(super) fn with_id(self, id: String) -> Self {
        Self { webhook_id: Some(id), ..self }
    }

    fn request(&self) -> Request<Body> {
        let mut body = self.body.clone();
        if !self.operation.is_empty() {
            body["operation"] = self.operation.into();
        }
        let mut request = Request::post(self.path)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .header("prefer", "respond-async");
        if let Some(id) = &self.webhook_id {
            request = request.header("webhook-id", id);
        }
        request.body(Body::Whole(body.to_string().into_bytes())).unwrap()
    }
}

impl fmt::Display for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "POST {} {}", self.path, self.body)?;
        self.webhook_id.iter().try_for_each(|id| write!(f, " as {id}"))
    }
}
