//! One websocket. Everything of a socket is done one after the other, so a join that is refused holds everything else
//! of its socket for five seconds.

use super::{Server, channel::Session, wire::Version};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{collections::HashMap, future::pending, sync::Arc, time::Instant};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig},
    },
};

/// The largest frame that a client may send, in bytes.
const FRAME_LIMIT_BYTES: usize = 5_000_000;

/// Why a socket's loop ends.
enum End {
    /// The client has gone, or has been silent for too long.
    Gone,
    /// The test has cut the line.
    Cut,
}

/// Serves a socket until it ends.
pub(super) async fn serve(server: Arc<Server>, upgrade: OnUpgrade, version: Version, key: String) {
    let Ok(upgraded) = upgrade.await else { return };
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_LIMIT_BYTES))
        .max_frame_size(Some(FRAME_LIMIT_BYTES));
    let io = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let mut session = Session { server: server.clone(), version, key, sender, channels: HashMap::new() };
    let mut cut = server.cut.subscribe();
    let mut heard = Instant::now();
    let end = loop {
        let silent = (heard + server.options.idle_timeout).into();
        let wait = session.expiry();
        let expiry = async {
            match wait {
                Some(wait) => sleep(wait).await,
                None => pending().await,
            }
        };
        let messages = tokio::select! {
            frame = timeout_at(silent, socket.next()) => {
                let Ok(Some(Ok(frame))) = frame else { break End::Gone };
                heard = Instant::now();
                match session.version.decode(&frame) {
                    Ok(Some(incoming)) => session.answer(&incoming).await,
                    Ok(None) if frame.is_close() => break End::Gone,
                    Ok(None) => vec![],
                    // A frame that is no message ends the socket.
                    Err(_) => break End::Gone,
                }
            }
            Some(delivery) = inbox.recv() => session.deliver(delivery.channel, &delivery.what),
            () = expiry => session.expire(),
            _ = cut.changed() => break End::Cut,
        };
        if send(&mut socket, messages).await.is_none() {
            break End::Gone;
        }
    };
    if let End::Cut = end {
        // The server does not know yet, and neither does the client: nothing is read or written, and no end is sent.
        let left = (heard + server.options.idle_timeout).saturating_duration_since(Instant::now());
        sleep(left).await;
    }
    session.leave_all();
}

async fn send<S>(socket: &mut WebSocketStream<S>, messages: Vec<Message>) -> Option<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for message in messages {
        socket.feed(message).await.ok()?;
    }
    socket.flush().await.ok()
}
