//! A switch for TCP inside this process: the probes dial it, and it leads them to an instance, to another one, or to nobody.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Where new connections go; none: they are closed as soon as they come.
type Lead = Arc<Mutex<Option<String>>>;

#[derive(Debug)]
pub(super) struct Switch {
    address: SocketAddr,
    lead: Lead,
    task: JoinHandle<()>,
}

impl Switch {
    /// Listens on a port of this host only.
    pub(super) async fn start(to: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("failed to listen")?;
        let lead: Lead = Arc::new(Mutex::new(Some(to.to_owned())));
        Ok(Self {
            address: listener.local_addr().context("failed to listen")?,
            task: tokio::spawn(accept(listener, lead.clone())),
            lead,
        })
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Leads new connections there; those that are open stay where they are.
    pub(super) fn lead(&self, to: Option<&str>) {
        *self.lead.lock().unwrap_or_else(PoisonError::into_inner) = to.map(str::to_owned);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, lead: Lead) {
    while let Ok((client, _)) = listener.accept().await {
        let to = lead.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(to) = to {
            tokio::spawn(relay(client, to));
        }
    }
}

async fn relay(mut client: TcpStream, to: String) {
    // A service that is not there refuses: so does the switch, by closing.
    let Ok(mut server) = TcpStream::connect(&to).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
