//! The two halves of a session: its client and its application. Each is a socket, what still has to be written to it, and
//! how far the frames that it sends have been read.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::frame::{self, Tracker};

/// One socket and what is known of it.
#[derive(Debug)]
pub(super) struct Side {
    io: TcpStream,
    /// What could not be written yet; it holds no memory while empty.
    out: Vec<u8>,
    /// How much of `out` is written.
    written: usize,
    /// What it sent before the relay began, or beyond the boundary at which the relay stopped it.
    pub(super) carry: Vec<u8>,
    /// The frames that it sends.
    pub(super) frames: Tracker,
    /// It sends nothing any more.
    pub(super) ended: bool,
    /// Nothing can be sent to it any more.
    unwritable: bool,
    /// It was told that nothing follows.
    finished: bool,
    /// A close frame that came from it.
    pub(super) close_seen: Option<u16>,
    /// A close frame of the other end was passed on to it.
    pub(super) close_passed: bool,
    /// We sent it a close frame of our own: nothing may follow.
    pub(super) close_ours: bool,
}

/// The half that a user holds on to.
#[derive(Debug)]
pub struct ClientHalf(pub(super) Side);

/// The half behind which the application is: it may be changed at a boundary.
#[derive(Debug)]
pub struct ApplicationHalf(pub(super) Side);

// === impl Side ===

impl Side {
    fn new(io: TcpStream, early: &[u8]) -> Self {
        Self {
            io,
            out: Vec::new(),
            written: 0,
            carry: early.to_vec(),
            frames: Tracker::default(),
            ended: false,
            unwritable: false,
            finished: false,
            close_seen: None,
            close_passed: false,
            close_ours: false,
        }
    }

    /// Bytes that wait to be written to it.
    pub(super) fn pending(&self) -> usize {
        self.out.len() - self.written
    }

    /// Whether a close frame has gone its way.
    pub(super) fn is_told(&self) -> bool {
        self.close_passed || self.close_ours
    }

    /// Whether nothing more is to come from it and nothing more is to go to it.
    pub(super) fn is_done(&self) -> bool {
        self.ended || (self.close_seen.is_some() && self.is_told() && self.pending() == 0)
    }

    /// Sends bytes, or keeps what does not go out now. The caller reads nothing for this side while something is kept.
    pub(super) fn send(&mut self, bytes: &[u8], cx: &mut Context<'_>) {
        if self.unwritable || self.finished {
            return;
        }
        let mut sent = 0;
        if self.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, bytes) {
                Poll::Ready(Ok(n)) => sent = n,
                Poll::Ready(Err(_)) => return self.break_off(),
                Poll::Pending => {}
            }
        }
        if sent < bytes.len() {
            self.out.extend_from_slice(&bytes[sent..]);
        }
    }

    /// Writes what was kept; ready when nothing is left.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.pending() > 0 {
            match Pin::new(&mut self.io).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(n)) if n > 0 => self.written += n,
                Poll::Ready(_) => self.break_off(),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !self.out.is_empty() {
            // A connection that is idle holds no buffer.
            self.out = Vec::new();
            self.written = 0;
        }
        Poll::Ready(())
    }

    /// Reads once, and says how much; nothing at the end. An error is an end like any other: that it was no proper one is
    /// told by the close frame that is missing.
    pub(super) fn read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<usize> {
        let mut read = ReadBuf::new(buffer);
        match Pin::new(&mut self.io).poll_read(cx, &mut read) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
            Poll::Ready(_) => self.ended = true,
        }
        Poll::Ready(read.filled().len())
    }

    /// Tells it that nothing follows, once all is written.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) {
        if !self.finished && self.flush(cx).is_ready() {
            self.finished = true;
            // It is done or it failed, and there is nothing to do about the second.
            let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        }
    }

    fn break_off(&mut self) {
        self.unwritable = true;
        self.out = Vec::new();
        self.written = 0;
    }
}

// === impl ClientHalf ===

impl ClientHalf {
    /// The client's socket, with what was read from it already.
    pub fn new(io: TcpStream, early: &[u8]) -> Self {
        Self(Side::new(io, early))
    }

    /// Closes toward the client. Only at a boundary of what goes to it.
    pub(super) fn close(&mut self, code: u16, reason: &str, cx: &mut Context<'_>) {
        self.0.send(&frame::close(code, reason, None), cx);
        self.0.close_ours = true;
    }
}

// === impl ApplicationHalf ===

impl ApplicationHalf {
    /// A connection to an application that has answered the upgrade, with what was read from it already.
    pub fn new(io: TcpStream, early: &[u8]) -> Self {
        Self(Side::new(io, early))
    }

    /// Closes toward the application. Only at a boundary of what goes to it.
    pub(super) fn close(&mut self, code: u16, cx: &mut Context<'_>) {
        self.0.send(&frame::close(code, "", Some(rand::random())), cx);
        self.0.close_ours = true;
    }

    /// Closes a half that a session no longer uses, and waits until the application is done with it, at most this long.
    pub async fn leave(mut self, code: u16, within: Duration) {
        let gone = poll_fn(|cx| {
            if !self.0.is_told() {
                self.close(code, cx);
            }
            if self.0.flush(cx).is_pending() {
                return Poll::Pending;
            }
            let mut dropped = [0; 1024];
            while !self.0.ended {
                if self.0.read(&mut dropped, cx).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        });
        // Whether in time or not, the half is dropped now.
        let _ = tokio::time::timeout(within, gone).await;
    }
}
