//! The ready-made dialects: scripts that come with the program, and read like anybody's.

use std::sync::{Arc, LazyLock};

use super::{ProbeScript, Script};

/// A dialect that is a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// A service that sends back what it is sent.
    Echo,
    /// Socket.IO, over Engine.IO 4.
    SocketIo,
    /// `graphql-transport-ws`.
    GraphqlTransportWs,
    /// STOMP 1.2.
    Stomp,
}

static ECHO: LazyLock<Option<Arc<Script>>> = LazyLock::new(|| read(Ready::Echo));
static SOCKET_IO: LazyLock<Option<Arc<Script>>> = LazyLock::new(|| read(Ready::SocketIo));
static GRAPHQL: LazyLock<Option<Arc<Script>>> = LazyLock::new(|| read(Ready::GraphqlTransportWs));
static STOMP: LazyLock<Option<Arc<Script>>> = LazyLock::new(|| read(Ready::Stomp));

/// The script of a ready-made dialect, compiled once. Never `None`: a test compiles them all.
pub fn ready(which: Ready) -> Option<Arc<Script>> {
    match which {
        Ready::Echo => ECHO.clone(),
        Ready::SocketIo => SOCKET_IO.clone(),
        Ready::GraphqlTransportWs => GRAPHQL.clone(),
        Ready::Stomp => STOMP.clone(),
    }
}

fn read(which: Ready) -> Option<Arc<Script>> {
    let script: ProbeScript = serde_saphyr::from_str(which.source()).ok()?;
    Script::compile(&script).ok().map(Arc::new)
}

impl Ready {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Echo, Self::SocketIo, Self::GraphqlTransportWs, Self::Stomp];

    /// The script, as written.
    pub fn source(self) -> &'static str {
        match self {
            Self::Echo => include_str!("ready/echo.yaml"),
            Self::SocketIo => include_str!("ready/socket-io.yaml"),
            Self::GraphqlTransportWs => include_str!("ready/graphql-transport-ws.yaml"),
            Self::Stomp => include_str!("ready/stomp.yaml"),
        }
    }

    /// What is offered where nobody says which subprotocols to offer.
    pub fn subprotocols(self) -> &'static [&'static str] {
        match self {
            Self::Echo | Self::SocketIo => &[],
            Self::GraphqlTransportWs => &["graphql-transport-ws"],
            Self::Stomp => &["v12.stomp"],
        }
    }

    /// What the URL's query must say, and is added where it does not.
    pub fn query(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::SocketIo => &[("EIO", "4"), ("transport", "websocket")],
            Self::Echo | Self::GraphqlTransportWs | Self::Stomp => &[],
        }
    }
}
