//! Where the operator may be sent: URLs that people write (probes, logins, metric sources, webhooks) are dialled by a process inside
//! the cluster, whose network reaches what their authors' does not.
//!
//! What no such URL ever means is refused: the node's and the pod's own ports, link-local addresses, where clouds hand out credentials,
//! and credentials within a URL. An operator's flag allows more. Addresses are checked behind the look-up of names, and exactly the
//! address that was checked is dialled: a name that changes its mind gains nothing.

mod client;
mod policy;
mod resolve;
pub mod tls;

pub use client::{Client, Error};
pub use policy::{Allowed, BadAllowed, Policy, Refused};
pub use resolve::{DialError, lookup};
