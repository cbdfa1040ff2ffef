//! The demo from its start to its last table: both sides are there, the budget holds, and it fits a terminal.

use crate::harness::run_ok;

#[test]
fn the_demo_shows_true_against_estimated_at_its_budget() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data_text = data.display().to_string();
    let ports = [
        "intake.grpc.listen",
        "intake.http.listen",
        "query.listen",
        "admin.collector",
        "admin.query",
        "admin.maintain",
    ];
    let ports: Vec<String> = ports.iter().map(|key| format!("{key}=127.0.0.1:0")).collect();
    // One slice before, one that counts, and what waits for its decision: no table but the last.
    let mut args = vec![
        "demo", "--for", "30s", "--every", "1h", "--budget", "10%", "--rate", "2000", "--data", &data_text,
    ];
    ports.iter().for_each(|port| args.extend(["--set", port]));
    let told = run_ok(&args);
    let (greeting, table) = told.split_once("All of it:").expect("a last table");
    let policy = data.join("demo-policy.yaml");
    assert!(greeting.contains(&policy.display().to_string()), "{told}");
    let policy = std::fs::read_to_string(policy).unwrap();
    assert!(policy.contains("spans_per_sec: 200}"), "{policy}");
    for line in table.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for service in ["cartservice", "checkoutservice", "frontend", "shippingservice"] {
        let line = table.lines().find(|line| line.starts_with(service));
        // Three figures, each with its interval; checkout and what it calls may have none kept.
        let cells = line.map_or(0, |line| {
            line.matches('[').count() + line.matches("nothing kept").count()
        });
        assert_eq!(cells, 3, "{service}: {table}");
    }
    let held = table
        .lines()
        .find(|line| line.starts_with("The interval holds"))
        .expect("how well it went");
    assert!(held.contains(" of "), "{held}");
    let spans = table
        .lines()
        .find(|line| line.starts_with("Spans: "))
        .expect("the account");
    let percent = spans
        .split_once("= ")
        .and_then(|(_, rest)| rest.split_once(" %"))
        .expect("a share")
        .0;
    let percent: f64 = percent.parse().expect("a number");
    assert!((5.0..=15.0).contains(&percent), "{spans}");
}
