//! What a Service and a gateway do in a cluster: one address, and new connections go where it says.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Result;

/// Passes connections on.
#[derive(Debug)]
pub struct Front {
    /// Where clients connect.
    pub address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Front {
    /// Starts passing connections to `target`. Its threads end with the process.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let front = Self {
            address: listener.local_addr()?,
            target: Arc::new(Mutex::new(target)),
        };
        let target = Arc::clone(&front.target);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
                thread::spawn(move || pass(&client, target));
            }
        });
        Ok(front)
    }

    /// Sends connections from now on to `target`; open ones stay where they are.
    pub fn switch(&self, target: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }
}

/// Both directions, until both have ended. An error ends a direction as its end does: the other side sees a cut.
fn pass(client: &TcpStream, target: SocketAddr) {
    let Ok(server) = TcpStream::connect(target) else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    thread::scope(|scope| {
        scope.spawn(|| one_way(client, &server));
        one_way(&server, client);
    });
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
