//! A websocket to Realtime: connects, and sends and receives texts. Each phase has its own limit.

use super::settings::Endpoint;
use futures_util::{SinkExt, StreamExt};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

/// Longest time to find the host's addresses, to connect, to encrypt and to become a websocket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time to send a text. A socket whose buffers are full for longer is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of a message. Realtime takes none above 3,000 KB from the database.
const MESSAGE_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// An open websocket.
pub(crate) struct Socket(WebSocketStream<Stream>);

enum Stream {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Connects. Fails with a code for the log.
    pub(crate) async fn connect(endpoint: &Endpoint, tls: &TlsConnector) -> Result<Self, &'static str> {
        timeout(CONNECT_TIMEOUT, open(endpoint, tls)).await.map_err(|_| "connect_timed_out")?
    }

    /// Sends a text.
    pub(crate) async fn send(&mut self, text: String) -> Result<(), &'static str> {
        let sent = timeout(SEND_TIMEOUT, self.0.send(Message::text(text)));
        sent.await.map_err(|_| "send_timed_out")?.map_err(|_| "broken")
    }

    /// Waits for the next message. Gives `None` for one that is no text: the socket itself answers a ping. A caller may
    /// stop waiting, and loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, &'static str> {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Ok(Some(text.as_str().to_owned())),
            Some(Ok(Message::Close(_))) | None => Err("closed"),
            Some(Ok(_)) => Ok(None),
            Some(Err(_)) => Err("broken"),
        }
    }

    /// Says good-bye. Realtime then knows at once that the listener is gone.
    pub(crate) async fn close(mut self) {
        let _ = timeout(SEND_TIMEOUT, self.0.close(None)).await;
    }
}

async fn open(endpoint: &Endpoint, tls: &TlsConnector) -> Result<Socket, &'static str> {
    let tcp =
        TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(|_| "not_connected")?;
    let _ = tcp.set_nodelay(true);
    let stream = match &endpoint.server_name {
        Some(name) => {
            let encrypted = tls.connect(name.clone(), tcp).await.map_err(|_| "tls_failed")?;
            Stream::Encrypted(Box::new(encrypted))
        }
        None => Stream::Plain(tcp),
    };
    let mut request = endpoint.url.as_str().into_client_request().map_err(|_| "request_not_built")?;
    for (name, key) in &endpoint.headers {
        request.headers_mut().insert(name, key.clone());
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LIMIT_BYTES))
        .max_frame_size(Some(MESSAGE_LIMIT_BYTES));
    let (socket, _) = client_async_with_config(request, stream, Some(config)).await.map_err(|_| "refused")?;
    Ok(Socket(socket))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
