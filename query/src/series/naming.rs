//! Names of Prometheus for what OTLP calls otherwise.
//!
//! The rules of `UnderscoreEscapingWithSuffixes`, Prometheus' default for OTLP (prometheus/otlptranslator: metric_namer.go, label_namer.go, units.go).

/// What a metric is, as far as its name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Gauge,
    /// A monotonic sum.
    Counter,
    /// Any other sum, or a distribution.
    Other,
}

/// The name of a label: characters other than letters, digits and `_` become `_`; a leading digit gets `key_`, a single leading `_` `key`.
pub(super) fn label(name: &str) -> String {
    let escaped: String = name
        .chars()
        .map(|char| {
            if char.is_ascii_alphanumeric() || char == '_' {
                char
            } else {
                '_'
            }
        })
        .collect();
    match escaped.as_bytes() {
        [b'0'..=b'9', ..] => format!("key_{escaped}"),
        [b'_', b'_', ..] => escaped,
        [b'_', ..] => format!("key{escaped}"),
        _ => escaped,
    }
}

/// The name of a metric of this unit (UCUM) and shape.
pub(super) fn metric(name: &str, unit: &str, shape: Shape) -> String {
    let mut tokens: Vec<String> = words(name);
    let (main, per) = unit
        .split_once('/')
        .map_or((unit, None), |(main, per)| (main, Some(per)));
    let has = |tokens: &[String], word: &str| tokens.iter().any(|token| token == word);
    for (word, prefix) in [
        (unit_word(main), None),
        (per.map(per_word).unwrap_or_default(), Some("per")),
    ] {
        let parts = words(&word);
        if parts.is_empty() || parts.iter().all(|part| has(&tokens, part)) {
            continue;
        }
        tokens.extend(prefix.map(str::to_owned));
        tokens.extend(parts);
    }
    // The suffix of the shape stands last, wherever the name had it.
    if shape == Shape::Counter {
        tokens.retain(|token| token != "total");
        tokens.push("total".to_owned());
    }
    if unit == "1" && shape == Shape::Gauge {
        tokens.retain(|token| token != "ratio");
        tokens.push("ratio".to_owned());
    }
    let name = tokens.join("_");
    if name.starts_with(|char: char| char.is_ascii_digit()) {
        format!("_{name}")
    } else {
        name
    }
}

fn words(name: &str) -> Vec<String> {
    name.split(|char: char| !(char.is_ascii_alphanumeric() || char == ':'))
        .filter(|token| !token.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The word for a unit before the slash; other units stand for themselves, annotations in braces for nothing.
fn unit_word(unit: &str) -> String {
    let unit = unit.trim();
    if unit.contains(['{', '}']) {
        return String::new();
    }
    match unit {
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "GiBy" => "gibibytes",
        "TiBy" => "tibibytes",
        "KBy" => "kilobytes",
        "MBy" => "megabytes",
        "GBy" => "gigabytes",
        "TBy" => "terabytes",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "1" => "",
        "%" => "percent",
        other => other,
    }
    .to_owned()
}

/// The word for a unit after the slash.
fn per_word(unit: &str) -> String {
    let unit = unit.trim();
    match unit {
        "s" => "second".to_owned(),
        "m" => "minute".to_owned(),
        "h" => "hour".to_owned(),
        "d" => "day".to_owned(),
        "w" => "week".to_owned(),
        "mo" => "month".to_owned(),
        "y" => "year".to_owned(),
        other => unit_word(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_as_prometheus_names_them() {
        let check = |name: &str, unit: &str, shape: Shape, expected: &str| {
            assert_eq!(metric(name, unit, shape), expected, "{name} {unit}");
        };
        check(
            "http.server.request.duration",
            "s",
            Shape::Other,
            "http_server_request_duration_seconds",
        );
        check(
            "http.server.active_requests",
            "{request}",
            Shape::Other,
            "http_server_active_requests",
        );
        check(
            "system.network.io",
            "By",
            Shape::Counter,
            "system_network_io_bytes_total",
        );
        check(
            "system.cpu.utilization",
            "1",
            Shape::Gauge,
            "system_cpu_utilization_ratio",
        );
        check("total.requests", "1", Shape::Counter, "requests_total");
        check("jvm.memory.used_bytes", "By", Shape::Gauge, "jvm_memory_used_bytes");
        check("disk.speed", "By/s", Shape::Gauge, "disk_speed_bytes_per_second");
        check("queue", "{item}/s", Shape::Gauge, "queue_per_second");
        check("cpu.load", "%", Shape::Gauge, "cpu_load_percent");
        check("2xx.count", "", Shape::Other, "_2xx_count");
        check("a:b", "", Shape::Gauge, "a:b");
        check("température", "Cel", Shape::Gauge, "temp_rature_celsius");
        check("pages", "page", Shape::Counter, "pages_page_total");
    }

    #[test]
    fn labels_are_named_as_prometheus_names_them() {
        for (name, expected) in [
            ("http.route", "http_route"),
            ("0day", "key_0day"),
            ("_x", "key_x"),
            ("__x", "__x"),
            ("é", "key_"),
        ] {
            assert_eq!(label(name), expected);
        }
    }
}
