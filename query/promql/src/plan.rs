//! What a query needs before it can be answered.

use crate::error::Error;
use crate::expr::{self, AggregateOp, At, Expr, Matcher, Node, Selector, Shift};
use crate::sample::Series;

/// A query that has been read.
#[derive(Debug, Clone)]
pub struct Query {
    pub(crate) text: String,
    pub(crate) root: Node,
    selectors: usize,
    /// Of each selector: only count and sum of histograms are looked at.
    pub(crate) totals_only: Vec<bool>,
}

/// What a query may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Samples in memory at once: input windows are the caller's, these are intermediate results and the answer.
    pub samples_max: usize,
    /// Series of one intermediate result or the answer.
    pub series_max: usize,
    /// Steps of a range query after its first.
    pub steps_max: usize,
}

impl Default for Limits {
    /// 50 million samples and 11,000 steps as in Prometheus; a million series.
    fn default() -> Self {
        Self {
            samples_max: 50_000_000,
            series_max: 1_000_000,
            steps_max: 11_000,
        }
    }
}

/// When and how a query is evaluated. Times are milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// First step, or the moment of an instant query.
    pub start_ms: i64,
    /// No step is later.
    pub end_ms: i64,
    /// Between two steps; 0 for an instant query.
    pub step_ms: i64,
    /// How old the newest sample of a series may be to count as its value.
    pub lookback_ms: i64,
    /// The step of a subquery that names none.
    pub subquery_step_ms: i64,
    /// What it may cost.
    pub limits: Limits,
}

/// Prometheus' default look-back.
pub const LOOKBACK_MS: i64 = 300_000;

impl Params {
    /// One moment.
    #[must_use]
    pub fn instant(time_ms: i64) -> Self {
        Self::range(time_ms, time_ms, 0)
    }

    /// A range with a step.
    #[must_use]
    pub fn range(start_ms: i64, end_ms: i64, step_ms: i64) -> Self {
        Self {
            start_ms,
            end_ms,
            step_ms,
            lookback_ms: LOOKBACK_MS,
            subquery_step_ms: 60_000,
            limits: Limits::default(),
        }
    }

    /// True for an instant query.
    #[must_use]
    pub fn is_instant(&self) -> bool {
        self.step_ms == 0 && self.start_ms == self.end_ms
    }
}

/// What surrounds a selector, for a source that can make use of it. None of it but [`Hints::summed`] changes what may be delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// The innermost function or aggregation around the selector.
    pub function: Option<&'static str>,
    /// The range of a range selector, ms; 0 for an instant one.
    pub range_ms: i64,
    /// Step of the evaluation, ms; that of the innermost subquery within one.
    pub step_ms: i64,
    /// Labels of the aggregation directly around it.
    pub labels: Vec<String>,
    /// True if those are the labels to keep.
    pub by: bool,
    /// Set where `sum by` these labels is all that is made of a `rate` or `increase`: counters of one metric without resets may come as their sum, with these
    /// labels and those that matchers name, if they are sampled at the same times. The sum of what each gained is what their sum gained; only the extrapolation
    /// to the window's ends, which looks at each counter, is then that of the sum.
    pub summed: Option<Vec<String>>,
    /// Inside a subquery: evaluated at multiples of `step_ms`, wherever the window begins.
    pub nested: bool,
}

/// Series that a query needs: all samples with `from_ms <= time <= to_ms` of all series that the matchers select.
#[derive(Debug, Clone)]
pub struct Need {
    /// Conditions on the labels, the metric's name among them.
    pub matchers: Vec<Matcher>,
    /// First moment, ms, inclusive.
    pub from_ms: i64,
    /// Last moment, ms, inclusive.
    pub to_ms: i64,
    /// What surrounds the selector.
    pub hints: Hints,
}

/// A query at given times, and what it needs.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    pub(crate) query: &'a Query,
    pub(crate) params: Params,
    needs: Vec<Need>,
    /// The need of each selector: equal selectors share one.
    need_of: Vec<usize>,
}

/// The last moment, ms: beyond it floats no longer tell milliseconds apart. Leaves room to add and subtract ranges.
pub(crate) const TIME_MAX: i64 = 1 << 53;

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// [`Error::Parse`] with line and column, [`Error::Unsupported`] by name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (root, selectors) = expr::parse(text)?;
        let mut totals_only = vec![false; selectors];
        root.walk(&mut Vec::new(), &mut |node, around| {
            if let Expr::Select(selector) | Expr::Range { selector, .. } = &node.expr {
                totals_only[selector.id] = wants_totals_only(around);
            }
        });
        Ok(Self {
            text: text.to_owned(),
            root,
            selectors,
            totals_only,
        })
    }

    /// The matchers of a query that is a selector and nothing else: what `match[]` of the HTTP API takes.
    ///
    /// # Errors
    /// [`Error::BadParameter`] if it is more than a selector.
    pub fn matchers(&self) -> Result<&[Matcher], Error> {
        match &self.root.bare().expr {
            Expr::Select(selector) if selector.shift == Shift::default() => Ok(&selector.matchers),
            _ => Err(Error::BadParameter(format!("not a series selector: {}", self.text))),
        }
    }

    /// What it needs at these times.
    ///
    /// # Errors
    /// [`Error::BadParameter`] and [`Error::TooManySteps`].
    pub fn plan(&self, params: Params) -> Result<Plan<'_>, Error> {
        if params.start_ms.abs() > TIME_MAX || params.end_ms.abs() > TIME_MAX {
            return Err(Error::BadParameter("start or end is out of range".into()));
        }
        if !(1..=TIME_MAX).contains(&params.lookback_ms) || !(1..=TIME_MAX).contains(&params.subquery_step_ms) {
            return Err(Error::BadParameter(
                "look-back and step of subqueries must be positive".into(),
            ));
        }
        if params.end_ms < params.start_ms {
            return Err(Error::BadParameter(
                "end timestamp must not be before start time".into(),
            ));
        }
        if params.step_ms <= 0 && !params.is_instant() {
            return Err(Error::BadParameter(
                "zero or negative query resolution step widths are not accepted. Try a positive integer".into(),
            ));
        }
        let steps = (params.end_ms - params.start_ms) / params.step_ms.max(1);
        if usize::try_from(steps).map_or(true, |steps| steps > params.limits.steps_max) {
            return Err(Error::TooManySteps {
                max: params.limits.steps_max,
            });
        }
        let mut needs = Needs {
            params,
            needs: Vec::new(),
            need_of: vec![0; self.selectors],
        };
        self.root.walk(&mut Vec::new(), &mut |node, around| match &node.expr {
            Expr::Select(selector) => needs.add(selector, 0, around),
            Expr::Range { selector, range_ms } => needs.add(selector, *range_ms, around),
            _ => {}
        });
        Ok(Plan {
            query: self,
            params,
            needs: needs.needs,
            need_of: needs.need_of,
        })
    }

    /// The same query with every selector and subquery that is free in time pinned by `@`; `None` if a function in it
    /// depends on the time of the step. Prometheus' test scripts ask every instant query this way again.
    #[must_use]
    pub fn pinned(&self, time_ms: i64) -> Option<Self> {
        let mut free = true;
        self.root.walk(&mut Vec::new(), &mut |node, _| {
            if let Expr::Call { function, .. } = &node.expr {
                free &= !matches!(*function, "start" | "end" | "range" | "step") && !expr::is_time_dependent(function);
            }
        });
        free.then(|| {
            let mut query = self.clone();
            pin(&mut query.root, time_ms);
            query.root = expr::mark_constants(query.root);
            query
        })
    }
}

/// True inside of functions that look at no bucket. A subquery may drop samples and with them resets, so it needs all
/// (detectHistogramStatsDecoding of prometheus/prometheus:promql/engine.go).
fn wants_totals_only(around: &[&Node]) -> bool {
    let mut wants = false;
    for node in around.iter().rev() {
        match &node.expr {
            Expr::Subquery { .. } => return false,
            Expr::Binary { op, .. } if op.is_trim() => return false,
            Expr::Call { function, .. } => match *function {
                "histogram_count" | "histogram_sum" | "histogram_avg" => wants = true,
                "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => return false,
                _ => {}
            },
            _ => {}
        }
    }
    wants
}

/// The labels of a `sum by`.
fn summed_by(node: &Node) -> Option<&[String]> {
    match &node.expr {
        Expr::Aggregate {
            op: AggregateOp::Sum,
            without: false,
            labels,
            ..
        } => Some(labels),
        _ => None,
    }
}

fn pin(node: &mut Node, time_ms: i64) {
    let at = |shift: &mut Shift| {
        shift.at.get_or_insert(At::Ms(time_ms));
    };
    match &mut node.expr {
        Expr::Number(_) | Expr::Text(_) | Expr::BadText(_) => {}
        Expr::Select(selector) | Expr::Range { selector, .. } => at(&mut selector.shift),
        // What is inside a pinned subquery runs at the subquery's own times.
        Expr::Subquery { shift, .. } => at(shift),
        Expr::Negate(inner) | Expr::Paren(inner) | Expr::Constant(inner) => pin(inner, time_ms),
        Expr::Call { args, .. } => args.iter_mut().for_each(|arg| pin(arg, time_ms)),
        Expr::Aggregate { param, inner, .. } => {
            if let Some(param) = param {
                pin(param, time_ms);
            }
            pin(inner, time_ms);
        }
        Expr::Binary { left, right, .. } => {
            pin(left, time_ms);
            pin(right, time_ms);
        }
    }
}

struct Needs {
    params: Params,
    needs: Vec<Need>,
    need_of: Vec<usize>,
}

impl Params {
    pub(crate) fn moment(&self, at: At) -> i64 {
        match at {
            At::Start => self.start_ms,
            At::End => self.end_ms,
            At::Ms(ms) => ms,
        }
    }
}

impl Needs {
    /// The window of a selector: getTimeRangesForSelector of prometheus/prometheus:promql/engine.go.
    fn add(&mut self, selector: &Selector, range_ms: i64, around: &[&Node]) {
        let params = self.params;
        let (mut from_ms, mut to_ms) = (params.start_ms, params.end_ms);
        let mut step_ms = params.step_ms;
        for node in around {
            if let Expr::Subquery {
                range_ms,
                step_ms: own,
                shift,
                ..
            } = &node.expr
            {
                if let Some(at) = shift.at {
                    (from_ms, to_ms) = (params.moment(at), params.moment(at));
                }
                from_ms -= shift.offset_ms + range_ms;
                to_ms -= shift.offset_ms;
                step_ms = own.unwrap_or(params.subquery_step_ms);
            }
        }
        if let Some(at) = selector.shift.at {
            (from_ms, to_ms) = (params.moment(at), params.moment(at));
        }
        // Windows are open on the left: a sample exactly at their beginning does not count.
        from_ms -= if range_ms > 0 { range_ms } else { params.lookback_ms } - 1;
        from_ms -= selector.shift.offset_ms;
        to_ms -= selector.shift.offset_ms;
        let mut hints = Hints {
            range_ms,
            step_ms,
            nested: around.iter().any(|node| matches!(node.expr, Expr::Subquery { .. })),
            ..Hints::default()
        };
        let mut outwards = around
            .iter()
            .rev()
            .filter(|node| !matches!(node.expr, Expr::Paren(_) | Expr::Constant(_)));
        match outwards.next().map(|node| &node.expr) {
            Some(Expr::Call { function, .. }) => {
                hints.function = Some(function);
                if let ("rate" | "increase", Some(labels)) =
                    (*function, outwards.next().and_then(|node| summed_by(node)))
                {
                    hints.summed = Some(labels.to_vec());
                }
            }
            Some(Expr::Aggregate {
                op, without, labels, ..
            }) => {
                hints.function = Some(op.text());
                hints.by = !without;
                hints.labels.clone_from(labels);
            }
            _ => {}
        }
        let same = |need: &Need| {
            need.from_ms == from_ms
                && need.to_ms == to_ms
                && need.hints == hints
                && need.matchers.len() == selector.matchers.len()
                && need.matchers.iter().zip(&selector.matchers).all(|(a, b)| {
                    a.name == b.name
                        && a.value == b.value
                        && std::mem::discriminant(&a.compare) == std::mem::discriminant(&b.compare)
                })
        };
        let number = self.needs.iter().position(same).unwrap_or_else(|| {
            self.needs.push(Need {
                matchers: selector.matchers.clone(),
                from_ms,
                to_ms,
                hints,
            });
            self.needs.len() - 1
        });
        self.need_of[selector.id] = number;
    }
}

impl Plan<'_> {
    /// What to fetch, in the order in which [`Plan::evaluate`] wants it.
    #[must_use]
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    pub(crate) fn data<'d>(&self, data: &'d [Vec<Series>], selector: &Selector) -> &'d [Series] {
        self.need_of
            .get(selector.id)
            .and_then(|need| data.get(*need))
            .map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn windows(text: &str, params: Params) -> Vec<(i64, i64)> {
        let query = Query::parse(text).unwrap();
        let plan = query.plan(params).unwrap();
        plan.needs()
            .iter()
            .map(|need| (need.from_ms / 1000, need.to_ms / 1000))
            .collect()
    }

    #[test]
    fn windows_hold_what_is_read() {
        let params = Params::range(10_000_000, 20_000_000, 60_000);
        let check = |text: &str, expected: &[(i64, i64)]| assert_eq!(windows(text, params), expected, "{text}");
        check("x", &[(9_700, 20_000)]);
        check("x offset 1m", &[(9_640, 19_940)]);
        check("rate(x[10m])", &[(9_400, 20_000)]);
        check("x @ 5", &[(-294, 5)]);
        check("max_over_time(rate(x[5m])[1h:1m] offset 1m)", &[(6_040, 19_940)]);
        check("max_over_time(rate(x[5m])[1h:1m] @ 7200)", &[(3_300, 7_200)]);
        check("x + x", &[(9_700, 20_000)]);
        check("x + x offset 5m", &[(9_700, 20_000), (9_400, 19_700)]);
    }

    #[test]
    fn hints_name_what_surrounds_a_selector() {
        let query = Query::parse("sum by (a) (x) + rate(y[5m])").unwrap();
        let plan = query.plan(Params::range(0, 60_000, 15_000)).unwrap();
        let hints: Vec<_> = plan.needs().iter().map(|need| need.hints.clone()).collect();
        assert_eq!(
            (hints[0].function, hints[0].by, &hints[0].labels[..]),
            (Some("sum"), true, &["a".to_owned()][..])
        );
        assert_eq!(
            (hints[1].function, hints[1].range_ms, hints[1].step_ms),
            (Some("rate"), 300_000, 15_000)
        );
    }

    #[test]
    fn hints_name_what_counters_may_be_summed_by() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let query = Query::parse(text).unwrap();
            let plan = query.plan(Params::range(0, 60_000, 15_000)).unwrap();
            let found = plan.needs()[0].hints.summed.clone();
            let found = found.iter().flatten().map(String::as_str).collect::<Vec<_>>();
            assert_eq!(found, expected.unwrap_or_default(), "{text}");
            assert_eq!(plan.needs()[0].hints.summed.is_some(), expected.is_some(), "{text}");
        };
        check("sum by (a, b) (rate(x[5m]))", Some(&["a", "b"]));
        check("topk(3, sum by (a) ((increase((x[5m])))))", Some(&["a"]));
        check("sum(rate(x[5m]))", Some(&[]));
        check("rate(x[5m])", None);
        check("sum without (a) (rate(x[5m]))", None);
        check("avg by (a) (rate(x[5m]))", None);
        check("sum by (a) (irate(x[5m]))", None);
        check("sum by (a) (-rate(x[5m]))", None);
        check("sum by (a) (x)", None);
        check("sum by (a) (sum_over_time(rate(x[5m])[1h:5m]))", None);
    }

    #[test]
    fn a_selector_gives_its_matchers() {
        let names = |text: &str| {
            let query = Query::parse(text).unwrap();
            query
                .matchers()
                .map(|matchers| matchers.iter().map(|matcher| matcher.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names("x{a=~\"b\"}").unwrap(), ["a", "__name__"]);
        assert!(names("x offset 5m").is_err() && names("sum(x)").is_err());
    }

    #[test]
    fn parameters_are_checked() {
        let query = Query::parse("x").unwrap();
        let check = |params, expected: &str| {
            assert!(
                query.plan(params).unwrap_err().to_string().contains(expected),
                "{expected}"
            );
        };
        check(
            Params::range(0, 11_001_000, 1000),
            "exceeded maximum resolution of 11000 points",
        );
        check(Params::range(1, 0, 1000), "before start");
        check(Params::range(0, 1000, 0), "zero or negative");
        check(Params::range(0, i64::MAX, 1000), "out of range");
        assert!(query.plan(Params::range(0, 11_000_999, 1000)).is_ok());
    }
}
