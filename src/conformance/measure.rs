//! Figures over closes and notices. Pure.

use std::time::Duration;

use serde_json::Value;

/// The most in any window of this length that begins at one of the times, which ascend.
pub(super) fn most_within(times: &[Duration], window: Duration) -> usize {
    let mut most = 0;
    let mut first = 0;
    for (last, time) in times.iter().enumerate() {
        while time.saturating_sub(times[first]) >= window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// Whether a sequence of places looks as if nobody had shuffled it: it rises or falls nearly all the way, or its
/// neighbours mostly were neighbours before. Below 8 there is nothing to tell.
pub(super) fn looks_sorted(places: &[usize]) -> bool {
    if places.len() < 8 {
        return false;
    }
    let pairs = places.windows(2);
    let steps = pairs.len();
    let next = pairs.clone().filter(|pair| pair[0] + 1 == pair[1]).count();
    let last = pairs.filter(|pair| pair[0] == pair[1] + 1).count();
    // Of a shuffled sequence about one pair follows itself.
    next * 2 > steps || last * 2 > steps || rank_correlation(places).abs() > 0.9
}

/// Spearman's rank correlation of a permutation with its places.
fn rank_correlation(places: &[usize]) -> f64 {
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    let n = places.len() as f64;
    let squares: f64 = places
        .iter()
        .enumerate()
        .map(|(at, place)| {
            let rank = sorted.binary_search(place).unwrap_or_default();
            (at as f64 - rank as f64).powi(2)
        })
        .sum();
    1.0 - 6.0 * squares / (n * (n * n - 1.0))
}

/// The notice in a message: the message itself, or the first object of type `wsroll.notice` inside of another framing.
pub(super) fn notice_in(message: &str) -> Option<Value> {
    if !message.contains("wsroll.notice") {
        return None;
    }
    let is_notice = |value: &Value| value.get("type").and_then(Value::as_str) == Some("wsroll.notice");
    message
        .match_indices('{')
        .find_map(|(at, _)| {
            let mut values = serde_json::Deserializer::from_str(&message[at..]).into_iter::<Value>();
            values.next()?.ok().filter(is_notice)
        })
        .or(Some(Value::Null))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::seq::SliceRandom as _;

    use super::*;

    fn ms(times: &[u64]) -> Vec<Duration> {
        times.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn windows_end_before_their_length() {
        assert_eq!(most_within(&[], Duration::from_secs(1)), 0);
        assert_eq!(most_within(&ms(&[0, 500, 1000, 1500]), Duration::from_secs(1)), 2);
        assert_eq!(most_within(&ms(&[0, 900, 950, 1899]), Duration::from_secs(1)), 3);
        assert_eq!(most_within(&ms(&[5, 5, 5]), Duration::from_millis(250)), 3);
    }

    #[test]
    fn sorted_is_told_from_shuffled() {
        let rising: Vec<usize> = (0..24).collect();
        let falling: Vec<usize> = (0..24).rev().collect();
        // Those who were told first, then the others, each in their order.
        let halves: Vec<usize> = (0..12).map(|n| n * 2).chain((0..12).map(|n| n * 2 + 1)).collect();
        let rotated: Vec<usize> = (12..24).chain(0..12).collect();
        assert!(looks_sorted(&rising) && looks_sorted(&falling) && looks_sorted(&rotated));
        assert!(!looks_sorted(&halves), "each half is looked at by itself");
        assert!(!looks_sorted(&[0, 1, 2]));
    }

    proptest! {
        #[test]
        fn a_shuffle_does_not_look_sorted(seed: u64) {
            let mut places: Vec<usize> = (0..24).collect();
            places.shuffle(&mut rand::rngs::SmallRng::seed_from_u64(seed));
            prop_assert!(!looks_sorted(&places));
        }
    }

    #[test]
    fn a_notice_is_found_in_any_framing() {
        let plain = r#"{"type":"wsroll.notice","v":1,"id":"a"}"#;
        assert_eq!(notice_in(plain).unwrap()["id"], "a");
        assert_eq!(
            notice_in(&format!("42[\"system\",{{\"n\":{plain}}}]")).unwrap()["id"],
            "a"
        );
        assert_eq!(notice_in("wsroll.notice, in words"), Some(Value::Null));
        assert_eq!(notice_in(r#"{"type":"message"}"#), None);
    }
}
