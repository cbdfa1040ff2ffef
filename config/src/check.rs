//! Settings that are each fine and together are not. Every rule says the relation in words and names the keys.

use std::path::{Component, Path, PathBuf};

use crate::load::Config;
use crate::settings::Tls;
use crate::units::{Size, format_duration};

/// What a log adds around the largest body: record and segment heads, alignment.
const LOG_OVERHEAD_BYTES: u64 = 16 << 10;

/// Rows of a request can need about twice the bytes of its body as columns, because nothing is shared between them any more.
const COLUMNS_PER_BODY: u64 = 2;

/// Directories of the data directory that hold something else than the logs.
const TAKEN: [&str; 4] = ["lake", "run", "intake", "outbox"];

/// Keys that contradict each other, and how.
pub(crate) struct Contradiction {
    pub keys: Vec<&'static str>,
    pub message: String,
}

/// All contradictions.
pub(crate) fn contradictions(config: &Config) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let mut rule = |broken: bool, keys: &[&'static str], message: &dyn Fn() -> String| {
        if broken {
            found.push(Contradiction {
                keys: keys.to_vec(),
                message: message(),
            });
        }
    };
    listeners(config, &mut rule);
    intake(config, &mut rule);
    logs(config, &mut rule);
    lake(config, &mut rule);
    found
}

type Rule<'a> = dyn FnMut(bool, &[&'static str], &dyn Fn() -> String) + 'a;

fn listeners(config: &Config, rule: &mut Rule<'_>) {
    let listeners = config.listeners();
    for (i, one) in listeners.iter().enumerate() {
        let (key, address) = (one.key, one.address);
        rule(
            config.is_insecure(key) && !config.allow_insecure,
            &[key, "allow_insecure"],
            &|| {
                let local = format!("127.0.0.1:{}", address.port());
                let lacks = match (config.tls_of(key).is_some(), config.access.tokens.is_some()) {
                    (false, false) => "neither TLS nor tokens",
                    (true, _) => "TLS, but no tokens",
                    (false, true) => "tokens, but no TLS that would keep them secret",
                };
                format!(
                    "{address} can be reached from other machines, and {key} has {lacks}: set tls.cert, tls.key and access.tokens, \
                     use {local}, or set allow_insecure: true if the network in front of it is trusted"
                )
            },
        );
        for other in &listeners[..i] {
            let (other, taken) = (other.key, other.address);
            let overlap = address.ip() == taken.ip() || address.ip().is_unspecified() || taken.ip().is_unspecified();
            rule(
                address.port() == taken.port() && address.port() != 0 && overlap,
                &[key, other],
                &|| format!("{key} ({address}) and {other} ({taken}) would need the same port"),
            );
        }
    }
    tls(&config.tls, ["tls.cert", "tls.key", "tls.client_ca"], rule);
    let (grpc, http) = (&config.intake.grpc.tls, &config.intake.http.tls);
    tls(
        grpc,
        [
            "intake.grpc.tls.cert",
            "intake.grpc.tls.key",
            "intake.grpc.tls.client_ca",
        ],
        rule,
    );
    tls(
        http,
        [
            "intake.http.tls.cert",
            "intake.http.tls.key",
            "intake.http.tls.client_ca",
        ],
        rule,
    );
    tls(
        &config.query.tls,
        ["query.tls.cert", "query.tls.key", "query.tls.client_ca"],
        rule,
    );
    tls(
        &config.admin.tls,
        ["admin.tls.cert", "admin.tls.key", "admin.tls.client_ca"],
        rule,
    );
}

/// A section of TLS is whole, or it is empty: half of one would be a listener without TLS where somebody wanted it.
fn tls(section: &Tls, keys: [&'static str; 3], rule: &mut Rule<'_>) {
    let [cert, key, client_ca] = keys;
    rule(section.cert.is_some() != section.key.is_some(), &[cert, key], &|| {
        format!("{cert} and {key} go together: one of them is not set")
    });
    rule(
        section.client_ca.is_some() && section.cert.is_none(),
        &[client_ca, cert],
        &|| format!("{client_ca} needs {cert} and {key}: without TLS there are no client certificates"),
    );
}

fn intake(config: &Config, rule: &mut Rule<'_>) {
    let intake = &config.intake;
    rule(
        intake.wire_body > intake.body,
        &["intake.wire_body", "intake.body"],
        &|| {
            format!(
                "intake.wire_body ({}) is larger than intake.body ({}), which is the same request after decompression",
                intake.wire_body, intake.body
            )
        },
    );
    if let crate::value::Auto::Is(memory) = intake.memory {
        let share = intake.tenant_share.of(memory.bytes());
        rule(
            intake.body.bytes() > share && config.is_set("intake.body"),
            &["intake.body", "intake.memory", "intake.tenant_share"],
            &|| {
                format!(
                    "a request of intake.body ({}) could never be admitted: one tenant may hold {}, intake.tenant_share ({}) of intake.memory ({memory})",
                    intake.body,
                    Size::bytes_of(share),
                    intake.tenant_share
                )
            },
        );
    }
    if let Some(rate) = intake.rate.bytes_per_sec.get() {
        rule(
            intake.rate.burst < intake.body,
            &["intake.rate.burst", "intake.body"],
            &|| {
                format!(
                    "a request of intake.body ({}) could never pass intake.rate.burst ({})",
                    intake.body, intake.rate.burst
                )
            },
        );
        let held = at_rate(rate, config);
        rule(
            config.storage.intake_log.budget.bytes() < held,
            &[
                "storage.intake_log.budget",
                "intake.rate.bytes_per_sec",
                "intake.request_timeout",
            ],
            &|| {
                format!(
                    "storage.intake_log.budget ({}) is smaller than intake.rate.bytes_per_sec x intake.request_timeout ({rate}/s x {} = {}): \
                     requests allowed by the rate would be refused by the log; raise the budget, lower the rate, or set the rate to off",
                    config.storage.intake_log.budget,
                    format_duration(intake.request_timeout),
                    Size::bytes_of(held)
                )
            },
        );
    }
    rule(
        intake.caps.item > intake.body,
        &["intake.caps.item", "intake.body"],
        &|| {
            format!(
                "intake.caps.item ({}) is larger than intake.body ({}), the whole request",
                intake.caps.item, intake.body
            )
        },
    );
    for (key, size, is_meant) in [
        ("intake.caps.value", intake.caps.value, true),
        // The defaults of these two bind nothing in a small item, so only what was set can be a mistake.
        ("intake.caps.body", intake.caps.body, config.is_set("intake.caps.body")),
        ("intake.caps.text", intake.caps.text, config.is_set("intake.caps.text")),
        ("intake.caps.key", intake.caps.key, true),
    ] {
        rule(size > intake.caps.item && is_meant, &[key, "intake.caps.item"], &|| {
            format!(
                "{key} ({size}) is larger than intake.caps.item ({}), the item it is in",
                intake.caps.item
            )
        });
    }
    rule(
        intake.connections.per_peer > intake.connections.total,
        &["intake.connections.per_peer", "intake.connections.total"],
        &|| {
            format!(
                "intake.connections.per_peer ({}) is larger than intake.connections.total ({})",
                intake.connections.per_peer, intake.connections.total
            )
        },
    );
    rule(
        intake.dedup && intake.dedup_window < intake.request_timeout,
        &["intake.dedup_window", "intake.request_timeout"],
        &|| {
            format!(
                "intake.dedup_window ({}) is shorter than intake.request_timeout ({}): a retry of a slow request would be stored again",
                format_duration(intake.dedup_window),
                format_duration(intake.request_timeout)
            )
        },
    );
}

/// Bytes that come in at full rate while one request may wait.
fn at_rate(rate: Size, config: &Config) -> u64 {
    let bytes = u128::from(rate.bytes()) * config.intake.request_timeout.as_millis() / 1000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn logs(config: &Config, rule: &mut Rule<'_>) {
    let (intake, storage) = (&config.intake, &config.storage);
    let (log, outbox) = (&storage.intake_log, &storage.outbox);
    rule(
        log.segment.bytes() < intake.body.bytes() + LOG_OVERHEAD_BYTES,
        &["storage.intake_log.segment", "intake.body"],
        &|| {
            let need = Size::bytes_of(intake.body.bytes() + LOG_OVERHEAD_BYTES);
            format!(
                "storage.intake_log.segment ({}) cannot hold a request of intake.body ({}): at least {need} is needed",
                log.segment, intake.body
            )
        },
    );
    let batch = intake.body.bytes() * COLUMNS_PER_BODY + storage.batch.bytes.bytes() + LOG_OVERHEAD_BYTES;
    rule(
        outbox.segment.bytes() < batch,
        &["storage.outbox.segment", "storage.batch.bytes", "intake.body"],
        &|| {
            format!(
                "storage.outbox.segment ({}) cannot hold a batch of storage.batch.bytes ({}) that ends in a request of intake.body ({}): at least {} is needed",
                outbox.segment,
                storage.batch.bytes,
                intake.body,
                Size::bytes_of(batch)
            )
        },
    );
    rule(
        log.budget.bytes() / 2 < log.segment.bytes(),
        &["storage.intake_log.budget", "storage.intake_log.segment"],
        &|| {
            format!(
                "storage.intake_log.budget ({}) must hold two segments of storage.intake_log.segment ({}): one to write, one to let go",
                log.budget, log.segment
            )
        },
    );
    rule(
        outbox.budget.bytes() / 2 < outbox.segment.bytes(),
        &["storage.outbox.budget", "storage.outbox.segment"],
        &|| {
            format!(
                "storage.outbox.budget ({}) must hold two segments of storage.outbox.segment ({}): one to write, one to let go",
                outbox.budget, outbox.segment
            )
        },
    );
    rule(
        storage.commit.bytes > outbox.budget,
        &["storage.commit.bytes", "storage.outbox.budget"],
        &|| {
            format!(
                "storage.commit.bytes ({}) is larger than storage.outbox.budget ({}): the outbox would be full before a commit",
                storage.commit.bytes, outbox.budget
            )
        },
    );
    rule(
        storage.batch.delay > storage.commit.interval,
        &["storage.batch.delay", "storage.commit.interval"],
        &|| {
            format!(
                "storage.batch.delay ({}) is longer than storage.commit.interval ({})",
                format_duration(storage.batch.delay),
                format_duration(storage.commit.interval)
            )
        },
    );
    if let Some(dir) = &storage.wal_dir {
        let (data, dir) = (flat(&config.data), flat(dir));
        let inside = TAKEN.iter().find(|name| dir.starts_with(data.join(name)));
        rule(inside.is_some(), &["storage.wal_dir", "data"], &|| {
            format!(
                "{} is inside `{}` of the data directory, which holds something else",
                dir.display(),
                inside.unwrap_or(&"")
            )
        });
    }
}

fn lake(config: &Config, rule: &mut Rule<'_>) {
    let storage = &config.storage;
    let keep = &storage.retention;
    let rows = [
        ("storage.retention.spans", keep.spans),
        ("storage.retention.traces", keep.traces),
        ("storage.retention.logs", keep.logs),
        ("storage.retention.metric_points", keep.metric_points),
        ("storage.retention.metric_dists", keep.metric_dists),
    ];
    for (key, kept) in rows {
        rule(config.intake.caps.past > kept, &[key, "intake.caps.past"], &|| {
            let instead = if key.contains("metric") {
                "rejected"
            } else {
                "stored under their arrival date"
            };
            format!(
                "intake.caps.past ({}) is longer than {key} ({}): rows older than that would be stored and removed at once; \
                 with a lower intake.caps.past they are {instead}",
                format_duration(config.intake.caps.past),
                format_duration(kept)
            )
        });
    }
    let counted = [
        ("storage.retention.red", keep.red),
        ("storage.retention.edges", keep.edges),
    ];
    for (key, kept) in counted {
        rule(config.intake.caps.past > kept, &[key, "intake.caps.past"], &|| {
            format!(
                "intake.caps.past ({}) is longer than {key} ({}): late spans would be counted and removed at once; \
                 with a lower intake.caps.past they are counted by their arrival",
                format_duration(config.intake.caps.past),
                format_duration(kept)
            )
        });
    }
    for (key, kept) in &rows[3..] {
        rule(
            keep.metric_series < *kept,
            &["storage.retention.metric_series", key],
            &|| {
                format!(
                    "storage.retention.metric_series ({}) is shorter than {key} ({}): points would lose their names",
                    format_duration(keep.metric_series),
                    format_duration(*kept)
                )
            },
        );
    }
    rule(
        storage.vacuum_after < storage.log_retention,
        &["storage.vacuum_after", "storage.log_retention"],
        &|| {
            format!(
                "storage.vacuum_after ({}) is shorter than storage.log_retention ({}): versions still in the log would name deleted files",
                format_duration(storage.vacuum_after),
                format_duration(storage.log_retention)
            )
        },
    );
    rule(
        storage.compact.min_files > storage.compact.max_files,
        &["storage.compact.min_files", "storage.compact.max_files"],
        &|| {
            format!(
                "storage.compact.min_files ({}) is larger than storage.compact.max_files ({})",
                storage.compact.min_files, storage.compact.max_files
            )
        },
    );
}

/// The path without `.` and, as far as the text tells, without `..`.
fn flat(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
