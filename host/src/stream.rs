//! A TCP connection with something that lives as long as it.

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

/// What lives as long as a connection.
pub(crate) trait Companion: Unpin {
    /// Learns that bytes came in.
    fn came_in(&self) {}
}

/// The place of an outbound connection, idle ones included.
impl Companion for OwnedSemaphorePermit {}

/// A connection and its companion.
pub(crate) struct Accompanied<C> {
    pub(crate) stream: TcpStream,
    pub(crate) companion: C,
}

impl<C: Companion> AsyncRead for Accompanied<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.companion.came_in();
        }
        read
    }
}

impl<C: Companion> AsyncWrite for Accompanied<C> {
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

impl<C> Connection for Accompanied<C> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}
