//! A session: keeps one socket connected and its topics joined, for as long as the listener runs.

use super::{
    Shared, backoff,
    channels::{Channels, Heard},
    ended,
    protocol::{self, Topic},
    socket::Socket,
    token::{Token, now_s},
};
use crate::log::{Level, Line};
use purple_flea_edge::runtime::Runtime;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};

/// How often the session looks what is due: joins, heartbeats, the silence of the other side.
const TICK: Duration = Duration::from_millis(100);

/// The first wait before the next attempt to connect; it doubles until a channel stays live for [`STEADY`].
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// The longest of these waits.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How long a socket has a live channel before its waits begin anew. A server that takes each join and then ends the
/// socket is asked less and less often, too.
const STEADY: Duration = Duration::from_secs(10);

/// Most messages that wait for their reader. Above it broadcasts are dropped, so that the socket stays alive.
pub(crate) const QUEUE_LIMIT: usize = 1024;

/// Longest broadcast that waits, in bytes: a signal has 256 KiB at most. Without it the queue could hold 4 GiB.
const BROADCAST_LIMIT_BYTES: usize = 512 * 1024;

/// A session, before it runs.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    /// The topics to join. The session ends when nobody can change them any more.
    pub(crate) wanted: watch::Receiver<BTreeSet<Topic>>,
    pub(crate) heard: mpsc::Sender<Heard>,
}

/// One connection of a session.
struct Connection<'a> {
    session: &'a mut Session,
    tokens: watch::Receiver<Option<Token>>,
    channels: Channels,
    /// When anything came from the other side.
    last_heard: Instant,
    last_beat: Instant,
    /// When the first channel became live.
    live_since: Option<Instant>,
    counted: usize,
}

impl Session {
    /// Runs until the listener ends.
    pub(crate) async fn run(mut self) {
        let mut failures = 0_u32;
        let mut stop = self.shared.stop.clone();
        loop {
            tokio::select! {
                ready = self.ready() => if !ready { return },
                () = ended(&mut stop) => return,
            }
            let result = tokio::select! {
                result = Socket::connect(&self.shared.endpoint, &self.shared.tls) => result,
                () = ended(&mut stop) => return,
            };
            let code = match result {
                Ok(socket) => match self.attend(socket, &mut failures).await {
                    Ok(()) => return,
                    Err(code) => code,
                },
                Err(code) => code,
            };
            self.shared.metrics.disconnected();
            let mut line = Line::new(Level::Warn, "realtime");
            line.code = Some(code);
            line.print();
            let wait = backoff::doubled(RETRY_FIRST, failures, RETRY_MAX);
            failures = failures.saturating_add(1);
            tokio::select! {
                () = sleep(backoff::jittered(wait, self.shared.runtime.random())) => {}
                () = ended(&mut stop) => return,
            }
        }
    }

    /// Waits until there is something to join, and a token to join it with.
    async fn ready(&mut self) -> bool {
        if self.wanted.wait_for(|topics| !topics.is_empty()).await.is_err() {
            return false;
        }
        let mut tokens = self.shared.tokens.clone();
        loop {
            let is_alive = tokens.borrow_and_update().as_ref().map(|token| token.is_alive(now_s()));
            match is_alive {
                Some(true) => return true,
                Some(false) => {
                    let mut line = Line::new(Level::Error, "realtime");
                    line.code = Some("token_expired");
                    line.print();
                }
                None => {}
            }
            if tokens.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Attends to a socket until it is dead (an error) or the session ends.
    async fn attend(&mut self, mut socket: Socket, failures: &mut u32) -> Result<(), &'static str> {
        let now = Instant::now();
        let tokens = self.shared.tokens.clone();
        let shared = self.shared.clone();
        let _connected = shared.metrics.connected();
        let mut connection = Connection {
            session: self,
            tokens,
            channels: Channels::default(),
            last_heard: now,
            last_beat: now,
            live_since: None,
            counted: 0,
        };
        let result = connection.run(&mut socket).await;
        if connection.live_since.is_some_and(|since| since.elapsed() >= STEADY) {
            *failures = 0;
        }
        connection.lose_all().await;
        socket.close().await;
        result
    }
}

impl Connection<'_> {
    async fn run(&mut self, socket: &mut Socket) -> Result<(), &'static str> {
        let mut stop = self.session.shared.stop.clone();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.rewant(socket).await?;
        loop {
            tokio::select! {
                message = socket.next() => {
                    self.last_heard = Instant::now();
                    if let Some(text) = message? {
                        self.take(&text).await;
                    }
                }
                _ = ticks.tick() => self.tick(socket).await?,
                changed = self.session.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.rewant(socket).await?;
                }
                changed = self.tokens.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let token = self.token();
                    for text in token.map(|token| self.channels.renew(&token)).unwrap_or_default() {
                        socket.send(text).await?;
                    }
                }
                () = ended(&mut stop) => return Ok(()),
            }
            self.count();
        }
    }

    /// The token, if it is alive.
    fn token(&self) -> Option<String> {
        let token = self.tokens.borrow();
        token.as_ref().filter(|token| token.is_alive(now_s())).map(|token| token.text.clone())
    }

    async fn rewant(&mut self, socket: &mut Socket) -> Result<(), &'static str> {
        let wanted = self.session.wanted.borrow_and_update().clone();
        let (texts, lost) = self.channels.want(&wanted, Instant::now());
        for one in lost {
            let _ = self.session.heard.send(one).await;
        }
        for text in texts {
            socket.send(text).await?;
        }
        Ok(())
    }

    async fn tick(&mut self, socket: &mut Socket) -> Result<(), &'static str> {
        let now = Instant::now();
        let timing = self.session.shared.timing;
        if now.saturating_duration_since(self.last_heard) >= timing.silence {
            return Err("silent");
        }
        if now.saturating_duration_since(self.last_beat) >= timing.heartbeat {
            self.last_beat = now;
            let reference = self.channels.reference();
            socket.send(protocol::heartbeat(reference)).await?;
        }
        // Without a token that is alive nothing is joined. The next token comes soon, or an operator has to bring it.
        if let Some(token) = self.token() {
            let shared = &self.session.shared;
            for text in self.channels.due(&token, now, || shared.pace.take(now)) {
                socket.send(text).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, text: &str) {
        let metrics = self.session.shared.metrics.clone();
        match self.channels.take(text, Instant::now()) {
            Heard::Nothing => {}
            Heard::Hostile => metrics.dropped("not_readable"),
            Heard::Refused { topic, reason } => {
                metrics.refused_channel();
                let mut line = Line::new(Level::Warn, "realtime");
                (line.code, line.topic, line.cause) =
                    (Some("channel_refused"), Some(topic.as_str()), Some(reason));
                line.print();
            }
            heard @ Heard::Broadcast { .. } => {
                // A reader that is behind loses messages. It does not stop the socket.
                if text.len() > BROADCAST_LIMIT_BYTES {
                    metrics.dropped("too_large");
                } else if self.session.heard.try_send(heard).is_err() {
                    metrics.dropped("queue_full");
                }
            }
            heard => {
                if let Heard::Joined { topic } = &heard {
                    self.live_since.get_or_insert_with(Instant::now);
                    metrics.joined();
                    let mut line = Line::new(Level::Info, "realtime");
                    (line.code, line.topic) = (Some("joined"), Some(topic.as_str()));
                    line.print();
                }
                let _ = self.session.heard.send(heard).await;
            }
        }
    }

    fn count(&mut self) {
        let live = self.channels.live();
        self.session.shared.metrics.channels(self.counted, live);
        self.counted = live;
    }

    async fn lose_all(&mut self) {
        for topic in self.channels.live_names() {
            let _ = self.session.heard.send(Heard::Lost { topic }).await;
        }
        self.session.shared.metrics.channels(self.counted, 0);
        self.counted = 0;
    }
}
