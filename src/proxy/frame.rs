//! RFC 6455 frames: where they begin and end in a stream of bytes, and the few that the proxy makes itself.
//!
//! The tracker reads headers only. It judges nothing: whatever the two ends send each other is theirs, and a frame that
//! breaks the rules is told by the end that receives it.

/// A close frame's reason has at most so many bytes.
pub const MAX_REASON: usize = 123;

/// The opcode of a text frame.
pub const TEXT: u8 = 1;
/// The opcode of a close frame.
pub const CLOSE: u8 = 8;
/// The opcode of a ping.
pub const PING: u8 = 9;
/// The opcode of a pong.
pub const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// In place of a length: two, or eight, bytes of it follow.
const TWO: u8 = 126;
const EIGHT: u8 = 127;
/// Longest header: two bytes, a length of eight, a mask of four.
const MAX_HEADER: usize = 14;

/// Follows one direction of a WebSocket.
#[derive(Debug, Default)]
pub struct Tracker {
    header: [u8; MAX_HEADER],
    /// Bytes of the header seen so far; 0 between frames.
    have: u8,
    /// The header is complete and the payload is being read.
    in_payload: bool,
    /// Between the first and the last frame of a message.
    fragmented: bool,
    /// First payload bytes of a close frame, unmasked.
    code: [u8; 2],
    left: u64,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// FIN, the reserved bits and the opcode, as on the wire.
    pub first: u8,
    /// Bytes of the header itself.
    pub size: usize,
    /// Bytes of payload.
    pub length: u64,
    /// The mask, where there is one.
    pub mask: Option<[u8; 4]>,
}

/// What was reached in a stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A header is complete; its payload follows.
    Header(Header),
    /// A frame is complete.
    End(Frame),
}

/// A complete frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The last frame of a data message.
    Message,
    /// A frame of a data message that goes on.
    Fragment,
    /// A ping or a pong, or a control frame yet unknown.
    Control,
    /// A close frame, with its code: 1005 where it has none.
    Close(u16),
}

// === impl Header ===

impl Header {
    /// The frame's opcode.
    pub fn opcode(self) -> u8 {
        self.first & 0x0f
    }

    /// Whether it is a whole message in itself, and not changed by an extension.
    pub fn is_plain_whole(self) -> bool {
        self.first & 0xf0 == FIN
    }
}

// === impl Tracker ===

impl Tracker {
    /// Whether the next byte begins a frame.
    pub fn at_frame(&self) -> bool {
        self.have == 0
    }

    /// Whether the next byte begins a message (or a control frame between messages).
    pub fn at_message(&self) -> bool {
        self.have == 0 && !self.fragmented
    }

    /// Bytes of a header that is not complete yet; 0 between frames and within a payload.
    pub fn partial_header(&self) -> usize {
        if self.in_payload {
            0
        } else {
            usize::from(self.have)
        }
    }

    /// Goes forward to the next mark, and says how many of `bytes` that took. Headers are marks only where `headers` asks
    /// for them. To be called again with what is left until there is no mark: a frame without a payload ends with no byte
    /// of its own.
    pub fn advance(&mut self, bytes: &[u8], headers: bool) -> (usize, Option<Mark>) {
        let mut used = 0;
        if !self.in_payload {
            used = self.read_header(bytes);
            if !self.in_payload {
                return (used, None);
            }
            if headers {
                return (used, Some(Mark::Header(self.header())));
            }
        }
        let rest = bytes.len() - used;
        let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest);
        if self.header[0] & 0x0f == CLOSE {
            self.keep_code(&bytes[used..used + taken]);
        }
        used += taken;
        self.left -= taken as u64;
        if self.left > 0 {
            return (used, None);
        }
        (used, Some(Mark::End(self.end_frame())))
    }

    /// Takes header bytes; `in_payload` tells whether it is complete.
    fn read_header(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let have = usize::from(self.have);
            let need = self.header_length();
            let taken = (need - have).min(bytes.len() - used);
            self.header[have..have + taken].copy_from_slice(&bytes[used..used + taken]);
            used += taken;
            self.have += taken as u8;
            if usize::from(self.have) < need {
                return used;
            }
            // The second byte says how long the header is.
            if need == self.header_length() {
                self.in_payload = true;
                self.left = self.header().length;
                return used;
            }
        }
    }

    /// How long the header is, as far as its bytes tell.
    fn header_length(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let mask = if self.header[1] & MASKED == 0 { 0 } else { 4 };
        2 + mask
            + match self.header[1] & 0x7f {
                TWO => 2,
                EIGHT => 8,
                _ => 0,
            }
    }

    fn header(&self) -> Header {
        let short = self.header[1] & 0x7f;
        let extra = match short {
            TWO => 2,
            EIGHT => 8,
            _ => 0,
        };
        let length = self.header[2..2 + extra]
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte));
        let length = if extra == 0 { u64::from(short) } else { length };
        let at = 2 + extra;
        let mask = (self.header[1] & MASKED != 0).then(|| {
            [
                self.header[at],
                self.header[at + 1],
                self.header[at + 2],
                self.header[at + 3],
            ]
        });
        Header {
            first: self.header[0],
            size: self.header_length(),
            length,
            mask,
        }
    }

    fn keep_code(&mut self, payload: &[u8]) {
        let Header { length, mask, .. } = self.header();
        let seen = length - self.left;
        for (at, byte) in (seen..2).zip(payload) {
            let at = at as usize;
            self.code[at] = byte ^ mask.map_or(0, |mask| mask[at]);
        }
    }

    fn end_frame(&mut self) -> Frame {
        let first = self.header[0];
        let length = self.header().length;
        self.have = 0;
        self.in_payload = false;
        match first & 0x0f {
            CLOSE if length >= 2 => Frame::Close(u16::from_be_bytes(self.code)),
            CLOSE => Frame::Close(1005),
            opcode if opcode > 7 => Frame::Control,
            _ if first & FIN == 0 => {
                self.fragmented = true;
                Frame::Fragment
            }
            _ => {
                self.fragmented = false;
                Frame::Message
            }
        }
    }
}

// === frames of our own ===

/// A text message toward a client: whole, unmasked and not compressed, which any extension allows.
pub fn text(text: &str) -> Vec<u8> {
    frame(TEXT, text.as_bytes(), None)
}

/// A ping toward a client.
pub fn ping(payload: &[u8]) -> Vec<u8> {
    frame(PING, payload, None)
}

/// A close frame; toward an application it has to be masked. The reason is cut to what fits.
pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(CLOSE, &payload, mask)
}

fn frame(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + MAX_HEADER);
    frame.push(FIN | opcode);
    let masked = if mask.is_some() { MASKED } else { 0 };
    match payload.len() {
        length @ 0..=125 => frame.push(masked | length as u8),
        length @ 126..=0xffff => {
            frame.push(masked | TWO);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(masked | EIGHT);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(mask.as_ref().map_or(&[], |mask| &mask[..]));
    let key = mask.unwrap_or_default();
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// Takes the mask off a payload.
pub fn unmask(payload: &mut [u8], mask: Option<[u8; 4]>) {
    let key = mask.unwrap_or_default();
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
