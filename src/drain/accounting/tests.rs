//! One story per test, told by the pods' own events.

use super::*;
use crate::drain::protocol::SessionEvent;

/// A rollout with the moves of one release.
struct Stage {
    accounts: Accounts,
    /// Milliseconds since the operator started.
    now_ms: i64,
    outcomes: Vec<Outcome>,
}

/// A pod's ring.
#[derive(Default)]
struct Pod {
    instance: &'static str,
    events: Vec<(i64, SessionEvent)>,
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
}

fn release() -> Setting {
    Setting {
        release: Some(Following {
            orders: "r1-w".to_owned(),
            stable: "v1".to_owned(),
            canary: "v2".to_owned(),
            untargeted: None,
        }),
        stable: "v1".to_owned(),
        within: Duration::from_secs(30),
    }
}

impl Pod {
    fn push(&mut self, at_ms: i64, session: u64, kind: SessionEventKind) -> &mut SessionEvent {
        let n = self.events.len() as u64 + 1;
        let event = SessionEvent {
            n,
            kind,
            session: format!("{session:016x}"),
            ago_ms: 0,
            order: None,
            how: None,
            resumed: None,
        };
        self.events.push((at_ms, event));
        &mut self.events.last_mut().unwrap().1
    }

    fn arrived(&mut self, at_ms: i64, session: u64, resumed: Option<bool>) {
        self.push(at_ms, session, SessionEventKind::Arrived).resumed = resumed;
    }

    fn moved(&mut self, at_ms: i64, session: u64) {
        let event = self.push(at_ms, session, SessionEventKind::Released);
        event.how = Some(ReleasedHow::Moved);
        event.order = Some("r1-w3-uid".to_owned());
    }

    fn ended(&mut self, at_ms: i64, session: u64, how: ReleasedHow, order: Option<&str>) {
        let event = self.push(at_ms, session, SessionEventKind::Released);
        event.how = Some(how);
        event.order = order.map(str::to_owned);
    }

    fn page(&self, after: u64, now_ms: i64) -> EventsReport {
        let events: Vec<_> = self
            .events
            .iter()
            .filter(|(at, e)| *at <= now_ms && e.n > after)
            .take(MAX_EVENTS)
            .map(|(at, e)| SessionEvent {
                ago_ms: (now_ms - at) as u64,
                ..e.clone()
            })
            .collect();
        EventsReport {
            instance: Some(self.instance.to_owned()),
            next: events.last().map_or(after, |e| e.n),
            lost: 0,
            events,
        }
    }
}

impl Stage {
    fn new() -> Self {
        let mut accounts = Accounts::new(at(0));
        accounts.attend(release(), None);
        Self {
            accounts,
            now_ms: 0,
            outcomes: Vec::new(),
        }
    }

    /// Reads the pods one after the other, as far as they go, and settles.
    fn round(&mut self, now_ms: i64, pods: &[(&str, &str, &Pod)]) {
        self.now_ms = now_ms;
        for (name, revision, pod) in pods {
            loop {
                let page = pod.page(self.accounts.cursor(name), now_ms);
                if self.accounts.read(name, revision, &page, at(now_ms)) == Page::Last {
                    break;
                }
            }
        }
        self.outcomes.extend(self.accounts.settle(at(now_ms)));
    }

    fn returned(&self) -> Returned {
        self.accounts.returned().unwrap()
    }
}

#[test]
fn a_moved_session_is_back_where_it_was_moved_to() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    old.arrived(1_000, 7, Some(false));
    old.moved(20_000, 7);
    new.arrived(21_500, 7, Some(true));
    let mut stage = Stage::new();
    stage.round(22_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    let told = stage.returned();
    assert_eq!((told.moved, told.back, told.on_target, told.strays), (1, 1, 1, 0));
    assert_eq!((told.resumed, told.not_resumed, told.missing), (1, 0, 0));
    assert_eq!(stage.outcomes, [Outcome::Back(Duration::from_millis(1_500))]);
    assert!((1_480..=1_520).contains(&told.p50_ms.unwrap()), "{told:?}");
    assert!(!stage.accounts.is_waiting());
}

#[test]
fn pods_may_be_read_in_any_order_and_any_round() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    old.moved(20_000, 7);
    new.arrived(21_500, 7, None);
    // The new pod answers in this round, the old one only in the next.
    let mut stage = Stage::new();
    stage.round(20_000, &[("b", "v2", &new)]);
    stage.round(22_000, &[("b", "v2", &new)]);
    assert_eq!(stage.returned().moved, 0);
    stage.round(24_000, &[("b", "v2", &new), ("a", "v1", &old)]);
    assert_eq!(stage.outcomes, [Outcome::Back(Duration::from_millis(1_500))]);
}

#[test]
fn who_opens_the_new_socket_first_is_back_at_once() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    old.arrived(0, 7, None);
    new.arrived(21_500, 7, Some(true));
    old.moved(21_600, 7);
    let mut stage = Stage::new();
    stage.round(22_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    assert_eq!(stage.outcomes, [Outcome::Back(Duration::ZERO)]);
}

#[test]
fn the_arrival_that_began_a_socket_is_not_its_return() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    // Came just before it was moved, and never came back.
    old.arrived(19_000, 7, None);
    old.moved(20_000, 7);
    // Was elsewhere for a moment before.
    new.arrived(18_000, 7, None);
    new.ended(18_500, 7, ReleasedHow::Left, None);
    let mut stage = Stage::new();
    stage.round(22_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    assert!(stage.accounts.is_waiting());
    stage.round(60_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    assert_eq!(stage.outcomes, [Outcome::Missing]);
}

#[test]
fn a_stray_is_back_on_the_wrong_revision() {
    let (mut old, mut other, mut new) = (Pod::default(), Pod::default(), Pod::default());
    old.moved(20_000, 7);
    other.arrived(20_300, 7, None);
    // Back to stable is no stray where the release goes back.
    new.moved(21_000, 8);
    other.arrived(21_100, 8, None);
    let mut stage = Stage::new();
    let pods = [("a", "v1", &old), ("b", "v1", &other), ("c", "v2", &new)];
    stage.round(22_000, &pods);
    let told = stage.returned();
    assert_eq!((told.back, told.on_target, told.strays), (2, 1, 1));
    assert_eq!(stage.outcomes[0], Outcome::Stray(Duration::from_millis(300)));
}

#[test]
fn a_scale_down_leads_nowhere_in_particular() {
    let (mut old, mut other) = (Pod::default(), Pod::default());
    old.moved(20_000, 7);
    other.arrived(20_300, 7, None);
    let mut stage = Stage::new();
    let mut setting = release();
    setting.release.as_mut().unwrap().untargeted = Some("r1-w3-".to_owned());
    stage.accounts.attend(setting, None);
    stage.round(22_000, &[("a", "v1", &old), ("b", "v1", &other)]);
    assert_eq!((stage.returned().strays, stage.returned().on_target), (0, 1));
}

#[test]
fn nobody_is_missing_before_every_pod_was_read_up_to_the_end() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    old.moved(20_000, 7);
    new.arrived(45_000, 7, None);
    let mut stage = Stage::new();
    stage.round(21_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    // The new pod says nothing for a while: who came to it is not missing yet.
    stage.round(53_000, &[("a", "v1", &old)]);
    assert_eq!(stage.outcomes, []);
    stage.round(54_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    assert_eq!(stage.outcomes, [Outcome::Back(Duration::from_secs(25))]);
}

#[test]
fn a_pod_that_says_nothing_for_long_holds_nobody_up() {
    let (mut old, new) = (Pod::default(), Pod::default());
    old.moved(20_000, 7);
    let mut stage = Stage::new();
    stage.round(21_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    stage.round(60_000, &[("a", "v1", &old)]);
    assert_eq!(stage.outcomes, []);
    stage.round(70_000, &[("a", "v1", &old)]);
    assert_eq!(stage.outcomes, [Outcome::Missing]);
}

#[test]
fn who_comes_too_late_is_missing() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    old.moved(20_000, 7);
    new.arrived(50_001, 7, None);
    let mut stage = Stage::new();
    stage.round(60_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    let told = stage.returned();
    assert_eq!((told.moved, told.back, told.missing), (1, 0, 1));
}

#[test]
fn dormant_ones_and_the_orders_of_others_are_outside_of_the_rate() {
    let mut old = Pod::default();
    old.ended(20_000, 1, ReleasedHow::Dormant, Some("r1-w3-uid"));
    old.ended(20_000, 2, ReleasedHow::Moved, Some("r1-rehearsal0-uid"));
    old.ended(20_000, 3, ReleasedHow::Moved, Some("s17-uid"));
    old.ended(20_000, 4, ReleasedHow::Forced, Some("r1-w3-uid"));
    let mut stage = Stage::new();
    stage.round(22_000, &[("a", "v1", &old)]);
    stage.round(60_000, &[("a", "v1", &old)]);
    let told = stage.returned();
    assert_eq!((told.moved, told.dormant, told.missing), (1, 1, 1));
    assert_eq!(stage.outcomes, [Outcome::Dormant, Outcome::Missing]);
}

#[test]
fn probes_are_no_users() {
    let mut old = Pod::default();
    old.moved(20_000, 7);
    old.moved(20_000, 8);
    let mut stage = Stage::new();
    stage.accounts.ignore([7]);
    stage.round(22_000, &[("a", "v1", &old)]);
    assert_eq!(stage.returned().moved, 1);
}

#[test]
fn the_natural_rate_is_that_of_stable_and_of_those_who_left_by_themselves() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    for session in 0..40 {
        old.ended(10_000, session, ReleasedHow::Left, None);
        new.ended(10_000, 1_000 + session, ReleasedHow::Cut, None);
    }
    for session in (0..40).step_by(4) {
        old.arrived(12_000, session, Some(true));
    }
    let mut stage = Stage::new();
    stage.round(11_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    assert_eq!(stage.accounts.natural_percent(), None);
    stage.round(50_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    assert_eq!(stage.accounts.natural_percent(), Some(25.0));
    assert_eq!(stage.returned().natural_percent, Some(25.0));
    assert_eq!((stage.returned().moved, stage.outcomes.len()), (0, 0));
}

#[test]
fn a_process_that_starts_anew_is_read_from_its_first_event() {
    let mut old = Pod {
        instance: "i",
        ..Pod::default()
    };
    old.moved(20_000, 7);
    old.moved(20_000, 8);
    let mut stage = Stage::new();
    stage.round(21_000, &[("a", "v1", &old)]);
    let mut again = Pod {
        instance: "j",
        ..Pod::default()
    };
    again.moved(22_000, 9);
    stage.round(23_000, &[("a", "v1", &again)]);
    assert_eq!(stage.returned().moved, 3);
    // Even if it does not say that it is another process.
    let silent = Pod {
        instance: "j",
        ..Pod::default()
    };
    assert_eq!(stage.accounts.cursor("a"), 1);
    let page = silent.page(0, 24_000);
    assert_eq!(stage.accounts.read("a", "v1", &page, at(24_000)), Page::Anew);
    assert_eq!(stage.accounts.cursor("a"), 0);
}

#[test]
fn a_page_that_is_read_twice_counts_once() {
    let mut old = Pod::default();
    old.moved(20_000, 7);
    let mut stage = Stage::new();
    for _ in 0..3 {
        let page = old.page(0, 21_000);
        stage.accounts.read("a", "v1", &page, at(21_000));
    }
    stage.round(22_000, &[("a", "v1", &old)]);
    assert_eq!(stage.returned().moved, 1);
}

#[test]
fn what_a_ring_drops_between_two_readings_is_told() {
    let mut stage = Stage::new();
    let page = |lost, next| EventsReport {
        next,
        lost,
        ..EventsReport::default()
    };
    // What it dropped before it was ever read is history.
    stage.accounts.read("a", "v1", &page(9_000, 9_000), at(1_000));
    assert_eq!(stage.returned().lost_events, 0);
    stage.accounts.read("a", "v1", &page(40, 9_100), at(2_000));
    assert_eq!(stage.returned().lost_events, 40);
}

#[test]
fn long_rings_are_read_page_by_page() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    for session in 0..2_500_i64 {
        old.moved(session * 20, session as u64);
        new.arrived(session * 20 + 500, session as u64, None);
    }
    // A restarted operator: everything is long over.
    let mut stage = Stage::new();
    let now = 600_000;
    let (first, last) = (old.page(0, now), new.page(0, now));
    assert_eq!(stage.accounts.read("a", "v1", &first, at(now)), Page::More);
    assert_eq!(stage.accounts.read("b", "v2", &last, at(now)), Page::More);
    stage.accounts.settle(at(now));
    assert_eq!(stage.returned().missing, 0);
    stage.round(now, &[("a", "v1", &old), ("b", "v2", &new)]);
    let told = stage.returned();
    assert_eq!((told.moved, told.back, told.missing), (2_500, 2_500, 0));
}

#[test]
fn what_an_earlier_operator_has_counted_is_no_news() {
    let (mut old, mut new) = (Pod::default(), Pod::default());
    old.moved(-5_000, 7);
    new.arrived(-4_000, 7, None);
    old.moved(1_000, 8);
    new.arrived(2_000, 8, None);
    let mut stage = Stage::new();
    stage.round(3_000, &[("a", "v1", &old), ("b", "v2", &new)]);
    assert_eq!(stage.returned().back, 2);
    assert_eq!(stage.outcomes.len(), 1);
}

#[test]
fn the_next_release_has_an_account_of_its_own() {
    let mut old = Pod::default();
    old.moved(20_000, 7);
    let mut stage = Stage::new();
    stage.round(21_000, &[("a", "v1", &old)]);
    stage.accounts.attend(
        Setting {
            release: None,
            ..release()
        },
        None,
    );
    assert_eq!(stage.accounts.returned(), None);
    let mut next = release();
    next.release.as_mut().unwrap().orders = "r2-w".to_owned();
    stage.accounts.attend(next, None);
    stage.round(90_000, &[("a", "v1", &old)]);
    assert_eq!((stage.returned().moved, stage.returned().missing), (0, 0));
}

#[test]
fn a_hundred_thousand_are_followed_within_the_bound_and_more_by_a_sample() {
    assert_eq!(Followed::BYTES, 40, "the documented cost of a session");
    let mut followed = Followed::new(MAX_FOLLOWED);
    let spread = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let release = Release::Moved { target: None };
    for n in 0..100_000 {
        followed.released(spread(n), 0, 0, Some(release), 30_000);
    }
    followed.fit(true);
    assert_eq!((followed.len(), followed.level()), (100_000, 0));
    for n in 100_000..300_000 {
        followed.released(spread(n), 0, 0, Some(release), 30_000);
    }
    followed.fit(true);
    assert_eq!(followed.level(), 2);
    assert!((70_000..80_000).contains(&followed.len()), "{}", followed.len());
    assert_eq!(followed.moved(), followed.len());
    let sample = followed.len();
    assert_eq!(followed.expire(30_001, 30_000).len(), sample);
    assert_eq!((followed.len(), followed.moved()), (0, 0));
}

#[test]
fn the_counts_of_a_sample_are_of_that_sample() {
    let mut old = Pod::default();
    for session in 0..64 {
        old.moved(20_000, session);
    }
    let mut stage = Stage::new();
    stage.accounts = Accounts::with_limit(at(0), 20);
    stage.accounts.attend(release(), None);
    stage.round(21_000, &[("a", "v1", &old)]);
    let told = stage.returned();
    assert_eq!((told.moved, told.sampled_percent), (16, 25.0));
    stage.round(60_000, &[("a", "v1", &old)]);
    assert_eq!((stage.returned().moved, stage.returned().missing), (16, 16));
    // The next operator follows the same sample.
    let mut next = Accounts::new(at(0));
    next.attend(release(), Some(&told));
    next.read("a", "v1", &old.page(0, 61_000), at(61_000));
    next.settle(at(61_000));
    let again = next.returned().unwrap();
    assert_eq!((again.moved, again.sampled_percent), (16, 25.0));
}

#[test]
fn after_a_restart_no_count_goes_backwards() {
    let told = Returned {
        moved: 100,
        back: 90,
        on_target: 88,
        strays: 2,
        resumed: 90,
        missing: 5,
        p50_ms: Some(700),
        sampled_percent: 100.0,
        ..Returned::default()
    };
    // The ring has forgotten the first half.
    let counted = Returned {
        moved: 50,
        back: 50,
        on_target: 50,
        p50_ms: Some(600),
        sampled_percent: 100.0,
        ..Returned::default()
    };
    assert_eq!(merged(counted, &told), told);
    // Who was missing has come back after all.
    let counted = Returned {
        moved: 101,
        back: 100,
        on_target: 98,
        strays: 2,
        sampled_percent: 100.0,
        ..Returned::default()
    };
    let now = merged(counted, &told);
    assert_eq!((now.moved, now.back, now.missing), (101, 100, 1));
    // A smaller sample is other sessions.
    let counted = Returned {
        moved: 50,
        sampled_percent: 50.0,
        ..Returned::default()
    };
    assert_eq!(merged(counted.clone(), &told), counted);
}
