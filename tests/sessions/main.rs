//! The session client, probes and load against real servers of `examples/session-server`, over real sockets.

mod fleets;
mod loads;
mod rehearsals;
mod stage;
