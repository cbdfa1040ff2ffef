//! Chances: durations and numbers of requests.

use rand::Rng;
use rand::rngs::SmallRng;

/// Steps of a distribution that is kept as a table.
const KNOTS: usize = 1024;

/// Where the tail begins, and how many times longer than log-normal its end is.
const TAIL: (f64, f64) = (0.99, 5.0);

/// A distribution of durations around a median of 1: log-normal, but the slowest hundredth waits for something else too.
///
/// It is piecewise linear between its knots by definition, so that its quantiles are known exactly and a draw takes no logarithm.
#[derive(Debug, Clone)]
pub struct Latency {
    knots: Vec<f64>,
}

impl Latency {
    /// With this sigma of the logarithm.
    pub fn new(sigma: f64) -> Latency {
        let knot = |step: usize| {
            let p = (step as f64 / KNOTS as f64).clamp(1.0 / 16_384.0, 1.0 - 1.0 / 16_384.0);
            let (begin, times) = TAIL;
            let tail = 1.0 + (times - 1.0) * ((p - begin) / (1.0 - begin)).max(0.0);
            (sigma * normal_quantile(p)).exp() * tail
        };
        Latency {
            knots: (0..=KNOTS).map(knot).collect(),
        }
    }

    /// The value at 0 <= p <= 1, exactly.
    pub fn quantile(&self, p: f64) -> f64 {
        let place = p.clamp(0.0, 1.0) * KNOTS as f64;
        let below = (place as usize).min(KNOTS - 1);
        self.between(below, place - below as f64)
    }

    /// The value that 64 random bits stand for; the first 42 count.
    #[inline]
    pub fn draw(&self, bits: u64) -> f64 {
        let below = (bits >> 54) as usize;
        let rest = (bits >> 22) as u32;
        self.between(below, f64::from(rest) / (u64::from(u32::MAX) + 1) as f64)
    }

    #[inline]
    fn between(&self, below: usize, rest: f64) -> f64 {
        let (low, high) = (self.knots[below], self.knots[below + 1]);
        low + (high - low) * rest
    }
}

/// How many requests come where `mean` are expected (Poisson; from 30 on as the normal distribution of equal mean and variance).
#[inline]
pub fn poisson(rng: &mut SmallRng, mean: f64) -> u64 {
    if mean <= 0.0 {
        return 0;
    }
    let u: f64 = rng.random();
    if mean >= 30.0 {
        let around = mean + mean.sqrt() * normal_quantile(u.clamp(1e-12, 1.0 - 1e-12));
        return around.round().max(0.0) as u64;
    }
    let (mut n, mut p) = (0u64, (-mean).exp());
    let mut sum = p;
    // The sum may end a rounding error below 1.
    while u > sum && n < 200 {
        n += 1;
        p *= mean / n as f64;
        sum += p;
    }
    n
}

/// The standard normal distribution's quantile: Acklam's rational approximation, relative error below 1.15e-9.
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
    ];
    let poly = |of: &[f64], x: f64| of.iter().fold(0.0, |sum, factor| sum * x + factor);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        poly(&C, q) / (poly(&D, q) * q + 1.0)
    };
    if p < 0.024_25 {
        tail(p)
    } else if p > 1.0 - 0.024_25 {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        let r = q * q;
        poly(&A, r) * q / (poly(&B, r) * r + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (p, z) in [
            (0.5, 0.0),
            (0.975, 1.959_963_985),
            (0.01, -2.326_347_874),
            (0.999_9, 3.719_016_485),
        ] {
            assert!((normal_quantile(p) - z).abs() < 1e-8, "{p}");
        }
    }

    #[test]
    fn draws_have_the_quantiles_told() {
        let (latency, mut rng) = (Latency::new(0.6), SmallRng::seed_from_u64(3));
        let n = 200_000;
        let drawn: Vec<f64> = (0..n).map(|_| latency.draw(rng.random())).collect();
        for p in [0.1, 0.5, 0.9, 0.99, 0.999] {
            let below = drawn.iter().filter(|value| **value <= latency.quantile(p)).count();
            let deviation = (p * (1.0 - p) / f64::from(n)).sqrt();
            assert!(
                (below as f64 / f64::from(n) - p).abs() < 5.0 * deviation,
                "{p}: {below} of {n}"
            );
        }
        assert!((latency.quantile(0.5) - 1.0).abs() < 1e-6, "the median is 1");
        assert!(
            latency.quantile(1.0) / latency.quantile(0.99) > TAIL.1,
            "the tail is long"
        );
    }

    #[test]
    fn numbers_of_requests_have_mean_and_variance() {
        for mean in [0.01, 0.7, 12.0, 29.9, 400.0] {
            let mut rng = SmallRng::seed_from_u64(5);
            let n = 100_000;
            let drawn: Vec<f64> = (0..n).map(|_| poisson(&mut rng, mean) as f64).collect();
            let average = drawn.iter().sum::<f64>() / f64::from(n);
            let variance = drawn.iter().map(|x| (x - average).powi(2)).sum::<f64>() / f64::from(n);
            let off = 6.0 * (mean / f64::from(n)).sqrt();
            assert!((average - mean).abs() < off, "{mean}: {average}");
            assert!((variance / mean - 1.0).abs() < 0.1 + off / mean, "{mean}: {variance}");
        }
        assert_eq!(poisson(&mut SmallRng::seed_from_u64(1), 0.0), 0);
    }
}
