//! As much of RFC 6455 as load and echo need: whole unfragmented messages.

use anyhow::{Result, bail};

/// First byte of a whole binary message: FIN and opcode 2.
const BINARY: u8 = 0x82;
/// First byte of a close frame: FIN and opcode 8.
pub const CLOSE: u8 = 0x88;
/// Second byte: the length follows in two bytes, or in eight.
const LONG: u8 = 0x7e;
const LONGER: u8 = 0x7f;
/// Second byte: the payload is masked.
const MASKED: u8 = 0x80;

/// The head of a frame at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    /// The masking key, for a client's frame.
    pub mask: Option<[u8; 4]>,
    /// Bytes before the payload.
    pub size: usize,
    /// Bytes of the payload.
    pub payload: usize,
}

impl Head {
    /// Reads a head; `None` when the buffer does not hold all of it yet.
    pub fn read(buffer: &[u8]) -> Option<Self> {
        let (&first, &second) = (buffer.first()?, buffer.get(1)?);
        let (payload, mut size) = match second & !MASKED {
            126 => (
                usize::from(u16::from_be_bytes(*buffer.get(2..)?.first_chunk()?)),
                4,
            ),
            LONGER => (u64::from_be_bytes(*buffer.get(2..)?.first_chunk()?) as usize, 10),
            short => (usize::from(short), 2),
        };
        let mut mask = None;
        if second & MASKED != 0 {
            mask = Some(*buffer.get(size..)?.first_chunk()?);
            size += 4;
        }
        Some(Self {
            first,
            mask,
            size,
            payload,
        })
    }

    /// Bytes of the whole frame.
    pub fn total(&self) -> usize {
        self.size + self.payload
    }
}

/// Writes the head of an unmasked frame so that it ends where the payload begins; gives where it begins.
/// There is room: a client's head is four bytes longer than ours.
pub fn head_before(buffer: &mut [u8], first: u8, payload_at: usize, payload: usize) -> usize {
    let mut head = [0; 10];
    let size = write_head(&mut head, first, 0, payload);
    let at = payload_at - size;
    buffer[at..payload_at].copy_from_slice(&head[..size]);
    at
}

/// A client's message of `bytes` bytes, masked.
pub fn masked(bytes: usize) -> Vec<u8> {
    let mut head = [0; 10];
    let size = write_head(&mut head, BINARY, MASKED, bytes);
    let mut frame = head[..size].to_vec();
    let key = [0x37, 0xfa, 0x21, 0x3d];
    frame.extend(key);
    frame.extend((0..bytes).map(|at| content(at) ^ key[at % 4]));
    frame
}

/// Whether a frame's start and payload are the echo of [`masked`].
pub fn check_echo(buffer: &[u8], bytes: usize) -> Result<()> {
    let Some(head) = Head::read(buffer) else {
        bail!("the echo has no head");
    };
    let payload = &buffer[head.size..head.total()];
    let same = payload.iter().enumerate().all(|(at, byte)| *byte == content(at));
    if head.first != BINARY || head.mask.is_some() || payload.len() != bytes || !same {
        bail!("the echo is not what was sent: {head:?}");
    }
    Ok(())
}

/// Applies a mask in place, a word at a time.
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let word = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

fn write_head(head: &mut [u8; 10], first: u8, masked: u8, payload: usize) -> usize {
    head[0] = first;
    match payload {
        0..=125 => {
            head[1] = masked | payload as u8;
            2
        }
        126..=0xffff => {
            head[1] = masked | LONG;
            head[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            head[1] = masked | LONGER;
            head[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    }
}

fn content(at: usize) -> u8 {
    (at % 251) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_message_comes_back_as_its_echo() {
        for bytes in [0, 5, 125, 126, 16_384, 70_000] {
            let mut buffer = masked(bytes);
            let head = Head::read(&buffer).unwrap();
            assert_eq!(head.total(), buffer.len());
            unmask(&mut buffer[head.size..], head.mask.unwrap());
            let at = head_before(&mut buffer, head.first, head.size, head.payload);
            check_echo(&buffer[at..], bytes).unwrap();
        }
    }

    #[test]
    fn a_part_of_a_head_is_none() {
        let whole = masked(300);
        assert_eq!(Head::read(&whole[..7]), None);
        assert_eq!(Head::read(&whole[..8]).unwrap().payload, 300);
    }
}
