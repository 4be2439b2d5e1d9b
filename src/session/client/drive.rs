//! How a session moves: one poll reads its sockets, its connection attempt and its timer, and turns what they bring into
//! events. All state is in [`Session`], so that a cancelled poll loses nothing.

use std::task::{Context, Poll};

use rand::RngExt as _;
use tokio::time::{Instant, sleep_until};

use super::{Attempt, Cause, Event, FADE, Fading, Outage, Session, Socket};
use crate::session::config::{Dialect, SessionConfig};
use crate::session::dial::{DialError, Dialed, Resume, dial};
use crate::session::dialect::{Missed, Tongue};
use crate::session::event::{End, Failure, Restored, Welcomed};
use crate::session::ledger::Received;
use crate::session::socket::Incoming;
use crate::session::times::Timed;
use crate::session::wire::{ClientFrame, Notice, ServerFrame};

/// The longest wait that a notice may ask for, as the protocol bounds it: a service that asks for a thousand years keeps nobody away.
const MAX_WAIT_MS: u64 = 600_000;

/// How long a service that could not reach its store is left alone.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// Which socket a frame came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Current,
    Fading,
}

impl Session {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            // The old socket first: what it still delivers has lower numbers.
            let moved =
                self.poll_fading(cx) || self.poll_current(cx) || self.poll_attempt(cx) || self.poll_timer(cx);
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Ready when no let-go socket is left.
    pub(super) fn poll_faded(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_fading(cx) {
            self.events.clear();
        }
        if self.fading.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn poll_fading(&mut self, cx: &mut Context<'_>) -> bool {
        for place in 0..self.fading.len() {
            match self.fading[place].socket.poll(cx) {
                Poll::Ready(Incoming::Frame(frame)) => self.on_frame(frame, From::Fading),
                Poll::Ready(Incoming::End(_)) => {
                    drop(self.fading.remove(place));
                    self.gone(Instant::now());
                }
                Poll::Pending => continue,
            }
            return true;
        }
        false
    }

    fn poll_current(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(socket) = &mut self.current else {
            return false;
        };
        if self.hold.is_none() && self.ledger.has_unsent() {
            for request in self.ledger.unsent(Instant::now()) {
                socket.ask(request);
            }
        }
        match socket.poll(cx) {
            Poll::Ready(Incoming::Frame(frame)) => self.on_frame(frame, From::Current),
            Poll::Ready(Incoming::End(end)) => self.on_end(end),
            Poll::Pending => return false,
        }
        true
    }

    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.attempt {
            None | Some(Attempt::Waiting(_)) => return false,
            Some(Attempt::Dialing(dialing)) => match dialing.as_mut().poll(cx) {
                Poll::Ready(result) => self.on_dialed(result),
                Poll::Pending => return false,
            },
            Some(Attempt::Opened(socket)) => match socket.poll(cx) {
                Poll::Ready(Incoming::Frame(frame @ ServerFrame::Welcome { .. })) => {
                    self.on_welcome(frame);
                }
                // Nothing else can be understood before the welcome.
                Poll::Ready(Incoming::Frame(_)) => {}
                Poll::Ready(Incoming::End(end)) => {
                    socket.ended_early();
                    let code = end.code();
                    self.on_failure(Failure::ClosedEarly { code });
                }
                Poll::Pending => return false,
            },
        }
        true
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.deadline() else {
            self.timer = None;
            return false;
        };
        let now = Instant::now();
        if deadline <= now {
            self.on_deadline(now);
            return true;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).is_ready()
    }

    fn deadline(&self) -> Option<Instant> {
        let attempt = match &self.attempt {
            Some(Attempt::Waiting(at)) => Some(*at),
            Some(Attempt::Opened(socket)) => {
                let until = self.welcome_until(socket);
                Some(socket.deadline().map_or(until, |step| step.min(until)))
            }
            Some(Attempt::Dialing(_)) | None => None,
        };
        let fading = self.fading.iter().map(|fading| fading.until);
        let step = self.current.as_ref().and_then(|socket| socket.deadline());
        fading
            .chain(attempt)
            .chain(step)
            .chain(self.answer_until())
            .chain(self.hold)
            .min()
    }

    fn welcome_until(&self, socket: &Socket) -> Instant {
        socket.opened_at + self.config.welcome_timeout
    }

    fn answer_until(&self) -> Option<Instant> {
        self.current.as_ref()?;
        Some(self.ledger.waiting_since()? + self.config.answer_timeout?)
    }

    fn on_deadline(&mut self, now: Instant) {
        self.fading.retain(|fading| fading.until > now);
        self.hold = self.hold.filter(|until| *until > now);
        let missed = self.current.as_ref().and_then(|socket| socket.overdue(now));
        if let Some(missed) = &missed {
            tracing::debug!(step = missed.0, "a step of the script was not answered in time");
        }
        if missed.is_some() || self.answer_until().is_some_and(|at| at <= now) {
            self.on_end(End::Unanswered);
        }
        let welcome_timeout = self.config.welcome_timeout;
        match &mut self.attempt {
            Some(Attempt::Waiting(at)) if *at <= now => self.begin_dial(now),
            Some(Attempt::Opened(socket)) => {
                let failure = match socket.overdue(now) {
                    Some(Missed(step)) => Failure::Script { step },
                    None if socket.opened_at + welcome_timeout <= now => Failure::Mute,
                    None => return,
                };
                socket.ended_early();
                self.on_failure(failure);
            }
            _ => {}
        }
    }

    fn begin_dial(&mut self, now: Instant) {
        let last = self.ledger.last();
        let outage = self
            .outage
            .get_or_insert_with(|| Outage::new(Cause::First, Some(now)));
        outage.first_dial.get_or_insert(now);
        outage.attempts += 1;
        outage.resumed_from = last;
        self.events.push_back(Event::Dialing {
            attempt: outage.attempts,
            cause: outage.cause,
        });
        let (config, token, pin) = (self.config.clone(), self.token.clone(), self.pin.clone());
        let (id, hint) = (self.id.clone(), self.hint.clone());
        self.attempt = Some(Attempt::Dialing(Box::pin(async move {
            let SessionConfig {
                endpoint,
                declare_notice,
                make_before_break,
                dialect,
                ..
            } = &*config;
            // A service that speaks no protocol of ours is dialled by its own URL and nothing else.
            let ours = *dialect == Dialect::Session;
            let resume = Resume {
                session: id.as_deref().map(|id| (id, last)).filter(|_| ours),
                declare_notice: *declare_notice && ours,
                declare_overlap: *make_before_break && ours,
                hint: Some(&hint),
            };
            dial(endpoint, resume, token.as_ref(), pin.as_ref()).await
        })));
    }

    fn on_dialed(&mut self, result: Result<Dialed, DialError>) {
        match result {
            Ok(dialed) => {
                let Dialed {
                    socket,
                    phases,
                    revision,
                } = dialed;
                let (dialect, last) = (self.config.dialect, self.ledger.last());
                let tongue = Tongue::new(dialect, self.memory.as_ref(), revision.clone(), last);
                let socket = Box::new(Socket::new(socket, phases, tongue, Instant::now()));
                self.attempt = Some(Attempt::Opened(socket));
                self.events.push_back(Event::Accepted { revision });
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "attempt failed");
                if let (DialError::Refused(401), Some(token)) = (&error, &self.token) {
                    token.refused();
                }
                self.on_failure(error.failure());
            }
        }
    }

    fn on_failure(&mut self, failure: Failure) {
        if let Some((end, announced)) = self.handed_over.take() {
            self.events.push_back(Event::Disconnected { end, announced });
        }
        self.events.push_back(Event::AttemptFailed(failure));
        self.schedule(Instant::now());
    }

    fn on_welcome(&mut self, frame: ServerFrame) {
        let ServerFrame::Welcome {
            session,
            epoch,
            revision,
            pod,
            resumed,
            seq,
        } = frame
        else {
            return;
        };
        let Some(Attempt::Opened(mut socket)) = self.attempt.take() else {
            return;
        };
        let now = Instant::now();
        socket.phases.first_message = now - socket.opened_at;
        let phases = socket.phases;
        if let Some(socket) = self.current.replace(socket) {
            let until = now + FADE;
            self.fading.push(Fading { socket, until });
        }
        self.restored = false;
        self.handed_over = None;

        let (cause, resumed_from) = self
            .outage
            .as_ref()
            .map_or((Cause::First, 0), |o| (o.cause, o.resumed_from));
        // A service that restores an older state than the one it answered from has lost some as well.
        let found = resumed && seq >= resumed_from;
        let state_lost = self.id.is_some() && !found;
        if !found {
            self.ledger.restart(seq);
        }
        if let Some(met) = &self.config.met {
            met.add(&session);
        }
        self.id = Some(session);
        self.ledger.socket_changed();
        self.hold = None;
        self.events.push_back(Event::Welcomed(Welcomed {
            revision,
            pod,
            epoch,
            resumed,
            state_lost,
            cause,
            phases,
        }));
    }

    fn on_frame(&mut self, frame: ServerFrame, from: From) {
        match frame {
            ServerFrame::Message { seq, id } => {
                match self.ledger.receive(seq) {
                    Received::New { missing } => {
                        if missing > 0 {
                            self.events.push_back(Event::Gap { missing });
                        }
                        self.events.push_back(Event::Message { seq });
                    }
                    Received::Duplicate => self.events.push_back(Event::Duplicate),
                }
                if let Some((request, at)) = id.and_then(|id| self.ledger.answer(&id)) {
                    let after = at.elapsed();
                    self.events.push_back(Event::Answered { request, after });
                }
                self.on_sign_of_life(from);
            }
            ServerFrame::State { id, state } => {
                if let Some((request, _)) = self.ledger.answer(&id) {
                    self.events.push_back(Event::State { request, state });
                }
                self.on_sign_of_life(from);
            }
            ServerFrame::Error { id, code } => {
                // Neither an owner that lost the session nor a store that is away has the last word: the request stays. It goes
                // out again on the next socket, or a little later, with all that was said after it, so that the order holds.
                if from == From::Current && &*code == "unavailable" && self.hold.is_none() {
                    self.ledger.socket_changed();
                    let wait = PATIENCE.mul_f64(self.rng.random_range(0.75..=1.25));
                    self.hold = Some(Instant::now() + wait);
                }
                let last_word = from == From::Current && !matches!(&*code, "stale" | "unavailable");
                let id = id.filter(|_| last_word);
                if let Some((request, _)) = id.and_then(|id| self.ledger.answer(&id)) {
                    self.events.push_back(Event::Refused { request, code });
                }
            }
            ServerFrame::Notice(notice) if from == From::Current => self.on_notice(notice),
            ServerFrame::Notice(_) | ServerFrame::Welcome { .. } | ServerFrame::Unknown => {}
        }
    }

    /// A message on the new socket ends the outage.
    fn on_sign_of_life(&mut self, from: From) {
        if from == From::Fading || self.restored {
            return;
        }
        let Some(socket) = &self.current else { return };
        self.restored = true;
        let now = Instant::now();
        self.backoff.restored(now);
        if let Some(outage) = self.outage.take() {
            let since_dial = outage.first_dial.map_or_else(Default::default, |at| now - at);
            let phases = socket.phases;
            if let Some(times) = &self.config.times {
                times.add(Timed { since_dial, phases });
            }
            self.events.push_back(Event::Restored(Restored {
                cause: outage.cause,
                since_dial,
                downtime: outage.lost_at.map_or_else(Default::default, |at| now - at),
                attempts: outage.attempts,
                phases,
            }));
        }
    }

    fn on_notice(&mut self, notice: Notice) {
        let Some(socket) = &mut self.current else {
            return;
        };
        socket.noticed = true;
        socket.send(ClientFrame::Ack { id: &notice.id }.to_text());
        // A hint holds until the next notice: without it an unasked reconnect could land where it would be moved again.
        self.hint = notice.reconnect.clone();
        let make_before_break = notice.make_before_break && self.config.make_before_break;
        let after = std::time::Duration::from_millis(notice.reconnect.after_ms.min(MAX_WAIT_MS));
        self.events.push_back(Event::Noticed {
            id: notice.id,
            after,
            make_before_break,
        });
        let planned = matches!(self.attempt, None | Some(Attempt::Waiting(_)));
        if !make_before_break || !planned {
            return;
        }
        let now = Instant::now();
        let within = std::time::Duration::from_millis(notice.reconnect.within_ms.min(MAX_WAIT_MS));
        let place = now + after + within.mul_f64(self.rng.random_range(0.0..=1.0));
        if self.attempt.is_none() {
            self.backoff.lost(now);
            self.outage = Some(Outage::new(Cause::Handover, None));
            self.schedule(place);
        } else {
            // The pod renewed its order, and with it the session's place.
            self.attempt = Some(Attempt::Waiting(place));
        }
    }

    /// Drops the socket without a word, as a network that fails does. The session comes back by its schedule; unlike
    /// [`recover`](Self::recover) this starts no back-off afresh.
    pub fn cut(&mut self) {
        self.on_end(End::Cut);
    }

    /// The current socket is gone.
    fn on_end(&mut self, end: End) {
        let Some(socket) = self.current.take() else {
            return;
        };
        let announced = match end {
            End::Closed { code } => socket.noticed || code == self.config.ordered_code,
            // Something else cut it, whatever was announced.
            End::Cut | End::Unanswered => false,
        };
        self.restored = false;
        // The new owner took the session, and the old one's goodbye is read before its upgrade and its welcome.
        let handing_over = matches!(self.attempt, Some(Attempt::Dialing(_) | Attempt::Opened(_)));
        if announced && handing_over {
            self.handed_over = Some((end, announced));
        } else {
            self.events.push_back(Event::Disconnected { end, announced });
        }
        let now = Instant::now();
        self.backoff.lost(now);
        let cause = if announced {
            Cause::Announced
        } else {
            Cause::Unannounced
        };
        let outage = self.outage.get_or_insert_with(|| Outage::new(cause, None));
        outage.lost_at.get_or_insert(now);
        match self.attempt {
            None => self.schedule(now),
            // Its successor was planned for later: there is nothing left to wait for.
            Some(Attempt::Waiting(_)) => self.attempt = Some(Attempt::Waiting(now)),
            Some(Attempt::Dialing(_) | Attempt::Opened(_)) => {}
        }
    }
}
