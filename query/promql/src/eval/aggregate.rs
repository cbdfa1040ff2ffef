//! Aggregations over groups of series (promql/engine.go, aggregation, aggregationK, aggregationCountValues).

use ahash::AHashMap;

use super::over_time::MeanHistogram;
use super::rank::{nan_first, quantile};
use super::sums::Histograms;
use super::{Evaluator, Held, Steps, Track};
use crate::error::Error;
use crate::expr::{AggregateOp, Expr, Node};
use crate::histogram::Accumulator;
use crate::labels::{Labels, METRIC_NAME};
use crate::notes::Position;
use crate::number::{general, is_stale, kahan, plain};

/// How series are put together.
struct Grouping<'a> {
    without: bool,
    labels: &'a [String],
}

impl Grouping<'_> {
    fn of(&self, labels: &Labels) -> Labels {
        let named = |name: &str| self.labels.iter().any(|label| label == name);
        if self.without {
            labels.retain(|name| name != METRIC_NAME && !named(name))
        } else if self.labels.is_empty() {
            Labels::default()
        } else {
            labels.retain(named)
        }
    }
}

/// Series that become one.
struct Group {
    labels: Labels,
    members: Vec<usize>,
}

fn groups(tracks: &[Track], grouping: &Grouping<'_>) -> Vec<Group> {
    let mut known: AHashMap<Labels, usize> = AHashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (number, track) in tracks.iter().enumerate() {
        let labels = grouping.of(&track.labels);
        let next = groups.len();
        let at = *known.entry(labels.clone()).or_insert(next);
        if at == next {
            groups.push(Group {
                labels,
                members: Vec::new(),
            });
        }
        groups[at].members.push(number);
    }
    groups
}

impl Evaluator<'_> {
    pub(super) fn aggregate(&self, node: &Node, steps: Steps) -> Result<Vec<Track>, Error> {
        let Expr::Aggregate {
            op,
            param,
            inner,
            without,
            labels,
        } = &node.expr
        else {
            return Err(Error::execution("not an aggregation"));
        };
        let (op, param) = (*op, param.as_deref());
        if op == AggregateOp::CountValues {
            return self.count_values(param, inner, *without, labels, steps);
        }
        let params = match param {
            Some(param) => self.scalar(param, steps)?,
            None => Vec::new(),
        };
        let tracks = self.vector(inner, steps)?;
        let groups = groups(
            &tracks,
            &Grouping {
                without: *without,
                labels,
            },
        );
        match op {
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk => {
                return self.ranked(op, &params, tracks, &groups, steps, node.at);
            }
            AggregateOp::Quantile => self.check_quantiles(&params, param.map_or(0, |param| param.at)),
            _ => {}
        }
        let mut results = Vec::with_capacity(groups.len());
        for group in groups {
            self.hold(steps.count)?;
            let members = || group.members.iter().map(|number| &tracks[*number]);
            let drop_name = members().any(|track| track.drop_name);
            let mut result = Track::new(group.labels, drop_name, steps.count);
            match op {
                AggregateOp::Sum => self.sum(members(), &mut result, inner.at)?,
                AggregateOp::Avg => self.avg(members(), &mut result, inner.at)?,
                AggregateOp::Count | AggregateOp::Group => {
                    for track in members() {
                        for step in (0..steps.count).filter(|step| track.has(*step)) {
                            let value = &mut result.values[step];
                            let before = if is_stale(*value) { 0.0 } else { *value };
                            *value = if op == AggregateOp::Count { before + 1.0 } else { 1.0 };
                        }
                    }
                }
                AggregateOp::Min => {
                    self.fold(op, members(), &mut result, inner.at, |best, value| value < best);
                }
                AggregateOp::Max => {
                    self.fold(op, members(), &mut result, inner.at, |best, value| value > best);
                }
                AggregateOp::Stddev | AggregateOp::Stdvar => self.spread(op, members(), &mut result, inner.at),
                AggregateOp::Quantile => {
                    for track in members() {
                        self.ignore_histograms(op, track, inner.at);
                    }
                    let mut values = Vec::with_capacity(group.members.len());
                    for (step, q) in params.iter().enumerate() {
                        values.clear();
                        values.extend(
                            members()
                                .map(|track| track.values[step])
                                .filter(|value| !is_stale(*value)),
                        );
                        if !values.is_empty() {
                            result.values[step] = quantile(*q, &mut values);
                        }
                    }
                }
                AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::CountValues => {}
            }
            if !result.is_empty() {
                results.push(result);
            }
        }
        Ok(results)
    }

    fn check_quantiles(&self, params: &[f64], at: Position) {
        let mut notes = self.notes.borrow_mut();
        if params.iter().any(|q| q.is_nan()) {
            notes.invalid_quantile(f64::NAN, at);
        }
        let (lowest, highest) = extremes(params);
        if highest > 1.0 {
            notes.invalid_quantile(highest, at);
        }
        if lowest < 0.0 {
            notes.invalid_quantile(lowest, at);
        }
    }

    /// Says that histograms do not count here, if there are any.
    fn ignore_histograms(&self, op: AggregateOp, track: &Track, at: Position) {
        if track.histograms.iter().flatten().any(Option::is_some) {
            self.notes.borrow_mut().ignored_in_aggregation(op.text(), at);
        }
    }

    fn fold<'t>(
        &self,
        op: AggregateOp,
        members: impl Iterator<Item = &'t Track>,
        result: &mut Track,
        at: Position,
        better: impl Fn(f64, f64) -> bool,
    ) {
        for track in members {
            self.ignore_histograms(op, track, at);
            for (best, value) in result.values.iter_mut().zip(&track.values) {
                // A NaN gives way to anything; so does "nothing", which is one too.
                if !is_stale(*value) && (is_stale(*best) || best.is_nan() || better(*best, *value)) {
                    *best = *value;
                }
            }
        }
    }

    /// Welford's variance.
    fn spread<'t>(&self, op: AggregateOp, members: impl Iterator<Item = &'t Track>, result: &mut Track, at: Position) {
        let steps = result.values.len();
        let (mut counts, mut means) = (vec![0.0; steps], vec![0.0; steps]);
        for track in members {
            self.ignore_histograms(op, track, at);
            for (step, value) in track.values.iter().enumerate().filter(|(_, value)| !is_stale(**value)) {
                counts[step] += 1.0;
                if counts[step] == 1.0 {
                    means[step] = *value;
                    result.values[step] = if value.is_finite() { 0.0 } else { f64::NAN };
                    continue;
                }
                let delta = value - means[step];
                means[step] += delta / counts[step];
                result.values[step] += delta * (value - means[step]);
            }
        }
        for (value, count) in result.values.iter_mut().zip(counts).filter(|(_, count)| *count > 0.0) {
            *value /= count;
            if op == AggregateOp::Stddev {
                *value = value.sqrt();
            }
        }
    }

    fn sum<'t>(&self, members: impl Iterator<Item = &'t Track>, result: &mut Track, at: Position) -> Result<(), Error> {
        let steps = result.values.len();
        let mut lost = vec![0.0; steps];
        let mut histograms: Histograms<Accumulator> = Histograms::default();
        for track in members {
            for ((sum, c), value) in result.values.iter_mut().zip(&mut lost).zip(&track.values) {
                if !is_stale(*value) {
                    if is_stale(*sum) {
                        *sum = *value;
                    } else {
                        (*sum, *c) = kahan(*value, *sum, *c);
                    }
                }
            }
            self.add_histograms(track, &mut histograms, at)?;
        }
        for (sum, c) in result.values.iter_mut().zip(lost).filter(|(sum, _)| !is_stale(**sum)) {
            *sum += c;
        }
        self.settle(histograms, result, at);
        Ok(())
    }

    /// Sum over count; from where the sum would overflow on, a running mean.
    fn avg<'t>(&self, members: impl Iterator<Item = &'t Track>, result: &mut Track, at: Position) -> Result<(), Error> {
        let steps = result.values.len();
        let (mut lost, mut counts, mut running) = (vec![0.0; steps], vec![0.0; steps], vec![false; steps]);
        let mut histograms: Histograms<MeanHistogram> = Histograms::default();
        for track in members {
            for (step, value) in track.values.iter().enumerate().filter(|(_, value)| !is_stale(**value)) {
                let (sum, c) = (&mut result.values[step], &mut lost[step]);
                counts[step] += 1.0;
                let count: f64 = counts[step];
                if count == 1.0 {
                    *sum = *value;
                    continue;
                }
                if !running[step] {
                    let (next, next_c) = kahan(*value, *sum, *c);
                    if !next.is_infinite() {
                        (*sum, *c) = (next, next_c);
                        continue;
                    }
                    running[step] = true;
                    *sum /= count - 1.0;
                    *c /= count - 1.0;
                }
                let q = (count - 1.0) / count;
                (*sum, *c) = kahan(value / count, q * *sum, q * *c);
            }
            self.add_histograms(track, &mut histograms, at)?;
        }
        for step in 0..steps {
            if counts[step] > 0.0 {
                let by = if running[step] { 1.0 } else { counts[step] };
                result.values[step] = result.values[step] / by + lost[step] / by;
            }
        }
        self.settle(histograms, result, at);
        Ok(())
    }

    /// `topk`, `bottomk`, `limitk`: some of the input, as it is.
    fn ranked(
        &self,
        op: AggregateOp,
        params: &[f64],
        tracks: Vec<Track>,
        groups: &[Group],
        steps: Steps,
        at: Position,
    ) -> Result<Vec<Track>, Error> {
        let (lowest, highest) = extremes(params);
        if highest < 1.0 {
            return Ok(Vec::new());
        }
        if params.iter().any(|k| k.is_nan()) {
            return Err(Error::execution("Parameter value is NaN"));
        }
        #[allow(clippy::cast_precision_loss)] // The limits of Go's conversion, as floats.
        let (min, max) = (i64::MIN as f64, i64::MAX as f64);
        if lowest <= min {
            return Err(Error::execution(format!(
                "Scalar value {} underflows int64",
                general(lowest)
            )));
        }
        if highest >= max {
            return Err(Error::execution(format!(
                "Scalar value {} overflows int64",
                general(highest)
            )));
        }
        let mut kept: Vec<Track> = Vec::with_capacity(tracks.len());
        for track in &tracks {
            self.hold(steps.count)?;
            kept.push(Track::new(track.labels.clone(), track.drop_name, steps.count));
        }
        let mut order = Vec::new();
        let mut ranked: Vec<usize> = Vec::new();
        for (step, k) in params.iter().enumerate() {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // At least 1, and bounded by the group.
            let k = if *k < 1.0 { 0 } else { *k as usize };
            if k == 0 {
                continue;
            }
            for group in groups {
                ranked.clear();
                ranked.extend(group.members.iter().copied().filter(|number| tracks[*number].has(step)));
                if op != AggregateOp::Limitk {
                    let before = ranked.len();
                    ranked.retain(|number| !is_stale(tracks[*number].values[step]));
                    if ranked.len() < before {
                        self.notes.borrow_mut().ignored_in_aggregation(op.text(), at);
                    }
                    let value = |number: &usize| tracks[*number].values[step];
                    // NaN is the last choice of either; equals keep their order.
                    ranked.sort_by(|a, b| {
                        let (a, b) = (value(a), value(b));
                        match (a.is_nan(), b.is_nan()) {
                            (false, false) if op == AggregateOp::Topk => nan_first(b, a),
                            (false, false) => nan_first(a, b),
                            (a, b) => a.cmp(&b),
                        }
                    });
                }
                ranked.truncate(k);
                for number in &ranked {
                    if let Some(held) = tracks[*number].get(step) {
                        kept[*number].set(step, super::call::owned(held));
                    }
                }
                if steps.count == 1 {
                    order.extend_from_slice(&ranked);
                }
            }
        }
        if steps.count == 1 {
            let mut slots: Vec<Option<Track>> = kept.into_iter().map(Some).collect();
            return Ok(order.into_iter().filter_map(|number| slots[number].take()).collect());
        }
        kept.retain(|track| !track.is_empty());
        Ok(kept)
    }

    fn count_values(
        &self,
        param: Option<&Node>,
        inner: &Node,
        without: bool,
        labels: &[String],
        steps: Steps,
    ) -> Result<Vec<Track>, Error> {
        let label = match param.map(|param| &param.bare().expr) {
            Some(Expr::Text(label)) => label,
            Some(Expr::BadText(name)) => return Err(Error::execution(format!("invalid label name {name}"))),
            _ => return Err(Error::execution("expected type string in aggregation parameter")),
        };
        if label.is_empty() {
            return Err(Error::execution(format!("invalid label name {label:?}")));
        }
        let mut names = labels.to_vec();
        if !without {
            names.push(label.clone());
        }
        let grouping = Grouping {
            without,
            labels: &names,
        };
        let tracks = self.vector(inner, steps)?;
        let mut known: AHashMap<Labels, usize> = AHashMap::new();
        let mut results: Vec<Track> = Vec::new();
        for track in &tracks {
            self.hold(0)?;
            // Values hardly change from step to step: neither does the group.
            let mut last: Option<(u64, usize)> = None;
            for step in 0..steps.count {
                let Some(held) = track.get(step) else { continue };
                let number = match (held, last) {
                    (Held::Float(value), Some((bits, number))) if value.to_bits() == bits => number,
                    _ => {
                        let text = match held {
                            Held::Float(value) => plain(value),
                            Held::Histogram(histogram) => histogram.to_string(),
                        };
                        let group = grouping.of(&track.labels.with(label, &text));
                        let next = results.len();
                        let number = *known.entry(group.clone()).or_insert(next);
                        if number == next {
                            self.hold(steps.count)?;
                            results.push(Track::new(group, false, steps.count));
                        }
                        number
                    }
                };
                last = match held {
                    Held::Float(value) => Some((value.to_bits(), number)),
                    Held::Histogram(_) => None,
                };
                let count = &mut results[number].values[step];
                *count = if is_stale(*count) { 1.0 } else { *count + 1.0 };
            }
        }
        Ok(results)
    }
}

/// Least and greatest; NaN if one is NaN, as Go's Min and Max.
fn extremes(values: &[f64]) -> (f64, f64) {
    if values.iter().any(|value| value.is_nan()) {
        return (f64::NAN, f64::NAN);
    }
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(*value), high.max(*value))
        })
}
