//! What the proxy says to a client between the application's messages.

use std::task::Context;

use super::{By, Relay, Seen};
use crate::proxy::frame::{self, Frame, Mark};

/// What a ping of ours carries, so that its pong is known. Most applications send none or a number.
pub(super) const PING: &[u8] = b"wsroll";

// === impl Relay ===

impl Relay {
    /// Says what is to be said, if the application is between messages now.
    pub(super) fn inject(&mut self, cx: &mut Context<'_>) {
        if self.client.0.is_told() {
            return;
        }
        let mut out = Vec::new();
        self.say(&mut out);
        if !out.is_empty() {
            self.client.0.send(&out, cx);
        }
    }

    /// Passes a chunk of the application's on, and says what is to be said at the first boundary in it.
    pub(super) fn interleave(&mut self, chunk: &[u8], cx: &mut Context<'_>) -> Seen {
        let mut seen = Seen::default();
        let mut out = Vec::with_capacity(chunk.len() + 256);
        let mut at = 0;
        loop {
            let (used, mark) = self.application.0.frames.advance(&chunk[at..], false);
            if !self.client.0.close_ours {
                out.extend_from_slice(&chunk[at..at + used]);
            }
            at += used;
            let Some(Mark::End(frame)) = mark else { break };
            if self.client.0.close_ours && frame == Frame::Message {
                self.proxy.metrics.dropped.add(0, 1);
            }
            seen.add(frame);
            if !self.client.0.close_ours {
                self.client.0.close_passed |= seen.close.is_some();
                self.say(&mut out);
            }
        }
        self.client.0.send(&out, cx);
        seen
    }

    /// Appends what the place between two frames allows: a ping between frames, the rest between messages.
    fn say(&mut self, out: &mut Vec<u8>) {
        let frames = &self.application.0.frames;
        if self.client.0.is_told() || !frames.at_frame() {
            return;
        }
        if std::mem::take(&mut self.ping) {
            out.extend(frame::ping(PING));
            self.pinged = true;
        }
        // Where a message does not end, the close has to come between its frames, which the protocol allows as well.
        let late = self.now_ms >= self.until_ms;
        if !frames.at_message() && !late {
            return;
        }
        if let Some(text) = self.notice.take().filter(|_| frames.at_message()) {
            out.extend(frame::text(&text));
            self.noticed = true;
            self.proxy.metrics.notices.inc();
        }
        if let Some(goodbye) = self.goodbye.take() {
            let order = self.peer.told.get().map_or("", |tally| &tally.id);
            out.extend(frame::close(goodbye.code, order, None));
            self.client.0.close_ours = true;
            // The client's answer has a time of its own.
            self.until_ms = u64::MAX;
            self.cause.get_or_insert(By::Proxy(goodbye.why, goodbye.code));
        }
    }
}
