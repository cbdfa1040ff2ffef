//! The seed corpus of the fuzz targets: a few small requests per signal and encoding, and on stable the same checks over them.

use std::path::{Path, PathBuf};

use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use prost::Message;
use tailwater_model::signal::Signal;

use crate::{bend, check, generate};

/// Seeds per target.
const SEEDS: u64 = 6;
/// Larger requests make the fuzzer slow, and a commit large.
const BYTES_MAX: usize = 900;

fn corpus(signal: Signal, encoding: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(format!("{}_{encoding}", signal.name()))
}

/// Requests with at least one item, as protobuf and as JSON; the same in every run.
fn requests(signal: Signal) -> Vec<(Vec<u8>, String)> {
    fn draw<M: Message + std::fmt::Debug + serde::Serialize + 'static>(
        strategy: BoxedStrategy<M>,
    ) -> Vec<(Vec<u8>, String)> {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let fits =
            |bytes: &[u8], text: &str| bytes.len() > 150 && bytes.len() <= BYTES_MAX && text.len() <= 4 * BYTES_MAX;
        let mut drawn = Vec::new();
        while (drawn.len() as u64) < SEEDS {
            let request = strategy.new_tree(&mut runner).expect("a request").current();
            let (bytes, text) = (request.encode_to_vec(), serde_json::to_string(&request).expect("JSON"));
            if fits(&bytes, &text) {
                drawn.push((bytes, text));
            }
        }
        drawn
    }
    match signal {
        Signal::Traces => draw(generate::traces()),
        Signal::Metrics => draw(generate::metrics()),
        Signal::Logs => draw(generate::logs()),
    }
}

/// Writes the corpus when asked to, with `UPDATE_SEEDS=1`.
#[test]
fn seeds_can_be_written() {
    if std::env::var("UPDATE_SEEDS").as_deref() != Ok("1") {
        return;
    }
    for signal in Signal::ALL {
        for (encoding, pick) in [("pb", 0), ("json", 1)] {
            let folder = corpus(signal, encoding);
            std::fs::create_dir_all(&folder).unwrap();
            for (number, (bytes, text)) in requests(signal).into_iter().enumerate() {
                let content = match (pick, number % 2) {
                    (0, 0) => bytes,
                    // Every other one bent, so that the fuzzer starts with unknown fields and split messages as well.
                    (0, _) => bend::bend(signal, &bytes, number as u64),
                    _ => text.into_bytes(),
                };
                std::fs::write(folder.join(format!("seed-{number}")), content).unwrap();
            }
        }
    }
}

#[test]
fn the_seed_corpus_passes_what_the_fuzzer_checks() {
    for signal in Signal::ALL {
        for (encoding, target) in [("pb", check::pb as fn(Signal, &[u8])), ("json", check::json)] {
            let folder = corpus(signal, encoding);
            let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
                .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
                .map(|entry| entry.unwrap().path())
                .collect();
            files.sort();
            assert!(files.len() as u64 >= SEEDS, "{} has lost its seeds", folder.display());
            for file in files {
                // Shown by the test runner if the check panics.
                println!("{}", file.display());
                target(signal, &std::fs::read(&file).unwrap());
            }
        }
    }
}
