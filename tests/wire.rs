//! A caller's connection, byte by byte: for what no HTTP client would do.

use crate::front_door::soon;
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

/// A connection.
pub struct Wire {
    stream: TcpStream,
    /// What came in and was not read yet.
    unread: Vec<u8>,
}

/// A reply, as far as these tests look at it.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Wire {
    /// Connects to an `http://` URL.
    pub async fn to(url: &str) -> Result<Self> {
        let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        Ok(Self { stream: TcpStream::connect(authority).await?, unread: Vec::new() })
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &str) -> Result<()> {
        Ok(self.stream.write_all(bytes.as_bytes()).await?)
    }

    /// Sends bytes for as long as the other side takes them without a pause of this length.
    pub async fn stuff(&mut self, bytes: &str, pause: Duration) -> Result<()> {
        while let Ok(sent) = tokio::time::timeout(pause, self.stream.write_all(bytes.as_bytes())).await {
            sent?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// Reads one reply, which has a `content-length`.
    pub async fn reply(&mut self) -> Result<Reply> {
        soon(async {
            loop {
                if let Some(reply) = self.parsed()? {
                    return Ok(reply);
                }
                let read = self.stream.read_buf(&mut self.unread).await?;
                anyhow::ensure!(read > 0, "closed after {:?}", String::from_utf8_lossy(&self.unread));
            }
        })
        .await?
    }

    fn parsed(&mut self) -> Result<Option<Reply>> {
        let text = String::from_utf8_lossy(&self.unread).into_owned();
        let Some((head, rest)) = text.split_once("\r\n\r\n") else { return Ok(None) };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.with_context(|| head.clone())?.parse()?;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let status = head.get(9..12).context("no status")?.parse()?;
        self.unread.drain(..head.len() + 4 + length);
        Ok(Some(Reply { status, head, body: body.to_owned() }))
    }

    /// Waits until the other side has closed, and gives how long that took. What comes before is dropped.
    pub async fn closed(&mut self) -> Result<Duration> {
        let started = Instant::now();
        soon(async {
            // An end and a reset are the same here.
            while let Ok(1..) = self.stream.read_buf(&mut self.unread).await {
                self.unread.clear();
            }
        })
        .await?;
        Ok(started.elapsed())
    }
}
