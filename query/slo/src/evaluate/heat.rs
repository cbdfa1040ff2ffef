//! Latency over time as counts per band of duration.

use serde::Serialize;

use crate::latency::{Bucket, Histogram, LatencyBin};
use crate::time::Span;

/// Counts per bin of time and band of duration, for drawing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heat {
    /// Ends of the bands in nanoseconds, ascending; band `i` lies between `edges_ns[i]` and `edges_ns[i + 1]`. The first and the last
    /// band hold what is beyond as well.
    pub edges_ns: Vec<f64>,
    /// Bins of time, in order.
    pub columns: Vec<Column>,
}

/// One bin of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    /// Which time.
    pub span: Span,
    /// Values per band.
    pub counts: Vec<u64>,
}

/// Bands at most.
const BANDS_MAX: usize = 16;

pub(super) fn heat(bins: &[LatencyBin], all: &Histogram, threshold_ns: Option<u64>) -> Heat {
    let edges_ns = edges(all, threshold_ns);
    let columns = bins.iter().map(|bin| {
        let mut counts = vec![0_u64; edges_ns.len().saturating_sub(1)];
        for bucket in bin.histogram.buckets() {
            let at = edges_ns
                .partition_point(|edge| *edge < representative(bucket))
                .clamp(1, counts.len().max(1))
                - 1;
            if let Some(count) = counts.get_mut(at) {
                *count = count.saturating_add(bucket.count);
            }
        }
        Column { span: bin.span, counts }
    });
    Heat {
        columns: columns.collect(),
        edges_ns,
    }
}

/// Where a bucket is drawn: the geometric middle.
fn representative(bucket: &Bucket) -> f64 {
    match (bucket.above > 0.0, bucket.upto.is_finite()) {
        (true, true) => (bucket.above * bucket.upto).sqrt(),
        (true, false) => bucket.above,
        (false, true) => bucket.upto,
        (false, false) => 0.0,
    }
}

/// 1-2-5 steps, thinned to decades where they are too many, around all but a ten-thousandth of the values at either end.
fn edges(all: &Histogram, threshold_ns: Option<u64>) -> Vec<f64> {
    let (Some(low), Some(high)) = (all.quantile(0.0001), all.quantile(0.9999)) else {
        return Vec::new();
    };
    let (mut low, mut high) = (low.max(1.0), high.max(1.0));
    if let Some(threshold) = threshold_ns {
        low = low.min(threshold as f64);
        high = high.max(threshold as f64);
    }
    let steps = |mantissas: &[f64]| -> Vec<f64> {
        let ladder: Vec<f64> = (0..=12)
            .flat_map(|decade| mantissas.iter().map(move |m| m * 10_f64.powi(decade)))
            .collect();
        let from = ladder.partition_point(|edge| *edge <= low).saturating_sub(1);
        let to = ladder
            .partition_point(|edge| *edge < high)
            .min(ladder.len() - 1)
            .max(from + 1);
        ladder[from..=to.min(ladder.len() - 1)].to_vec()
    };
    let fine = steps(&[1.0, 2.0, 5.0]);
    if fine.len() <= BANDS_MAX + 1 {
        fine
    } else {
        steps(&[1.0])
    }
}
