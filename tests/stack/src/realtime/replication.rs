//! Follows the database's log, as Realtime does: a temporary slot of `pgoutput`, streamed. So messages come in the order
//! of commits, some milliseconds after them, nothing comes of what is rolled back, and nothing is kept for a Realtime
//! that is away. tokio-postgres does not stream, so the few messages of the protocol are written here.

use super::pgoutput::{Decoder, Logged};
use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Seconds between the epochs of Unix and of PostgreSQL.
pub(super) const POSTGRES_EPOCH_S: u64 = 946_684_800;

/// A stream of the log.
pub(super) struct Stream {
    connection: TcpStream,
    buffer: BytesMut,
    decoder: Decoder,
}

impl Stream {
    /// Connects as a role, makes a temporary slot, and begins. What was committed before is not in the stream.
    pub(super) async fn start(url: &str, slot: &str, publications: &[&str]) -> Result<Self> {
        let (role, rest) =
            url.strip_prefix("postgresql://").and_then(|url| url.split_once('@')).context("a URL")?;
        let (address, database) = rest.split_once('/').context("a URL with a database")?;
        let connection = TcpStream::connect(address).await?;
        connection.set_nodelay(true)?;
        let mut stream = Self { connection, buffer: BytesMut::new(), decoder: Decoder::default() };
        stream.log_in(role, database).await?;
        let create = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT");
        stream.query(&create, b'Z').await?;
        let names = publications.join(",");
        let begin = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{names}')"
        );
        stream.query(&begin, b'W').await?;
        Ok(stream)
    }

    /// Waits for what happens next.
    pub(super) async fn next(&mut self) -> Result<Logged> {
        loop {
            let (kind, mut body) = self.read().await?;
            match kind {
                b'd' if body.first() == Some(&b'w') && body.len() >= 25 => {
                    body.advance(25);
                    if let Some(logged) = self.decoder.decode(&mut body)? {
                        if let Logged::Commit { end, .. } = logged {
                            self.confirm(end).await?;
                        }
                        return Ok(logged);
                    }
                }
                b'd' if body.first() == Some(&b'k') && body.len() >= 9 => {
                    body.advance(1);
                    // A server that shuts down waits for this.
                    self.confirm(body.get_u64()).await?;
                }
                b'E' => bail!("the stream failed: {}", words(&body)),
                b'c' => bail!("the stream has ended"),
                _ => {}
            }
        }
    }

    /// Tells the server that everything before a position has arrived.
    async fn confirm(&mut self, position: u64) -> Result<()> {
        let mut status = BytesMut::new();
        status.put_u8(b'r');
        for _ in 0..3 {
            status.put_u64(position);
        }
        status.put_u64(0);
        status.put_u8(0);
        self.write(b'd', &status).await
    }

    async fn log_in(&mut self, role: &str, database: &str) -> Result<()> {
        let mut start = BytesMut::new();
        start.put_u32(196_608);
        for text in ["user", role, "database", database, "replication", "database"] {
            start.put_slice(text.as_bytes());
            start.put_u8(0);
        }
        start.put_u8(0);
        let mut message = BytesMut::new();
        message.put_u32(u32::try_from(start.len() + 4)?);
        message.put_slice(&start);
        self.connection.write_all(&message).await?;
        self.wait_for(b'Z').await
    }

    async fn query(&mut self, query: &str, end: u8) -> Result<()> {
        let mut text = BytesMut::from(query.as_bytes());
        text.put_u8(0);
        self.write(b'Q', &text).await?;
        self.wait_for(end).await
    }

    async fn wait_for(&mut self, end: u8) -> Result<()> {
        loop {
            let (kind, body) = self.read().await?;
            match kind {
                kind if kind == end => return Ok(()),
                b'E' => bail!("{}", words(&body)),
                // Passwords and certificates are none of the stack's.
                b'R' if body.as_ref() != [0, 0, 0, 0] => bail!("the server asks for a password"),
                _ => {}
            }
        }
    }

    async fn write(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let mut message = BytesMut::new();
        message.put_u8(kind);
        message.put_u32(u32::try_from(body.len() + 4)?);
        message.put_slice(body);
        Ok(self.connection.write_all(&message).await?)
    }

    /// Reads a message. It may be dropped while it waits, and loses nothing.
    async fn read(&mut self) -> Result<(u8, BytesMut)> {
        loop {
            if let Some(mut header) = self.buffer.get(..5) {
                let kind = header.get_u8();
                let length = header.get_u32() as usize;
                if self.buffer.len() > length {
                    let mut message = self.buffer.split_to(length + 1);
                    message.advance(5);
                    return Ok((kind, message));
                }
            }
            if self.connection.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server has closed the connection");
            }
        }
    }
}

fn words(body: &[u8]) -> String {
    String::from_utf8_lossy(body).replace('\0', " ")
}
