//! The resumable WebSocket client: notice, back-off, resume. Probes and load both use it.
