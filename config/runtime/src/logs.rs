//! Structured logs on stderr, as text for people or JSON for machines. Every line says which role wrote it, because `run` mixes several.

use std::fmt;
use std::io::IsTerminal;
use std::panic;

use tailwater_config::settings::{Level, Log, LogFormat};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Starts the log of this process. A second call changes nothing. Panics are written as events too.
pub fn init(log: &Log, role: &'static str) {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if tracing::dispatcher::set_global_default(subscriber(log, role, colours, std::io::stderr)).is_ok() {
        panic::set_hook(Box::new(|info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let message = info.payload_as_str().unwrap_or("not a text");
            tracing::error!(place, message, backtrace = %std::backtrace::Backtrace::capture(), "panic");
        }));
    }
}

/// What is let through: our own events from the level on, those of libraries from `warn` on (a library's `info` is our `debug`).
fn filter(level: Level) -> EnvFilter {
    let libraries = match level {
        Level::Error => "error",
        Level::Warn | Level::Info | Level::Debug => "warn",
        Level::Trace => "info",
    };
    // delta-rs calls every lost race an error; our committer says what came of it.
    EnvFilter::new(format!(
        "{libraries},deltalake_core::kernel::transaction=off,tailwater={}",
        level.word()
    ))
}

fn subscriber<W>(log: &Log, role: &'static str, colours: bool, out: W) -> tracing::Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(log.level))
        .with_writer(out)
        .log_internal_errors(false);
    match log.format {
        LogFormat::Text => builder.with_ansi(colours).with_timer(TimeAndRole(role)).into(),
        LogFormat::Json => builder
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(JsonWithRole {
                role,
                inner: Format::default().json().flatten_event(true),
            })
            .into(),
    }
}

/// The role right behind the time.
struct TimeAndRole(&'static str);

impl FormatTime for TimeAndRole {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(out)?;
        write!(out, " {}", self.0)
    }
}

/// `"role"` as the first field of the object.
struct JsonWithRole {
    role: &'static str,
    inner: Format<tracing_subscriber::fmt::format::Json>,
}

impl<S, N> FormatEvent<S, N> for JsonWithRole
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &tracing::Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(ctx, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) => write!(out, "{{\"role\":\"{}\",{rest}", self.role),
            None => out.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use parking_lot::Mutex;
    use std::io;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn seen(level: Level, format: LogFormat) -> Vec<String> {
        let seen = Seen::default();
        let out = seen.clone();
        let dispatch = subscriber(&Log { level, format }, "query", false, move || out.clone());
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::warn!(target: "tailwater_query::http", rows = 7, text = "a\"b\nc", "too many rows");
            tracing::debug!(target: "tailwater_query", "detail");
            tracing::info!(target: "h2::codec", "frame");
            tracing::warn!(target: "h2::codec", "odd frame");
        });
        let bytes = seen.0.lock().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn text() {
        let lines = seen(Level::Info, LogFormat::Text);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains(" query  WARN tailwater_query::http: too many rows rows=7"),
            "{lines:?}"
        );
        assert!(lines[1].contains("odd frame"), "{lines:?}");
    }

    #[test]
    fn json() {
        let lines = seen(Level::Debug, LogFormat::Json);
        assert_eq!(lines.len(), 3, "{lines:?}");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (&line["role"], &line["level"], &line["message"]),
            (&"query".into(), &"WARN".into(), &"too many rows".into())
        );
        assert_eq!((&line["rows"], &line["text"]), (&7.into(), &"a\"b\nc".into()));
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn levels() {
        assert_eq!(seen(Level::Error, LogFormat::Text).len(), 0);
        assert_eq!(seen(Level::Warn, LogFormat::Text).len(), 2);
        assert_eq!(seen(Level::Trace, LogFormat::Text).len(), 4);
    }
}
