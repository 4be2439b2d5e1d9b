//! Bounds for a probability of success that hold at every look: a confidence sequence.
//!
//! Every sample is looked at, and a decision falls as soon as a bound allows it, so an interval that is good for one look would err far
//! more often than it says. For `s` successes and `f` failures the ratio of a mixture of likelihoods to that of `p`,
//!
//! ```text
//! M(p) = B(s + 1/2, f + 1/2) / B(1/2, 1/2) / (p^s (1 - p)^f)
//! ```
//!
//! is a martingale with mean 1 when `p` is the truth (the mixture is Jeffreys' prior, Beta(1/2, 1/2)). By Ville's inequality it ever
//! reaches `1/alpha` with a probability of at most `alpha`, however often one looks. The values of `p` for which it has not are the
//! interval: a range, since the likelihood has one peak. After Robbins, "Statistical methods related to the law of the iterated
//! logarithm", Annals of Mathematical Statistics 41 (1970); Ville, "Étude critique de la notion de collectif" (1939).

/// Halvings of a bisection: far finer than anything that is shown.
const HALVINGS: u32 = 50;
/// No estimate goes beyond so many samples.
const MOST: f64 = 1e7;

/// Successes and failures, and how surely they are to be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence {
    successes: f64,
    failures: f64,
    /// The logarithm of `1/alpha`.
    bar: f64,
}

// === impl Sequence ===

impl Sequence {
    /// Of `attempts`, `restored` succeeded. `alpha` is the probability that the interval ever misses the truth.
    pub fn new(attempts: u64, restored: u64, alpha: f64) -> Self {
        let restored = restored.min(attempts);
        Self::of(restored as f64, (attempts - restored) as f64, alpha)
    }

    fn of(successes: f64, failures: f64, alpha: f64) -> Self {
        Self {
            successes,
            failures,
            bar: -alpha.ln(),
        }
    }

    /// Whether the lower bound is at least `p`.
    pub fn is_above(&self, p: f64) -> bool {
        p <= 0.0 || (p < self.share() && self.excludes(p))
    }

    /// Whether the upper bound is below `p`.
    pub fn is_below(&self, p: f64) -> bool {
        p > self.share() && self.excludes(p)
    }

    /// The interval.
    pub fn bounds(&self) -> (f64, f64) {
        if self.successes + self.failures == 0.0 {
            return (0.0, 1.0);
        }
        let share = self.share();
        (self.edge(0.0, share), self.edge(1.0, share))
    }

    /// How many samples more it takes at the present share until the lower bound is at least `p` (`above`), or the upper bound below it.
    /// `None` where the share is on the other side: no number of them would do.
    pub fn samples_until(&self, p: f64, above: bool) -> Option<u64> {
        let samples = self.successes + self.failures;
        let share = self.share();
        let reached = |n: f64| {
            let alpha = (-self.bar).exp();
            let then = Self::of(share * n, (1.0 - share) * n, alpha);
            if above { then.is_above(p) } else { then.is_below(p) }
        };
        if samples == 0.0 || !reached(MOST) {
            return None;
        }
        let (mut low, mut high) = (samples, MOST);
        while high - low > 1.0 {
            // By the ratio: the answer is far nearer to the beginning than to the end.
            let middle = (low * high).sqrt();
            if reached(middle) {
                high = middle;
            } else {
                low = middle;
            }
            if high / low < 1.0 + 1e-6 {
                break;
            }
        }
        Some((high - samples).ceil().max(0.0) as u64)
    }

    fn share(&self) -> f64 {
        let samples = self.successes + self.failures;
        if samples == 0.0 {
            0.5
        } else {
            self.successes / samples
        }
    }

    /// Whether `M(p)` has reached `1/alpha`.
    fn excludes(&self, p: f64) -> bool {
        self.log_ratio(p) >= self.bar
    }

    fn log_ratio(&self, p: f64) -> f64 {
        let mixture = ln_beta(self.successes + 0.5, self.failures + 0.5) - std::f64::consts::PI.ln();
        mixture - power(self.successes, p) - power(self.failures, 1.0 - p)
    }

    /// Between `outer`, which may be excluded, and the share, which never is.
    fn edge(&self, outer: f64, share: f64) -> f64 {
        if !self.excludes(outer) {
            return outer;
        }
        let (mut out, mut within) = (outer, share);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(out, within);
            if self.excludes(middle) {
                out = middle;
            } else {
                within = middle;
            }
        }
        within
    }
}

/// The logarithm of `p^count`; 0 for `0^0`.
fn power(count: f64, p: f64) -> f64 {
    if count == 0.0 { 0.0 } else { count * p.ln() }
}

/// The logarithm of Euler's beta function.
fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// The logarithm of Euler's gamma function, for `x > 0`: Stirling's series (Abramowitz and Stegun 6.1.41), after the recurrence has
/// made `x` so large that the first omitted term is below 1e-12. The standard library's own is not stable yet.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 12.0 {
        product *= x;
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0))) / x;
    let half_ln_two_pi = 0.918_938_533_204_672_8;
    (x - 0.5) * x.ln() - x + half_ln_two_pi + series - f64::ln(product)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_gamma_function_is_that_of_the_tables() {
        // Factorials, Γ(1/2) = √π, and values of DLMF and Abramowitz and Stegun.
        let known = [
            (1.0, 0.0),
            (2.0, 0.0),
            (0.5, 0.572_364_942_924_700_1),
            (1.5, -0.120_782_237_635_245_22),
            (5.0, 24.0_f64.ln()),
            (11.0, 3_628_800.0_f64.ln()),
            (100.0, 359.134_205_369_575_4),
            (1_000.5, 5_908.674_175_848_678),
        ];
        for (x, expected) in known {
            let error = (ln_gamma(x) - expected).abs();
            assert!(error < 1e-9 * f64::max(1.0, expected), "{x}: {error}");
        }
    }

    #[test]
    fn the_mixture_is_the_product_of_its_predictions() {
        // Jeffreys' prior predicts a success after s of n with (s + 1/2) / (n + 1): another way to the same ratio.
        let (mut ratio, mut s, mut n) = (0.0_f64, 0.0_f64, 0.0_f64);
        for i in 0..200_u64 {
            let good = i % 3 != 0;
            let predicted = (s + 0.5) / (n + 1.0);
            ratio += if good {
                (predicted / 0.7).ln()
            } else {
                ((1.0 - predicted) / 0.3).ln()
            };
            s += if good { 1.0 } else { 0.0 };
            n += 1.0;
            let direct = Sequence::of(s, n - s, 0.01).log_ratio(0.7);
            assert!((ratio - direct).abs() < 1e-9, "{i}: {ratio} {direct}");
        }
    }

    #[test]
    fn nothing_seen_is_nothing_known() {
        let none = Sequence::new(0, 0, 0.01);
        assert_eq!(none.bounds(), (0.0, 1.0));
        assert!(!none.is_above(0.01) && !none.is_below(0.99));
        assert_eq!(none.samples_until(0.9, true), None);
    }

    #[test]
    fn an_estimate_is_when_the_bound_is_reached() {
        let now = Sequence::new(100, 97, 0.005);
        let more = now.samples_until(0.9, true).unwrap();
        assert!(more > 0 && !now.is_above(0.9));
        let restored = |n: u64| n * 97 / 100;
        let then = 100 + more;
        assert!(Sequence::new(then + 100, restored(then + 100), 0.005).is_above(0.9));
        assert!(!Sequence::new(then - 30, restored(then - 30), 0.005).is_above(0.9));
        assert_eq!(Sequence::new(100, 85, 0.005).samples_until(0.9, true), None);
        assert_eq!(Sequence::new(100, 85, 0.005).samples_until(0.8, false), None);
        assert!(Sequence::new(20, 15, 0.005).samples_until(0.8, false).is_some());
    }

    proptest! {
        #[test]
        fn bounds_contain_the_share_and_agree_with_the_decisions(attempts in 1u64..3_000, restored in 0u64..3_000, p in 0.01f64..0.99) {
            let restored = restored.min(attempts);
            let sequence = Sequence::new(attempts, restored, 0.01);
            let (lower, upper) = sequence.bounds();
            let share = restored as f64 / attempts as f64;
            prop_assert!(0.0 <= lower && lower <= share && share <= upper && upper <= 1.0, "{lower} {share} {upper}");
            prop_assert_eq!(sequence.is_above(p), lower >= p);
            prop_assert_eq!(sequence.is_below(p), upper < p);
        }

        #[test]
        fn bounds_shrink_with_more_of_the_same(attempts in 2u64..500, restored in 0u64..500) {
            let restored = restored.min(attempts);
            let width = |times: u64| {
                let (lower, upper) = Sequence::new(attempts * times, restored * times, 0.01).bounds();
                upper - lower
            };
            prop_assert!(width(2) < width(1) && width(8) < width(2));
        }

        #[test]
        fn a_success_in_place_of_a_failure_lowers_no_bound(attempts in 1u64..2_000, restored in 0u64..2_000) {
            let restored = restored.min(attempts - 1);
            let worse = Sequence::new(attempts, restored, 0.01).bounds();
            let better = Sequence::new(attempts, restored + 1, 0.01).bounds();
            prop_assert!(better.0 >= worse.0 && better.1 >= worse.1, "{worse:?} {better:?}");
        }
    }
}
