//! Takes the component's log lines. The component never waits for them: a reader that stalls must not delay settlements.

use bytes::Bytes;
use std::{
    io::Write,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

/// Most bytes of one write. A line has less than 1 KiB.
const PERMIT_BYTES: usize = 64 * 1024;

/// Most bytes that wait to be printed. Further writes are dropped and counted.
const WAITING_LIMIT_BYTES: usize = 8 * 1024 * 1024;

/// How long the printer collects lines before it prints them: waking the printer costs more than a line.
const COLLECT_TIME: Duration = Duration::from_millis(20);

/// A sink for the component's lines.
#[derive(Clone)]
pub struct Output(Arc<Take>);

type Take = dyn Fn(&[u8]) + Send + Sync;

impl Output {
    /// Makes an output that calls a function with each write.
    pub fn to(take: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Makes an output that prints to our standard output, some milliseconds later, from a thread of its own.
    pub fn stdout() -> std::io::Result<Self> {
        let waiting = Arc::new((Mutex::new(Waiting::default()), Condvar::new()));
        let ours = waiting.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || print(&ours))?;
        Ok(Self::to(move |bytes| {
            let (lock, written) = &*waiting;
            let mut waiting = lock.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.bytes.len().saturating_add(bytes.len()) > WAITING_LIMIT_BYTES {
                waiting.dropped = waiting.dropped.saturating_add(1);
                return;
            }
            let first = waiting.bytes.is_empty();
            waiting.bytes.extend_from_slice(bytes);
            if first {
                written.notify_one();
            }
        }))
    }
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
}

fn print((lock, written): &(Mutex<Waiting>, Condvar)) {
    loop {
        let waiting = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = written.wait_while(waiting, |waiting| waiting.bytes.is_empty());
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
        std::thread::sleep(COLLECT_TIME);
        let taken = std::mem::take(&mut *lock.lock().unwrap_or_else(PoisonError::into_inner));
        let mut stdout = std::io::stdout().lock();
        // A closed output is no error: nothing reads the lines.
        let _ = stdout.write_all(&taken.bytes).and_then(|()| stdout.flush());
        if taken.dropped > 0 {
            eprintln!(
                "purple-flea-host: {} writes of the component were dropped: standard output is not read fast enough",
                taken.dropped
            );
        }
    }
}

/// Waits until everything that was written is printed.
pub fn flush() {
    std::thread::sleep(COLLECT_TIME.saturating_mul(3));
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        (self.0)(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT_BYTES)
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        (self.0)(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
