#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::beta::binomial_density;
use Confidence::{P90, P95, P99};

type Case = (u64, u64, Confidence, [f64; 2], [f64; 2]);

/// `(k, n, confidence, Wilson, Clopper-Pearson)` as statsmodels 0.15.0 (SciPy 1.17.1) prints them:
/// `proportion_confint(k, n, alpha, method)` with `method` "wilson" and "beta".
#[rustfmt::skip]
const STATSMODELS: &[Case] = &[
    (0, 1, P95, [0.0, 0.7934506856227627], [0.0, 0.975]),
    (1, 1, P95, [0.2065493143772374, 1.0], [0.025, 1.0]),
    (0, 10, P90, [0.0, 0.2129419700834071], [0.0, 0.2588655508930523]),
    (0, 10, P95, [0.0, 0.27753279986288926], [0.0, 0.30849710781876083]),
    (0, 10, P99, [0.0, 0.3988540933049082], [0.0, 0.4112959813475254]),
    (1, 10, P90, [0.02263490873086718, 0.34771866733585843], [0.005116196891823701, 0.39416330243650477]),
    (1, 10, P95, [0.017876213095072924, 0.40415002679523854], [0.0025285785444617848, 0.4450161170281953]),
    (1, 10, P99, [0.011851503411032971, 0.5072317712328935], [0.0005011285754646339, 0.5442870568996869]),
    (5, 10, P90, [0.26927182113826714, 0.7307281788617328], [0.2224411010081294, 0.7775588989918706]),
    (5, 10, P95, [0.23659309051256394, 0.7634069094874361], [0.18708602844739855, 0.8129139715526015]),
    (5, 10, P99, [0.1842255182472355, 0.8157744817527646], [0.12831055393508325, 0.8716894460649167]),
    (10, 10, P90, [0.7870580299165928, 1.0], [0.7411344491069477, 1.0]),
    (10, 10, P95, [0.7224672001371106, 1.0], [0.6915028921812392, 1.0]),
    (10, 10, P99, [0.6011459066950917, 1.0], [0.5887040186524746, 1.0]),
    (1, 40, P95, [0.004426831502681396, 0.12881368963474096], [0.0006327449320494191, 0.13158585848276574]),
    (1, 2_000, P90, [0.00011155401501259385, 0.0022380392486979045], [2.5646318321330623e-05, 0.0023697133676568436]),
    (1, 2_000, P95, [8.826773070546765e-05, 0.0028268625032662146], [1.2658823868557889e-05, 0.002782639834658947]),
    (1, 2_000, P99, [5.870545417835686e-05, 0.004244467293214609], [2.506267771077823e-06, 0.003709098390422235]),
    (100, 200_000, P95, [0.00041115249081134135, 0.0006080352274538778], [0.00040683789578689806, 0.0006081010861933697]),
    (0, 2_995, P95, [0.0, 0.001280980963296671], [0.0, 0.001230921077902443]),
    (0, 5_990, P95, [0.0, 0.0006409009726209785], [0.0, 0.0006156500514441431]),
    (3, 347, P95, [0.0029445318351385957, 0.02510648258537731], [0.0017864778135105275, 0.025056711483721447]),
    (37, 1_000, P90, [0.028364863423138147, 0.048133709816880095], [0.02771206682848596, 0.048389926665973394]),
    (37, 1_000, P95, [0.026961180875554734, 0.05058239748206931], [0.02618270884373734, 0.05064112305992485]),
    (37, 1_000, P99, [0.024426002114063726, 0.055677416586490995], [0.023358994911364228, 0.055223679512418494]),
    (500, 1_000, P90, [0.4740276914784201, 0.5259723085215798], [0.47351773123569124, 0.5264822687643087]),
    (500, 1_000, P95, [0.4690696003681042, 0.5309303996318958], [0.46854917297179194, 0.5314508270282081]),
    (500, 1_000, P99, [0.45940700521208483, 0.5405929947879151], [0.45885255330704494, 0.5411474466929551]),
    (963, 1_000, P90, [0.9518662901831199, 0.9716351365768618], [0.9516100733340266, 0.9722879331715141]),
    (963, 1_000, P95, [0.9494176025179306, 0.9730388191244452], [0.9493588769400751, 0.9738172911562627]),
    (963, 1_000, P99, [0.944322583413509, 0.9755739978859362], [0.9447763204875815, 0.9766410050886358]),
    (12_345, 1_000_000, P90, [0.012164689901342042, 0.012527948835104954], [0.012163919158012184, 0.012528172364617746]),
    (12_345, 1_000_000, P95, [0.012130446166424586, 0.012563300432385422], [0.01212949382560612, 0.012563337660712826]),
    (12_345, 1_000_000, P99, [0.012063794701617845, 0.01263267633645143], [0.012062397109951805, 0.01263225338084484]),
    (1_000_000, 2_000_000, P95, [0.4993070487533108, 0.5006929512466892], [0.49930679850754905, 0.500693201492451]),
    (43_200, 100_000_000, P95, [0.00042794631693800954, 0.0004360920644585188], [0.0004279366387142525, 0.00043609232642449194]),
    (7, 10_000_000_000, P95, [3.3908638416180934e-10, 1.445059497222231e-09], [2.814363051968142e-10, 1.4422675356349638e-09]),
    (9_999_999, 10_000_000, P95, [0.9999994335067982, 0.9999999823475444], [0.9999994428357883, 0.9999999974682192]),
    (123_456_789, 10_000_000_000, P95, [0.012343514834145823, 0.012347843340514976], [0.012343514737967489, 0.012347843344325767]),
];

#[test]
fn intervals_are_those_of_statsmodels() {
    for &(k, n, confidence, wilson_is, exact_is) in STATSMODELS {
        for (method, [lo, hi]) in [
            (IntervalMethod::Wilson, wilson_is),
            (IntervalMethod::ClopperPearson, exact_is),
        ] {
            let ours = method.bounds(k as f64, n as f64, confidence);
            // Relative to the distance from the nearer end: 0.9999998 has to be right in its failures.
            let off = |ours: f64, theirs: f64| (ours - theirs).abs() / theirs.min(1.0 - theirs).max(1e-7);
            assert!(
                off(ours.lo, lo) < 1e-8,
                "{method:?} {k}/{n} {confidence:?}: {ours:?}, not {lo}"
            );
            assert!(
                off(ours.hi, hi) < 1e-8,
                "{method:?} {k}/{n} {confidence:?}: {ours:?}, not {hi}"
            );
        }
    }
}

/// Coverage, computed and not simulated: the probability of all counts whose interval holds `p`.
fn coverage(method: IntervalMethod, n: u32, p: f64) -> f64 {
    (0..=n)
        .filter(|&k| method.bounds(k.into(), n.into(), P95).holds(p))
        .map(|k| binomial_density(k.into(), n.into(), p))
        .sum()
}

const TRIALS: [u32; 7] = [10, 20, 50, 100, 200, 500, 1000];
const RATES: [f64; 13] = [
    0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999,
];

#[test]
fn wilson_covers_as_promised_on_average() {
    let cells: Vec<f64> = TRIALS
        .iter()
        .flat_map(|&n| RATES.map(|p| coverage(IntervalMethod::Wilson, n, p)))
        .collect();
    let mean = cells.iter().sum::<f64>() / cells.len() as f64;
    assert!((0.93..=0.97).contains(&mean), "{mean}");
    // Known of the method: next to the ends single cells fall below.
    let least = cells.iter().copied().fold(1.0, f64::min);
    assert!(least > 0.83 && least < 0.95, "{least}");
}

#[test]
fn clopper_pearson_never_covers_less_than_promised() {
    for n in TRIALS {
        for p in RATES {
            let covered = coverage(IntervalMethod::ClopperPearson, n, p);
            assert!(covered >= 0.95 - 1e-12, "{n} at {p}: {covered}");
        }
    }
}

#[test]
fn fractions_of_events_are_not_dropped() {
    let (share, whole) = (
        IntervalMethod::ClopperPearson.bounds(1.9, 100.5, P95),
        IntervalMethod::ClopperPearson.bounds(2.0, 100.0, P95),
    );
    assert!(share.hi >= whole.hi && share.lo < whole.lo, "{share:?} {whole:?}");
    assert_eq!(IntervalMethod::ClopperPearson.bounds(0.4, 0.9, P95), Interval::ALL);
}

proptest! {
    /// Of an effective number of trials: no whole counts next to it have an end that lies farther out, and whole ones have their own interval.
    #[test]
    fn clopper_pearson_is_never_narrower_than_promised(
        k in prop_oneof![0.0..5.0_f64, 0.0..3000.0_f64], others in prop_oneof![0.0..5.0_f64, 0.0..3000.0_f64],
        confidence in prop::sample::select(vec![P90, P95, P99]),
    ) {
        let method = IntervalMethod::ClopperPearson;
        let n = k + others;
        let found = method.bounds(k, n, confidence);
        prop_assert!(n == 0.0 || found.holds(k / n), "{found:?}");
        let near = |number: f64| [number.floor(), number.ceil()];
        for k_near in near(k) {
            for others in near(n - k).into_iter().filter(|others| k_near + others > 0.0) {
                let whole = clopper_pearson(k_near, k_near + others, confidence);
                prop_assert!(found.lo <= whole.lo + 1e-9 && whole.hi - 1e-9 <= found.hi, "{found:?} {whole:?}");
            }
        }
        let (k, n) = (k.round(), k.round() + others.round());
        prop_assert_eq!(method.bounds(k, n, confidence), clopper_pearson(k, n, confidence));
    }
}

/// Largest lower and smallest upper rank by summing SciPy 1.17.1's `binom.cdf`; n = 1,000, 5,000 and 10,000 at P99 are also those of
/// design/slo.md 2g.
#[test]
fn ranks_of_order_statistics() {
    let check = |n: u64, q: f64, lower: u64, upper: u64| {
        assert_eq!(order_ranks(n, q, P95), Some((lower, upper)), "{n} at {q}");
    };
    check(368, 0.5, 165, 204);
    check(368, 0.9, 320, 343);
    check(368, 0.99, 360, 368);
    check(1000, 0.5, 469, 532);
    check(1000, 0.99, 983, 997);
    check(5000, 0.99, 4936, 4964);
    check(10_000, 0.9, 8941, 9059);
    check(10_000, 0.99, 9880, 9920);
    check(100_000, 0.99, 98_938, 99_062);
    check(1_000_000, 0.5, 499_020, 500_981);
    check(1_000_000, 0.99, 989_805, 990_196);
    assert_eq!(order_ranks(367, 0.99, P95), None);
    assert_eq!(order_ranks(0, 0.99, P95), None);
}

#[test]
fn fewest_values_for_a_quantile() {
    for (q, n) in [(0.99, 368), (0.999, 3688), (0.95, 72), (0.5, 6), (0.01, 368)] {
        assert_eq!(order_minimum(q, P95), n, "{q}");
        assert!(
            order_ranks(n, q, P95).is_some() && order_ranks(n - 1, q, P95).is_none(),
            "{q}"
        );
    }
}

#[test]
fn nothing_counted_excludes_nothing() {
    assert_eq!(wilson(0.0, 0.0, P95), Interval::ALL);
    assert_eq!(clopper_pearson(0.0, 0.0, P99), Interval::ALL);
    // Zero failures: the seed's 1 - 0.05^(1/n) is one-sided, so here two-sided 90 %.
    let hi = clopper_pearson(0.0, 2995.0, P90).hi;
    assert!((hi - (1.0 - 0.05_f64.powf(1.0 / 2995.0))).abs() < 1e-12 && hi < 0.001);
}

proptest! {
    #[test]
    fn intervals_hold_the_share_and_mirror(n in 1_u64..2_000_000, part in 0.0_f64..=1.0) {
        let k = (n as f64 * part).floor();
        let n = n as f64;
        for method in [IntervalMethod::Wilson, IntervalMethod::ClopperPearson] {
            for confidence in [P90, P95, P99] {
                let ours = method.bounds(k, n, confidence);
                prop_assert!(0.0 <= ours.lo && ours.lo <= k / n && k / n <= ours.hi && ours.hi <= 1.0, "{:?}", ours);
                let mirror = method.bounds(n - k, n, confidence).flipped();
                prop_assert!((mirror.lo - ours.lo).abs() < 1e-9 && (mirror.hi - ours.hi).abs() < 1e-9);
            }
            let (narrow, wide) = (method.bounds(k, n, P90), method.bounds(k, n, P99));
            prop_assert!(wide.lo <= narrow.lo && narrow.hi <= wide.hi);
        }
    }
}
