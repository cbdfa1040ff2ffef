//! The OTAP dataflow engine as a peer of `benches/peers/run`: an OTLP receiver feeding its Parquet exporter, on one core.
//!
//! Every setting of the two nodes that is not an address is the engine's default: the receiver answers once a request is in
//! the queue (`wait_for_result: false`), files are not compressed and are closed after 100 million rows or at shutdown.
//!
//! ```text
//! otap-peer --describe                                            what it is, what it promises, where its rows are: JSON
//! otap-peer --protocol http|grpc --listen HOST:PORT --data DIR    prints `ready HOST:PORT`; SIGTERM closes the files
//! ```

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use otel_arrow_dfe_config::engine::OtelDataflowSpec;
use otel_arrow_dfe_controller::{Controller, ControllerRunOptions, startup};
// Linked for the nodes it registers.
use otel_arrow_dfe_core_nodes as _;
use otel_arrow_dfe_otap::OTAP_PIPELINE_FACTORY;
use otel_arrow_dfe_otap::crypto::install_crypto_provider;
use serde_json::json;

/// The allocator of the engine's own binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "usage: otap-peer --describe | --protocol http|grpc --listen HOST:PORT --data DIR";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["--describe"] {
        println!("{}", describe());
        return ExitCode::SUCCESS;
    }
    let value = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).cloned()
    };
    let (Some(protocol), Some(listen), Some(data)) = (value("--protocol"), value("--listen"), value("--data")) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&protocol, &listen, &data) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("otap-peer: {error}");
            ExitCode::from(1)
        }
    }
}

fn describe() -> serde_json::Value {
    json!({
        "name": "OTAP dataflow engine 0.62.0, Parquet exporter",
        "ack": "once queued, before anything is written",
        "compression": "none",
        "layout": "normalised tables joined by ids, in order of arrival, no table format",
        "durable": "no fsync, no log: what is acked and not yet in a closed file is lost in a crash",
        "rows": {
            "traces": "spans/**/*.parquet",
            "logs": "logs/**/*.parquet",
        },
    })
}

/// Runs until SIGTERM.
fn run(protocol: &str, listen: &str, data: &str) -> Result<(), Box<dyn std::error::Error>> {
    let address = free(listen)?;
    let config = json!({
        "version": "otel_dataflow/v1",
        "engine": {},
        "groups": { "peer": { "pipelines": { "main": {
            "nodes": {
                "receiver": {
                    "type": "receiver:otlp",
                    "config": { "protocols": { protocol: { "listening_addr": address } } },
                },
                "exporter": {
                    "type": "exporter:parquet",
                    "config": { "storage": { "file": { "base_uri": data } } },
                },
            },
            "connections": [{ "from": "receiver", "to": "exporter" }],
        }}}},
    });
    install_crypto_provider()?;
    std::fs::create_dir_all(data)?;
    let mut spec = OtelDataflowSpec::from_json(&config.to_string())?;
    startup::apply_cli_overrides(&mut spec, Some(1), None, Some("127.0.0.1:0".into()));
    std::thread::spawn(move || announce(address));
    let options = ControllerRunOptions {
        handle_os_signals: true,
        ..ControllerRunOptions::default()
    };
    Ok(Controller::new(&OTAP_PIPELINE_FACTORY).run_forever_with_options(spec, options)?)
}

/// The engine does not tell which port it got for port 0, so one is chosen here.
fn free(listen: &str) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let address: SocketAddr = listen.parse()?;
    Ok(TcpListener::bind(address)?.local_addr()?)
}

/// Says that requests are accepted, as soon as they are.
fn announce(address: SocketAddr) {
    while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("ready {address}");
}
