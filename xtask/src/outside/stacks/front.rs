//! What a Service and a gateway do in a cluster: one address, and new connections go where it says. Requests of a
//! polling session go where its first one went, as with a gateway's affinity.

use std::{
    collections::HashMap,
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
    routes: Arc<Mutex<Routes>>,
}

/// Where connections go.
#[derive(Debug)]
struct Routes {
    target: SocketAddr,
    /// By the `sid` of Engine.IO.
    sessions: HashMap<String, SocketAddr>,
}

impl Front {
    /// Starts passing connections to `target`. Its threads end with the process.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let front = Self {
            address: listener.local_addr()?,
            routes: Arc::new(Mutex::new(Routes {
                target,
                sessions: HashMap::new(),
            })),
        };
        let routes = Arc::clone(&front.routes);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let routes = Arc::clone(&routes);
                thread::spawn(move || pass(&client, &routes));
            }
        });
        Ok(front)
    }

    /// Sends connections from now on to `target`; open ones stay where they are.
    pub fn switch(&self, target: SocketAddr) {
        lock(&self.routes).target = target;
    }
}

impl Routes {
    fn of(&mut self, session: Option<String>) -> SocketAddr {
        match session {
            Some(session) => *self.sessions.entry(session).or_insert(self.target),
            None => self.target,
        }
    }
}

/// Both directions, until both have ended. An error ends a direction as its end does: the other side sees a cut.
fn pass(client: &TcpStream, routes: &Mutex<Routes>) {
    let mut start = [0; 1_024];
    let seen = client.peek(&mut start).unwrap_or(0);
    let target = lock(routes).of(session_in(&String::from_utf8_lossy(&start[..seen])));
    let Ok(server) = TcpStream::connect(target) else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    thread::scope(|scope| {
        scope.spawn(|| one_way(client, &server));
        one_way(&server, client);
    });
}

/// The `sid` in the query of a request's first line.
fn session_in(request: &str) -> Option<String> {
    let query = request.split_whitespace().nth(1)?.split_once('?')?.1;
    let sid = query.split('&').find_map(|pair| pair.strip_prefix("sid="))?;
    Some(sid.to_owned())
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn lock(routes: &Mutex<Routes>) -> std::sync::MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stays_where_it_began() {
        let (old, new) = (
            SocketAddr::from(([127, 0, 0, 1], 1)),
            SocketAddr::from(([127, 0, 0, 1], 2)),
        );
        let mut routes = Routes {
            target: old,
            sessions: HashMap::new(),
        };
        let session = || session_in("POST /socket.io/?EIO=4&sid=a1&t=x HTTP/1.1\r\n");
        assert_eq!(routes.of(session()), old);
        routes.target = new;
        assert_eq!(
            (
                routes.of(session()),
                routes.of(session_in("GET /?EIO=4 HTTP/1.1"))
            ),
            (old, new)
        );
    }
}
