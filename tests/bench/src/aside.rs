//! Runs work on other threads than the load generator's one thread.

use anyhow::{Context, Result};
use std::thread::JoinHandle;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

/// A pool of threads with a name of its own, by which [`crate::cpu`] finds their CPU time.
pub struct Threads(Option<Runtime>);

impl Threads {
    /// Starts `count` threads.
    pub fn start(name: &str, count: usize) -> Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(count).thread_name(name).enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs a future on these threads and waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.0.as_ref().context("the threads have ended")?;
        runtime.spawn(work).await?
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The value may be dropped on a thread that must not block.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A thread with a runtime. Dropping it drops the work, and with the work every process that the work started.
struct Aside {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a future on a thread of its own.
pub async fn run<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let (stop, stopped) = oneshot::channel::<()>();
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("aside".to_owned()).spawn(move || {
        let outcome =
            Builder::new_multi_thread().thread_name("depositors").enable_all().build().map(|runtime| {
                runtime.block_on(async {
                    tokio::select! {
                        outcome = work() => Some(outcome),
                        _ = stopped => None,
                    }
                })
            });
        let _ = match outcome {
            Ok(Some(outcome)) => done.send(outcome),
            Ok(None) => return,
            Err(error) => done.send(Err(error.into())),
        };
    })?;
    let _aside = Aside { stop: Some(stop), thread: Some(thread) };
    result.await.context("the work ended without a result")?
}
