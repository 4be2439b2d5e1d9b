//! The operator: what it observes, its rounds, and its acts.

use std::collections::BTreeMap;

use super::Dice;
use super::clients::Place;
use super::gateway::Way;
use super::pods::Pod;
use super::world::{Quality, TICK, World, stamp};
use crate::engine::observed::{
    DrainView, Look, Observed, PinKind, PinsView, PodView, RevisionView, RouteView, SessionsView,
};
use crate::engine::plan;
use crate::engine::plan::{Action, LookOrder};

impl World {
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
                    via: Some(self.case.via()),
                    speaks: self.case.speaks(),
                    trouble: None,
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
            cuts: self.cuts.clone(),
            metrics: self.metrics.clone(),
            problems: Vec::new(),
            unannounced: self.unannounced,
            accounts: self.accounts.clone(),
            entropy: {
                let mut dice = Dice::new(self.now as u64);
                format!("{:016x}{:016x}{:016x}", dice.next(), dice.next(), dice.next())
            },
        }
    }

    pub(super) fn view(&self, pod: &Pod) -> PodView {
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
            sessions: (pod.silent_until <= self.now && self.case.signal() != Some(false)).then_some(sessions),
        }
    }

    pub(super) fn round(&mut self) {
        let observed = self.observe();
        let made = plan(&observed, stamp(self.now));
        self.next_round = self.now + (made.requeue.as_millis() as i64).min(1_000);
        if std::mem::take(&mut self.refuses_status) {
            return;
        }
        let before = self.phase();
        // As the API server gives it back: times of conditions in whole seconds.
        self.status = serde_json::from_value(serde_json::to_value(&made.status).unwrap()).unwrap();
        self.unannounced = 0;
        self.cuts.clear();
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
            Action::Dismiss {
                revision, uid, from, ..
            } => {
                self.dismissed.push(uid.clone());
                if let Some(pod) = self.pod(uid) {
                    pod.cost = -100;
                }
                if self.sets.get(revision) == Some(from) {
                    self.sets.insert(revision.clone(), from.saturating_sub(1));
                }
            }
            Action::Crash { uid, .. } => {
                self.crashed.push(uid.clone());
                self.cut(uid);
                self.pods.retain(|p| p.uid != *uid);
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
                self.probe(plan.clone());
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
            at: stamp(self.now),
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
