//! Whatever the lives of sessions and the order of reading: everyone is accounted for, once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const WITHIN_MS: i64 = 30_000;
/// Reading goes on for so long after the last event that everything is decided.
const ROUNDS: usize = 24;
const ROUND_MS: i64 = 8_000;

/// A session that is moved once from a pod of the old revision.
#[derive(Clone, Debug)]
struct Life {
    from: usize,
    released_ms: i64,
    /// Where to, and after how long; negative where it opens the new socket first.
    back: Option<(usize, i64)>,
}

/// Pods 0 and 1 are of the old revision, 2 and 3 of the new one.
const PODS: [(&str, &str); 4] = [("a", "v1"), ("b", "v1"), ("c", "v2"), ("d", "v2")];

fn life() -> impl Strategy<Value = Life> {
    let back = prop::option::weighted(0.8, (0..4_usize, -9_000..40_000_i64));
    (0..2_usize, 10_000..60_000_i64, back).prop_map(|(from, released_ms, back)| Life {
        from,
        released_ms,
        // On its own pod it cannot be told from the arrival that began it; see the protocol.
        back: back.map(|(to, after)| (to, if to == from { after.abs() } else { after })),
    })
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
}

/// The pods' rings: events in the order of their times.
fn rings(lives: &[Life]) -> BTreeMap<usize, Vec<(i64, SessionEvent)>> {
    let mut rings: BTreeMap<usize, Vec<(i64, SessionEvent)>> = BTreeMap::new();
    for (index, life) in lives.iter().enumerate() {
        let mut add = |pod: usize, at_ms: i64, kind: SessionEventKind| {
            let released = kind == SessionEventKind::Released;
            let event = SessionEvent {
                n: 0,
                kind,
                session: format!("{:016x}", (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                ago_ms: 0,
                order: released.then(|| "r1-w1-u".to_owned()),
                how: released.then_some(ReleasedHow::Moved),
                resumed: (!released).then_some(index % 2 == 0),
            };
            rings.entry(pod).or_default().push((at_ms, event));
        };
        add(life.from, life.released_ms, SessionEventKind::Released);
        if let Some((to, after)) = life.back {
            add(to, life.released_ms + after, SessionEventKind::Arrived);
        }
    }
    for ring in rings.values_mut() {
        ring.sort_by_key(|(at, _)| *at);
        for (n, (_, event)) in (1..).zip(ring) {
            event.n = n;
        }
    }
    rings
}

fn page(ring: &[(i64, SessionEvent)], after: u64, now_ms: i64) -> EventsReport {
    let events: Vec<_> = ring
        .iter()
        .filter(|(at, e)| e.n > after && *at <= now_ms)
        .take(MAX_EVENTS)
        .map(|(at, e)| SessionEvent {
            ago_ms: (now_ms - at).unsigned_abs(),
            ..e.clone()
        })
        .collect();
    EventsReport {
        instance: Some("i".to_owned()),
        next: events.last().map_or(after, |e| e.n),
        lost: 0,
        events,
    }
}

fn accounts() -> Accounts {
    let mut accounts = Accounts::new(at(0));
    let setting = Setting {
        release: Some(Following {
            orders: "r1-w".to_owned(),
            stable: "v1".to_owned(),
            canary: "v2".to_owned(),
            untargeted: None,
        }),
        stable: "v1".to_owned(),
        within: Duration::from_millis(WITHIN_MS.unsigned_abs()),
    };
    accounts.attend(setting, None);
    accounts
}

proptest! {
    #[test]
    fn every_moved_session_is_accounted_for_once(
        lives in prop::collection::vec(life(), 1..60),
        silent in prop::collection::vec(prop::collection::vec(prop::bool::weighted(0.4), 4), ROUNDS),
        twice in prop::collection::vec(any::<bool>(), ROUNDS),
        first in 0..4_usize,
    ) {
        let rings = rings(&lives);
        let mut accounts = accounts();
        let mut outcomes = Vec::new();
        let mut last = Returned::default();
        for round in 0..ROUNDS {
            let now_ms = (round as i64 + 1) * ROUND_MS;
            for offset in 0..4 {
                let pod = (first + offset) % 4;
                // No pod is silent for long enough to be given up on, and none at the end.
                let heard = round % 3 == 0 || round + 2 > ROUNDS;
                if silent[round][pod] && !heard {
                    continue;
                }
                let ring = rings.get(&pod).map_or(&[][..], Vec::as_slice);
                let (name, revision) = PODS[pod];
                let report = page(ring, accounts.cursor(name), now_ms);
                accounts.read(name, revision, &report, at(now_ms));
                if twice[round] {
                    accounts.read(name, revision, &page(ring, 0, now_ms), at(now_ms));
                }
            }
            outcomes.extend(accounts.settle(at(now_ms)));
            let told = accounts.returned().unwrap();
            prop_assert!(told.back + told.missing <= told.moved, "{told:?}");
            for (before, now) in [(last.moved, told.moved), (last.back, told.back), (last.missing, told.missing)] {
                prop_assert!(before <= now, "a count went backwards: {last:?} {told:?}");
            }
            last = told;
        }
        let in_time = |life: &&Life| life.back.is_some_and(|(_, after)| after <= WITHIN_MS);
        let back = lives.iter().filter(in_time).count() as i64;
        let strays = lives.iter().filter(in_time).filter(|l| l.back.is_some_and(|(to, _)| to < 2)).count() as i64;
        let all = lives.len() as i64;
        prop_assert_eq!((last.moved, last.back, last.missing), (all, back, all - back));
        prop_assert_eq!((last.strays, last.on_target), (strays, back - strays));
        prop_assert_eq!(last.resumed + last.not_resumed, back);
        prop_assert_eq!(outcomes.len(), lives.len());
        prop_assert!(!accounts.is_waiting());
    }

    #[test]
    fn a_sample_is_bounded_and_each_of_its_sessions_is_accounted_for(
        lives in prop::collection::vec(life(), 40..200),
        limit in 4..30_usize,
    ) {
        let rings = rings(&lives);
        let mut accounts = accounts();
        accounts.followed = Followed::new(limit);
        for round in 0..ROUNDS {
            let now_ms = (round as i64 + 1) * ROUND_MS;
            for (pod, (name, revision)) in PODS.iter().enumerate() {
                let ring = rings.get(&pod).map_or(&[][..], Vec::as_slice);
                let report = page(ring, accounts.cursor(name), now_ms);
                accounts.read(name, revision, &report, at(now_ms));
            }
            accounts.settle(at(now_ms));
            prop_assert!(accounts.followed.len() <= limit);
        }
        let told = accounts.returned().unwrap();
        prop_assert_eq!(told.back + told.missing, told.moved);
        let level = accounts.followed.level();
        let sampled = (1..=lives.len() as u64)
            .filter(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).trailing_zeros() >= level)
            .count();
        prop_assert_eq!(told.moved, sampled as i64);
    }

    #[test]
    fn a_restart_at_any_time_takes_nothing_back(
        lives in prop::collection::vec(life(), 1..60),
        restart in 1..ROUNDS,
        kept in 0..30_usize,
    ) {
        let rings = rings(&lives);
        let mut accounts = accounts();
        let mut told = Returned { sampled_percent: 100.0, ..Returned::default() };
        for round in 0..ROUNDS {
            let now_ms = (round as i64 + 1) * ROUND_MS;
            if round == restart {
                accounts = self::accounts();
            }
            for (pod, (name, revision)) in PODS.iter().enumerate() {
                let ring = rings.get(&pod).map_or(&[][..], Vec::as_slice);
                // The ring holds the last so many of what has happened.
                let there = ring.iter().filter(|(at, _)| *at <= now_ms).count();
                let from = if round == restart { there.saturating_sub(kept) } else { 0 };
                let report = page(&ring[from..], accounts.cursor(name), now_ms);
                accounts.read(name, revision, &report, at(now_ms));
            }
            accounts.settle(at(now_ms));
            let now = merged(accounts.returned().unwrap(), &told);
            prop_assert!(now.moved >= told.moved && now.back >= told.back);
            prop_assert!(now.back + now.missing <= now.moved, "{now:?}");
            prop_assert!(now.on_target + now.strays <= now.back, "{now:?}");
            told = now;
        }
        prop_assert!(told.moved <= lives.len() as i64);
    }
}
