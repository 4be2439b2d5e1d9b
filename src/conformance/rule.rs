//! The rules: what an implementation of the drain protocol has to do, each with the place where it is written.

/// How much a rule weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// wsroll relies on it: an implementation that breaks it breaks users.
    Must,
    /// Good manners; breaking it costs somebody comfort.
    Should,
    /// A part that may be left out. What is offered has to be right.
    Optional,
}

/// One rule. Its id is stable: scripts may rely on it.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// `<part>.<name>`.
    pub id: &'static str,
    /// How much it weighs.
    pub level: Level,
    /// The heading of `docs/drain-protocol.md` that it follows from.
    pub anchor: &'static str,
    /// What has to hold, in one clause.
    pub requirement: &'static str,
}

/// The page that the anchors belong to.
pub const PAGE: &str = "docs/drain-protocol.md";

macro_rules! rules {
    ($($name:ident $level:ident $id:literal $anchor:literal $requirement:literal)*) => {
        $(
            #[doc = $requirement]
            pub const $name: Rule = Rule { id: $id, level: Level::$level, anchor: $anchor, requirement: $requirement };
        )*
        /// Every rule, in the order in which they are told.
        pub const ALL: &[Rule] = &[$($name),*];
    };
}

rules! {
    SESSIONS_REPORT Must "sessions.report" "21-sessions"
        "GET /wsroll/v1/sessions answers 200 with the number of open sessions"
    SESSIONS_FIELDS Must "sessions.fields" "21-sessions"
        "the fields of the report that are there have the types of the protocol"
    SESSIONS_INSTANCE Optional "sessions.instance" "21-sessions"
        "instance stays the same for the life of the process"
    SESSIONS_COUNT Must "sessions.count" "21-sessions"
        "open follows the sockets that open and close"
    SESSIONS_TOTALS Optional "sessions.totals" "21-sessions"
        "totals count what was accepted, and what was closed by close code"

    VERSION_UNKNOWN Must "version.unknown" "2-requests"
        "a version of the protocol that is not served is answered with 404"
    AUTH_MISSING Must "auth.missing" "2-requests"
        "a request without a token is answered with 401, whatever its path"
    AUTH_WRONG Must "auth.wrong" "2-requests"
        "a request with a wrong token is answered with 401, whatever its path"
    AUTH_STARTS_NOTHING Must "auth.starts-nothing" "2-requests"
        "a request that is not authorized has no effect"
    METHOD_UNKNOWN Should "method.unknown" "2-requests"
        "a method that the resource does not know is answered with 405"
    BODY_BOUND Should "body.bound" "2-requests"
        "a body above 64 KiB is refused with 413 or 400, and the port goes on serving"

    ORDER_TAKEN Must "order.taken" "22-orders"
        "an order is answered with 200, and the report names it where it tells of orders"
    ORDER_BAD Must "order.bad" "22-orders"
        "a bad order is answered with 400"
    ORDER_BAD_STARTS_NOTHING Must "order.bad-starts-nothing" "22-orders"
        "a bad order starts nothing, not even in part"
    ORDER_BAD_REASON Should "order.bad-reason" "22-orders"
        "the answer to a bad order says why"
    ORDER_UNKNOWN_FIELDS Must "order.unknown-fields" "22-orders"
        "fields and reasons that an implementation does not know are no error"
    ORDER_IDEMPOTENT Must "order.idempotent" "22-orders"
        "the same order again is the same order: nothing is counted or told twice"
    ORDER_RENEWAL Optional "order.renewal" "22-orders"
        "the same order again renews the lease (leaseExpiresMs)"
    ORDER_RATE Optional "order.rate" "22-orders"
        "the same order with another rate changes the rate (ratePerSecond)"
    ORDER_REPLACES Must "order.replaces" "22-orders"
        "a new order takes the place of the running one"
    ORDER_CANCEL Must "order.cancel" "22-orders"
        "DELETE of the running order is answered with 200 and ends it"
    ORDER_CANCELLED_STAYS Should "order.cancelled-stays" "22-orders"
        "a cancelled order does not start again: 409"
    ORDER_CANCEL_UNKNOWN Must "order.cancel-unknown" "22-orders"
        "DELETE of an order that nobody gave is answered with 404"

    DRAIN_COMPLETES Must "drain.completes" "3-pace"
        "an order for all closes every session, in about the time that its rate allows"
    DRAIN_PACED Must "drain.paced" "3-pace"
        "no second holds more closes than the rate"
    DRAIN_EVEN Should "drain.even" "3-pace"
        "closes are spread within the second"
    DRAIN_RANDOM Must "drain.random" "3-pace"
        "sessions go in random order, not in the order in which they came"
    DRAIN_CLEAN Must "drain.clean" "4-pod-to-client"
        "no session is cut: each gets a close frame"
    DRAIN_CODE Must "drain.code" "4-pod-to-client"
        "sessions are closed with the ordered code"
    DRAIN_CLOSE_REASON Should "drain.close-reason" "4-pod-to-client"
        "the close frame carries the order's id as its reason"
    DRAIN_ACCEPTS Must "drain.accepts" "22-orders"
        "a draining pod goes on accepting, and an order for all covers those who come late"
    DRAIN_PROGRESS Optional "drain.progress" "21-sessions"
        "the counters of the order count what happened"
    DRAIN_DONE Optional "drain.done" "21-sessions"
        "an order that has nobody left to move is done"
    DRAIN_RATE Must "drain.rate" "22-orders"
        "a changed rate paces the sessions that are still to come"
    DRAIN_COUNT Must "drain.count" "22-orders"
        "select count closes so many sessions, and no more"
    DRAIN_FRACTION Must "drain.fraction" "22-orders"
        "select fraction closes that share of the sessions, and no more"
    DRAIN_CANCEL Must "drain.cancel" "22-orders"
        "after a cancel everybody stays who was not told before"
    DRAIN_LEASE Must "drain.lease" "22-orders"
        "an order that is not renewed pauses when its lease is over"
    DRAIN_RENEWED Must "drain.renewed" "22-orders"
        "a renewal after the pause goes on where the order stopped, at its rate"
    DRAIN_LEAVE Must "drain.leave" "22-orders"
        "in mode leave nothing is sent or closed before the deadline"
    DRAIN_DEADLINE_CLOCK Must "drain.deadline-clock" "22-orders"
        "the deadline's clock stands still while the order is paused"
    DRAIN_DEADLINE_CLOSE Must "drain.deadline-close" "22-orders"
        "at the deadline, close closes the rest at the same rate"

    NOTICE_DECLARED Must "notice.declared" "4-pod-to-client"
        "a notice goes only to clients that declared that they read it"
    NOTICE_SENT Optional "notice.sent" "4-pod-to-client"
        "every client that declared it gets one notice, before its close"
    NOTICE_SHAPE Must "notice.shape" "4-pod-to-client"
        "a notice has the fields of the protocol, with the order's id, reason and close code"
    NOTICE_TURN Must "notice.turn" "3-pace"
        "a session's turn lies between minMs and maxMs, and it is not closed before"
    NOTICE_HINT Must "notice.hint" "4-pod-to-client"
        "a notice passes on the order's hint"
    NOTICE_ACK Optional "notice.ack" "4-pod-to-client"
        "acknowledgements are counted (acked)"

    EVENTS_SHAPE Optional "events.shape" "23-events"
        "GET /wsroll/v1/events answers with events numbered from 1, and what to ask for next"
    EVENTS_AFTER Optional "events.after" "23-events"
        "after=N leaves out what was read before, and lost counts what was dropped"
    EVENTS_ACCOUNT Optional "events.account" "23-events"
        "every session that came or went is told once, those of an order with its id"
    EVENTS_IDENTITY Optional "events.identity" "24-identities"
        "sessions are told as keyed hashes, the same when they go as when they came"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<_> = ALL.iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
    }

    #[test]
    fn every_anchor_is_a_heading_of_the_page_and_every_rule_is_listed_there() {
        let page = std::fs::read_to_string(format!("{}/{PAGE}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        // As GitHub makes them: lower case, spaces become dashes, other signs go.
        let anchors: Vec<String> = page
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| line.trim_start_matches('#').trim().to_lowercase())
            .map(|title| {
                let kept = title
                    .chars()
                    .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                kept.map(|c| if c == ' ' { '-' } else { c }).collect()
            })
            .collect();
        for rule in ALL {
            assert!(
                anchors.iter().any(|anchor| anchor == rule.anchor),
                "no heading {}",
                rule.anchor
            );
            assert!(
                page.contains(&format!("`{}`", rule.id)),
                "{} is not on the page",
                rule.id
            );
        }
    }
}
