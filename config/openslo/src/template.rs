//! SLOs that come with the program, to begin from: `config/slo/*.yaml`.

/// A template.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Its file name without the ending.
    pub name: &'static str,
    /// What it measures.
    pub doc: &'static str,
    /// The file.
    pub text: &'static str,
}

/// All of them. Each is a valid document; replace the service, the target and the link.
pub const TEMPLATES: &[Template] = &[
    Template {
        name: "success-rate",
        doc: "M1: share of requests that succeed",
        text: include_str!("../../slo/success-rate.yaml"),
    },
    Template {
        name: "latency-p99",
        doc: "M2: P99 latency, as the share of requests that are fast enough",
        text: include_str!("../../slo/latency-p99.yaml"),
    },
    Template {
        name: "burn-rate",
        doc: "M3: how fast the error budget burns, with alerts",
        text: include_str!("../../slo/burn-rate.yaml"),
    },
    Template {
        name: "telemetry-loss",
        doc: "M9: share of telemetry that is lost on its way through Tailwater",
        text: include_str!("../../slo/telemetry-loss.yaml"),
    },
];
