//! The registry of a process: counters, gauges and histograms with labels, and their text at `/metrics`.
//!
//! Guarantees: a handle is one atomic (histograms: one short lock), so take it once and keep it on the hot path; a name is registered
//! once, is well formed and begins with `tailwater_`. Assumes that label values are few and chosen by us; who puts foreign text into one
//! must bound it first. Leaves out: pushing.
//!
//! The text is OpenMetrics 1.0, which Prometheus asks for and every scraper of it reads.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};

use crate::process;

/// Goes up only.
pub type Counter = prometheus_client::metrics::counter::Counter<u64>;
/// Goes up and down.
pub type Gauge = prometheus_client::metrics::gauge::Gauge<i64>;
/// Goes up and down, in parts of one.
pub type FloatGauge = prometheus_client::metrics::gauge::Gauge<f64, AtomicU64>;
/// Counts observations by size.
pub type Histogram = prometheus_client::metrics::histogram::Histogram;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bucket bounds for times, seconds: 100 us to 50 s, three per power of ten.
pub const SECONDS: [f64; 18] = [
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0,
];

/// Bucket bounds for sizes, bytes: 256 B to 256 MiB, powers of four.
pub const BYTES: [f64; 11] = [
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];

/// What [`Metrics`] holds behind its lock.
struct Inner {
    registry: Registry,
    names: BTreeSet<String>,
}

/// The registry. Clones are the same one; a process has one, made in `main` and handed to the parts.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Inner>>);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("names", &self.0.lock().names).finish()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with nothing in it: for tests.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            registry: Registry::default(),
            names: BTreeSet::new(),
        })))
    }

    /// The registry of a process: with its memory, CPU, file descriptors and start time, and who it is.
    #[must_use]
    pub fn for_process(role: &'static str) -> Self {
        let metrics = Self::new();
        metrics.0.lock().registry.register_collector(Box::new(process::Figures));
        let info = metrics.gauges(
            "tailwater_build_info",
            "Always 1; says which role and version this is",
            ["role", "version"],
        );
        info.with([role, env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }

    /// A counter. Its sample is `<name>_total`.
    ///
    /// # Panics
    /// This and all below: when the name is taken or not well formed, which is a mistake in the program.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A counter for each combination of label values.
    #[must_use]
    pub fn counters<const N: usize>(&self, name: &str, help: &str, labels: [&'static str; N]) -> Labelled<N, Counter> {
        self.labelled(name, help, labels, Counter::default)
    }

    /// A gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// A gauge for each combination of label values.
    #[must_use]
    pub fn gauges<const N: usize>(&self, name: &str, help: &str, labels: [&'static str; N]) -> Labelled<N, Gauge> {
        self.labelled(name, help, labels, Gauge::default)
    }

    /// A gauge of fractions.
    #[must_use]
    pub fn float_gauge(&self, name: &str, help: &str) -> FloatGauge {
        self.register(name, help, FloatGauge::default())
    }

    /// A gauge that is asked when someone looks. `read` must be quick and must not use this registry.
    pub fn gauge_fn(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.register_read(name, help, Read::Gauge(Box::new(read)));
    }

    /// A counter that is kept elsewhere and asked when someone looks. `read` as in [`Metrics::gauge_fn`], and never goes down.
    pub fn counter_fn(&self, name: &str, help: &str, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.register_read(name, help, Read::Counter(Box::new(read)));
    }

    /// A histogram with these bucket bounds ([`SECONDS`], [`BYTES`]).
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, bounds: &'static [f64]) -> Histogram {
        self.register(name, help, Histogram::new(bounds.iter().copied()))
    }

    /// A histogram for each combination of label values.
    #[must_use]
    pub fn histograms<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        bounds: &'static [f64],
    ) -> Labelled<N, Histogram> {
        self.labelled(name, help, labels, move || Histogram::new(bounds.iter().copied()))
    }

    /// Everything as text ([`CONTENT_TYPE`]).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let inner = self.0.lock();
        // Writing into a String cannot fail; an encoder's own failure would leave a text cut short, which scrapers notice.
        if text::encode(&mut out, &inner.registry).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        out
    }

    fn labelled<const N: usize, M>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Labelled<N, M>
    where
        M: Metric + EncodeMetric + TypedMetric + Clone,
    {
        for label in labels {
            assert!(well_formed(label), "metric {name}: label {label:?} is well formed");
        }
        let family = Family::new_with_constructor(Make(Arc::new(make) as Arc<dyn Fn() -> M + Send + Sync>));
        Labelled {
            names: labels,
            family: self.register(name, help, family),
        }
    }

    fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut inner = self.claim(name);
        inner.registry.register(name, help, metric.clone());
        metric
    }

    fn register_read(&self, name: &str, help: &str, read: Read) {
        let mut inner = self.claim(name);
        inner.registry.register_collector(Box::new(Asked {
            name: name.into(),
            help: help.into(),
            read,
        }));
    }

    fn claim(&self, name: &str) -> parking_lot::MutexGuard<'_, Inner> {
        assert!(
            name.starts_with("tailwater_") && well_formed(name),
            "metric {name:?} begins with tailwater_ and is well formed"
        );
        assert!(
            !name.ends_with("_total"),
            "metric {name:?}: `_total` is added by the text format"
        );
        let mut inner = self.0.lock();
        assert!(inner.names.insert(name.to_owned()), "metric {name} is registered once");
        inner
    }
}

fn well_formed(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Makes the metric of a new combination of labels.
#[derive(Clone)]
struct Make<M>(Arc<dyn Fn() -> M + Send + Sync>);

impl<M> prometheus_client::metrics::family::MetricConstructor<M> for Make<M> {
    fn new_metric(&self) -> M {
        (self.0)()
    }
}

/// Names and values of one combination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels<const N: usize> {
    names: [&'static str; N],
    values: [String; N],
}

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        for (name, value) in self.names.iter().zip(&self.values) {
            (*name, value.as_str()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// A metric for each combination of label values.
#[derive(Clone)]
pub struct Labelled<const N: usize, M> {
    names: [&'static str; N],
    family: Family<Labels<N>, M, Make<M>>,
}

impl<const N: usize, M> fmt::Debug for Labelled<N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labelled")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl<const N: usize, M: Clone> Labelled<N, M> {
    /// The handle of these values, in the order of the names. Allocates and takes a lock: keep the handle.
    #[must_use]
    pub fn with<S: AsRef<str>>(&self, values: [S; N]) -> M {
        let values = values.map(|v| v.as_ref().to_owned());
        self.family
            .get_or_create(&Labels {
                names: self.names,
                values,
            })
            .clone()
    }

    /// Forgets these values, so that they leave `/metrics`.
    pub fn remove<S: AsRef<str>>(&self, values: [S; N]) {
        let values = values.map(|v| v.as_ref().to_owned());
        self.family.remove(&Labels {
            names: self.names,
            values,
        });
    }
}

/// A value that is asked for.
enum Read {
    Gauge(Box<dyn Fn() -> f64 + Send + Sync>),
    Counter(Box<dyn Fn() -> u64 + Send + Sync>),
}

struct Asked {
    name: String,
    help: String,
    read: Read,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Collector for Asked {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // The registry adds this full stop to the help of what it holds itself; the same here.
        let help = format!("{}.", self.help);
        match &self.read {
            Read::Gauge(read) => {
                ConstGauge::new(read()).encode(encoder.encode_descriptor(&self.name, &help, None, MetricType::Gauge)?)
            }
            Read::Counter(read) => ConstCounter::new(read()).encode(encoder.encode_descriptor(
                &self.name,
                &help,
                None,
                MetricType::Counter,
            )?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let metrics = Metrics::new();
        let items = metrics.counters("tailwater_intake_items", "Items received", ["tenant", "signal"]);
        items.with(["default", "spans"]).inc_by(512);
        items.with(["quo\"te\\d\nline", "logs"]).inc();
        items.with(["default", "spans"]).inc();
        items.with(["gone", "spans"]).inc();
        items.remove(["gone", "spans"]);
        metrics.gauge("tailwater_queue_bytes", "Bytes queued").set(-3);
        metrics.float_gauge("tailwater_ratio", "A ratio").set(0.5);
        metrics.gauge_fn("tailwater_asked", "Asked", || 2.5);
        metrics.counter_fn("tailwater_counted", "Counted", || 7);
        let times = metrics.histogram("tailwater_ack_seconds", "Ack time", &[0.1, 1.0]);
        times.observe(0.05);
        times.observe(0.5);
        let text = metrics.encode();
        for line in [
            "# HELP tailwater_intake_items Items received.",
            "# TYPE tailwater_intake_items counter",
            r#"tailwater_intake_items_total{tenant="default",signal="spans"} 513"#,
            r#"tailwater_intake_items_total{tenant="quo\"te\\d\nline",signal="logs"} 1"#,
            "tailwater_queue_bytes -3",
            "tailwater_ratio 0.5",
            "# HELP tailwater_asked Asked.",
            "tailwater_asked 2.5",
            "tailwater_counted_total 7",
            r#"tailwater_ack_seconds_bucket{le="0.1"} 1"#,
            r#"tailwater_ack_seconds_bucket{le="1.0"} 2"#,
            r#"tailwater_ack_seconds_bucket{le="+Inf"} 2"#,
            "tailwater_ack_seconds_count 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("gone"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_process_describes_itself() {
        let text = Metrics::for_process("query").encode();
        assert!(
            text.contains(r#"tailwater_build_info{role="query",version=""#),
            "{text}"
        );
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find(|l| l.starts_with(&format!("{name} ")))
                .unwrap_or_else(|| panic!("no {name} in\n{text}"));
            line[name.len() + 1..].parse().unwrap_or(f64::NAN)
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_anonymous_memory_bytes") > 0.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        // After 2020 and not in the future.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64());
        let start = value("process_start_time_seconds");
        assert!(start > 1.577e9 && start <= now + 2.0, "{start} {now}");
    }

    #[test]
    #[should_panic(expected = "registered once")]
    fn a_name_twice() {
        let metrics = Metrics::new();
        let _ = metrics.counter("tailwater_x", "x");
        let _ = metrics.gauge("tailwater_x", "x");
    }

    #[test]
    #[should_panic(expected = "begins with tailwater_")]
    fn a_foreign_name() {
        let _ = Metrics::new().counter("requests", "x");
    }
}
