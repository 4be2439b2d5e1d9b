//! The five scenarios over real sockets: which fault each of them catches, and that none fails without one.

use rstest::rstest;
use wsroll::api::spec::Scenario::{self, BackOff, Crash, GracefulShutdown, HandOff, StatePreservation};
use wsroll::engine::evidence::{ScenarioOutcome, ScenarioReport};
use wsroll::session::Dialect;

use crate::stage::Stage;
use crate::theatre::Theatre;

/// The check that failed; `-` where all held, `skipped` where it was not played.
fn told(report: &ScenarioReport) -> &str {
    match report.outcome.as_ref().unwrap() {
        ScenarioOutcome::Passed { .. } => "-",
        ScenarioOutcome::Failed(failure) => &failure.check,
        ScenarioOutcome::Skipped { .. } => "skipped",
    }
}

/// Every scenario's outcome under a fault: the table of docs/rehearsal.md.
#[rstest]
#[case("", ["-", "-", "-", "-", "-"])]
#[case("mute", ["firstMessage", "firstMessage", "firstMessage", "firstMessage", "firstMessage"])]
#[case("mute-above=10", ["firstMessage", "firstMessage", "firstMessage", "firstMessage", "firstMessage"])]
#[case("slow=2500", ["-", "inTime", "-", "-", "-"])]
#[case("refuse=40%", ["connected", "connected", "connected", "connected", "connected"])]
#[case("forget", ["stateEqual", "stateEqual", "stateEqual", "stateEqual", "stateEqual"])]
#[case("crash=30", ["unannounced", "unannounced", "unannounced", "unannounced", "unannounced"])]
#[case("lie", ["-", "-", "openCount", "-", "-"])]
#[tokio::test]
async fn each_fault_is_caught_by_these(#[case] fault: &str, #[case] expected: [&str; 5]) {
    // At the same time, each on a stage of its own: what they wait for costs nobody anything.
    let play = |scenario: Scenario| async move {
        let theatre = Theatre::new(2, fault).await;
        theatre.play(&[scenario], 24).await.remove(0)
    };
    let reports = futures_util::future::join_all(Scenario::ALL.map(play)).await;
    let outcomes: Vec<&str> = reports.iter().map(told).collect();
    assert_eq!(outcomes, expected, "{fault}: {reports:#?}");
}

#[rstest]
#[case(5)]
#[case(10)]
#[case(100)]
#[case(1_000)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_five_are_played_with_many_clients(#[case] clients: u32) {
    let theatre = Theatre::new(3, "").await;
    let reports = theatre.play(&Scenario::ALL, clients).await;
    for report in &reports {
        // How fast a thousand clients and their servers are on one machine is the machine's matter.
        let slow = clients == 1_000 && told(report) == "inTime";
        assert!(told(report) == "-" || slow, "{report:#?}");
    }
    assert_eq!(
        reports.iter().map(|r| r.scenario).collect::<Vec<_>>(),
        Scenario::ALL
    );
    for report in &reports {
        let all = match report.scenario {
            // Half of what may dial in a second.
            BackOff => clients.min(25),
            _ => clients,
        };
        assert_eq!(report.sessions, all);
        let least = match report.scenario {
            HandOff | GracefulShutdown => u64::from(all),
            StatePreservation => 2 * u64::from(all),
            Crash => 1,
            BackOff => 3 * u64::from(all),
        };
        assert!(report.figures.restored >= least, "{report:#?}");
        assert_eq!(
            (report.figures.state_lost, report.figures.unannounced),
            (0, 0),
            "{report:#?}"
        );
    }
    // None is left behind.
    crate::stage::wait_until(async || theatre.open().await == 0).await;
}

#[tokio::test]
async fn a_cycle_ends_as_it_began() {
    let theatre = Theatre::new(2, "").await;
    for round in 0..3 {
        let reports = theatre
            .play(&[HandOff, StatePreservation, GracefulShutdown, Crash], 5)
            .await;
        assert_eq!(
            reports.iter().map(told).collect::<Vec<_>>(),
            ["-"; 4],
            "round {round}: {reports:#?}"
        );
    }
}

#[tokio::test]
async fn with_one_pod_its_sessions_come_back_on_the_next() {
    let theatre = Theatre::new(1, "").await;
    let report = theatre.play(&[Crash], 6).await.remove(0);
    assert_eq!(told(&report), "-", "{report:#?}");
    assert_eq!((report.figures.restored, report.figures.attempts), (6, 6));
}

#[tokio::test]
async fn of_two_pods_the_other_ones_sessions_notice_nothing() {
    let theatre = Theatre::new(2, "").await;
    let report = theatre.play(&[Crash], 10).await.remove(0);
    let ScenarioOutcome::Passed { message } = report.outcome.unwrap() else {
        panic!("not passed");
    };
    assert!(
        message.starts_with("5 sessions came back from the pod that died, 5 on other pods"),
        "{message}"
    );
    assert_eq!(report.figures.restored, 5);
}

#[tokio::test]
async fn where_nobody_is_refused_the_back_off_was_not_shown() {
    let theatre = Theatre::new(2, "").await;
    let stable = theatre.stage.server("v1", "").await;
    theatre.stage.router.route("n", &stable);
    let report = theatre.play(&[BackOff], 4).await.remove(0);
    assert_eq!(told(&report), "refused", "{report:#?}");
}

#[tokio::test]
async fn a_dialect_without_state_skips_what_it_cannot_show() {
    let theatre = Theatre::new(2, "").await;
    let board = wsroll::probe::Board::new(jiff::Timestamp::UNIX_EPOCH);
    let mut dial = theatre.stage.dial();
    dial.dialect = Dialect::Ping;
    let set = wsroll::probe::Setting::new(&dial, wsroll::probe::RehearsalTimeouts::default()).unwrap();
    let cancelled = tokio_util::sync::CancellationToken::new();
    let scenarios = [HandOff, StatePreservation, GracefulShutdown];
    wsroll::probe::rehearse(&set, &scenarios, &theatre, &board, &cancelled).await;
    let reports = board.scenarios();
    assert_eq!(
        reports.iter().map(told).collect::<Vec<_>>(),
        ["-", "skipped", "-"],
        "{reports:#?}"
    );
}

#[tokio::test]
async fn a_store_that_is_not_shared_loses_what_a_pod_held() {
    let theatre = Theatre::new(2, "").await;
    // Each pod keeps its own sessions: fine until one dies.
    let (one, other) = (Stage::new().await, Stage::new().await);
    let pods = [one.pod("a", "v2", "").await, other.pod("b", "v2", "").await];
    theatre.stage.router.route_among("c", &[pods[0].traffic_addr()]);
    theatre.stage.router.route_among("s", &[pods[1].traffic_addr()]);
    let report = theatre.play(&[HandOff], 4).await.remove(0);
    assert_eq!(told(&report), "stateEqual", "{report:#?}");
    let kept = theatre.play(&[StatePreservation], 4).await.remove(0);
    assert_eq!(told(&kept), "-", "{kept:#?}");
}
