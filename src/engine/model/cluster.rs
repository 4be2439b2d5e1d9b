//! What the cluster does by itself: ReplicaSets, pods at their orders, clients that dial.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use super::clients::{Place, Session};
use super::gateway::{Plane, Way};
use super::pods::Pod;
use super::world::{Quality, TICK, World};
use crate::engine::observed::PinKind;
use crate::engine::plan::Hint;

impl World {
    pub(super) fn control_sets(&mut self) {
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
                match (live.len() as u32).cmp(&wanted) {
                    Ordering::Less => self.start_pod(&revision),
                    Ordering::Greater => {
                        // Unready ones first, then the cheapest, then the youngest.
                        live.sort_by_key(|i| {
                            let pod = &self.pods[*i];
                            (pod.up(now), pod.cost, Reverse(pod.uid.clone()))
                        });
                        self.delete(live[0]);
                    }
                    Ordering::Equal => break,
                }
            }
        }
    }

    fn start_pod(&mut self, revision: &str) {
        self.born += 1;
        let boot = match self.quality(revision) {
            Quality::NeverReady => i64::MAX / 2,
            _ => 500 + self.dice.below(3_000) as i64,
        };
        self.pods.push(Pod::new(revision, self.born, self.now + boot));
    }

    pub(super) fn delete(&mut self, index: usize) {
        self.check_delete(index);
        let grace = if self.case.signal().is_some() {
            3_000
        } else {
            1_000
        };
        let pod = &mut self.pods[index];
        pod.gone_at = Some(self.now + grace);
        self.trace
            .push(format!("{} deleted {}", self.now, self.pods[index].uid));
    }

    pub(super) fn follow_orders(&mut self) {
        let release = self.status.release.as_ref().map_or(0, |r| r.number);
        for index in 0..self.pods.len() {
            let uid = self.pods[index].uid.clone();
            let here: Vec<usize> = (0..self.sessions.len())
                .filter(|s| self.sessions[*s].place == Place::On(uid.clone()))
                .collect();
            if self.pods[index].up_at > self.now {
                continue;
            }
            if let Some(gone_at) = self.pods[index].gone_at.filter(|_| self.case.signal().is_some()) {
                self.let_go_on_signal(&here, gone_at);
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

    /// Its SIGTERM handler closes everybody, a second before its grace period ends.
    fn let_go_on_signal(&mut self, here: &[usize], gone_at: i64) {
        let release = self.status.release.as_ref().map_or(0, |r| r.number);
        let left = ((gone_at - 1_000 - self.now) / TICK).max(0) as usize;
        for session in here.iter().take(here.len().div_ceil(left + 1)) {
            let at = self.now + self.dice.below(200) as i64;
            let session = &mut self.sessions[*session];
            *session.moved.entry(release).or_default() += 1;
            session.place = Place::Dialling { at, ordered: false };
        }
    }

    pub(super) fn wanted_plane(&self) -> Plane {
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

    pub(super) fn dial(&mut self) {
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
            let carried = match &hint {
                Some(Hint::Query(text)) => text.strip_prefix("wsroll=").zip(Some(PinKind::HintQuery)),
                Some(Hint::Path(text)) => text.strip_prefix("/wsroll-").zip(Some(PinKind::HintPath)),
                Some(Hint::Header(text)) => text
                    .strip_prefix("x-wsroll-hint: ")
                    .zip(Some(PinKind::HintHeader)),
                None => None,
            };
            let way = carried.map_or(Way::Plain, |(value, kind)| Way::Pin(kind, value));
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
}
