//! A session on a socket: welcome, messages, state, goodbye.

mod peer;
mod registry;
mod socket;
mod wire;

use std::sync::{Arc, atomic::Ordering};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{self, Duration, Instant},
};

pub(crate) use self::{
    peer::{Goodbye, Mail, Peer},
    registry::{Ending, Registry, bump},
};
use self::{
    socket::{Incoming, SendError, Socket},
    wire::{ClientMessage, ServerMessage},
};
use crate::{
    server::App,
    store::{Change, Claim, ClaimRequest, Lease, Reply, StoreError, Write},
    token::{Identity, Permissions},
};

/// Close code for a session that another connection has taken, outside a drain.
pub const SUPERSEDED: u16 = 4409;
/// Bad messages after which a client is sent away.
const MAX_BAD_MESSAGES: u32 = 20;
/// Wait before a store that did not answer is asked again, on average.
const CHECK_AGAIN: Duration = Duration::from_secs(2);
/// How long a connect waits for a store that does not answer, before it is sent away.
const CLAIM_WITHIN: Duration = Duration::from_secs(5);
/// How long a message waits for a store that is away, before it is refused.
const APPLY_WITHIN: Duration = Duration::from_secs(5);
/// Longest time that a client can call itself busy for at once.
const MAX_BUSY: Duration = Duration::from_hours(24);

/// What a client asked for when it connected.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    /// Who it is.
    pub(crate) identity: Identity,
    /// The session to resume, or the id for a new one.
    pub(crate) session: String,
    /// Whether the client named the session.
    pub(crate) asked: bool,
    /// The last numbered message it has.
    pub(crate) last: u64,
    /// It reads notices.
    pub(crate) takes_notices: bool,
    /// It opens a new socket before it leaves the old one.
    pub(crate) overlaps: bool,
    /// Its turn among those that are restored; a fault.
    pub(crate) restored_at: Option<Instant>,
}

/// A socket and the session on it.
struct Conversation<'a, S> {
    app: &'a App,
    peer: &'a Peer,
    socket: Socket<S>,
    lease: Lease,
    /// What the token of this connect permits.
    permissions: Permissions,
    /// The store was used since the last ping.
    used: bool,
    /// The last check got no answer.
    check_again: bool,
    bad: u32,
}

/// How a conversation goes on.
enum Next {
    Stay,
    Leave(Leave),
}

/// Why a conversation ends.
enum Leave {
    /// The server closes.
    Say(Goodbye),
    /// The server closes for the client's fault, or its own.
    Close(u16, &'static str),
    /// The client closes.
    Answer(u16),
    /// The socket is gone or useless.
    Drop,
}

/// Serves one socket to its end.
pub(crate) async fn serve<S>(app: &App, peer: &Peer, io: S, early: Vec<u8>, hello: &Hello) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let socket = Socket::new(io, early, &app.config.limits).await;
    if peer.mute {
        app.events.arrived(peer, None);
        return mute(app, peer, socket).await;
    }
    if let Some(turn) = hello.restored_at {
        time::sleep_until(turn).await;
    }
    let request = ClaimRequest {
        session: &hello.session,
        identity: &hello.identity,
        instance: &app.instance,
        last: hello.last,
        forget: app.config.faults.forget,
    };
    let claim = match claim(app, &request).await {
        Ok(claim) => claim,
        Err(error) => {
            app.store_failed(&error);
            bump(&app.registry.totals.resume_failed);
            return socket.close(1011, "the session could not be taken").await;
        }
    };
    let _ = peer.lease.set(claim.lease.clone());
    app.events.arrived(peer, hello.asked.then_some(claim.found));
    let totals = &app.registry.totals;
    match (hello.asked, claim.found) {
        (_, true) => bump(&totals.resumed),
        (true, false) => bump(&totals.state_lost),
        (false, false) => {}
    }
    let mut conversation = Conversation {
        app,
        peer,
        socket,
        lease: claim.lease,
        permissions: hello.identity.permissions,
        used: true,
        check_again: false,
        bad: 0,
    };
    let leave = match conversation.welcome(claim.found, claim.seq, &claim.replay).await {
        Ok(()) => conversation.run().await,
        Err(error) => conversation.cut(&error),
    };
    conversation.leave(leave).await
}

/// Takes the session. A store that is away for a moment costs the client a moment, and no further connect: it was let in
/// while the store answered. A claim whose answer was lost is simply taken over by the next.
async fn claim(app: &App, request: &ClaimRequest<'_>) -> Result<Claim, StoreError> {
    let end = Instant::now() + CLAIM_WITHIN;
    loop {
        match app.config.store.claim(request).await {
            Err(error @ StoreError::Unavailable(_)) if Instant::now() < end => app.store_failed(&error),
            outcome => return outcome,
        }
        time::sleep(Duration::from_millis(rand::random_range(200..600))).await;
    }
}

// === impl Conversation ===

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, S> {
    async fn welcome(&mut self, resumed: bool, seq: u64, replay: &[Reply]) -> Result<(), SendError> {
        let welcome = ServerMessage::Welcome {
            session: &self.lease.session,
            epoch: self.lease.epoch,
            revision: &self.app.config.revision,
            pod: &self.app.config.pod,
            resumed,
            seq,
        };
        self.socket.send(&welcome).await?;
        for reply in replay {
            self.socket.send(&ServerMessage::Message(reply)).await?;
        }
        Ok(())
    }

    async fn run(&mut self) -> Leave {
        let limits = &self.app.config.limits;
        let mut heard = Instant::now();
        let mut next_ping = heard + limits.ping_every;
        loop {
            let next = tokio::select! {
                biased;
                mail = self.peer.mailbox.next() => self.act(mail).await,
                incoming = self.socket.next() => {
                    heard = Instant::now();
                    self.handle(incoming).await
                }
                () = time::sleep_until(next_ping) => {
                    next_ping = Instant::now() + limits.ping_every;
                    if heard.elapsed() > limits.idle_timeout {
                        bump(&self.app.registry.totals.idle);
                        Next::Leave(Leave::Drop)
                    } else {
                        self.keep_alive().await
                    }
                }
            };
            if let Next::Leave(leave) = next {
                return leave;
            }
            if std::mem::take(&mut self.check_again) {
                self.used = false;
                next_ping = next_ping.min(Instant::now() + CHECK_AGAIN.mul_f64(rand::random_range(0.5..1.5)));
            }
        }
    }

    async fn act(&mut self, mail: Mail) -> Next {
        match mail {
            Mail::Goodbye(goodbye) => Next::Leave(Leave::Say(goodbye)),
            Mail::Check => self.check().await,
            Mail::Notice(notice) => {
                let sent = self.socket.send(&ServerMessage::Notice(&notice)).await;
                if let (Ok(()), Some(tally)) = (&sent, self.peer.told.get()) {
                    bump(&tally.notified);
                }
                self.sent(sent)
            }
        }
    }

    /// A ping, and the session kept alive in the store if no message did.
    async fn keep_alive(&mut self) -> Next {
        let sent = self.socket.ping().await;
        if sent.is_ok() && !std::mem::take(&mut self.used) {
            return self.check().await;
        }
        self.sent(sent)
    }

    /// Sees whether the session is still ours. A store that does not answer is asked again a little later; the client
    /// has asked for nothing, so it is told nothing.
    async fn check(&mut self) -> Next {
        match self.app.config.store.touch(&self.lease).await {
            Ok(()) => Next::Stay,
            Err(error @ StoreError::Unavailable(_)) => {
                self.app.store_failed(&error);
                self.check_again = true;
                Next::Stay
            }
            Err(error) => self.refused("", &error).await,
        }
    }

    async fn handle(&mut self, incoming: Incoming) -> Next {
        let text = match incoming {
            Incoming::Text(text) => text,
            Incoming::Sign => return Next::Stay,
            Incoming::Binary => return Next::Leave(Leave::Close(1003, "text frames only")),
            Incoming::Close(code) => return Next::Leave(Leave::Answer(code)),
            Incoming::Violation(code) => return Next::Leave(Leave::Close(code, "protocol violation")),
            Incoming::Cut => return Next::Leave(Leave::Drop),
        };
        self.app.count_message();
        match ClientMessage::parse(&text) {
            Ok(message) => self.answer(message).await,
            Err(reason) => {
                self.bad += 1;
                if self.bad > MAX_BAD_MESSAGES {
                    return Next::Leave(Leave::Close(1008, "too many bad messages"));
                }
                let sent = self.error("", "bad_message", &reason).await;
                self.sent(sent)
            }
        }
    }

    async fn answer(&mut self, message: ClientMessage) -> Next {
        self.used = true;
        if let Some((id, name)) = self.forbidden(&message) {
            let text = format!("the session token does not permit {name}");
            let sent = self.error(id, "forbidden", &text).await;
            return self.sent(sent);
        }
        match message {
            ClientMessage::Say { id, text, ack } => {
                let write = Write {
                    id: &id,
                    ack,
                    reply: &text,
                    change: Change::Say(&text),
                };
                self.apply(write).await
            }
            ClientMessage::Set {
                id,
                section,
                key,
                value,
                ack,
            } => {
                let reply = format!("{}.{key}", section.as_str());
                let change = Change::Set {
                    section,
                    key: &key,
                    value: &value,
                };
                self.apply(Write {
                    id: &id,
                    ack,
                    reply: &reply,
                    change,
                })
                .await
            }
            ClientMessage::State { id } => match self.app.config.store.read(&self.lease).await {
                Ok(state) => {
                    self.deliver(&ServerMessage::State {
                        id: &id,
                        state: &state,
                    })
                    .await
                }
                Err(error) => self.refused(&id, &error).await,
            },
            ClientMessage::Busy { until_ms } => {
                let until = Duration::from_millis(until_ms).min(MAX_BUSY);
                self.peer.set_busy((until_ms > 0).then(|| Instant::now() + until));
                self.app.drain.changed();
                Next::Stay
            }
            ClientMessage::Ack { id } => {
                if let Some(tally) = self.peer.told.get() {
                    tally.ack(&id);
                }
                Next::Stay
            }
        }
    }

    /// Id and name of what the token of this connect does not permit, whatever an earlier one did.
    fn forbidden<'m>(&self, message: &'m ClientMessage) -> Option<(&'m str, &'static str)> {
        let (permitted, id, name) = match message {
            ClientMessage::Say { id, .. } => (self.permissions.say, id, "say"),
            ClientMessage::Set { id, .. } => (self.permissions.set, id, "set"),
            ClientMessage::State { id } => (self.permissions.state, id, "state"),
            ClientMessage::Busy { .. } | ClientMessage::Ack { .. } => return None,
        };
        (!permitted).then_some((id, name))
    }

    /// A message is applied once, however often it is tried: so a store that is away for a moment costs the client a moment, and
    /// what it said next waits its turn.
    async fn apply(&mut self, write: Write<'_>) -> Next {
        let end = Instant::now() + APPLY_WITHIN;
        loop {
            match self.app.config.store.write(&self.lease, &write).await {
                Ok(reply) => return self.deliver(&ServerMessage::Message(&reply)).await,
                Err(error @ StoreError::Unavailable(_)) if Instant::now() < end => {
                    self.app.store_failed(&error);
                }
                Err(error) => return self.refused(write.id, &error).await,
            }
            let wait = Duration::from_millis(rand::random_range(100..300));
            tokio::select! {
                () = time::sleep(wait) => {}
                () = self.peer.mailbox.superseded() => return Next::Leave(Leave::Say(Goodbye::Superseded)),
            }
        }
    }

    /// Sends an answer, unless the session was taken meanwhile: then its new owner replays it.
    async fn deliver(&mut self, answer: &ServerMessage<'_>) -> Next {
        if let Some(slow) = self.app.config.faults.slow {
            tokio::select! {
                () = time::sleep(slow) => {}
                () = self.peer.mailbox.superseded() => {}
            }
        }
        if self.peer.mailbox.is_superseded() {
            return Next::Leave(Leave::Say(Goodbye::Superseded));
        }
        let sent = self.socket.send(answer).await;
        self.sent(sent)
    }

    /// The store refused: either the session is not ours any more, or the message was not applied.
    async fn refused(&mut self, id: &str, error: &StoreError) -> Next {
        let code = match error {
            StoreError::Stale => return Next::Leave(Leave::Say(Goodbye::Superseded)),
            StoreError::Gone | StoreError::Forbidden => {
                return Next::Leave(Leave::Close(1011, "the session's state is gone"));
            }
            StoreError::Unreadable(_) => {
                self.app.store_failed(error);
                return Next::Leave(Leave::Close(1011, "the session's state cannot be read"));
            }
            StoreError::Full => "full",
            StoreError::Unavailable(_) => "unavailable",
        };
        self.app.store_failed(error);
        let sent = self.error(id, code, &error.to_string()).await;
        self.sent(sent)
    }

    async fn error(&mut self, id: &str, code: &str, text: &str) -> Result<(), SendError> {
        self.socket.send(&ServerMessage::Error { id, code, text }).await
    }

    fn sent(&self, outcome: Result<(), SendError>) -> Next {
        match outcome {
            Ok(()) => Next::Stay,
            Err(error) => Next::Leave(self.cut(&error)),
        }
    }

    fn cut(&self, error: &SendError) -> Leave {
        if *error == SendError::Cut {
            return Leave::Drop;
        }
        bump(&self.app.registry.totals.slow_readers);
        Leave::Close(1008, "reads too slowly")
    }

    async fn leave(self, leave: Leave) -> Ending {
        match leave {
            Leave::Say(Goodbye::Drain { code, order, forced }) => Ending {
                forced,
                ..self.socket.close(code, &order).await
            },
            Leave::Say(Goodbye::Superseded) => {
                bump(&self.app.registry.totals.superseded);
                let (code, reason) = match self.app.drain.code_for(self.peer) {
                    Some((code, order)) => (code, order),
                    None => (SUPERSEDED, "another connection has this session".to_owned()),
                };
                Ending {
                    by_client: true,
                    ..self.socket.close(code, &reason).await
                }
            }
            Leave::Say(Goodbye::Shutdown { code }) => self.socket.close(code, "the server ends").await,
            Leave::Close(code, reason) => self.socket.close(code, reason).await,
            Leave::Answer(code) => self.socket.answer_close(code).await,
            Leave::Drop => Ending::CUT,
        }
    }
}

/// A fault: the socket is open and nothing is ever said on it. It can still be closed.
async fn mute<S: AsyncRead + AsyncWrite + Unpin>(app: &App, peer: &Peer, mut socket: Socket<S>) -> Ending {
    loop {
        tokio::select! {
            mail = peer.mailbox.next() => match mail {
                Mail::Goodbye(Goodbye::Drain { code, order, forced }) => {
                    return Ending { forced, ..socket.close(code, &order).await };
                }
                Mail::Goodbye(Goodbye::Shutdown { code }) => return socket.close(code, "").await,
                Mail::Goodbye(Goodbye::Superseded) => return socket.close(SUPERSEDED, "").await,
                Mail::Notice(_) | Mail::Check => {}
            },
            incoming = socket.next() => match incoming {
                Incoming::Close(code) => return socket.answer_close(code).await,
                Incoming::Violation(code) => return socket.close(code, "").await,
                Incoming::Cut => return Ending::CUT,
                Incoming::Text(_) => app.count_message(),
                Incoming::Binary | Incoming::Sign => {}
            },
        }
    }
}

// === impl App (what sessions count) ===

impl App {
    /// Counts a message from a client; the `crash` fault ends the process here.
    fn count_message(&self) {
        let count = self.registry.totals.messages.fetch_add(1, Ordering::Relaxed) + 1;
        if self.config.faults.crashes(count) {
            self.crash();
        }
    }

    /// Counts a failure of the store, and logs one a second: an outage hits every socket at once.
    pub(crate) fn store_failed(&self, error: &StoreError) {
        bump(&self.registry.totals.store_errors);
        if self.store_log.is_due() {
            tracing::warn!(error = error as &dyn std::error::Error, "the store refused");
        }
    }
}

/// Shared by tasks.
pub(crate) type SharedPeer = Arc<Peer>;
