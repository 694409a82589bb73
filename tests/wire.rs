//! A caller's raw connection, for requests that no HTTP client would send.

use crate::front_door::soon;
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

/// A TCP connection to a host.
pub struct Wire {
    stream: TcpStream,
    /// Received bytes that no reply was parsed from yet.
    unread: Vec<u8>,
}

/// The parts of a reply that these tests check. The head is in lower case.
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

    /// Sends the same bytes repeatedly until the other side reads none for the length of this pause.
    pub async fn fill(&mut self, bytes: &str, pause: Duration) -> Result<()> {
        while let Ok(sent) = tokio::time::timeout(pause, self.stream.write_all(bytes.as_bytes())).await {
            sent?;
        }
        Ok(())
    }

    /// Closes the sending half of the connection.
    pub async fn finish(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// Reads one reply. The reply must have a `content-length`.
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

    /// Parses one reply from the unread bytes, if they contain a whole one.
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

    /// Waits until the other side closes the connection, and gives the time that took. Drops all bytes until then.
    pub async fn closed(&mut self) -> Result<Duration> {
        let started = Instant::now();
        soon(async {
            // A reset counts as closed, too.
            while let Ok(1..) = self.stream.read_buf(&mut self.unread).await {
                self.unread.clear();
            }
        })
        .await?;
        Ok(started.elapsed())
    }
}
