//! Resources and scopes: decoded once, then referred to by index. A row's columns are filled from the index at the end.

use arrow::array::ArrayRef;
use hashbrown::HashMap;

use super::attrs::TextMaps;
use super::build::{self, Batch};
use super::dict::{Dict, NONE};
use super::keys::{Keys, Slot};
use crate::otlp::caps::Caps;
use crate::otlp::envelope::{self, Origin};
use crate::otlp::judge;
use crate::otlp::reject::Reason;
use crate::otlp::text::Tally;
use crate::otlp::value::Any;
use crate::otlp::wire::Wire;
use crate::table::promote;

/// Column names, one per different column of [`promote::RESOURCE`], in its order.
const WORDS: [&str; 11] = [
    "service_name",
    "service_namespace",
    "service_version",
    "service_instance_id",
    "deployment_env",
    "host_name",
    "k8s_cluster",
    "k8s_namespace",
    "k8s_pod",
    "k8s_container",
    "cloud_region",
];

#[derive(Debug, Clone, Copy)]
struct Resource {
    words: [i32; WORDS.len()],
    attrs: (u32, u32),
    schema_url: i32,
    rejected: Option<Reason>,
    hash: u64,
    /// What was changed, counted again each time the resource is seen.
    tally: Tally,
}

#[derive(Debug, Clone, Copy)]
struct Scope {
    name: i32,
    version: i32,
    attrs: (u32, u32),
    schema_url: i32,
    rejected: Option<Reason>,
    hash: u64,
    tally: Tally,
}

/// The resources and scopes of a batch.
#[derive(Debug)]
pub(super) struct Origins {
    resource_keys: Keys,
    scope_keys: Keys,
    resources: Vec<Resource>,
    scopes: Vec<Scope>,
    resource_of: HashMap<Box<[u8]>, u32, ahash::RandomState>,
    scope_of: HashMap<Box<[u8]>, u32, ahash::RandomState>,
    identity: Vec<u8>,
    words: [Dict; WORDS.len()],
    resource_attrs: TextMaps,
    resource_urls: Dict,
    scope_names: Dict,
    scope_versions: Dict,
    scope_attrs: TextMaps,
    scope_urls: Dict,
}

/// The arrays that other tables of the same batch need as well.
pub(super) struct OriginStrings {
    words: Vec<ArrayRef>,
    resource_keys: ArrayRef,
    resource_values: ArrayRef,
    resource_urls: ArrayRef,
    scope_keys: ArrayRef,
    scope_names: ArrayRef,
    scope_versions: ArrayRef,
    scope_values: ArrayRef,
    scope_urls: ArrayRef,
}

impl OriginStrings {
    /// Strings of column `service_name`.
    pub(super) fn services(&self) -> &ArrayRef {
        &self.words[0]
    }
}

impl Origins {
    pub(super) fn new() -> Origins {
        let slot = |column: &str| {
            Slot::Word(
                WORDS
                    .iter()
                    .position(|word| *word == column)
                    .expect("every promoted resource column is listed") as u8,
            )
        };
        Origins {
            resource_keys: Keys::new(
                promote::RESOURCE
                    .iter()
                    .map(|promotion| (promotion.key, slot(promotion.column)))
                    .collect(),
            ),
            scope_keys: Keys::new(Vec::new()),
            resources: Vec::new(),
            scopes: Vec::new(),
            resource_of: HashMap::default(),
            scope_of: HashMap::default(),
            identity: Vec::new(),
            words: std::array::from_fn(|_| Dict::default()),
            resource_attrs: TextMaps::default(),
            resource_urls: Dict::default(),
            scope_names: Dict::default(),
            scope_versions: Dict::default(),
            scope_attrs: TextMaps::default(),
            scope_urls: Dict::default(),
        }
    }

    fn identify(&mut self, origin: &Origin<'_>) -> bool {
        self.identity.clear();
        let Some(message) = origin.identity() else { return false };
        self.identity.extend_from_slice(&(message.len() as u64).to_le_bytes());
        self.identity.extend_from_slice(message);
        self.identity.extend_from_slice(origin.schema_url);
        true
    }

    /// Index of a resource.
    pub(super) fn resource(&mut self, origin: &Origin<'_>, caps: &Caps, tally: &mut Tally) -> Wire<u32> {
        let known = self.identify(origin);
        if known && let Some(index) = self.resource_of.get(self.identity.as_slice()) {
            tally.add(self.resources[*index as usize].tally);
            return Ok(*index);
        }
        let mut own = Tally::default();
        let resource = self.read_resource(origin, caps, &mut own)?;
        tally.add(own);
        let index = self.resources.len() as u32;
        self.resources.push(Resource { tally: own, ..resource });
        if known {
            self.resource_of.insert(self.identity.as_slice().into(), index);
        }
        Ok(index)
    }

    fn read_resource(&mut self, origin: &Origin<'_>, caps: &Caps, tally: &mut Tally) -> Wire<Resource> {
        let from = self.resource_attrs.mark();
        let (mut words, mut depth, mut hash, mut count) = ([NONE; WORDS.len()], 1, 0u64, 0);
        let (keys, attrs, dicts) = (&mut self.resource_keys, &mut self.resource_attrs, &mut self.words);
        attrs.begin(keys);
        origin.resource_attributes(|pair| {
            let own = envelope::resource_depth(&pair)?;
            depth = depth.max(own);
            if own > caps.depth {
                return Ok(());
            }
            hash = hash.wrapping_add(pair_hash(pair.key, pair.raw));
            // Those with a column count too, as `inspect` counts them.
            count += 1;
            if count > caps.origin_attributes {
                tally.truncated += 1;
                return Ok(());
            }
            if let Any::Str(raw) = pair.value
                && let Some(promotion) = promote::RESOURCE
                    .iter()
                    .find(|promotion| promotion.key.as_bytes() == pair.key)
                && let Some(index) = WORDS.iter().position(|word| *word == promotion.column)
                && words[index] == NONE
            {
                // The key counts as seen, so that a repetition does not end up in the map.
                if keys.next(pair.key, caps.key_bytes, tally).is_some() {
                    words[index] = dicts[index].put(raw, caps.value_bytes, tally);
                }
                return Ok(());
            }
            attrs.push(keys, &pair, caps.origin_attributes, caps, tally).map(drop)
        })?;
        Ok(Resource {
            words,
            attrs: (from, self.resource_attrs.mark()),
            schema_url: self.resource_urls.put_some(origin.schema_url, caps.text_bytes, tally),
            rejected: judge::origin(origin.size(), depth, caps),
            hash,
            tally: Tally::default(),
        })
    }

    /// Index of a scope.
    pub(super) fn scope(&mut self, origin: &Origin<'_>, caps: &Caps, tally: &mut Tally) -> Wire<u32> {
        let known = self.identify(origin);
        if known && let Some(index) = self.scope_of.get(self.identity.as_slice()) {
            tally.add(self.scopes[*index as usize].tally);
            return Ok(*index);
        }
        let mut own = Tally::default();
        let scope = self.read_scope(origin, caps, &mut own)?;
        tally.add(own);
        let index = self.scopes.len() as u32;
        self.scopes.push(Scope { tally: own, ..scope });
        if known {
            self.scope_of.insert(self.identity.as_slice().into(), index);
        }
        Ok(index)
    }

    fn read_scope(&mut self, origin: &Origin<'_>, caps: &Caps, tally: &mut Tally) -> Wire<Scope> {
        let from = self.scope_attrs.mark();
        let (mut depth, mut hash) = (1, 0u64);
        let (keys, attrs) = (&mut self.scope_keys, &mut self.scope_attrs);
        attrs.begin(keys);
        let (name, version) = origin.scope_attributes(|pair| {
            let own = envelope::scope_depth(&pair)?;
            depth = depth.max(own);
            if own > caps.depth {
                return Ok(());
            }
            hash = hash.wrapping_add(pair_hash(pair.key, pair.raw));
            attrs.push(keys, &pair, caps.origin_attributes, caps, tally).map(drop)
        })?;
        Ok(Scope {
            name: self.scope_names.put_some(name, caps.text_bytes, tally),
            version: self.scope_versions.put_some(version, caps.text_bytes, tally),
            attrs: (from, self.scope_attrs.mark()),
            schema_url: self.scope_urls.put_some(origin.schema_url, caps.text_bytes, tally),
            rejected: judge::origin(origin.size(), depth, caps),
            hash: hash.wrapping_add(pair_hash(name, version)),
            tally: Tally::default(),
        })
    }

    /// What had to be changed in a scope.
    pub(super) fn scope_tally(&self, scope: u32) -> Tally {
        self.scopes[scope as usize].tally
    }

    /// Why all items of this resource and scope are rejected, if they are.
    pub(super) fn rejected(&self, resource: u32, scope: u32) -> Option<Reason> {
        self.resources[resource as usize]
            .rejected
            .or(self.scopes[scope as usize].rejected)
    }

    /// `service_name` of a resource, as an id of [`OriginStrings::services`].
    pub(super) fn service(&self, resource: u32) -> i32 {
        self.resources[resource as usize].words[0]
    }

    /// Hash of a resource's and a scope's identity: attributes, scope name and version, not the schema URLs.
    pub(super) fn hash(&self, resource: u32, scope: u32) -> u64 {
        self.resources[resource as usize].hash.rotate_left(1) ^ self.scopes[scope as usize].hash
    }

    /// Rank of each resource by service name, those without one first.
    pub(super) fn service_ranks(&self) -> Vec<u32> {
        let ranks = self.words[0].ranks();
        self.resources
            .iter()
            .map(|resource| usize::try_from(resource.words[0]).map_or(0, |id| ranks[id] + 1))
            .collect()
    }

    pub(super) fn bytes(&self) -> usize {
        let words: usize = self.words.iter().map(Dict::bytes).sum();
        words
            + self.resource_keys.bytes()
            + self.scope_keys.bytes()
            + self.resource_attrs.bytes()
            + self.scope_attrs.bytes()
    }

    /// Bytes that a row of this resource and scope takes.
    pub(super) fn row_bytes(&self, resource: u32, scope: u32) -> usize {
        let len = |(from, to): (u32, u32)| 8 * (to - from) as usize;
        4 * (WORDS.len() + 4)
            + 8
            + len(self.resources[resource as usize].attrs)
            + len(self.scopes[scope as usize].attrs)
    }

    /// The strings of all columns. Indexes stay valid until [`Origins::clear`].
    pub(super) fn take_strings(&mut self) -> OriginStrings {
        OriginStrings {
            words: self.words.iter_mut().map(Dict::take).collect(),
            resource_keys: self.resource_keys.take(),
            resource_values: self.resource_attrs.take_strings(),
            resource_urls: self.resource_urls.take(),
            scope_keys: self.scope_keys.take(),
            scope_names: self.scope_names.take(),
            scope_versions: self.scope_versions.take(),
            scope_values: self.scope_attrs.take_strings(),
            scope_urls: self.scope_urls.take(),
        }
    }

    /// As [`Origins::take_strings`]; everything stays for the next batch.
    pub(super) fn share_strings(&mut self) -> OriginStrings {
        OriginStrings {
            words: self.words.iter_mut().map(Dict::share).collect(),
            resource_keys: self.resource_keys.share(),
            resource_values: self.resource_attrs.share_strings(),
            resource_urls: self.resource_urls.share(),
            scope_keys: self.scope_keys.share(),
            scope_names: self.scope_names.share(),
            scope_versions: self.scope_versions.share(),
            scope_values: self.scope_attrs.share_strings(),
            scope_urls: self.scope_urls.share(),
        }
    }

    /// Sets the origin columns of a batch for rows with these (resource, scope).
    pub(super) fn set(
        &self,
        batch: &mut Batch,
        strings: &OriginStrings,
        rows: impl ExactSizeIterator<Item = (u32, u32)> + Clone,
    ) {
        let resource = |index: u32| &self.resources[index as usize];
        let scope = |index: u32| &self.scopes[index as usize];
        for (word, (name, column)) in WORDS.iter().zip(&strings.words).enumerate() {
            if self.resources.iter().any(|resource| resource.words[word] != NONE) {
                batch.set(
                    name,
                    build::words(column, rows.clone().map(|(index, _)| resource(index).words[word])),
                );
            }
        }
        let data_type = batch.data_type("resource_attrs");
        let attrs = rows.clone().map(|(index, _)| resource(index).attrs);
        batch.set(
            "resource_attrs",
            self.resource_attrs
                .array(&data_type, &strings.resource_keys, &strings.resource_values, attrs),
        );
        let attrs = rows.clone().map(|(_, index)| scope(index).attrs);
        batch.set(
            "scope_attrs",
            self.scope_attrs
                .array(&data_type, &strings.scope_keys, &strings.scope_values, attrs),
        );
        batch.set_words(
            "resource_schema_url",
            &strings.resource_urls,
            rows.clone().map(|(index, _)| resource(index).schema_url),
        );
        batch.set_words(
            "scope_name",
            &strings.scope_names,
            rows.clone().map(|(_, index)| scope(index).name),
        );
        batch.set_words(
            "scope_version",
            &strings.scope_versions,
            rows.clone().map(|(_, index)| scope(index).version),
        );
        batch.set_words(
            "scope_schema_url",
            &strings.scope_urls,
            rows.map(|(_, index)| scope(index).schema_url),
        );
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.resources.clear();
        self.scopes.clear();
        self.resource_of.clear();
        self.scope_of.clear();
        self.resource_attrs.clear();
        self.scope_attrs.clear();
        drop(self.take_strings());
    }
}

/// Hash of an attribute for `series_id`. Sums of these do not depend on the order of attributes. Stored: never change it.
pub(super) fn pair_hash(key: &[u8], value: &[u8]) -> u64 {
    let key = xxhash_rust::xxh3::xxh3_64(key);
    xxhash_rust::xxh3::xxh3_64_with_seed(value, key)
}
