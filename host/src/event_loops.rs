//! Event loops, each on a thread of its own: a request never changes its thread.

use anyhow::{Context, Result, bail};
use purple_flea_host::{
    listener::{Listener, Slot},
    server::FunctionTemplate,
};
use tokio::{
    net::TcpStream,
    runtime::Builder,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
};

/// A connection, and its slot among those that are allowed at once. The number of slots limits the queues below.
type Connection = (std::net::TcpStream, Slot);

/// The threads' queues of new connections.
pub(crate) struct EventLoops(Vec<UnboundedSender<Connection>>);

impl EventLoops {
    /// Starts so many threads. When `closing` becomes true, each connection ends after its current request.
    pub(crate) fn start(
        threads: usize,
        template: &FunctionTemplate,
        closing: &watch::Receiver<bool>,
    ) -> Result<Self> {
        let mut queues = Vec::new();
        for number in 0..threads {
            let (queue, accepted) = unbounded_channel();
            let (template, closing) = (template.clone(), closing.clone());
            let runtime = Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new()
                .name(format!("loop-{number}"))
                .spawn(move || runtime.block_on(serve(accepted, template, closing)))?;
            queues.push(queue);
        }
        Ok(Self(queues))
    }

    /// Counts the event loops.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Accepts connections, and gives them to the event loops in turn. Returns only with an error.
    pub(crate) async fn accept(&self, listener: Listener) -> Result<()> {
        for queue in self.0.iter().cycle() {
            let (stream, slot) = listener.next().await;
            queue.send((stream.into_std()?, slot)).ok().context("an event loop ended")?;
        }
        bail!("no event loops")
    }
}

/// Serves the connections of one event loop.
async fn serve(
    mut accepted: UnboundedReceiver<Connection>,
    template: FunctionTemplate,
    closing: watch::Receiver<bool>,
) {
    let function = template.function();
    while let Some((stream, slot)) = accepted.recv().await {
        let (function, closing) = (function.clone(), closing.clone());
        tokio::spawn(async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                function.serve(stream, slot, closing).await;
            }
        });
    }
    // The component's work after its replies goes on until the process ends.
    std::future::pending::<()>().await;
}
