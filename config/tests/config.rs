//! The configuration as its users meet it: files, environment, messages, pages, examples.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tailwater_config::{
    Config, Limit, Machine, Origin, Problems, RESERVED_VARIABLES, Setting, catalogue, print, reference,
};

fn load(text: &str) -> Result<Config, Problems> {
    load_with(text, &[], &[])
}

fn load_with(text: &str, env: &[(&str, &str)], overrides: &[(&str, &str)]) -> Result<Config, Problems> {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::from_text(Path::new("t.yaml"), text, env, overrides.iter().copied())
}

/// The problems of `text`, one per line, are exactly these.
#[track_caller]
fn check(text: &str, expect: &[&str]) {
    check_with(text, &[], &[], expect);
}

#[track_caller]
fn check_with(text: &str, env: &[(&str, &str)], overrides: &[(&str, &str)], expect: &[&str]) {
    let problems = load_with(text, env, overrides)
        .err()
        .map_or(String::new(), |p| p.to_string());
    assert_eq!(problems.lines().collect::<Vec<_>>(), expect, "{text}");
}

fn settings() -> Vec<Setting> {
    catalogue().into_iter().filter(|s| s.default.is_some()).collect()
}

#[test]
fn nothing_is_a_configuration() {
    for text in ["", "# only a comment\n", "---\n", "intake:\nstorage:\n  commit:\n"] {
        let config = load(text).unwrap();
        assert_eq!(config.values(), Config::of(&[]).unwrap().values());
        assert!(!config.is_set("intake.grpc.listen"));
    }
    let config = Config::of(&[]).unwrap();
    assert_eq!(config.intake.grpc.listen.to_string(), "127.0.0.1:4317");
    assert_eq!(config.data, PathBuf::from("./tailwater-data"));
    assert_eq!(config.wal_dir(), config.data);
    // Half a million spans of 440 bytes a second is the least that an untouched installation must let in.
    let Limit::At(rate) = config.intake.rate.bytes_per_sec else {
        panic!("a rate by default")
    };
    assert!(rate.bytes() >= 500_000 * 440);
    // A label with an id in it is stopped, what a fleet has is not.
    assert_eq!(config.intake.rate.series.get(), Some(150_000));
}

#[test]
fn later_layers_win() {
    let text =
        "log: {level: warn}\nintake: {grpc: {listen: 127.0.0.1:1}, http: {listen: '127.0.0.1:2'}}\ndata: /file\n";
    let env = [
        ("TAILWATER_INTAKE_GRPC_LISTEN", "127.0.0.1:3"),
        ("TAILWATER_DATA", "/env"),
        ("HOME", "/root"),
        ("TAILWATER_LOG_FORMAT", ""),
    ];
    let config = load_with(text, &env, &[("data", "/option")]).unwrap();
    assert_eq!(config.log.level.word(), "warn");
    assert_eq!(config.intake.grpc.listen.port(), 3);
    assert_eq!(config.intake.http.listen.port(), 2);
    assert_eq!(config.data, PathBuf::from("/option"));
    assert_eq!(config.origin("log.level").to_string(), "t.yaml:1:14");
    assert_eq!(
        config.origin("intake.grpc.listen"),
        &Origin::Env("TAILWATER_INTAKE_GRPC_LISTEN".into())
    );
    assert_eq!(config.origin("data").to_string(), "option data");
    assert_eq!(config.origin("log.format"), &Origin::Default);
}

#[test]
fn unknown_keys() {
    check(
        "intake:\n  grcp: {}\n",
        &["t.yaml:2:3: intake.grcp: unknown key; did you mean intake.grpc?"],
    );
    check(
        "storage: {waldir: /x}\n",
        &["t.yaml:1:11: storage.waldir: unknown key; did you mean storage.wal_dir?"],
    );
    check(
        "wal_dir: /x\n",
        &["t.yaml:1:1: wal_dir: unknown key; did you mean storage.wal_dir?"],
    );
    check(
        "grpc_listen: x\n",
        &["t.yaml:1:1: grpc_listen: unknown key; did you mean intake.grpc.listen?"],
    );
    check(
        "intake:\n  retention: 1d\n",
        &["t.yaml:2:3: intake.retention: unknown key; did you mean storage.retention?"],
    );
    check("xyzzy: 1\n", &["t.yaml:1:1: xyzzy: unknown key"]);
    check_with(
        "",
        &[("TAILWATER_INTAKE_GRPC_LISTENER", "x"), ("TAILWATER_XYZZY", "1")],
        &[("inteke.body", "1MiB"), ("intake", "x")],
        &[
            "environment TAILWATER_INTAKE_GRPC_LISTENER: no setting has this variable; did you mean TAILWATER_INTAKE_GRPC_LISTEN?",
            "environment TAILWATER_XYZZY: no setting has this variable",
            "option intake: intake: unknown key",
            "option inteke.body: inteke.body: unknown key; did you mean intake.body?",
        ],
    );
}

#[test]
fn all_problems_at_once() {
    let text =
        "lag: {}\nintake:\n  body: 64M\n  grpc: 4317\n  request_timeout: 30\nquery:\n  rows:\n  depth: 1\nquery: {}\n";
    check_with(
        text,
        &[("TAILWATER_ADMIN_QUERY", "here")],
        &[("query.timeout", "soon")],
        &[
            "t.yaml:1:1: lag: unknown key; did you mean log?",
            "t.yaml:3:9: intake.body: `64M` is wrong: `M` is ambiguous: write 64MiB (1024s) or 64MB (1000s)",
            "t.yaml:4:9: intake.grpc: expected a section with keys below it",
            "t.yaml:5:20: intake.request_timeout: `30` is wrong: a duration needs its unit, such as 30s (ms, s, m, h or d)",
            "t.yaml:7:7: query.rows: has no value",
            "t.yaml:8:10: query.depth: `1` is wrong: must be at least 5",
            "t.yaml:9:1: `query` is given twice",
            "environment TAILWATER_ADMIN_QUERY: admin.query: `here` is wrong: expected an address and a port, such as 127.0.0.1:4317",
            "option query.timeout: query.timeout: `soon` is wrong: expected a duration such as 250ms, 30s, 15m, 12h or 30d",
        ],
    );
    check("- a\n", &["t.yaml:1:1: expected settings, one `key: value` per line"]);
    check(
        "data: [a]\n",
        &["t.yaml:1:7: data: expected one value (path), not a section or a list"],
    );
}

#[test]
fn a_file_that_is_not_there_or_not_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    let load = || Config::load(Some(&path), [], [("log.level", "warn")]);
    assert!(load().unwrap_err().to_string().contains("c.yaml:1:1: cannot be read: "));
    std::fs::write(&path, b"data: \xff").unwrap();
    assert!(load().unwrap_err().to_string().ends_with("is not UTF-8 text (byte 6)"));
    std::fs::write(&path, "data: /x").unwrap();
    assert_eq!(load().unwrap().data, PathBuf::from("/x"));
}

#[test]
fn other_machines_are_kept_out() {
    let say = |key: &str, address: &str, port: u16| {
        format!(
            "{key}: {address} can be reached from other machines, and {key} has neither TLS nor tokens: \
             set tls.cert, tls.key and access.tokens, use 127.0.0.1:{port}, or set allow_insecure: true if the network in front of it is trusted"
        )
    };
    let text = "intake: {grpc: {listen: 0.0.0.0:4317}}\nquery: {listen: '[::]:4319'}\nadmin: {query: 10.0.0.1:4321}\n";
    check(
        text,
        &[
            &format!("t.yaml:1:25: {}", say("intake.grpc.listen", "0.0.0.0:4317", 4317)),
            &format!("t.yaml:2:17: {}", say("query.listen", "[::]:4319", 4319)),
            &format!("t.yaml:3:16: {}", say("admin.query", "10.0.0.1:4321", 4321)),
        ],
    );
    check(&format!("{text}allow_insecure: true\n"), &[]);
    let tls = "tls: {cert: c.pem, key: k.pem}\n";
    check(&format!("{text}{tls}access: {{tokens: t}}\n"), &[]);
    let one = "query: {listen: '0.0.0.0:4319'}\n";
    let half = |has: &str, text: &str| {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(has), "{error}");
    };
    half("query.listen has TLS, but no tokens", &format!("{one}{tls}"));
    half(
        "has tokens, but no TLS that would keep them secret",
        &format!("{one}access: {{tokens: t}}\n"),
    );
    half("tls.cert and tls.key go together", "tls: {cert: c}\n");
    half(
        "query.tls.cert and query.tls.key go together",
        "query: {tls: {key: c}}\n",
    );
    half(
        "admin.tls.client_ca needs admin.tls.cert",
        "admin: {tls: {client_ca: c}}\n",
    );
    check(
        "intake: {grpc: {listen: '[::1]:4317'}, http: {listen: 127.9.9.9:4318}}",
        &[],
    );
    check("intake: {grpc: {listen: '[::ffff:127.0.0.1]:4317'}}", &[]);
}

/// What is said about limits that contradict each other begins like this, at this place.
#[track_caller]
fn contradicts(text: &str, place: &str, words: &str) {
    let problems = load(text).unwrap_err();
    let found = problems
        .iter()
        .map(ToString::to_string)
        .any(|p| p.starts_with(place) && p.contains(words));
    assert!(found, "{text}\n{problems}");
}

#[test]
fn limits_that_contradict_each_other() {
    contradicts(
        "intake: {wire_body: 65MiB}",
        "t.yaml:1:21: intake.wire_body",
        "larger than intake.body (64MiB)",
    );
    contradicts(
        "intake: {body: 8MiB}",
        "t.yaml:1:16: intake.body",
        "intake.wire_body (16MiB) is larger than intake.body (8MiB)",
    );
    contradicts(
        "intake: {body: 64MiB, memory: 100MiB}",
        "t.yaml:1:16: intake.body",
        "one tenant may hold 50MiB",
    );
    contradicts(
        "intake: {rate: {burst: 1MiB}}",
        "t.yaml:1:24: intake.rate.burst",
        "could never pass",
    );
    contradicts(
        "intake: {rate: {bytes_per_sec: 1GiB}}",
        "t.yaml:1:32: intake.rate.bytes_per_sec",
        "= 30GiB",
    );
    contradicts(
        "storage: {intake_log: {budget: 1GiB}}",
        "t.yaml:1:32: storage.intake_log.budget",
        "= 15GiB",
    );
    contradicts(
        "intake: {caps: {item: 32MiB}, body: 16MiB}",
        "t.yaml:1:23: intake.caps.item",
        "the whole request",
    );
    contradicts(
        "intake: {caps: {value: 2MiB}}",
        "t.yaml:1:24: intake.caps.value",
        "the item it is in",
    );
    contradicts(
        "intake: {caps: {body: 2MiB}}",
        "t.yaml:1:23: intake.caps.body",
        "the item it is in",
    );
    contradicts(
        "intake: {caps: {text: 2MiB}}",
        "t.yaml:1:23: intake.caps.text",
        "the item it is in",
    );
    contradicts(
        "storage: {retention: {metric_points: 7d}}",
        "t.yaml:1:38: storage.retention.metric_points",
        "with a lower intake.caps.past they are rejected",
    );
    contradicts(
        "intake: {caps: {item: 1KiB, key: 2KiB}}",
        "t.yaml:1:34: intake.caps.key",
        "the item it is in",
    );
    contradicts(
        "intake: {connections: {total: 10}}",
        "t.yaml:1:31: intake.connections.total",
        "per_peer (256) is larger",
    );
    contradicts(
        "intake: {dedup_window: 10s}",
        "t.yaml:1:24: intake.dedup_window",
        "stored again",
    );
    contradicts(
        "storage: {intake_log: {segment: 64MiB}}",
        "t.yaml:1:33: storage.intake_log.segment",
        "cannot hold a request",
    );
    contradicts(
        "storage: {batch: {bytes: 256MiB}}",
        "t.yaml:1:26: storage.batch.bytes",
        "cannot hold a batch",
    );
    contradicts(
        "storage: {intake_log: {segment: 4GiB, budget: 7GiB}}",
        "t.yaml:1:47: storage.intake_log.budget",
        "two segments",
    );
    contradicts(
        "storage: {outbox: {budget: 300MiB}}",
        "t.yaml:1:28: storage.outbox.budget",
        "two segments",
    );
    contradicts(
        "storage: {outbox: {budget: 1GiB}, commit: {bytes: 2GiB}}",
        "t.yaml:1:51: storage.commit.bytes",
        "full before a commit",
    );
    contradicts(
        "storage: {batch: {delay: 9s}, commit: {interval: 1s}}",
        "t.yaml:1:26: storage.batch.delay",
        "longer than",
    );
    contradicts(
        "data: d\nstorage: {wal_dir: ./d/x/../lake/y}",
        "t.yaml:2:20: storage.wal_dir",
        "`lake` of the data directory",
    );
    contradicts(
        "storage: {retention: {logs: 7d}}",
        "t.yaml:1:29: storage.retention.logs",
        "stored and removed at once",
    );
    contradicts(
        "intake: {caps: {past: 60d}}",
        "t.yaml:1:23: intake.caps.past",
        "longer than storage.retention.spans",
    );
    contradicts(
        "storage: {retention: {metric_points: 60d}}",
        "t.yaml:1:38: storage.retention.metric_points",
        "lose their names",
    );
    contradicts(
        "storage: {log_retention: 25h}",
        "t.yaml:1:26: storage.log_retention",
        "name deleted files",
    );
    contradicts(
        "storage: {compact: {min_files: 100}}",
        "t.yaml:1:32: storage.compact.min_files",
        "larger than storage.compact.max_files",
    );
    contradicts(
        "admin: {query: 127.0.0.1:4317}",
        "t.yaml:1:16: admin.query",
        "the same port",
    );
    contradicts(
        "allow_insecure: on\nadmin: {query: '0.0.0.0:4317'}",
        "t.yaml:2:16: admin.query",
        "(127.0.0.1:4317) would need the same port",
    );
}

#[test]
fn limits_that_only_look_like_it() {
    check(
        "intake: {grpc: {listen: 127.0.0.1:0}, http: {listen: 127.0.0.1:0}}\nquery: {listen: 127.0.0.1:0}",
        &[],
    );
    check(
        "intake: {grpc: {listen: 127.0.0.1:4317}, http: {listen: 127.0.0.2:4317}}",
        &[],
    );
    check(
        "intake: {rate: {bytes_per_sec: off}}\nstorage: {intake_log: {budget: 256MiB}}",
        &[],
    );
    check("storage: {wal_dir: tailwater-data}", &[]);
    check("intake: {dedup: off, dedup_window: 10s}", &[]);
    // A broken value stands in for nothing: only it is reported.
    check(
        "intake: {body: 1, wire_body: x}",
        &[
            "t.yaml:1:16: intake.body: `1` is wrong: must be at least 1KiB",
            "t.yaml:1:30: intake.wire_body: `x` is wrong: expected a size such as 64MiB, 16MB or plain bytes",
        ],
    );
}

/// `key: value` as nested YAML below some lines of comment, and the line it is on.
fn nested(key: &str, value: &str) -> (String, usize) {
    let mut text = String::from("# one\n\n# three\n");
    let parts: Vec<&str> = key.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        text.push_str(&"  ".repeat(depth));
        text.push_str(part);
        text.push_str(if depth + 1 == parts.len() { ": " } else { ":\n" });
    }
    text.push_str(value);
    text.push('\n');
    (text, 3 + parts.len())
}

/// Setting `key` to `value` is refused, with the line and the key; by variable, with its name.
fn refused(setting: &Setting, value: &str) {
    let (text, line) = nested(&setting.key, value);
    let problems = load(&text).unwrap_err();
    let at_line = |origin: &Origin| matches!(origin, Origin::File { line: l, .. } if *l == line);
    assert!(
        problems.iter().any(|p| p.key == setting.key && at_line(&p.origin)),
        "{text}{problems}"
    );
    if !value.starts_with(['[', '{']) {
        let variable = setting.variable();
        let problems = load_with("", &[(&variable, value)], &[]).unwrap_err();
        assert!(
            problems
                .iter()
                .any(|p| p.key == setting.key && p.origin == Origin::Env(variable.clone())),
            "{problems}"
        );
    }
}

#[test]
fn every_key_mutated() {
    for setting in settings() {
        // Wrong types.
        refused(&setting, "{a: 1}");
        refused(&setting, "[1, 2]");
        // Nearly any text is a path, or a name.
        if !setting.kind.starts_with("path") && !setting.kind.contains("names") {
            refused(&setting, "sideways");
            refused(&setting, "-1");
        }
        // Out of range, on both sides.
        if let Some((min, _)) = setting.range {
            if !min.starts_with('0') {
                refused(&setting, if setting.kind == "share" { "0%" } else { "0" });
            }
            let above = match setting.kind.split(' ').next().unwrap() {
                "size" => "1025PiB",
                "duration" => "36501d",
                "number" => "4294967295",
                "share" => "101%",
                other => panic!("{}: no value above {other}", setting.key),
            };
            refused(&setting, above);
        }
        // A neighbour that does not exist, one letter off.
        let (text, line) = nested(&format!("{}x", setting.key), "1");
        let problems = load(&text).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems}");
        assert!(
            matches!(&problems[0].origin, Origin::File { line: l, .. } if *l == line),
            "{problems}"
        );
        assert_eq!(problems[0].nearest.as_deref(), Some(setting.key.as_str()), "{problems}");
        let problems = load_with("", &[(&format!("{}X", setting.variable()), "1")], &[]).unwrap_err();
        assert_eq!(problems[0].nearest, Some(setting.variable()), "{problems}");
        // And its own default is accepted, from every layer.
        let default = setting.default.unwrap();
        load(&nested(&setting.key, default).0).unwrap();
        load_with("", &[(&setting.variable(), default)], &[(&setting.key, default)]).unwrap();
    }
}

#[test]
fn keys_are_documented_and_variables_are_distinct() {
    let settings = settings();
    let variables: std::collections::BTreeSet<String> = settings.iter().map(Setting::variable).collect();
    assert_eq!(variables.len(), settings.len());
    for setting in catalogue() {
        assert!(
            setting.doc.ends_with('.') && setting.doc.len() > 8,
            "{}: {:?}",
            setting.key,
            setting.doc
        );
        assert!(!RESERVED_VARIABLES.contains(&setting.variable().as_str()));
    }
}

#[test]
fn variables_of_kubernetes_are_nobodys_mistake() {
    let env = [
        ("TAILWATER_SERVICE_HOST", "10.0.0.1"),
        ("TAILWATER_COLLECTOR_SERVICE_PORT", "4317"),
        ("TAILWATER_SERVICE_PORT_OTLP_GRPC", "4317"),
        ("TAILWATER_PORT", "tcp://10.0.0.1:4317"),
        ("TAILWATER_PORT_4317_TCP", "tcp://10.0.0.1:4317"),
        ("TAILWATER_PORT_4317_TCP_PROTO", "tcp"),
        ("TAILWATER_PORT_4317_TCP_PORT", "4317"),
        ("TAILWATER_PORT_4317_TCP_ADDR", "10.0.0.1"),
        ("TAILWATER_CONFIG", "/etc/tailwater.yaml"),
        ("TAILWATER_SUPERVISOR_FD", "3"),
    ];
    load_with("", &env, &[]).unwrap();
    check_with(
        "",
        &[("TAILWATER_EXPORT", "x")],
        &[],
        &["environment TAILWATER_EXPORT: no setting has this variable"],
    );
}

#[test]
fn printed_configuration_loads_again() {
    let text = "data: '/a path: with # signs'\nallow_insecure: true\nintake: {rate: {bytes_per_sec: off}, tenant_share: 33%}\n";
    let env = [
        ("TAILWATER_QUERY_LISTEN", "[::]:1"),
        ("TAILWATER_STORAGE_WAL_DIR", "null"),
    ];
    let config = load_with(text, &env, &[("storage.disk_reserve", "4MiB")]).unwrap();
    let page = print(&config);
    assert_eq!(load(&page).unwrap().values(), config.values(), "{page}");
    for line in [
        "data: \"/a path: with # signs\"  # from t.yaml:1:7",
        "  listen: \"[::]:1\"  # from environment TAILWATER_QUERY_LISTEN",
        "  disk_reserve: 4MiB  # from option storage.disk_reserve",
        "    # Longest wait of a row in the outbox.",
        "    interval: 30s",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

#[test]
fn examples_load() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::load(Some(&path), [], [("log.level", "info")]).unwrap_or_else(|e| panic!("{e}"));
        config
            .limits(Machine {
                memory_bytes: 32 << 30,
                cpus: 8,
                is_shared: true,
            })
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["minimal.yaml", "production.yaml", "tiny-disk.yaml"]);
}

#[test]
fn reference_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = reference();
    for setting in settings() {
        assert!(page.contains(&format!("| `{}` |", setting.key)), "{}", setting.key);
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == page,
        "docs/configuration.md is stale: UPDATE=1 cargo test -p tailwater-config reference"
    );
}

proptest! {
    /// Any damage to a configuration is a configuration or a list of problems with places in the text; never a panic.
    #[test]
    fn damaged_files(at in 0usize..20_000, cut in 0usize..40, put in "[-:#\"'\\[\\]{}&*!|> \n\ta-z0-9]{0,8}") {
        let page = print(&Config::of(&[]).unwrap());
        let near = |i: usize| (0..=i.min(page.len())).rev().find(|i| page.is_char_boundary(*i)).unwrap();
        let (from, to) = (near(at), near(at + cut));
        let text = format!("{}{put}{}", &page[..from], &page[to..]);
        if let Err(problems) = load(&text) {
            // A text that ends too early is a problem on the line behind it.
            let lines = text.lines().count() + 1;
            for problem in problems.iter() {
                let Origin::File { line, column, .. } = &problem.origin else { panic!("{problem}") };
                prop_assert!((1..=lines).contains(line) && *column >= 1, "{problem}");
            }
        }
    }
}
