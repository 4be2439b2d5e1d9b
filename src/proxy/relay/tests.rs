//! The relay over real sockets, without HTTP.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::proxy::peer::Why;
use crate::proxy::{Settings, frame};

const LIMIT: Duration = Duration::from_secs(20);

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let (near, (far, _)) = (near.unwrap(), far.unwrap());
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// A relay at work, with the ends that a client and an application hold.
async fn relay() -> (Arc<Proxy>, Arc<Peer>, TcpStream, TcpStream) {
    let proxy = Arc::new(Proxy::new(Settings::new(1), "127.0.0.1:1".parse().unwrap()));
    let peer = proxy.session_began(Peer::socket(1, 0));
    let (client, near_client) = pair().await;
    let (application, near_application) = pair().await;
    tokio::spawn(Relay::new(
        Arc::clone(&proxy),
        Arc::clone(&peer),
        ClientHalf::new(near_client, b""),
        ApplicationHalf::new(near_application, b""),
    ));
    (proxy, peer, client, application)
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    timeout(LIMIT, stream.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, bytes);
}

const QUESTION: &[u8] = b"\x81\x82\0\0\0\0hi";

#[tokio::test]
async fn the_application_half_changes_between_messages_and_the_client_notices_nothing() {
    let (_proxy, peer, mut client, mut old) = relay().await;
    client.write_all(QUESTION).await.unwrap();
    expect(&mut old, QUESTION).await;
    // The answer is half through, and the next question too.
    old.write_all(b"\x81\x03ol").await.unwrap();
    expect(&mut client, b"\x81\x03ol").await;
    client.write_all(&QUESTION[..3]).await.unwrap();
    expect(&mut old, &QUESTION[..3]).await;

    let (mut new, near) = pair().await;
    let mut swapped = Box::pin(Relay::swap(&peer, ApplicationHalf::new(near, b"")));
    assert!(futures_util::poll!(&mut swapped).is_pending());
    // Once it is asked, the rest of this question is still the old one's, and the next is the new one's.
    while peer.has_mail() {
        tokio::task::yield_now().await;
    }
    client.write_all(&QUESTION[3..]).await.unwrap();
    client.write_all(QUESTION).await.unwrap();
    expect(&mut old, &QUESTION[3..]).await;
    assert!(
        futures_util::poll!(&mut swapped).is_pending(),
        "the answer is not complete"
    );
    old.write_all(b"d").await.unwrap();
    let before = timeout(LIMIT, swapped).await.unwrap().unwrap();
    expect(&mut client, b"d").await;
    expect(&mut new, QUESTION).await;
    new.write_all(b"\x81\x03new").await.unwrap();
    expect(&mut client, b"\x81\x03new").await;

    // The one before is closed in the protocol's words.
    let leaving = tokio::spawn(before.leave(1001, LIMIT));
    let mut close = [0; 8];
    timeout(LIMIT, old.read_exact(&mut close)).await.unwrap().unwrap();
    assert_eq!(close[..2], [0x88, 0x82]);
    drop(old);
    leaving.await.unwrap();
}

#[tokio::test]
async fn a_swap_that_comes_too_late_gives_nothing_back() {
    let (_proxy, peer, client, application) = relay().await;
    let (_new, near) = pair().await;
    drop((client, application));
    while !peer.is_gone() {
        tokio::task::yield_now().await;
    }
    assert!(
        timeout(LIMIT, Relay::swap(&peer, ApplicationHalf::new(near, b"")))
            .await
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_session_at_rest_is_small() {
    // With the task around it and its peer this is what an idle connection costs beside its sockets.
    assert!(size_of::<Relay>() <= 768, "{}", size_of::<Relay>());
    assert!(size_of::<Peer>() <= 256, "{}", size_of::<Peer>());
}

/// Messages, some in fragments with control frames between them, and where each whole message ends.
fn stream_of(shapes: &[(u8, bool)]) -> (Vec<u8>, Vec<usize>) {
    let (mut stream, mut ends) = (Vec::new(), vec![0]);
    for (length, fragmented) in shapes {
        let payload = "x".repeat(usize::from(*length));
        let mut whole = frame::text(&payload);
        if *fragmented {
            whole[0] = 0x01;
            stream.extend(&whole);
            stream.extend(b"\x89\x00");
            stream.extend(b"\x00\x01y\x80\x01z");
        } else {
            stream.extend(&whole);
        }
        ends.push(stream.len());
    }
    (stream, ends)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However the application's bytes are cut, and whenever it is asked for: the notice and the close come between two
    /// messages, and everything before the close arrives.
    #[test]
    fn what_is_said_comes_between_messages(
        shapes in proptest::collection::vec((0u8..200, any::<bool>()), 1..8),
        cuts in proptest::collection::vec(any::<u16>(), 0..6),
        ask_at in any::<u16>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (stream, ends) = stream_of(&shapes);
        let got = runtime.block_on(async {
            let (_proxy, peer, mut client, mut application) = relay().await;
            let mut places: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % (stream.len() + 1)).collect();
            places.push(stream.len());
            places.sort_unstable();
            let ask_at = usize::from(ask_at) % places.len();
            let mut at = 0;
            let mut got = Vec::new();
            for (n, place) in places.into_iter().enumerate() {
                application.write_all(&stream[at..place]).await.unwrap();
                at = place;
                if n == ask_at {
                    peer.post(Mail::Notice("notice".into()));
                    peer.post(Mail::Close(Goodbye { code: 1012, why: Why::Turn }));
                }
                // Let the relay see this piece alone.
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            }
            let mut byte = [0];
            while !got.ends_with(b"\x88\x02\x03\xf4") {
                timeout(LIMIT, client.read_exact(&mut byte)).await.unwrap().unwrap();
                got.push(byte[0]);
            }
            got
        });
        let mut said = frame::text("notice");
        said.extend(b"\x88\x02\x03\xf4");
        let passed = got.len() - said.len();
        prop_assert_eq!(&got[passed..], &said[..]);
        prop_assert_eq!(&got[..passed], &stream[..passed]);
        prop_assert!(ends.contains(&passed), "said at {} of {:?}", passed, ends);
    }
}
