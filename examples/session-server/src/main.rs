//! The session server.
fn main() {}
