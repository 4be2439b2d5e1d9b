//! The pace of a drain: one rate, shared by the pods of a wave.

/// wsroll runs at this share of the budget: clients' own latencies move arrivals between seconds.
pub const HEADROOM: f64 = 0.9;

/// How many pods may follow an order at one time.
///
/// A pod that closes evenly at `r` per second puts at most `⌊r⌋ + 1` closes into one aligned second. With the headroom of a
/// tenth, one pod for every ten connects per second keeps the sum within the budget.
pub fn concurrent_pods(budget: f64, limit: Option<u32>) -> usize {
    let exact = ((budget / 10.0).floor() as usize).max(1);
    limit.map_or(exact, |limit| exact.min(limit as usize)).max(1)
}

/// What the rates of all pods may add up to. A second holds whole connects, so a budget of 2.5 is one of 2.
pub fn usable(budget: f64) -> f64 {
    let whole = if budget >= 1.0 { budget.floor() } else { budget };
    whole * HEADROOM
}

/// Splits the budget over pods by the sessions they have left, so that they end together.
///
/// `remaining` holds sessions per pod. Each gets at least a hundredth of the budget; the sum never exceeds `HEADROOM × budget`.
pub fn split(budget: f64, remaining: &[u64]) -> Vec<f64> {
    share(usable(budget), remaining)
}

/// Shares `usable` connects per second, as [`split`] does, with nothing taken off.
pub fn share(usable: f64, remaining: &[u64]) -> Vec<f64> {
    if remaining.is_empty() {
        return Vec::new();
    }
    let usable = usable.max(0.0);
    let least = (usable / 100.0).min(usable / remaining.len() as f64);
    let spread = usable - least * remaining.len() as f64;
    let total: u64 = remaining.iter().sum();
    remaining
        .iter()
        .map(|&left| {
            let share = if total == 0 {
                1.0 / remaining.len() as f64
            } else {
                left as f64 / total as f64
            };
            // Three decimals are enough on the wire; rounding down keeps the sum within the budget.
            ((least + spread * share) * 1_000.0).floor() / 1_000.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pods_end_together() {
        let rates = split(50.0, &[100, 50]);
        assert!((rates[0] / rates[1] - 2.0).abs() < 0.1, "{rates:?}");
        assert_eq!(concurrent_pods(50.0, None), 5);
        assert_eq!(concurrent_pods(5.0, None), 1);
        assert_eq!(concurrent_pods(500.0, Some(3)), 3);
    }

    proptest! {
        #[test]
        fn the_sum_stays_within_the_budget_in_any_aligned_second(
            budget in 1.0f64..500.0,
            remaining in proptest::collection::vec(0u64..5_000, 1..40),
        ) {
            let pods = remaining.len().min(concurrent_pods(budget, None));
            let rates = split(budget, &remaining[..pods]);
            prop_assert!(rates.iter().sum::<f64>() <= budget * HEADROOM + 1e-9);
            prop_assert!(rates.iter().all(|r| *r > 0.0));
            let worst: f64 = rates.iter().map(|r| r.floor() + 1.0).sum();
            prop_assert!(worst <= budget, "{worst} of {budget}");
        }
    }
}
