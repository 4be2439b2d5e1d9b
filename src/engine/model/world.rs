//! The cluster, and the operator's rounds in it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

pub(super) use super::clients::Place;
use super::clients::Session;
use super::gateway::{Gateway, Plane, Way};
use super::pods::Pod;
use super::probes::Run;
use super::{Dice, Fault};
use crate::api::status::Request;
use crate::api::{RolloutStatus, SLOTS, ValidatedRollout};
use crate::engine::observed::{
    DrainView, Look, Observed, PinKind, PinRule, PinsView, PodView, RevisionView, RouteView, SessionsView,
};
use crate::engine::plan::{Action, LookOrder, ProbePlan};
use crate::engine::{Plan, plan};

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

/// What a run is made of.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub seed: u64,
    pub replicas: u32,
    pub sessions: usize,
    pub budget: u32,
    pub hint: bool,
    pub follows: bool,
    /// Weights, each with its pause in seconds; none waits for `promote`.
    pub steps: Vec<(u8, Option<u32>)>,
    pub lag: i64,
    pub closes: bool,
    pub min_ready: u8,
    pub quality: Quality,
    /// Users that come and go by themselves, per tick in thousand.
    pub churn: usize,
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

    pub(super) fn stamp(&self, at: i64) -> Timestamp {
        Timestamp::from_millisecond(EPOCH + at).unwrap()
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
        if self.now >= self.next_round {
            self.round();
        }
        self.check_state();
    }

    // --- cluster ---

    fn control_sets(&mut self) {
        let now = self.now;
        let gone: Vec<String> = self
            .pods
            .iter()
            .filter(|p| p.gone_at.is_some_and(|at| at <= now))
            .map(|p| p.uid.clone())
            .collect();
        for uid in gone {
            self.cut(&uid);
            self.pods.retain(|p| p.uid != uid);
        }
        for (revision, wanted) in self.sets.clone() {
            loop {
                let mut live: Vec<usize> = (0..self.pods.len())
                    .filter(|i| self.pods[*i].revision == revision && self.pods[*i].gone_at.is_none())
                    .collect();
                if (live.len() as u32) < wanted {
                    self.born += 1;
                    let boot = match self.quality(&revision) {
                        Quality::NeverReady => i64::MAX / 2,
                        _ => 500 + self.dice.below(3_000) as i64,
                    };
                    self.pods.push(Pod::new(&revision, self.born, now + boot));
                } else if (live.len() as u32) > wanted {
                    // Unready ones first, then the cheapest, then the youngest.
                    live.sort_by_key(|i| {
                        let pod = &self.pods[*i];
                        (pod.up(now), pod.cost, std::cmp::Reverse(pod.uid.clone()))
                    });
                    self.delete(live[0]);
                } else {
                    break;
                }
            }
        }
    }

    fn delete(&mut self, index: usize) {
        self.check_delete(index);
        let pod = &mut self.pods[index];
        pod.gone_at = Some(self.now + 1_000);
        self.trace
            .push(format!("{} deleted {}", self.now, self.pods[index].uid));
    }

    fn follow_orders(&mut self) {
        let release = self.status.release.as_ref().map_or(0, |r| r.number);
        for index in 0..self.pods.len() {
            let uid = self.pods[index].uid.clone();
            let here: Vec<usize> = (0..self.sessions.len())
                .filter(|s| self.sessions[*s].place == Place::On(uid.clone()))
                .collect();
            if self.pods[index].up_at > self.now {
                continue;
            }
            for told in self.pods[index].work(self.now, &here, &mut self.dice) {
                let rehearsal = told.order.contains("rehearsal");
                let wait = self.dice.below(30) as i64;
                let session = &mut self.sessions[told.session];
                if !rehearsal {
                    *session.moved.entry(release).or_default() += 1;
                }
                session.hint = told.hint.or(session.hint.take());
                session.place = Place::Dialling {
                    at: told.at + wait,
                    ordered: !rehearsal,
                };
            }
        }
    }

    fn wanted_plane(&self) -> Plane {
        let mut endpoints: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in self.pods.iter().filter(|p| p.serving && p.up(self.now)) {
            endpoints
                .entry(pod.revision.clone())
                .or_default()
                .push(pod.uid.clone());
        }
        Plane {
            weights: self.weights.clone(),
            slots: self.slots.clone(),
            pins: self.pins.clone().unwrap_or_default(),
            endpoints,
        }
    }

    fn dial(&mut self) {
        for index in 0..self.sessions.len() {
            if self.dice.below(1_000) < self.case.churn {
                let session = &mut self.sessions[index];
                match session.place {
                    Place::On(_) => session.place = Place::Away,
                    Place::Away => *session = Session::dialling(self.now),
                    Place::Dialling { .. } => {}
                }
            }
            let Place::Dialling { at, ordered } = self.sessions[index].place else {
                continue;
            };
            if at > self.now {
                continue;
            }
            if ordered {
                *self.arrivals.entry(at.div_euclid(1_000)).or_default() += 1;
            }
            let hint = self.sessions[index].hint.clone().filter(|_| self.case.follows);
            let value = hint.as_ref().and_then(|h| h.strip_prefix("wsroll="));
            let way = value.map_or(Way::Plain, |value| Way::Pin(PinKind::HintQuery, value));
            let landed = self.gateway.route(way, &mut self.dice);
            let landed = landed.filter(|uid| self.pods.iter().any(|p| p.uid == *uid && p.up(self.now)));
            self.sessions[index].place = match landed {
                Some(uid) => Place::On(uid),
                None => Place::Dialling {
                    at: self.now + 300,
                    ordered: false,
                },
            };
        }
    }

    // --- what is asked of the cluster ---

    pub(super) fn users_on(&self, uid: &str) -> u64 {
        let on = Place::On(uid.to_owned());
        self.sessions.iter().filter(|s| s.place == on).count() as u64
    }

    pub(super) fn users_of(&self, revision: &str) -> u64 {
        let pods = self.pods.iter().filter(|p| p.revision == revision);
        pods.map(|p| self.users_on(&p.uid)).sum()
    }

    pub(super) fn observe(&self) -> Observed {
        let revisions = self
            .sets
            .iter()
            .map(|(revision, replicas)| {
                let pods = self.pods.iter().filter(|p| p.revision == *revision);
                let view = RevisionView {
                    replicas: *replicas,
                    pods: pods.map(|p| self.view(p)).collect(),
                };
                (revision.clone(), view)
            })
            .collect();
        let seen = self.status.last_request.as_ref().map(|r| &r.nonce);
        Observed {
            rollout: self.rollout.clone(),
            template_hash: self.template.clone(),
            template_images: vec![format!("chat:{}", self.template)],
            status: self.status.clone(),
            request: self.request.clone().filter(|r| seen != Some(&r.nonce)),
            revisions,
            slots: self.slots.clone(),
            routes: vec![RouteView {
                name: "chat".to_owned(),
                rules: vec![self.weights.clone()],
                accepted: Ok(()),
            }],
            pins: self.pins.clone().map(|pins| PinsView {
                pins,
                current: true,
                accepted: Ok(()),
            }),
            look: self.look.clone(),
            rehearsal: self.rehearsal(),
            evidence: self.evidence(),
            problems: Vec::new(),
            unannounced: self.unannounced,
            entropy: {
                let mut dice = Dice::new(self.now as u64);
                format!("{:016x}{:016x}{:016x}", dice.next(), dice.next(), dice.next())
            },
        }
    }

    fn view(&self, pod: &Pod) -> PodView {
        let runs = pod.up_at <= self.now;
        let sessions = SessionsView {
            open: if runs {
                self.users_on(&pod.uid) + self.probes_on(&pod.uid)
            } else {
                0
            },
            instance: pod.instance.to_string(),
            drain: pod.order.as_ref().filter(|_| runs).map(|o| DrainView {
                id: o.id.clone(),
                state: match () {
                    () if o.cancelled => "cancelled",
                    () if self.now > o.lease_until => "paused",
                    () if o.left == Some(0) && pod.told.is_empty() => "done",
                    () => "active",
                }
                .to_owned(),
                notified: o.told,
                closed_clean: o.closed,
                closed_forced: 0,
                lease_expires_ms: Some((o.lease_until - self.now).max(0) as u64),
                rate_per_second: Some(o.rate),
            }),
            ..SessionsView::default()
        };
        PodView {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            ready: pod.up(self.now),
            terminating: pod.gone_at.is_some(),
            serving: pod.serving,
            role: Some(pod.role.clone()),
            deletion_cost: Some(pod.cost).filter(|c| *c != 0),
            trouble: None,
            sessions: (pod.silent_until <= self.now).then_some(sessions),
        }
    }

    // --- the operator ---

    fn round(&mut self) {
        let observed = self.observe();
        let made = plan(&observed, self.stamp(self.now));
        self.next_round = self.now + (made.requeue.as_millis() as i64).min(1_000);
        if std::mem::take(&mut self.refuses_status) {
            return;
        }
        let before = self.phase();
        // As the API server gives it back: times of conditions in whole seconds.
        self.status = serde_json::from_value(serde_json::to_value(&made.status).unwrap()).unwrap();
        self.unannounced = 0;
        if self.phase() != before {
            self.trace.push(format!("{} PHASE {}", self.now, self.phase()));
        }
        for note in &made.notes {
            self.trace
                .push(format!("{} {} {}", self.now, note.reason, note.message));
        }
        self.check_plan(&observed, &made);
        let (dies, fails) = (self.dies.take(), self.fails.take());
        for (index, action) in made.actions.iter().enumerate() {
            if let Some((after, away)) = dies
                && after == index
            {
                self.next_round = self.now + away.max(TICK);
                self.last_trouble = self.last_trouble.max(self.next_round);
                self.probes = None;
                self.look = None;
                break;
            }
            if fails == Some(index) {
                break;
            }
            self.check_action(&observed, action);
            self.apply(action);
        }
        self.last_plan = Some(made);
    }

    fn pod(&mut self, uid: &str) -> Option<&mut Pod> {
        self.pods.iter_mut().find(|p| p.uid == uid)
    }

    fn apply(&mut self, action: &Action) {
        if !matches!(action, Action::Probe(_)) {
            self.trace.push(format!("{} {action:?}", self.now));
        }
        let now = self.now;
        match action {
            Action::CreateRevision {
                revision, replicas, ..
            } => {
                self.sets.entry(revision.clone()).or_insert(*replicas);
            }
            Action::Grow { revision, replicas } => {
                let set = self.sets.entry(revision.clone()).or_insert(0);
                *set = (*set).max(*replicas);
            }
            Action::Retire {
                revision,
                pods,
                from,
                to,
            } => {
                let mut marked = false;
                for (_, uid) in pods {
                    if let Some(pod) = self.pod(uid).filter(|p| p.cost == 0 && *to > 0) {
                        pod.cost = -100;
                        marked = true;
                    }
                }
                if !marked && self.sets.get(revision) == Some(from) {
                    self.sets.insert(revision.clone(), *to);
                }
            }
            Action::PointSlot { slot, revision } => {
                self.slots.insert(slot.clone(), revision.clone());
            }
            Action::SetWeights { weights } => {
                self.weights = weights.iter().map(|(s, w)| (s.clone(), *w)).collect();
            }
            Action::EnsurePins { pins } => self.pins = Some(pins.clone()),
            Action::DeletePins => self.pins = None,
            Action::LeaveRotation { uid, .. } => {
                if let Some(pod) = self.pod(uid) {
                    pod.serving = false;
                    pod.role = "draining".to_owned();
                }
            }
            Action::EnterRotation { uid, role, .. } => {
                if let Some(pod) = self.pod(uid) {
                    (pod.serving, pod.cost, pod.role) = (true, 0, role.to_string());
                }
            }
            Action::SetRole { uid, role, .. } => {
                if let Some(pod) = self.pod(uid) {
                    pod.role = role.to_string();
                }
            }
            Action::Order(order) => {
                if let Some(pod) = self
                    .pod(&order.uid)
                    .filter(|p| p.silent_until <= now && p.up_at <= now)
                {
                    pod.take(order, now);
                }
            }
            Action::CancelOrder { uid, id, .. } => {
                let running = self.pod(uid).and_then(|p| p.order.as_mut());
                if let Some(order) = running.filter(|o| o.id == *id) {
                    order.cancelled = true;
                }
            }
            Action::Probe(plan) => {
                let plan: Option<ProbePlan> = plan.clone();
                self.probe(plan);
            }
            Action::Look(order) => self.take_look(order),
        }
    }

    fn take_look(&mut self, order: &LookOrder) {
        let mut look = Look {
            id: order.id.clone(),
            revisions: BTreeMap::new(),
            failed: 0,
            error: None,
            at: self.stamp(self.now),
        };
        for _ in 0..order.upgrades {
            let way = order
                .pin
                .as_ref()
                .map_or(Way::Plain, |pin| Way::Pin(PinKind::ProbeHeader, pin));
            let landed = self.gateway.route(way, &mut self.dice);
            let pod = landed.and_then(|uid| self.pods.iter().find(|p| p.uid == uid && p.up(self.now)));
            match pod.map(|p| p.revision.clone()) {
                Some(revision) if self.quality(&revision) != Quality::FailsRehearsal => {
                    *look.revisions.entry(revision).or_default() += 1;
                }
                _ => look.failed += 1,
            }
        }
        self.look = Some(look);
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
                "notice": {"hint": if case.hint { "Query" } else { "None" }},
            },
            "rehearsal": {"timeout": "2s"},
            "capacity": {"minReadyPercent": case.min_ready},
            "progressDeadline": "60s",
            "pauseDeadline": {"duration": "20s"},
            "rollbackWindow": "15s",
            "rollback": {"deadline": "30s"},
        }
    });
    let valid = ValidatedRollout::new(&serde_json::from_value(spec).unwrap()).unwrap();
    assert_eq!(SLOTS.len(), 3);
    valid
}
