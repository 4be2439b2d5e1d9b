//! Keeps from the application what a client says to the proxy: pongs to our pings, acknowledgements of our notices, and
//! its part of a close that we began.

use std::task::Context;

use super::inject::PING;
use super::{Relay, Seen};
use crate::drain::protocol::Ack;
use crate::proxy::frame::{self, Header, Mark};

/// The longest acknowledgement: an id of 200 characters with what is around it.
const MAX_ACK: u64 = 300;
/// A control frame's payload.
const MAX_CONTROL: u64 = 125;

// === impl Relay ===

impl Relay {
    /// Passes a chunk of the client's on without what is meant for the proxy. A frame that may be is held until it is
    /// whole; so are headers that are not.
    pub(super) fn sift(&mut self, chunk: &[u8], cx: &mut Context<'_>) -> Seen {
        let mut seen = Seen::default();
        let mut out = Vec::with_capacity(self.held.len() + chunk.len());
        let mut at = 0;
        loop {
            let (used, mark) = self.client.0.frames.advance(&chunk[at..], true);
            let bytes = &chunk[at..at + used];
            at += used;
            let is_held = self.holding.is_some();
            match mark {
                None => {
                    let partial = self.client.0.frames.partial_header() > 0;
                    let target = if is_held || partial {
                        &mut self.held
                    } else {
                        &mut out
                    };
                    target.extend_from_slice(bytes);
                    break;
                }
                Some(Mark::Header(header)) => {
                    self.held.extend_from_slice(bytes);
                    // A header of which a part has passed already cannot be taken back.
                    if self.held.len() == header.size && self.may_be_ours(header) {
                        self.holding = Some(header);
                    } else {
                        out.append(&mut self.held);
                    }
                }
                Some(Mark::End(frame)) => {
                    let ours = if let Some(header) = self.holding.take() {
                        self.held.extend_from_slice(bytes);
                        let ours = self.is_ours(header);
                        if ours {
                            self.held.clear();
                        } else {
                            out.append(&mut self.held);
                        }
                        ours
                    } else {
                        out.extend_from_slice(bytes);
                        false
                    };
                    if !ours || self.client.0.close_ours {
                        seen.add(frame);
                    }
                    if !ours && seen.close.is_some() {
                        self.application.0.close_passed = true;
                    }
                    if self.swap.is_some() && self.client.0.frames.at_message() {
                        self.client.0.carry = chunk[at..].to_vec();
                        break;
                    }
                    if ours && seen.close.is_some() {
                        break; // nothing follows a close
                    }
                }
            }
        }
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        if !self.application.0.close_ours {
            self.application.0.send(&out, cx);
        }
        seen
    }

    fn may_be_ours(&self, header: Header) -> bool {
        match header.opcode() {
            frame::CLOSE => self.client.0.close_ours && header.length <= MAX_CONTROL,
            frame::PONG => self.pinged && header.length == PING.len() as u64,
            frame::TEXT => self.noticed && header.is_plain_whole() && header.length <= MAX_ACK,
            _ => false,
        }
    }

    /// Whether the frame that is held is for the proxy.
    fn is_ours(&mut self, header: Header) -> bool {
        let mut payload = self.held[header.size..].to_vec();
        frame::unmask(&mut payload, header.mask);
        match header.opcode() {
            frame::CLOSE => true,
            frame::PONG => {
                let ours = payload == PING;
                self.pinged &= !ours;
                ours
            }
            _ => {
                let Some(tally) = self.peer.told.get() else {
                    return false;
                };
                let ours = serde_json::from_slice::<Ack>(&payload).is_ok_and(|ack| ack.id == tally.id);
                if ours {
                    self.noticed = false;
                    tally.acked();
                }
                ours
            }
        }
    }
}
