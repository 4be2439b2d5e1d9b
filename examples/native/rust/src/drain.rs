//! The drain protocol, version 1: one order at a time, paced, with a lease. Copy this file and `order.rs`; `main.rs`
//! shows their use, `port.rs` serves it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::order::{Mode, OnDeadline, Order, Select};

const TICK: Duration = Duration::from_millis(20);
const KEPT_EVENTS: usize = 10_000;
const PAGE: usize = 1_000;

/// What a socket is told to do.
pub enum Say {
    Text(String),
    Close(u16, String),
}

/// Who is on a socket.
pub struct Guest {
    pub identity: String,
    /// Reads notices.
    pub declared: bool,
    /// Whether its state was found; none where it did not ask.
    pub resumed: Option<bool>,
    pub say: mpsc::Sender<Say>,
}

/// The drain side of a process. Cheap to clone.
#[derive(Clone)]
pub struct Drain {
    key: Arc<str>,
    revision: Arc<str>,
    instance: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<u64, Session>,
    accepted: u64,
    resumed: u64,
    lost: u64,
    closed: BTreeMap<String, u64>,
    running: Option<Running>,
    cancelled: VecDeque<String>,
    /// Whoever was told keeps its turn, whatever becomes of the order.
    turns: VecDeque<Turn>,
    events: VecDeque<(Instant, Value)>,
    numbered: u64,
}

struct Session {
    guest: Guest,
    since: Instant,
    order: Option<String>,
    told: bool,
    acked: bool,
    forced: bool,
}

struct Running {
    order: Order,
    waiting: VecDeque<u64>,
    cancelled: bool,
    next: Instant,
    seen: Instant,
    lease_until: Instant,
    /// Of the deadline's clock, which stands still once the lease is over.
    active: Duration,
    eligible: u64,
    notified: u64,
    acked: u64,
    closed_clean: u64,
    closed_forced: u64,
}

struct Turn {
    at: Instant,
    session: u64,
    code: u16,
    order: String,
}

// === impl Drain ===

impl Drain {
    /// Without an identity key no events are kept.
    pub fn new(identity_key: &str, revision: &str) -> Self {
        Self {
            key: identity_key.trim().into(),
            revision: revision.into(),
            instance: format!("{:012x}", rand::random::<u64>()).into(),
            state: Arc::default(),
        }
    }

    pub fn has_events(&self) -> bool {
        !self.key.is_empty()
    }

    /// Moves sessions as ordered, for as long as the process runs.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            self.lock().step(Instant::now());
        }
    }

    /// A socket has opened; the number is for the other calls.
    pub fn add(&self, guest: Guest) -> u64 {
        let mut state = self.lock();
        state.accepted += 1;
        let id = state.accepted;
        match guest.resumed {
            Some(true) => state.resumed += 1,
            Some(false) => state.lost += 1,
            None => {}
        }
        self.note(
            &mut state,
            &guest.identity,
            json!({"kind": "arrived", "resumed": guest.resumed}),
        );
        let session = Session {
            guest,
            since: Instant::now(),
            order: None,
            told: false,
            acked: false,
            forced: false,
        };
        state.sessions.insert(id, session);
        if let Some(running) = &mut state.running
            && matches!(running.order.select, Select::All {})
            && !running.cancelled
        {
            running.eligible += 1;
            running.waiting.push_back(id);
        }
        id
    }

    /// The client has understood its notice.
    pub fn ack(&self, id: u64, order: &str) {
        let mut state = self.lock();
        let State {
            sessions, running, ..
        } = &mut *state;
        if let (Some(session), Some(running)) = (sessions.get_mut(&id), running)
            && running.order.id == order
            && session.told
            && !std::mem::replace(&mut session.acked, true)
        {
            running.acked += 1;
        }
    }

    /// The socket is gone; the code is the one of the close frame, 1006 without one.
    pub fn remove(&self, id: u64, code: u16) {
        let mut state = self.lock();
        let Some(session) = state.sessions.remove(&id) else {
            return;
        };
        *state.closed.entry(code.to_string()).or_default() += 1;
        if let Some(running) = &mut state.running {
            running.waiting.retain(|waiting| *waiting != id);
            if session.order.as_deref() == Some(&running.order.id) {
                running.closed_forced += u64::from(session.forced);
                running.closed_clean += u64::from(!session.forced);
            }
        }
        let how = match (&session.order, session.forced, code) {
            (Some(_), true, _) => "forced",
            (Some(_), false, _) => "moved",
            (None, _, 1006) => "cut",
            (None, ..) => "left",
        };
        let event = json!({"kind": "released", "how": how, "order": session.order});
        self.note(&mut state, &session.guest.identity, event);
    }

    /// Starts an order or renews it; false where it was cancelled before.
    pub fn put(&self, order: Order) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        if state.cancelled.contains(&order.id) {
            return false;
        }
        let lease_until = now + Duration::from_secs(order.lease_seconds.into());
        if let Some(running) = state
            .running
            .as_mut()
            .filter(|running| running.order.id == order.id)
        {
            running.clock(now);
            running.lease_until = lease_until;
            running.next = running.next.max(now);
            running.order = order;
            return true;
        }
        let open = state
            .sessions
            .iter()
            .filter(|(_, session)| session.order.is_none());
        let mut waiting: Vec<u64> = open.map(|(id, _)| *id).collect();
        waiting.shuffle(&mut rand::rng());
        waiting.truncate(order.count_of(waiting.len()));
        state.running = Some(Running {
            eligible: waiting.len() as u64,
            waiting: waiting.into(),
            cancelled: false,
            next: now,
            seen: now,
            lease_until,
            active: Duration::ZERO,
            notified: 0,
            acked: 0,
            closed_clean: 0,
            closed_forced: 0,
            order,
        });
        true
    }

    /// Cancels the order; false where it is not the one.
    pub fn cancel(&self, id: &str) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(running) = state.running.as_mut().filter(|running| running.order.id == id) else {
            return false;
        };
        running.cancelled = true;
        running.waiting.clear();
        state.cancelled.push_front(id.to_owned());
        state.cancelled.truncate(100);
        let sessions = &mut state.sessions;
        state.turns.retain(|turn| match sessions.get_mut(&turn.session) {
            Some(session) if turn.order == id && !session.told => {
                session.order = None;
                false
            }
            _ => true,
        });
        true
    }

    pub fn progress(&self) -> Value {
        self.lock().progress(Instant::now())
    }

    pub fn report(&self) -> Value {
        let state = self.lock();
        let now = Instant::now();
        let oldest = state.sessions.values().map(|session| now - session.since).max();
        present(
            json!({"instance": *self.instance, "revision": *self.revision, "open": state.sessions.len(),
            "oldestMs": oldest.map(millis), "accepting": true, "drain": state.progress(now),
            "totals": {"accepted": state.accepted, "resumed": state.resumed, "stateLost": state.lost,
                "closed": state.closed}}),
        )
    }

    pub fn events(&self, after: u64) -> Value {
        let state = self.lock();
        let now = Instant::now();
        // The number of the last one that was dropped.
        let dropped = state.numbered - state.events.len() as u64;
        let skip = usize::try_from(after.saturating_sub(dropped)).unwrap_or(usize::MAX);
        let mut page = Vec::new();
        for (at, event) in state.events.iter().skip(skip).take(PAGE) {
            let mut event = event.clone();
            event["agoMs"] = millis(now - *at).into();
            page.push(event);
        }
        let next = page
            .last()
            .map_or(json!(after.max(dropped)), |event| event["n"].clone());
        json!({"instance": *self.instance, "next": next, "lost": dropped.saturating_sub(after), "events": page})
    }

    fn note(&self, state: &mut State, identity: &str, event: Value) {
        let mut event = present(event);
        if !self.has_events() {
            return;
        }
        // HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.as_bytes()) else {
            return;
        };
        mac.update(b"session:");
        mac.update(identity.as_bytes());
        state.numbered += 1;
        event["n"] = state.numbered.into();
        event["session"] = hex::encode(&mac.finalize().into_bytes()[..8]).into();
        if state.events.len() == KEPT_EVENTS {
            state.events.pop_front();
        }
        state.events.push_back((Instant::now(), event));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Does what is due.
    fn step(&mut self, now: Instant) {
        while let Some(turn) = self.turns.pop_front_if(|turn| turn.at <= now) {
            if let Some(session) = self.sessions.get(&turn.session) {
                // A full queue belongs to a client that reads nothing: it finds its socket closed all the same.
                let _ = session.guest.say.try_send(Say::Close(turn.code, turn.order));
            }
        }
        let Some(running) = &mut self.running else { return };
        running.clock(now);
        let over = running.is_over();
        if !running.moves(now) {
            running.next = now; // what was missed is not made up for
            return;
        }
        running.next = running.next.max(now.checked_sub(TICK * 2).unwrap_or(now));
        while running.next <= now {
            let Some(id) = running.waiting.pop_front() else {
                return;
            };
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            running.next += Duration::from_secs_f64(1.0 / running.order.rate_per_second);
            session.order = Some(running.order.id.clone());
            session.forced = over;
            if session.guest.declared && !over {
                session.told = true;
                running.notified += 1;
                let notice = running.notice(&session.guest.identity);
                let _ = session.guest.say.try_send(Say::Text(notice.to_string()));
            }
            self.turns.push_back(Turn {
                at: now + Duration::from_millis(running.order.lead_ms()),
                session: id,
                code: running.order.close_code,
                order: running.order.id.clone(),
            });
        }
    }

    fn progress(&self, now: Instant) -> Value {
        let Some(running) = &self.running else {
            return Value::Null;
        };
        let order = &running.order;
        let under_it = self
            .sessions
            .values()
            .filter(|session| session.order.as_ref() == Some(&order.id));
        let left = running.waiting.len() + under_it.count();
        let state = if running.cancelled {
            "cancelled"
        } else if left == 0 {
            "done"
        } else if running.is_over() && order.on_deadline == OnDeadline::Wait {
            "deadline"
        } else if now >= running.lease_until {
            "paused"
        } else {
            "active"
        };
        json!({"id": order.id, "state": state, "eligible": running.eligible, "notified": running.notified,
            "acked": running.acked, "closedClean": running.closed_clean, "closedForced": running.closed_forced,
            "ratePerSecond": order.rate_per_second,
            "leaseExpiresMs": millis(running.lease_until.saturating_duration_since(now))})
    }
}

// === impl Running ===

impl Running {
    fn clock(&mut self, now: Instant) {
        self.active += now.min(self.lease_until).saturating_duration_since(self.seen);
        self.seen = now;
    }

    fn is_over(&self) -> bool {
        self.order
            .deadline_ms
            .is_some_and(|ms| self.active >= Duration::from_millis(ms))
    }

    fn moves(&self, now: Instant) -> bool {
        let asks = if self.is_over() {
            self.order.on_deadline == OnDeadline::Close
        } else {
            self.order.mode != Mode::Leave
        };
        asks && !self.cancelled && now < self.lease_until
    }

    fn notice(&self, resume_token: &str) -> Value {
        let (order, lead) = (&self.order, self.order.lead_ms());
        let hint = &order.reconnect.hint;
        let mut reconnect = json!({"afterMs": lead, "withinMs": 0, "url": null, "query": hint.query});
        for (name, value) in [("path", &hint.path), ("header", &hint.header)] {
            if let Some(value) = value {
                reconnect[name] = value.as_str().into();
            }
        }
        json!({"type": "wsroll.notice", "v": 1, "id": order.id, "reason": order.reason, "deadlineMs": lead,
            "reconnect": reconnect, "resume": {"token": resume_token, "expiresMs": 900_000},
            "closeCode": order.close_code, "makeBeforeBreak": false})
    }
}

/// Without its nulls: what is not known is left out.
fn present(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
