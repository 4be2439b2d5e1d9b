//! A case, its state and its time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::clients::Session;
use super::gateway::Gateway;
use super::pods::Pod;
use super::probes::Run;
use super::{Dice, Fault};
use crate::api::spec::{DrainMode, HintKind, Via};
use crate::api::status::{Request, Returned};
use crate::api::{RolloutStatus, ValidatedRollout};
use crate::engine::Plan;
use crate::engine::observed::{Cut, Look, MetricView, PinRule};

/// One step of time.
pub(super) const TICK: i64 = 250;
/// Wall time at zero.
const EPOCH: i64 = 1_800_000_000_000;

/// How a version behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quality {
    Good,
    /// Probes find it broken at weight 0.
    FailsRehearsal,
    /// Its pods never become ready.
    NeverReady,
    /// It breaks when more than so many users are on it.
    BreaksAbove(u64),
}

/// What pods of an application say to the drain protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    NotYet,
}

/// How sessions are let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// By orders, in this mode.
    Orders(DrainMode),
    /// By SIGTERM; with or without a metric that counts sessions.
    Signal { counted: bool },
}

/// What a run is made of.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub seed: u64,
    pub replicas: u32,
    pub sessions: usize,
    pub budget: u32,
    pub hint: HintKind,
    pub manner: Manner,
    /// With `via: Auto`: whether its pods answer the drain protocol, as far as known.
    pub auto: Option<Answer>,
    pub follows: bool,
    /// Weights, each with its pause in seconds; none waits for `promote`.
    pub steps: Vec<(u8, Option<u32>)>,
    pub lag: i64,
    pub closes: bool,
    pub min_ready: u8,
    pub quality: Quality,
    /// Reconnects per second above which the new revision is slow.
    pub bears: Option<u32>,
    /// Whether it then does not answer its probes at all.
    pub refuses: bool,
    /// Users that come and go by themselves, per tick in thousand.
    pub churn: usize,
}

impl Case {
    /// Whether pods go by SIGTERM, and then whether their sessions are counted.
    pub(super) fn signal(&self) -> Option<bool> {
        match self.manner {
            Manner::Orders(_) => None,
            Manner::Signal { counted } => Some(counted),
        }
    }

    pub(super) fn via(&self) -> Via {
        match (self.auto, self.signal()) {
            (Some(_), _) => Via::Auto,
            (None, Some(_)) => Via::Signal,
            (None, None) => Via::Protocol,
        }
    }

    /// Whether pods answer the drain protocol, as far as known.
    pub(super) fn speaks(&self) -> Option<bool> {
        match self.auto {
            None => Some(self.signal().is_none()),
            Some(Answer::Yes) => Some(true),
            Some(Answer::No) => Some(false),
            Some(Answer::NotYet) => None,
        }
    }

    pub(super) fn mode(&self) -> DrainMode {
        match self.manner {
            Manner::Orders(mode) => mode,
            Manner::Signal { .. } => DrainMode::Ask,
        }
    }
}

/// The cluster.
pub(super) struct World {
    pub case: Case,
    pub now: i64,
    pub dice: Dice,
    pub rollout: ValidatedRollout,
    pub template: String,
    pub status: RolloutStatus,
    /// `spec.replicas` of the ReplicaSets.
    pub sets: BTreeMap<String, u32>,
    pub pods: Vec<Pod>,
    pub born: u64,
    pub slots: BTreeMap<String, String>,
    pub weights: BTreeMap<String, i32>,
    pub pins: Option<Vec<PinRule>>,
    pub gateway: Gateway,
    pub look: Option<Look>,
    /// What other systems tell.
    pub metrics: Vec<MetricView>,
    /// Sessions that were seen to be cut.
    pub cuts: Vec<Cut>,
    /// What the pods tell of moved sessions.
    pub accounts: Option<Returned>,
    pub probes: Option<Run>,
    pub sessions: Vec<Session>,
    pub request: Option<Request>,
    pub unannounced: u64,
    pub all_unannounced: u64,
    pub next_round: i64,
    // faults
    pub dies: Option<(usize, i64)>,
    pub fails: Option<usize>,
    pub refuses_status: bool,
    pub foreign_at: i64,
    /// Pods that died for a rehearsal.
    pub crashed: Vec<String>,
    /// Pods that were deleted as the order itself.
    pub dismissed: Vec<String>,
    pub last_trouble: i64,
    pub lost_status: bool,
    // findings
    pub arrivals: BTreeMap<i64, u32>,
    pub last_plan: Option<Plan>,
    pub wrong: Vec<String>,
    pub trace: Vec<String>,
}

impl World {
    /// A cluster in which version A serves everybody.
    pub(super) fn new(case: Case) -> Self {
        let mut world = Self {
            dice: Dice::new(case.seed),
            rollout: rollout(&case),
            now: 0,
            template: "aaa".to_owned(),
            status: RolloutStatus::default(),
            sets: BTreeMap::new(),
            pods: Vec::new(),
            born: 0,
            slots: BTreeMap::new(),
            weights: [("a".to_owned(), 100), ("b".to_owned(), 0), ("c".to_owned(), 0)].into(),
            pins: None,
            gateway: Gateway::default(),
            look: None,
            metrics: Vec::new(),
            cuts: Vec::new(),
            accounts: None,
            probes: None,
            sessions: Vec::new(),
            request: None,
            unannounced: 0,
            all_unannounced: 0,
            next_round: 0,
            dies: None,
            fails: None,
            refuses_status: false,
            foreign_at: i64::MIN / 2,
            crashed: Vec::new(),
            dismissed: Vec::new(),
            last_trouble: 0,
            lost_status: false,
            arrivals: BTreeMap::new(),
            last_plan: None,
            wrong: Vec::new(),
            trace: Vec::new(),
            case,
        };
        world.run(8_000);
        assert_eq!(
            world.phase(),
            "Healthy",
            "{:?}\n{}",
            world.wrong,
            world.trace.join("\n")
        );
        for i in 0..world.case.sessions {
            let at = world.now + (i as i64 % 8) * 100;
            world.sessions.push(Session::dialling(at));
        }
        world.run(2_000);
        world.all_unannounced = 0;
        world
    }

    pub(super) fn phase(&self) -> &'static str {
        self.status.state.as_ref().map_or("none", |s| s.phase())
    }

    pub(super) fn stable(&self) -> String {
        let release = self.status.release.as_ref().map(|r| r.stable.clone());
        release.or_else(|| self.status.stable.clone()).unwrap_or_default()
    }

    pub(super) fn quality(&self, revision: &str) -> Quality {
        if revision == "bbb" {
            self.case.quality
        } else {
            Quality::Good
        }
    }

    pub(super) fn breaks(&self, revision: &str) -> bool {
        match self.quality(revision) {
            Quality::BreaksAbove(most) => self.users_of(revision) > most,
            _ => false,
        }
    }

    pub(super) fn set_replicas(&mut self, count: u32) {
        self.rollout.replicas = count;
        self.rollout.spec.replicas = Some(count as i32);
    }

    pub(super) fn run(&mut self, ms: i64) {
        let end = self.now + ms;
        while self.now < end && self.wrong.is_empty() {
            self.tick();
        }
    }

    /// Runs with faults; times are from now.
    pub(super) fn run_with(&mut self, ms: i64, faults: &[super::Happening]) {
        let (begin, mut faults) = (self.now, faults.iter().peekable());
        while self.now < begin + ms && self.wrong.is_empty() {
            while let Some(due) = faults.next_if(|f| begin + f.at <= self.now) {
                let fault: &Fault = &due.fault;
                self.strike(fault);
            }
            self.tick();
        }
    }

    /// Runs until a phase, at most so long.
    pub(super) fn until(&mut self, ms: i64, reached: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ms;
        while self.now < end && self.wrong.is_empty() && !reached(self) {
            self.tick();
        }
        reached(self)
    }

    fn tick(&mut self) {
        self.now += TICK;
        self.control_sets();
        self.follow_orders();
        let plane = self.wanted_plane();
        self.gateway.tell(self.now, self.case.lag, plane);
        self.dial();
        self.rehearse();
        self.sample();
        if self.now >= self.next_round {
            self.round();
        }
        self.check_state();
    }
}

fn rollout(case: &Case) -> ValidatedRollout {
    let steps: Vec<_> = case
        .steps
        .iter()
        .map(|(weight, pause)| match pause {
            Some(seconds) => json!({"weight": weight, "pause": {"duration": format!("{seconds}s")}}),
            None => json!({"weight": weight, "pause": {}}),
        })
        .collect();
    let spec = json!({
        "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
        "metadata": {"name": "chat", "namespace": "default", "uid": "u", "generation": 1},
        "spec": {
            "replicas": case.replicas,
            "template": {"spec": {"containers": [{"name": "app", "image": "chat:1"}]}},
            "traffic": {"port": 8080, "routes": [{"name": "chat"}]},
            "probes": {"url": "ws://chat.example.com/ws"},
            "steps": steps,
            "drain": {
                "budget": {"connectsPerSecond": case.budget},
                "deadline": "40s", "onDeadline": if case.closes { "Close" } else { "Wait" },
                "notice": {"hint": case.hint},
                "via": case.via(),
                "mode": case.mode(),
            },
            "rehearsal": {"timeout": "2s"},
            "capacity": {"minReadyPercent": case.min_ready},
            "progressDeadline": "60s",
            "pauseDeadline": {"duration": "20s"},
            "rollbackWindow": "15s",
            "rollback": {"deadline": "30s"},
        }
    });
    ValidatedRollout::new(&serde_json::from_value(spec).unwrap()).unwrap()
}

/// The wall time of a virtual one.
pub(super) fn stamp(at: i64) -> Timestamp {
    Timestamp::from_millisecond(EPOCH + at).unwrap()
}
