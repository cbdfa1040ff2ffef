//! Prints a made-up report: `cargo run -p tailwater-slo --example report -- html > report.html`.

use tailwater_slo::{Format, render};

#[path = "../src/fixture.rs"]
#[allow(dead_code)]
mod fixture;

fn main() -> Result<(), String> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "text".into());
    let format = Format::parse(&name).ok_or_else(|| format!("no format `{name}`: text, json, md or html"))?;
    print!("{}", render(&fixture::sample(), format, false));
    Ok(())
}
