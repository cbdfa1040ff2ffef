//! The configuration in the terms of the parts that it sets.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tailwater_config::access::Quotas;
use tailwater_config::settings::Ack;
use tailwater_config::{Config, Limits};
use tailwater_model::otlp::caps::Caps;
use tailwater_red::Aggregator;
use tailwater_runtime::Access;
use tailwater_runtime::run_dir;
use tailwater_runtime::serve::{self, Patience};
use tracing::warn;

use crate::declared;
use crate::intake::{self, inflate};
use crate::open::{Directory, LogOptions};
use crate::run::CollectorError;
use crate::tail;

/// Where things lie, which is made private, and how large they may be.
///
/// # Errors
/// [`CollectorError::Io`].
pub fn directory(config: &Config, limits: &Limits) -> Result<Directory, CollectorError> {
    let storage = &config.storage;
    let logs = config.wal_dir().to_path_buf();
    for path in [&config.data, &logs] {
        run_dir::make_private(path).map_err(|error| CollectorError::io(path, error))?;
    }
    let disk = rustix::fs::statvfs(&logs).map_err(|error| CollectorError::io(&logs, error.into()))?;
    // Head and padding of a record are far below this.
    const RECORD_EXTRA: u64 = 16 * 1024;
    Ok(Directory {
        data: config.data.clone(),
        logs,
        intake: LogOptions {
            segment_bytes: storage.intake_log.segment.bytes(),
            budget_bytes: storage.intake_log.budget.bytes(),
        },
        outbox: LogOptions {
            segment_bytes: storage.outbox.segment.bytes(),
            budget_bytes: storage.outbox.budget.bytes(),
        },
        reserve_bytes: config.disk_reserve_bytes(disk.f_blocks * disk.f_frsize),
        ack: match storage.ack {
            Ack::Fsync => tailwater_wal::Ack::Fsync,
            Ack::Write => tailwater_wal::Ack::Write,
        },
        allow_volatile: storage.allow_volatile,
        record_bytes_max: limits.body_bytes + RECORD_EXTRA,
        dedup_window_ns: config
            .intake
            .dedup
            .then(|| config.intake.dedup_window.as_nanos() as u64),
    })
}

/// How spans are counted, with what the documents of `slo.files` declare; mistakes in them are told in the log.
pub fn counting(config: &Config, caps: &Caps) -> tailwater_red::Settings {
    let declared = config.slo.files.as_deref().map_or_else(Vec::new, declared::read);
    tailwater_red::Settings::new(&config.red, declared, caps.clone())
}

/// What an item may be.
pub fn caps(config: &Config) -> Caps {
    let caps = &config.intake.caps;
    Caps {
        item_bytes: caps.item.as_usize(),
        depth: caps.depth as usize,
        attributes: caps.attributes as usize,
        origin_attributes: caps.origin_attributes as usize,
        nested_attributes: caps.nested_attributes as usize,
        value_bytes: caps.value.as_usize(),
        text_bytes: caps.text.as_usize(),
        body_bytes: caps.body.as_usize(),
        key_bytes: caps.key.as_usize(),
        events: caps.events as usize,
        links: caps.links as usize,
        exemplars: caps.exemplars as usize,
        future_ns: caps.future.as_nanos() as u64,
        past_ns: u64::try_from(caps.past.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// Counts every span, if that is switched on.
pub fn red(config: &Config, caps: &Caps, guard: Option<&[u8]>) -> Option<Arc<Mutex<Aggregator>>> {
    if !config.red.enabled {
        return None;
    }
    let mut red = Aggregator::new(counting(config, caps));
    if let Err(error) = guard.map_or(Ok(()), |bytes| red.restore_guard(bytes)) {
        warn!(%error, "the known keys of RED are lost; at the limit of keys others may take their place");
    }
    Some(Arc::new(Mutex::new(red)))
}

/// How many traces of a tenant may wait at once, by the settings and the file of tokens as it is now.
pub fn live_traces(config: &Config, access: &Arc<Access>) -> tail::LiveTraces {
    let (access, rate, query) = (access.clone(), config.intake.rate.clone(), config.query.clone());
    Box::new(move |tenant| Quotas::of(&rate, &query, access.overrides(tenant).as_ref()).live_traces)
}

/// How long the intake log has room for what one tenant may send; `None` without a limit of its rate.
pub fn log_lasts(config: &Config) -> Option<Duration> {
    let rate = config.intake.rate.bytes_per_sec.get()?.bytes();
    let budget = config.storage.intake_log.budget.bytes();
    Some(Duration::from_secs_f64(budget as f64 / rate.max(1) as f64))
}

/// What a request may be.
pub fn request_limits(config: &Config, limits: &Limits, caps: Caps) -> intake::Limits {
    intake::Limits {
        wire_body: limits.wire_body_bytes,
        inflate: inflate::Limits {
            body: limits.body_bytes,
            ratio: u64::from(config.intake.inflate_ratio),
        },
        row_bytes: config.storage.outbox.segment.bytes(),
        body_idle: config.intake.connections.body_idle,
        request: config.intake.request_timeout,
        caps,
    }
}

/// What a connection may be.
pub fn connection_limits(config: &Config) -> serve::Limits {
    let connections = &config.intake.connections;
    serve::Limits {
        connections: connections.total as usize,
        per_peer: connections.per_peer as usize,
        streams: connections.streams,
        pending_resets: connections.pending_resets as usize,
        header_bytes: connections.header_bytes.as_usize(),
        headers: connections.headers as usize,
        handshake_timeout: connections.handshake_timeout,
        patience: Patience {
            header: connections.header_timeout,
            idle: connections.idle,
            age: connections.max_age,
            // Those of the intake are bounded by itself.
            request: None,
        },
        keepalive: connections.keepalive,
        keepalive_timeout: connections.keepalive_timeout,
        grace: connections.max_age_grace,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_cap_has_its_setting_and_defaults_are_those_of_the_model() {
        assert_eq!(caps(&Config::of(&[]).unwrap()), Caps::default());
        let set = Config::of(&[
            ("intake.caps.item", "1025B"),
            ("intake.caps.depth", "2"),
            ("intake.caps.attributes", "3"),
            ("intake.caps.origin_attributes", "4"),
            ("intake.caps.nested_attributes", "5"),
            ("intake.caps.value", "16B"),
            ("intake.caps.text", "17B"),
            ("intake.caps.body", "18B"),
            ("intake.caps.key", "19B"),
            ("intake.caps.events", "6"),
            ("intake.caps.links", "7"),
            ("intake.caps.exemplars", "8"),
            ("intake.caps.future", "9s"),
            ("intake.caps.past", "10m"),
        ]);
        let expected = Caps {
            item_bytes: 1025,
            depth: 2,
            attributes: 3,
            origin_attributes: 4,
            nested_attributes: 5,
            value_bytes: 16,
            text_bytes: 17,
            body_bytes: 18,
            key_bytes: 19,
            events: 6,
            links: 7,
            exemplars: 8,
            future_ns: 9_000_000_000,
            past_ns: 600_000_000_000,
        };
        assert_eq!(caps(&set.unwrap()), expected);
    }

    #[test]
    fn a_log_lasts_by_its_budget_and_the_rate() {
        let check = |rate: &str, expected: Option<u64>| {
            let config = Config::of(&[
                ("intake.rate.bytes_per_sec", rate),
                ("storage.intake_log.budget", "2GiB"),
                ("intake.rate.burst", "64MiB"),
            ]);
            assert_eq!(log_lasts(&config.unwrap()), expected.map(Duration::from_secs), "{rate}");
        };
        check("off", None);
        check("16MiB", Some(128));
    }
}
