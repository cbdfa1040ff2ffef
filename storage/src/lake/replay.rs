//! A table's whole state from its log: newest readable checkpoint, then every entry after it.
//!
//! delta-rs can replay a log too, but tells neither every `txn` nor survives a damaged checkpoint whose JSON entries are still
//! there. Protocol reader 1 knows one kind of checkpoint (one Parquet file, or numbered parts), which is read here as rows of
//! the same actions that JSON entries hold.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use deltalake_core::kernel::{Action, Add, Metadata, Protocol, Remove, Version};
use deltalake_core::logstore::LogStoreRef;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tracing::warn;

use crate::{Error, ErrorKind, Result};

/// Tag of an Add: how far compaction has come with the file.
pub(crate) const TAG_TIER: &str = "tailwater.tier";
/// Tag of an Add: `true` if the file's rows are sorted in the table's order.
pub(crate) const TAG_SORTED: &str = "tailwater.sorted";
/// Tag of an Add: CRC-32C of all bytes of the file, eight hex digits.
pub(crate) const TAG_CRC32C: &str = "tailwater.crc32c";

/// The state of a table.
#[derive(Debug, Default, Clone)]
pub(crate) struct Replay {
    pub version: Version,
    pub files: BTreeMap<String, Add>,
    /// Files removed and not yet forgotten by a checkpoint.
    pub removed: HashMap<String, Remove>,
    pub txns: HashMap<String, i64>,
    pub metadata: Option<Metadata>,
    pub protocol: Option<Protocol>,
}

impl Replay {
    /// Reads the log. `None` if there is no table.
    pub async fn load(log: &LogStoreRef) -> Result<Option<Replay>> {
        let store = log.object_store(None);
        let listing = Listing::read(store.as_ref()).await?;
        let Some(last) = listing.last() else { return Ok(None) };
        let mut state = None;
        let mut unreadable = None;
        for (version, parts) in listing.checkpoints.iter().rev() {
            match Replay::from_checkpoint(store.as_ref(), *version, parts).await {
                Ok(found) => {
                    state = Some(found);
                    break;
                }
                Err(error) => {
                    warn!(version, %error, "checkpoint is unreadable, trying an older one");
                    unreadable.get_or_insert(error);
                }
            }
        }
        let first = state.as_ref().map_or(0, |state| state.version + 1);
        let mut state = state.unwrap_or_default();
        for version in first..=last {
            match deltalake_core::logstore::read_commit_entry(store.as_ref(), version).await? {
                Some(entry) => {
                    actions(version, &entry)?
                        .into_iter()
                        .for_each(|action| state.apply(action));
                    state.version = version;
                }
                // What an unreadable checkpoint hid is the cause, a missing entry only the symptom.
                None => {
                    let missing =
                        || Error::new(ErrorKind::Damaged, format!("log entry {version} of {last} is missing"));
                    return Err(unreadable.unwrap_or_else(missing));
                }
            }
        }
        Ok(Some(state))
    }

    async fn from_checkpoint(store: &dyn ObjectStore, version: Version, parts: &[Path]) -> Result<Replay> {
        let mut state = Replay {
            version,
            ..Replay::default()
        };
        for part in parts {
            let bytes = store.get(part).await?.bytes().await?;
            let rows = checkpoint_actions(bytes)
                .map_err(|error| Error::caused(ErrorKind::Damaged, format!("checkpoint {part}"), error))?;
            rows.into_iter().for_each(|action| state.apply(action));
        }
        if state.metadata.is_none() || state.protocol.is_none() {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("checkpoint {version} has no metadata or protocol"),
            ));
        }
        Ok(state)
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Add(add) => {
                self.removed.remove(&add.path);
                self.files.insert(add.path.clone(), add);
            }
            Action::Remove(remove) => {
                self.files.remove(&remove.path);
                self.removed.insert(remove.path.clone(), remove);
            }
            Action::Txn(txn) => {
                self.txns.insert(txn.app_id, txn.version);
            }
            Action::Metadata(metadata) => self.metadata = Some(metadata),
            Action::Protocol(protocol) => self.protocol = Some(protocol),
            Action::Cdc(_) | Action::CommitInfo(_) | Action::DomainMetadata(_) => {}
        }
    }
}

/// Parses a log entry: one action a line.
pub(super) fn actions(version: Version, entry: &Bytes) -> Result<Vec<Action>> {
    let lines = entry
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty());
    let parsed: Result<Vec<Action>, serde_json::Error> = lines.map(serde_json::from_slice).collect();
    let parsed = parsed.map_err(|error| {
        Error::caused(
            ErrorKind::Damaged,
            format!("log entry _delta_log/{version:020}.json"),
            error,
        )
    })?;
    if parsed.is_empty() {
        return Err(Error::new(
            ErrorKind::Damaged,
            format!("log entry _delta_log/{version:020}.json is empty"),
        ));
    }
    Ok(parsed)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn checkpoint_actions(bytes: Bytes) -> Result<Vec<Action>, BoxError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let wanted = ["txn", "add", "remove", "metaData", "protocol"];
    let schema = builder.parquet_schema();
    let roots: Vec<usize> = (schema.root_schema().get_fields().iter().enumerate())
        .filter(|(_, field)| wanted.contains(&field.name()))
        .map(|(index, _)| index)
        .collect();
    let mask = ProjectionMask::roots(schema, roots);
    let mut lines = arrow::json::LineDelimitedWriter::new(Vec::new());
    for batch in builder.with_projection(mask).build()? {
        lines.write(&batch?)?;
    }
    lines.finish()?;
    let lines = lines.into_inner();
    let rows = lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && *line != b"{}");
    Ok(rows.map(serde_json::from_slice).collect::<Result<Vec<Action>, _>>()?)
}

/// What lies in `_delta_log`.
#[derive(Debug, Default)]
struct Listing {
    /// Complete checkpoints, with their parts in order.
    checkpoints: BTreeMap<Version, Vec<Path>>,
    last_entry: Option<Version>,
}

impl Listing {
    async fn read(store: &dyn ObjectStore) -> Result<Listing> {
        let objects: Vec<_> = store
            .list(Some(&Path::from("_delta_log")))
            .try_collect()
            .await
            .or_else(absent_is_empty)?;
        let mut listing = Listing::default();
        let mut parts: BTreeMap<(Version, u32), Vec<Path>> = BTreeMap::new();
        for object in objects {
            let Some(name) = object.location.filename() else {
                continue;
            };
            let mut words = name.split('.');
            let Some(version) = words
                .next()
                .filter(|word| word.len() == 20)
                .and_then(|word| word.parse().ok())
            else {
                continue;
            };
            match words.collect::<Vec<_>>().as_slice() {
                ["json"] => listing.last_entry = listing.last_entry.max(Some(version)),
                ["checkpoint", "parquet"] => {
                    listing.checkpoints.insert(version, vec![object.location]);
                }
                ["checkpoint", _, of, "parquet"] => {
                    let Ok(of) = of.parse() else { continue };
                    parts.entry((version, of)).or_default().push(object.location);
                }
                _ => {}
            }
        }
        for ((version, of), mut found) in parts {
            if found.len() == of as usize {
                found.sort();
                listing.checkpoints.entry(version).or_insert(found);
            }
        }
        Ok(listing)
    }

    fn last(&self) -> Option<Version> {
        self.last_entry.max(self.checkpoints.keys().next_back().copied())
    }
}

fn absent_is_empty(error: object_store::Error) -> object_store::Result<Vec<object_store::ObjectMeta>> {
    match error {
        object_store::Error::NotFound { .. } => Ok(Vec::new()),
        error => Err(error),
    }
}
