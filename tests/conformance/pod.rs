//! A small implementation of the drain protocol with fault switches. One task moves all: it looks at the clock a
//! hundred times a second.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use futures_util::{SinkExt as _, StreamExt as _};
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response as Upgrade};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use wsroll::drain::identity::{self, IdentityKey};
use wsroll::drain::protocol::{DrainOrder, Hint, Mode, OnDeadline, Select};

pub(crate) const TOKEN: &str = "t0ken";
pub(crate) const KEY: &str = "identity-key";

/// What the implementation gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    TakesWrongTokens,
    TakesPrefixes,
    OrdersNeedNoToken,
    AnyVersion,
    TakesBadOrders,
    BadOrdersStartInPart,
    RefusesNovelties,
    RepeatsStartAnew,
    NeverRenews,
    KeepsRate,
    CancelsAnything,
    IgnoresCancel,
    IgnoresLease,
    DeadlineRunsOn,
    IgnoresMode,
    IgnoresSelect,
    AllAtOnce,
    OldestFirst,
    Cuts,
    ClosesWith1000,
    KeepsSome,
    RefusesWhileDraining,
    TellsEverybody,
    TellsSome,
    NoticeWithoutId,
    NoticeWithoutHint,
    ClosesBeforeTurn,
    Lies,
    CountsInWords,
    NewInstanceEachTime,
    CountersStandStill,
    EventsAreMissing,
    EventsStartOver,
    EventsNameSessions,
}

/// A running pod.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) drain: SocketAddr,
    pub(crate) traffic: SocketAddr,
    fault: Option<Fault>,
    state: Arc<Mutex<Sessions>>,
}

#[derive(Default)]
struct Sessions {
    sockets: BTreeMap<u64, Socket>,
    opened: u64,
    closed: BTreeMap<String, u64>,
    running: Option<Running>,
    cancelled: Vec<String>,
    /// Closes that were told to clients, with their time.
    turns: Vec<(Instant, u64, u16, String)>,
    events: Vec<Value>,
}

struct Socket {
    name: String,
    declared: bool,
    told: bool,
    say: mpsc::Sender<Message>,
}

struct Running {
    order: DrainOrder,
    waiting: VecDeque<u64>,
    next: Instant,
    lease_until: Instant,
    seen: Instant,
    active: Duration,
    cancelled: bool,
    eligible: u64,
    notified: u64,
    acked: u64,
    closed: u64,
}

// === impl Pod ===

impl Pod {
    pub(crate) async fn start(fault: Option<Fault>) -> Self {
        let drain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let traffic = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pod = Self {
            drain: drain.local_addr().unwrap(),
            traffic: traffic.local_addr().unwrap(),
            fault,
            state: Arc::default(),
        };
        let router = Router::new()
            .route("/wsroll/{version}/sessions", get(sessions))
            .route("/wsroll/{version}/drain", put(order))
            .route("/wsroll/{version}/drain/{id}", delete(cancel))
            .route("/wsroll/{version}/events", get(events))
            .with_state(pod.clone());
        tokio::spawn(async move { axum::serve(drain, router).await.unwrap() });
        let accepting = pod.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = traffic.accept().await {
                tokio::spawn(accepting.clone().converse(tcp));
            }
        });
        let moving = pod.clone();
        tokio::spawn(async move {
            let mut tick = interval(Duration::from_millis(10));
            loop {
                tick.tick().await;
                moving.step(Instant::now());
            }
        });
        pod
    }

    pub(crate) fn open(&self) -> usize {
        self.lock().sockets.len()
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.state.lock().unwrap()
    }

    fn refuses(&self, version: &str, headers: &HeaderMap, is_order: bool) -> Option<StatusCode> {
        if version != "v1" && !self.has(Fault::AnyVersion) {
            return Some(StatusCode::NOT_FOUND);
        }
        let given = headers.get("authorization").map(|value| value.to_str().unwrap());
        let right = format!("Bearer {TOKEN}");
        let fits = match given {
            _ if is_order && self.has(Fault::OrdersNeedNoToken) => true,
            None => false,
            Some(given) if self.has(Fault::TakesWrongTokens) => given.starts_with("Bearer "),
            Some(given) if self.has(Fault::TakesPrefixes) => right.starts_with(given),
            Some(given) => given == right,
        };
        (!fits).then_some(StatusCode::UNAUTHORIZED)
    }

    /// A socket's whole life.
    #[allow(clippy::result_large_err)] // the signature is tungstenite's
    async fn converse(self, tcp: TcpStream) {
        let mut query = String::new();
        let draining = self
            .lock()
            .running
            .as_ref()
            .is_some_and(|running| !running.waiting.is_empty());
        let refuse = draining && self.has(Fault::RefusesWhileDraining);
        let look = |request: &Request, answer: Upgrade| {
            request.uri().query().unwrap_or_default().clone_into(&mut query);
            if refuse {
                Err(ErrorResponse::new(None))
            } else {
                Ok(answer)
            }
        };
        let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(tcp, look).await else {
            return;
        };
        let name = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("sid="))
            .unwrap_or("nobody")
            .to_owned();
        let (say, mut said) = mpsc::channel(8);
        let id = self.opened(name, query.contains("wsroll=1"), say);
        let (mut code, mut under) = (1006, None);
        loop {
            tokio::select! {
                message = said.recv() => match message {
                    Some(Message::Close(Some(frame))) => {
                        (code, under) = (frame.code.into(), Some(frame.reason.to_string()));
                        if self.has(Fault::Cuts) {
                            break;
                        }
                        let _ = socket.close(Some(frame)).await;
                    }
                    Some(message) => { let _ = socket.send(message).await; }
                    None => break,
                },
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) if text.contains("wsroll.ack") => {
                        if let Some(running) = &mut self.lock().running {
                            running.acked += 1;
                        }
                    }
                    Some(Ok(Message::Close(Some(frame)))) if under.is_none() => code = frame.code.into(),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                },
            }
        }
        self.gone(id, code, under.filter(|reason| !reason.is_empty()));
    }

    fn opened(&self, name: String, declared: bool, say: mpsc::Sender<Message>) -> u64 {
        let mut state = self.lock();
        state.opened += 1;
        let id = state.opened;
        self.note(&mut state, "arrived", &name, None);
        state.sockets.insert(
            id,
            Socket {
                name,
                declared,
                told: false,
                say,
            },
        );
        if let Some(running) = &mut state.running
            && running.order.select == (Select::All {})
            && !running.cancelled
        {
            running.waiting.push_back(id);
            running.eligible += 1;
        }
        id
    }

    fn gone(&self, id: u64, code: u16, order: Option<String>) {
        let mut state = self.lock();
        let Some(socket) = state.sockets.remove(&id) else {
            return;
        };
        *state.closed.entry(code.to_string()).or_default() += 1;
        if !(self.has(Fault::EventsAreMissing) && id.is_multiple_of(3)) {
            self.note(&mut state, "released", &socket.name, order.as_deref());
        }
        if let Some(running) = &mut state.running {
            running.waiting.retain(|waiting| *waiting != id);
            if order.is_some_and(|order| order == running.order.id) && !self.has(Fault::CountersStandStill) {
                running.closed += 1;
            }
        }
    }

    fn note(&self, state: &mut Sessions, kind: &str, name: &str, order: Option<&str>) {
        let session = if self.has(Fault::EventsNameSessions) {
            name.to_owned()
        } else {
            identity::hash(&IdentityKey::new(KEY), name)
        };
        let n = state.events.len() + 1;
        let mut event = json!({"n": n, "kind": kind, "session": session, "agoMs": 0});
        if let Some(order) = order {
            event["order"] = order.into();
            event["how"] = "moved".into();
        }
        state.events.push(event);
    }

    /// Takes a checked order.
    fn take(&self, order: DrainOrder, now: Instant) -> StatusCode {
        let mut state = self.lock();
        if state.cancelled.contains(&order.id) {
            return StatusCode::CONFLICT;
        }
        let lease = Duration::from_secs(order.lease_seconds.into());
        if let Some(running) = &mut state.running
            && running.order.id == order.id
            && !self.has(Fault::RepeatsStartAnew)
        {
            running.clock(now, self);
            if !self.has(Fault::NeverRenews) {
                running.lease_until = now + lease;
            }
            running.next = running.next.max(now);
            let kept = running.order.rate_per_second;
            running.order = order;
            if self.has(Fault::KeepsRate) {
                running.order.rate_per_second = kept;
            }
            return StatusCode::OK;
        }
        let repeated = state
            .running
            .as_ref()
            .is_some_and(|running| running.order.id == order.id);
        let mut waiting: Vec<u64> = state.sockets.keys().copied().collect();
        if !self.has(Fault::OldestFirst) {
            waiting.shuffle(&mut rand::rng());
        }
        let count = match order.select {
            _ if self.has(Fault::IgnoresSelect) => waiting.len(),
            Select::All {} => waiting.len(),
            Select::Count(count) => count as usize,
            Select::Fraction(share) => (waiting.len() as f64 * share).ceil() as usize,
        };
        waiting.truncate(count);
        if repeated {
            state.sockets.values_mut().for_each(|socket| socket.told = false);
        }
        state.running = Some(Running {
            eligible: waiting.len() as u64 + u64::from(repeated),
            waiting: waiting.into(),
            next: now,
            lease_until: now + lease,
            seen: now,
            active: Duration::ZERO,
            cancelled: false,
            notified: 0,
            acked: 0,
            closed: 0,
            order,
        });
        StatusCode::OK
    }

    /// Does what is due.
    fn step(&self, now: Instant) {
        let mut state = self.lock();
        let state = &mut *state;
        let (due, later) = state.turns.drain(..).partition(|(at, ..)| *at <= now);
        state.turns = later;
        let due: Vec<(Instant, u64, u16, String)> = due;
        for (_, id, code, reason) in due {
            if let Some(socket) = state.sockets.get(&id) {
                let frame = CloseFrame {
                    code: code.into(),
                    reason: reason.into(),
                };
                let _ = socket.say.try_send(Message::Close(Some(frame)));
            }
        }
        let Some(running) = &mut state.running else { return };
        running.clock(now, self);
        if !running.moves(now, self) {
            running.next = now;
            return;
        }
        while running.next <= now || self.has(Fault::AllAtOnce) {
            let Some(id) = running.waiting.pop_front() else {
                return;
            };
            if self.has(Fault::KeepsSome) && id % 5 == 0 {
                continue;
            }
            running.next += Duration::from_secs_f64(1.0 / running.order.rate_per_second);
            let Some(socket) = state.sockets.get_mut(&id) else {
                continue;
            };
            let lead = Duration::from_millis(running.order.reconnect.max_ms.min(2_000));
            let tells = match self.fault {
                Some(Fault::TellsEverybody) => true,
                Some(Fault::TellsSome) => socket.declared && id % 4 < 2,
                _ => socket.declared,
            };
            let mut turn = now + lead;
            if tells && running.order.mode == Mode::Ask && !socket.told {
                socket.told = true;
                running.notified += 1;
                let notice = self.notice(&running.order, lead);
                let _ = socket.say.try_send(Message::text(notice.to_string()));
                if self.has(Fault::ClosesBeforeTurn) {
                    turn = now;
                }
            }
            let code = if self.has(Fault::ClosesWith1000) {
                1000
            } else {
                running.order.close_code
            };
            state.turns.push((turn, id, code, running.order.id.clone()));
        }
    }

    fn notice(&self, order: &DrainOrder, lead: Duration) -> Value {
        let mut notice = json!({"type": "wsroll.notice", "v": 1, "id": order.id, "reason": order.reason,
            "reconnect": {"afterMs": lead.as_millis() as u64, "withinMs": 0, "url": null},
            "closeCode": order.close_code, "makeBeforeBreak": false});
        if let Some(Hint::Query(query)) = &order.reconnect.hint
            && !self.has(Fault::NoticeWithoutHint)
        {
            notice["reconnect"]["query"] = query.as_str().into();
        }
        if self.has(Fault::NoticeWithoutId) {
            notice["id"] = "another".into();
        }
        notice
    }
}

// === impl Running ===

impl Running {
    /// The deadline's clock.
    fn clock(&mut self, now: Instant, pod: &Pod) {
        let until = if pod.has(Fault::DeadlineRunsOn) {
            now
        } else {
            now.min(self.lease_until)
        };
        self.active += until.saturating_duration_since(self.seen);
        self.seen = now;
    }

    fn moves(&self, now: Instant, pod: &Pod) -> bool {
        let over = self
            .order
            .deadline_ms
            .is_some_and(|ms| self.active >= Duration::from_millis(ms));
        let leaves = self.order.mode == Mode::Leave && !pod.has(Fault::IgnoresMode);
        let held = now < self.lease_until || pod.has(Fault::IgnoresLease);
        let stopped = self.cancelled && !pod.has(Fault::IgnoresCancel);
        !stopped
            && held
            && if over {
                self.order.on_deadline == OnDeadline::Close
            } else {
                !leaves
            }
    }

    fn progress(&self, turns: usize, now: Instant) -> Value {
        let state = match () {
            () if self.cancelled => "cancelled",
            () if self.waiting.is_empty() && turns == 0 && self.closed >= self.eligible => "done",
            () if now >= self.lease_until => "paused",
            () => "active",
        };
        json!({"id": self.order.id, "state": state, "eligible": self.eligible, "notified": self.notified,
            "acked": self.acked, "closedClean": self.closed, "closedForced": 0,
            "ratePerSecond": self.order.rate_per_second,
            "leaseExpiresMs": self.lease_until.saturating_duration_since(now).as_millis() as u64})
    }
}

// === the drain port ===

async fn sessions(State(pod): State<Pod>, Path(version): Path<String>, headers: HeaderMap) -> Response {
    if let Some(status) = pod.refuses(&version, &headers, false) {
        return status.into_response();
    }
    let state = pod.lock();
    let instance = if pod.has(Fault::NewInstanceEachTime) {
        rand::random::<u32>()
    } else {
        7
    };
    let open = state.sockets.len();
    let mut report = json!({"instance": instance.to_string(), "open": open, "accepting": true,
        "totals": {"accepted": state.opened, "closed": state.closed}});
    if let Some(running) = &state.running {
        report["drain"] = running.progress(state.turns.len(), Instant::now());
    }
    if pod.has(Fault::Lies) {
        report["open"] = 0.into();
    }
    if pod.has(Fault::CountsInWords) {
        report["open"] = "many".into();
    }
    json(&report)
}

async fn order(
    State(pod): State<Pod>,
    Path(version): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(status) = pod.refuses(&version, &headers, true) {
        return status.into_response();
    }
    let now = Instant::now();
    if body.len() > 64 * 1024 {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    let text = String::from_utf8_lossy(&body);
    let parsed = serde_json::from_str::<DrainOrder>(&text).map_err(|error| error.to_string());
    let checked = parsed.and_then(|order| order.check().map(|()| order).map_err(|error| error.to_string()));
    match checked {
        Ok(_) if pod.has(Fault::RefusesNovelties) && text.contains("novelty") => {
            (StatusCode::BAD_REQUEST, "what is a novelty?").into_response()
        }
        Ok(order) => pod.take(order, now).into_response(),
        Err(_) if pod.has(Fault::TakesBadOrders) => StatusCode::OK.into_response(),
        Err(reason) => {
            if pod.has(Fault::BadOrdersStartInPart)
                && let Some(socket) = pod.lock().sockets.values().next()
            {
                let frame = CloseFrame {
                    code: 1012.into(),
                    reason: "".into(),
                };
                let _ = socket.say.try_send(Message::Close(Some(frame)));
            }
            (StatusCode::BAD_REQUEST, reason).into_response()
        }
    }
}

async fn cancel(
    State(pod): State<Pod>,
    Path((version, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> StatusCode {
    if let Some(status) = pod.refuses(&version, &headers, true) {
        return status;
    }
    let mut state = pod.lock();
    match &mut state.running {
        Some(running) if running.order.id == id => {
            running.cancelled = true;
            state.cancelled.push(id);
            StatusCode::OK
        }
        _ if pod.has(Fault::CancelsAnything) => StatusCode::OK,
        _ => StatusCode::NOT_FOUND,
    }
}

async fn events(
    State(pod): State<Pod>,
    Path(version): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if let Some(status) = pod.refuses(&version, &headers, false) {
        return status.into_response();
    }
    let state = pod.lock();
    let after: usize = uri
        .query()
        .and_then(|query| query.strip_prefix("after=")?.parse().ok())
        .unwrap_or(0);
    let from = if pod.has(Fault::EventsStartOver) {
        after.saturating_sub(1)
    } else {
        after
    }
    .min(state.events.len());
    let page: Vec<&Value> = state.events[from..].iter().take(50).collect();
    let next = from.max(after) + page.len();
    json(&json!({"next": next, "lost": 0, "events": page}))
}

fn json(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}
