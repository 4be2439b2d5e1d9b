//! Clients of the service: a crowd of sockets, and what each of them saw.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;

use super::measure::notice_in;
use crate::session::{ConfigError, DialError, Endpoint, Resume, dial};

/// What in a URL or header is replaced by a name of the session's own.
const PLACEHOLDER: &str = "{session}";
/// Things seen and not yet taken in.
const BACKLOG: usize = 4_096;
/// How long a closing handshake may take.
const CLOSING: Duration = Duration::from_secs(2);
const USER_AGENT: &str = concat!("wsroll-conformance/", env!("CARGO_PKG_VERSION"));

/// How a client says that it reads notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declare {
    /// By these query parameters.
    Query(String),
    /// By this subprotocol.
    Subprotocol(String),
}

/// The service's own port.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// `ws://HOST:PORT/path`; `{session}` is replaced by a name of the session's own.
    pub url: String,
    /// Further request headers; `{session}` is replaced in the values.
    pub headers: Vec<(String, String)>,
    /// How notices are declared; nobody declares them where this is none.
    pub declare: Option<Declare>,
}

/// How a socket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a close frame: code (1005 where it has none) and reason.
    Closed(u16, String),
    /// Without one.
    Cut,
}

/// One client.
#[derive(Debug)]
pub(super) struct Member {
    /// What stands for [`PLACEHOLDER`].
    pub(super) name: String,
    /// It declared that it reads notices.
    pub(super) declared: bool,
    /// Every notice, with its time.
    pub(super) notices: Vec<(Instant, Value)>,
    /// How and when it ended.
    pub(super) end: Option<(Instant, End)>,
}

/// All clients that were ever opened, in the order of their opening.
pub(super) struct Crowd {
    traffic: Traffic,
    run: String,
    pub(super) members: Vec<Member>,
    seen: mpsc::Receiver<Seen>,
    sender: mpsc::Sender<Seen>,
    /// Tells the open ones to leave.
    leave: CancellationToken,
}

struct Seen {
    member: usize,
    at: Instant,
    what: What,
}

enum What {
    Notice(Value),
    End(End),
}

/// Why a client could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{0}")]
    Config(#[source] ConfigError),
    #[error("{0}")]
    Dial(#[source] DialError),
}

// === impl Crowd ===

impl Crowd {
    pub(super) fn new(traffic: Traffic, run: &str) -> Self {
        let (sender, seen) = mpsc::channel(BACKLOG);
        Self {
            traffic,
            run: run.to_owned(),
            members: Vec::new(),
            seen,
            sender,
            leave: CancellationToken::new(),
        }
    }

    /// Whether anybody can declare notices.
    pub(super) fn can_declare(&self) -> bool {
        self.traffic.declare.is_some()
    }

    /// Whether sessions have names of their own that the service sees.
    pub(super) fn is_named(&self) -> bool {
        let Traffic { url, headers, .. } = &self.traffic;
        url.contains(PLACEHOLDER) || headers.iter().any(|(_, value)| value.contains(PLACEHOLDER))
    }

    /// Opens so many; every other one declares notices. Answers with the place of the first.
    pub(super) async fn open(&mut self, count: usize) -> Result<usize, OpenError> {
        let first = self.members.len();
        for n in 0..count {
            self.open_one(n % 2 == 0 && self.can_declare()).await?;
        }
        Ok(first)
    }

    /// Opens one.
    pub(super) async fn open_one(&mut self, declared: bool) -> Result<(), OpenError> {
        let member = self.members.len();
        let name = format!("{}-{member}", self.run);
        let endpoint = self
            .traffic
            .endpoint(&name, declared)
            .map_err(OpenError::Config)?;
        let dialed = dial(&endpoint, Resume::default(), None, None)
            .await
            .map_err(OpenError::Dial)?;
        self.members.push(Member {
            name,
            declared,
            notices: Vec::new(),
            end: None,
        });
        let (sender, leave) = (self.sender.clone(), self.leave.clone());
        tokio::spawn(watch(dialed.socket, member, sender, leave));
        Ok(())
    }

    /// Takes in what was seen until the condition holds; false at the deadline.
    pub(super) async fn until(
        &mut self,
        deadline: Instant,
        mut holds: impl FnMut(&[Member]) -> bool,
    ) -> bool {
        loop {
            if holds(&self.members) {
                return true;
            }
            match timeout_at(deadline, self.seen.recv()).await {
                Ok(Some(seen)) => self.take_in(seen),
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Watches for a while.
    pub(super) async fn watch(&mut self, time: Duration) {
        self.until(Instant::now() + time, |_| false).await;
    }

    /// Everybody who is open closes with 1000.
    pub(super) async fn leave(&mut self) {
        std::mem::take(&mut self.leave).cancel();
        let deadline = Instant::now() + CLOSING;
        self.until(deadline, |members| {
            members.iter().all(|member| member.end.is_some())
        })
        .await;
    }

    /// How many are open.
    pub(super) fn open_count(&self) -> usize {
        self.members.iter().filter(|member| member.end.is_none()).count()
    }

    fn take_in(&mut self, seen: Seen) {
        let Some(member) = self.members.get_mut(seen.member) else {
            return;
        };
        match seen.what {
            What::Notice(notice) => member.notices.push((seen.at, notice)),
            What::End(end) => {
                member.end.get_or_insert((seen.at, end));
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.leave.cancel();
    }
}

/// Reads a socket to its end.
async fn watch<S>(
    mut socket: WebSocketStream<S>,
    member: usize,
    sender: mpsc::Sender<Seen>,
    leave: CancellationToken,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = leave.cancelled() => {
                let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let closing = async {
                    let _ = socket.close(Some(frame)).await;
                    while let Some(Ok(_)) = socket.next().await {}
                };
                let _ = timeout(CLOSING, closing).await;
                let end = What::End(End::Closed(1000, String::new()));
                let _ = sender.send(Seen { member, at: Instant::now(), what: end }).await;
                return;
            }
        };
        let at = Instant::now();
        let what = match &message {
            Some(Ok(Message::Text(text))) => notice_in(text).map(What::Notice),
            Some(Ok(Message::Binary(bytes))) => std::str::from_utf8(bytes)
                .ok()
                .and_then(notice_in)
                .map(What::Notice),
            Some(Ok(Message::Close(frame))) => Some(What::End(match frame {
                Some(frame) => End::Closed(frame.code.into(), frame.reason.to_string()),
                None => End::Closed(1005, String::new()),
            })),
            Some(Ok(_)) => None,
            Some(Err(_)) | None => Some(What::End(End::Cut)),
        };
        if let Some(What::Notice(notice)) = &what
            && let Some(id) = notice.get("id").and_then(Value::as_str)
        {
            let ack = json!({"type": "wsroll.ack", "id": id}).to_string();
            // A socket that cannot be written shows it at the next read.
            let _ = socket.send(Message::text(ack)).await;
        }
        let ended = matches!(what, Some(What::End(_)));
        if let Some(what) = what {
            let _ = sender.send(Seen { member, at, what }).await;
        }
        if ended {
            // The answer to the close frame is owed to the server.
            let rest = async { while let Some(Ok(_)) = socket.next().await {} };
            let _ = timeout(CLOSING, rest).await;
            return;
        }
    }
}

// === impl Traffic ===

impl Traffic {
    fn endpoint(&self, name: &str, declared: bool) -> Result<Endpoint, ConfigError> {
        let mut url = self.url.replace(PLACEHOLDER, name);
        let mut subprotocols = Vec::new();
        match &self.declare {
            Some(Declare::Query(query)) if declared => {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.push_str(query);
            }
            Some(Declare::Subprotocol(name)) if declared => subprotocols.push(name.clone()),
            _ => {}
        }
        let mut endpoint = Endpoint::new(&url, USER_AGENT)?.subprotocols(&subprotocols)?;
        for (header, value) in &self.headers {
            endpoint = endpoint.header(header, &value.replace(PLACEHOLDER, name))?;
        }
        Ok(endpoint)
    }
}

// === impl Declare ===

impl std::str::FromStr for Declare {
    type Err = std::convert::Infallible;

    /// `name=value` is a query, anything else a subprotocol.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.trim_start_matches(['?', '&']) {
            query if query.contains('=') => Self::Query(query.to_owned()),
            name => Self::Subprotocol(name.to_owned()),
        })
    }
}
