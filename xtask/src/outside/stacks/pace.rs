//! Whether closes kept the ordered rate.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

/// Fails when, at any moment since the order, more sessions had been closed than the rate allows. A client that
/// sees its close late makes this hold all the more, so a busy machine does not fail it.
pub fn never_ahead(closes: usize, since_order: Duration, rate: f64) -> Result<()> {
    let allowed = (rate * since_order.as_secs_f64()).floor() as usize + 1;
    ensure!(
        closes <= allowed,
        "{closes} closes within {since_order:?}, where {rate}/s allows {allowed}"
    );
    Ok(())
}

/// The most releases in one second, however it is cut, by the sidecar's own account of when they were.
pub fn most_in_a_second(events: &Value) -> usize {
    let mut ago: Vec<u64> = released(events)
        .filter_map(|event| event.get("agoMs")?.as_u64())
        .collect();
    ago.sort_unstable();
    (0..ago.len())
        .map(|first| {
            ago[first..]
                .iter()
                .take_while(|at| **at - ago[first] < 1_000)
                .count()
        })
        .max()
        .unwrap_or(0)
}

/// The releases under an order.
pub fn released(events: &Value) -> impl Iterator<Item = &Value> {
    let all = events.get("events").and_then(Value::as_array);
    all.into_iter().flatten().filter(|event| {
        event.get("kind").is_some_and(|kind| kind == "released") && event.get("order").is_some()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ahead_of_the_rate_fails() {
        let second = Duration::from_secs(1);
        never_ahead(11, second, 10.0).unwrap();
        assert!(never_ahead(12, second, 10.0).is_err());
    }

    #[test]
    fn finds_the_fullest_second() {
        let at = |ago: u64| json!({ "kind": "released", "order": "x", "agoMs": ago });
        let events = json!({ "events": [at(2_500), at(2_000), at(1_501), at(900), { "kind": "arrived", "agoMs": 901 }] });
        assert_eq!(most_in_a_second(&events), 3);
    }
}
