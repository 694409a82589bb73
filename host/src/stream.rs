//! A TCP connection with a value that lives as long as the connection.

use hyper_util::client::legacy::connect::{Connected, Connection};
use std::{
    io::{IoSlice, Result},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};

/// A value that lives as long as a connection.
pub(crate) trait Tracker: Unpin {
    /// Is called when bytes have arrived.
    fn received(&self) {}
}

/// Holds the slot of an outbound connection, also while that idles.
impl Tracker for OwnedSemaphorePermit {}

/// A connection and its tracker.
pub(crate) struct TrackedStream<C> {
    pub(crate) stream: TcpStream,
    pub(crate) tracker: C,
}

impl<C: Tracker> AsyncRead for TrackedStream<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.tracker.received();
        }
        read
    }
}

impl<C: Tracker> AsyncWrite for TrackedStream<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<C> Connection for TrackedStream<C> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}
