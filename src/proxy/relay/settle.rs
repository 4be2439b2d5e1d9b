//! How a session ends: whoever ends it, both ends are told in the words of the protocol, within a bounded time.

use std::task::Context;

use super::Relay;
use crate::drain::protocol::SERVICE_RESTART;
use crate::proxy::peer::Why;

/// The close code toward an application whose client is gone or was led away.
const GOING_AWAY: u16 = 1001;
/// What stands for a close that never came.
const ABNORMAL: u16 = 1006;

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The client, with this code.
    Client(u16),
    /// The application, with this code.
    Application(u16),
    /// The client's connection ended without a word.
    ClientCut,
    /// The application's connection ended without a word; the client was told 1012.
    ApplicationDied,
    /// The proxy, with this code.
    Proxy(Why, u16),
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Who ended it.
    pub by: By,
    /// Whether the client had its part: it answered the close, or ended its connection upon it.
    pub clean: bool,
}

// === impl Ending ===

impl Ending {
    /// The code that the client has seen.
    pub fn code(self) -> u16 {
        match self.by {
            By::Client(code) | By::Application(code) | By::Proxy(_, code) => code,
            By::ClientCut => ABNORMAL,
            By::ApplicationDied => SERVICE_RESTART,
        }
    }

    /// Who ended it, for labels: a closed set.
    pub fn initiator(self) -> &'static str {
        match self.by {
            By::Client(_) => "client",
            By::Application(_) => "application",
            By::ClientCut => "client_cut",
            By::ApplicationDied => "application_died",
            By::Proxy(Why::Turn, _) => "drain",
            By::Proxy(Why::Forced, _) => "deadline",
            By::Proxy(Why::Dormant, _) => "dormant",
            By::Proxy(Why::Idle, _) => "idle",
            By::Proxy(Why::Shutdown, _) => "shutdown",
        }
    }
}

// === impl Relay ===

impl Relay {
    /// Draws the consequences of what has ended. True when nothing is left to do.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) -> bool {
        let ending = self.client.0.ended
            || self.application.0.ended
            || self.client.0.close_ours
            || self.client.0.close_seen.is_some()
            || self.application.0.close_seen.is_some();
        let late = self.until_ms != u64::MAX && self.now_ms >= self.until_ms;
        if !ending {
            // A close that found no boundary in all its time.
            return late && self.give_up();
        }
        self.tell_client(cx);
        self.tell_application(cx);
        self.finish_sockets(cx);
        if !self.over && self.client.0.is_done() {
            // For the client it is over; the application has its time to end as well.
            self.conclude();
            self.until_ms = u64::MAX;
        }
        let waiting = self.over
            || self.client.0.ended
            || self.application.0.ended
            || self.client.0.close_ours
            || self.application.0.close_ours;
        if waiting {
            self.limit();
        }
        (self.client.0.ended && self.application.0.ended) || (late && self.give_up())
    }

    /// An application that is gone is told to the client as a restart, not as a cut.
    fn tell_client(&mut self, cx: &mut Context<'_>) {
        if !self.application.0.ended || self.client.0.is_told() || self.client.0.ended {
            return;
        }
        self.cause.get_or_insert(By::ApplicationDied);
        if self.application.0.frames.at_frame() {
            self.client.close(SERVICE_RESTART, "", cx);
        }
    }

    /// A client that is gone, or has answered our close, is told to the application.
    fn tell_application(&mut self, cx: &mut Context<'_>) {
        let left = self.client.0.ended || (self.client.0.close_ours && self.client.0.close_seen.is_some());
        if !left || self.application.0.is_told() || self.application.0.ended {
            return;
        }
        self.cause.get_or_insert(By::ClientCut);
        if self.client.0.frames.at_frame() {
            let own = self.proxy.codes(&self.peer).and_then(|codes| codes.application);
            self.application.close(own.unwrap_or(GOING_AWAY), cx);
        }
    }

    /// Passes the end of a socket on, and ends those that are through with their closing handshake.
    fn finish_sockets(&mut self, cx: &mut Context<'_>) {
        let (client, application) = (&mut self.client.0, &mut self.application.0);
        let shaken = |side: &super::side::Side| side.close_seen.is_some() && side.is_told();
        if shaken(client) || (application.ended && !client.close_ours) {
            client.finish(cx);
        }
        if shaken(application) || (client.ended && !application.close_ours) {
            application.finish(cx);
        }
    }

    /// Patience is over: what is left is cut.
    fn give_up(&mut self) -> bool {
        self.conclude();
        true
    }

    /// Says once how the session ended.
    pub(super) fn conclude(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let by = self.cause.unwrap_or(By::ClientCut);
        let clean = self.client.0.ended || self.client.0.close_seen.is_some();
        self.proxy.session_over(&self.peer, Ending { by, clean });
    }
}
