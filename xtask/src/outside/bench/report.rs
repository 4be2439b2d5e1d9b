//! The figures: medians over the rounds, ratios within the run, a table and JSON.

use std::{collections::BTreeMap, fmt, fmt::Write as _};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::outside::proxy::Kind;

/// A figure.
pub type Measured = f64;

/// Who was measured: a proxy, or no proxy.
type Who = Option<Kind>;

/// Delays at a fixed rate, from the time a message should have left to the end of its echo.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Delays {
    p50_us: f64,
    p99_us: f64,
}

/// What one round gave for one proxy and payload.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Delays at the fixed rate.
    pub delays: Delays,
    /// What it carries for a second of its own CPU time; nothing for no proxy.
    pub round_trips_per_cpu_second: Option<f64>,
}

/// All rounds.
#[derive(Debug, Default)]
pub struct Figures {
    pinned: bool,
    rounds: usize,
    by_load: BTreeMap<(usize, &'static str), Vec<Round>>,
    idle_bytes: BTreeMap<&'static str, f64>,
}

const NO_PROXY: &str = "no proxy";

impl Figures {
    /// None yet.
    pub fn new(pinned: bool, rounds: usize) -> Self {
        Self {
            pinned,
            rounds,
            ..Self::default()
        }
    }

    /// Adds a round.
    pub fn add(&mut self, who: Who, bytes: usize, round: Round) {
        self.by_load.entry((bytes, name(who))).or_default().push(round);
    }

    /// Adds the memory of an idle connection.
    pub fn idle(&mut self, who: Kind, bytes: f64) {
        self.idle_bytes.insert(who.name(), bytes);
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut table = format!(
            "median of {} rounds{}\n{:>8} {:>9} {:>22} {:>16} {:>16} {:>18}\n",
            self.rounds,
            if self.pinned {
                ", the proxy on a processor of its own"
            } else {
                ""
            },
            "payload",
            "",
            "round trips/CPU-second",
            "added p50 (us)",
            "added p99 (us)",
            "idle connection"
        );
        for (bytes, who) in self.by_load.keys() {
            let idle = self
                .idle_bytes
                .get(who)
                .map_or(String::new(), |bytes| format!("{:.1} kB", bytes / 1e3));
            let cell = |figure: Option<f64>| figure.map_or(String::new(), |figure| format!("{figure:.0}"));
            let _ = writeln!(
                table,
                "{:>8} {who:>9} {:>22} {:>16} {:>16} {idle:>18}",
                format!("{bytes} B"),
                cell(self.throughput(*bytes, who)),
                cell(self.added(*bytes, who, |delays| delays.p50_us)),
                cell(self.added(*bytes, who, |delays| delays.p99_us)),
            );
        }
        for (what, ratio) in self.ratios() {
            let _ = writeln!(table, "{what}: {ratio:.2}");
        }
        table
    }

    /// For programs. Units are in the names.
    pub fn json(&self) -> Value {
        let loads: Vec<Value> = self
            .by_load
            .iter()
            .map(|((bytes, who), rounds)| {
                let each = |figure: fn(&Round) -> Option<f64>| -> Vec<f64> {
                    rounds.iter().filter_map(figure).collect()
                };
                json!({
                    "proxy": who,
                    "payload_bytes": bytes,
                    "round_trips_per_cpu_second": self.throughput(*bytes, who),
                    "round_trips_per_cpu_second_by_round": each(|round| round.round_trips_per_cpu_second),
                    "delay_p50_us": median(&each(|round| Some(round.delays.p50_us))),
                    "delay_p99_us": median(&each(|round| Some(round.delays.p99_us))),
                    "delay_p99_us_by_round": each(|round| Some(round.delays.p99_us)),
                    "added_p50_us": self.added(*bytes, who, |delays| delays.p50_us),
                    "added_p99_us": self.added(*bytes, who, |delays| delays.p99_us),
                })
            })
            .collect();
        let ratios: BTreeMap<String, f64> = self
            .ratios()
            .into_iter()
            .map(|(what, ratio)| {
                (
                    what.replace([' ', '/'], "_").replace(',', "").to_lowercase(),
                    ratio,
                )
            })
            .collect();
        json!({
            "bench": "sidecar",
            "rounds": self.rounds,
            "pinned": self.pinned,
            "loads": loads,
            "idle_connection_bytes": self.idle_bytes,
            "ratios": ratios,
        })
    }

    /// What the sidecar does for what others do, of the same run.
    fn ratios(&self) -> Vec<(String, f64)> {
        let sidecar = Kind::Sidecar.name();
        let mut ratios = Vec::new();
        let sizes: std::collections::BTreeSet<usize> = self.by_load.keys().map(|(bytes, _)| *bytes).collect();
        for other in [Kind::Haproxy.name(), Kind::Envoy.name()] {
            for bytes in &sizes {
                if let (Some(ours), Some(theirs)) =
                    (self.throughput(*bytes, sidecar), self.throughput(*bytes, other))
                {
                    ratios.push((
                        format!("round trips per CPU second, sidecar/{other}, {bytes} B"),
                        ours / theirs,
                    ));
                }
            }
            if let (Some(ours), Some(theirs)) = (self.idle_bytes.get(sidecar), self.idle_bytes.get(other)) {
                ratios.push((format!("idle connection bytes, sidecar/{other}"), ours / theirs));
            }
        }
        ratios
    }

    fn throughput(&self, bytes: usize, who: &'static str) -> Option<f64> {
        let rounds = self.by_load.get(&(bytes, who))?;
        let all: Vec<f64> = rounds
            .iter()
            .filter_map(|round| round.round_trips_per_cpu_second)
            .collect();
        median(&all)
    }

    /// The median of the differences to no proxy in the same round.
    fn added(&self, bytes: usize, who: &'static str, figure: fn(&Delays) -> f64) -> Option<f64> {
        if who == NO_PROXY {
            return None;
        }
        let (with, without) = (
            self.by_load.get(&(bytes, who))?,
            self.by_load.get(&(bytes, NO_PROXY))?,
        );
        let added: Vec<f64> = with
            .iter()
            .zip(without)
            .map(|(with, without)| figure(&with.delays) - figure(&without.delays))
            .collect();
        median(&added)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(carried) = self.round_trips_per_cpu_second {
            write!(f, "{carried:.0} round trips/CPU-second, ")?;
        }
        write!(
            f,
            "p50 {:.0} us, p99 {:.0} us",
            self.delays.p50_us, self.delays.p99_us
        )
    }
}

fn name(who: Who) -> &'static str {
    who.map_or(NO_PROXY, Kind::name)
}

fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(carried: f64, p99_us: f64) -> Round {
        Round {
            delays: Delays {
                p50_us: 100.0,
                p99_us,
            },
            round_trips_per_cpu_second: Some(carried),
        }
    }

    #[test]
    fn differences_are_taken_within_a_round() {
        let mut figures = Figures::new(true, 3);
        // The machine is slow in the second round, for all.
        for (direct, sidecar) in [(10.0, 15.0), (510.0, 516.0), (11.0, 18.0)] {
            figures.add(None, 64, round(0.0, direct));
            figures.add(Some(Kind::Sidecar), 64, round(30_000.0, sidecar));
            figures.add(Some(Kind::Haproxy), 64, round(20_000.0, sidecar));
        }
        assert_eq!(figures.added(64, "sidecar", |delays| delays.p99_us), Some(6.0));
        let ratios = figures.json()["ratios"].clone();
        assert_eq!(
            ratios,
            json!({ "round_trips_per_cpu_second_sidecar_haproxy_64_b": 1.5 })
        );
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
