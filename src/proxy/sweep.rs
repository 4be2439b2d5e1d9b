//! The one timer of all sessions: it wakes those whose patience is over, asks silent clients for a sign, and ends sockets
//! that nobody uses. A timer per session would cost each of them more memory than all the rest of its state.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Proxy;
use super::clock::millis;
use super::peer::{Goodbye, Mail, Peer, Why};

/// How often sessions are looked at: the precision of their limits.
const EVERY: Duration = Duration::from_millis(250);
/// The close code of a socket that nobody used.
const GOING_AWAY: u16 = 1001;

impl Proxy {
    /// Looks after sessions for as long as the sidecar runs.
    pub(super) async fn sweep(&self) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now_ms = self.clock.now_ms();
            self.registry.each(|peer| self.look_after(peer, now_ms));
            self.sweep_polling(now_ms);
            // Sessions that are over, but whose sockets still have their time to end.
            self.leaving().retain(|peer| {
                if peer.is_due(now_ms) {
                    peer.wake_at(u64::MAX);
                    peer.post(Mail::Look);
                }
                std::sync::Arc::strong_count(peer) > 1
            });
        }
    }

    fn look_after(&self, peer: &Peer, now_ms: u64) {
        if peer.is_due(now_ms) {
            peer.wake_at(u64::MAX);
            peer.post(Mail::Look);
        }
        if let Some(limit) = self.settings.limits.idle_timeout.map(millis) {
            let last_ms = peer.heard_ms().max(peer.data_ms());
            if now_ms.saturating_sub(last_ms) >= limit {
                // Once is enough: further ones are ignored.
                peer.post(Mail::Close(Goodbye {
                    code: GOING_AWAY,
                    why: Why::Idle,
                }));
            }
        }
        if let Some(interval) = self.settings.ping_interval.map(millis)
            && now_ms.saturating_sub(peer.heard_ms()) >= interval
            && peer.ping_once()
        {
            peer.post(Mail::Ping);
        }
    }
}
