//! What passes through: every frame as it was, and nothing else.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::stage::{Stage, close_frame, next, say, to_the_end};

#[tokio::test]
async fn messages_of_every_kind_and_size_come_back_as_they_were() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/ws").await;
    say(&mut client, "hello").await;
    say(&mut client, "").await;
    for size in [0, 125, 126, 4096, 65_535, 65_536, 3_000_000] {
        let message = Message::binary(vec![7; size]);
        client.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut client).await, message);
    }
    client.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(next(&mut client).await, Message::Pong("p".into()));
    assert_eq!(stage.sidecar.open(), 1);
}

#[tokio::test]
async fn fragments_and_what_comes_between_them() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/ws").await;
    let part =
        |text: &'static str, code, last| Message::Frame(Frame::message(text, OpCode::Data(code), last));
    client.send(part("a", Data::Text, false)).await.unwrap();
    client.send(Message::Ping("x".into())).await.unwrap();
    assert_eq!(next(&mut client).await, Message::Pong("x".into()));
    client.send(part("b", Data::Continue, false)).await.unwrap();
    client.send(part("c", Data::Continue, true)).await.unwrap();
    assert_eq!(next(&mut client).await, Message::text("abc"));
    let report = stage.sessions().await;
    assert_eq!(report["open"], 1);
    assert!(stage.metric("wsroll_sidecar_client_messages_total").await >= 1);
}

#[tokio::test]
async fn bytes_pass_untouched_compressed_ones_and_broken_ones_too() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/raw").await.into_inner();
    let mut application = stage.application.raw().await;
    // RSV1 as permessage-deflate sets it, a reserved opcode, an empty frame, and a masked and an unmasked one.
    let stream: Vec<u8> = [
        &[0xc1, 0x85, 1, 2, 3, 4, 9, 9, 9, 9, 9][..],
        &[0x83, 0x01, 5],
        &[0x82, 0x00],
        &[0x01, 0x7e, 0, 3, 1, 2, 3],
        &[0x80, 0x00],
        &[0xf9, 0x00],
    ]
    .concat();
    for cut in 1..stream.len() {
        for (from, to) in [(&mut client, &mut application)] {
            pass(from, to, &stream, cut).await;
            pass(to, from, &stream, cut).await;
        }
    }
}

async fn pass(from: &mut tokio::net::TcpStream, to: &mut tokio::net::TcpStream, stream: &[u8], cut: usize) {
    let mut got = vec![0; stream.len()];
    from.write_all(&stream[..cut]).await.unwrap();
    to.read_exact(&mut got[..cut]).await.unwrap();
    from.write_all(&stream[cut..]).await.unwrap();
    to.read_exact(&mut got[cut..]).await.unwrap();
    assert_eq!(got, stream);
}

#[tokio::test]
async fn subprotocols_and_extensions_are_between_the_ends() {
    let stage = Stage::start(json!({})).await;
    let headers = [
        ("sec-websocket-protocol", "chat, other"),
        (
            "sec-websocket-extensions",
            "permessage-deflate; client_max_window_bits",
        ),
    ];
    let mut client = stage.connect_as("/ws?a=b%20c", &headers).await;
    say(&mut client, "hello").await;
    let heads = stage.application.seen.heads.lock().unwrap().join("");
    assert!(heads.contains("GET /ws?a=b%20c\n"), "{heads}");
    assert!(heads.contains("sec-websocket-protocol: chat, other\n"), "{heads}");
    assert!(
        heads.contains("sec-websocket-extensions: permessage-deflate; client_max_window_bits\n"),
        "{heads}"
    );
    assert!(heads.contains("x-forwarded-for: 127.0.0.1\n"), "{heads}");
}

#[tokio::test]
async fn closes_keep_their_codes_both_ways() {
    let stage = Stage::start(json!({})).await;
    let mut client = stage.connect("/ws").await;
    client.close(Some(close_frame(4000, "mine"))).await.unwrap();
    assert_eq!(to_the_end(&mut client).await.1, 4000);
    let mut client = stage.connect("/ws").await;
    client.send(Message::text("close")).await.unwrap();
    assert_eq!(to_the_end(&mut client).await, (vec![], 4001, "own".to_owned()));
    let report = stage.until("empty", |report| report["open"] == 0).await;
    assert_eq!(report["totals"]["closed"], json!({"4000": 1, "4001": 1}));
    assert_eq!(
        stage.application.seen.closes.lock().unwrap().as_slice(),
        [4000, 4001]
    );
}

#[tokio::test]
async fn a_flood_both_ways_keeps_its_order() {
    let stage = Stage::start(json!({})).await;
    let (mut write, mut read) = stage.connect("/ws").await.split();
    let writer = tokio::spawn(async move {
        for n in 0..20_000u32 {
            write.feed(Message::text(n.to_string())).await.unwrap();
        }
        write.flush().await.unwrap();
        write
    });
    for n in 0..20_000u32 {
        assert_eq!(read.next().await.unwrap().unwrap(), Message::text(n.to_string()));
    }
    drop(writer.await.unwrap());
    assert_eq!(stage.metric("wsroll_sidecar_client_messages_total").await, 20_000);
    assert_eq!(
        stage.metric("wsroll_sidecar_application_messages_total").await,
        20_000
    );
}
