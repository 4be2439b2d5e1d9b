//! How long the head of a request may take, counted from its first byte.
//!
//! A gateway keeps its idle connections for a minute and longer, and does not repeat a `POST` that meets a closing one: so an idle
//! connection lives long, and only who has begun to speak has to come to an end. The first head counts from the connection's begin.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a connection may be idle between two requests: longer than the gateways' own limits (Go's 90 s).
pub(super) const IDLE: Duration = Duration::from_mins(5);

/// When the head that is being read has to be whole. Shared by a connection's bytes and its requests.
#[derive(Clone, Debug)]
pub(super) struct HeadTimer {
    limit: Duration,
    state: Arc<Mutex<Reading>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Nothing of a request has come.
    Idle,
    /// A head has begun.
    Head(Instant),
    /// A request is being answered: what comes is its body.
    Body,
}

/// A client's connection whose heads are timed.
#[derive(Debug)]
pub(super) struct Timed {
    stream: TcpStream,
    timer: HeadTimer,
    sleep: Option<Pin<Box<Sleep>>>,
}

// === impl HeadTimer ===

impl HeadTimer {
    /// A timer whose first head begins now.
    pub(super) fn new(limit: Duration) -> Self {
        let first = Reading::Head(Instant::now() + limit);
        Self {
            limit,
            state: Arc::new(Mutex::new(first)),
        }
    }

    /// A request's head is whole.
    pub(super) fn whole(&self) {
        self.set(Reading::Body);
    }

    /// Its answer is on its way: what comes next is another head.
    pub(super) fn answered(&self) {
        self.set(Reading::Idle);
    }

    fn set(&self, reading: Reading) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }

    fn get(&self) -> Reading {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Timed ===

impl Timed {
    pub(super) fn new(stream: TcpStream, timer: HeadTimer) -> Self {
        Self {
            stream,
            timer,
            sleep: None,
        }
    }

    /// The connection itself.
    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    /// Ready when the head took too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Reading::Head(until) = self.timer.get() else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.timer.get() == Reading::Idle {
            self.timer.set(Reading::Head(Instant::now() + self.timer.limit));
        }
        // Also where bytes come: a head that drips is late all the same.
        match self.poll_late(cx) {
            Poll::Ready(late) => Poll::Ready(Err(late)),
            Poll::Pending => read,
        }
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn connection(limit: Duration) -> (Timed, TcpStream, HeadTimer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        let timer = HeadTimer::new(limit);
        (
            Timed::new(accepted.unwrap().0, timer.clone()),
            client.unwrap(),
            timer,
        )
    }

    #[tokio::test]
    async fn a_head_that_drips_is_late_and_an_idle_connection_is_not() {
        let limit = Duration::from_millis(100);
        let (mut timed, mut client, timer) = connection(limit).await;
        let mut byte = [0];
        assert_eq!(
            timed.read(&mut byte).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut,
            "the first head counts from the begin"
        );
        timer.whole();
        timer.answered();
        let idle = tokio::time::timeout(limit * 5, timed.read(&mut byte)).await;
        assert!(idle.is_err(), "nothing was asked, so nothing is late");
        client.write_all(b"G").await.unwrap();
        assert_eq!(timed.read(&mut byte).await.unwrap(), 1);
        assert_eq!(
            timed.read(&mut byte).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut,
            "from the first byte of the next head"
        );
    }

    #[tokio::test]
    async fn a_body_may_take_its_time() {
        let limit = Duration::from_millis(50);
        let (mut timed, mut client, timer) = connection(limit).await;
        timer.whole();
        let mut byte = [0];
        let waiting = tokio::time::timeout(limit * 5, timed.read(&mut byte)).await;
        assert!(waiting.is_err());
        client.write_all(b"x").await.unwrap();
        assert_eq!(timed.read(&mut byte).await.unwrap(), 1);
    }
}
