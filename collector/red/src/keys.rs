//! From a span's bytes to the key that it counts under, without allocating for a key seen before.
//!
//! ```text
//!   service, version, ... of the resource --(same bytes as the span before?)--> origin
//!   origin + name, route, kind, codes, error type, dimensions --hash, compare--> key
//! ```
//! What stands on the left are the bytes as sent; several of them may lead to one key, because texts are cleaned and the guard
//! folds. The left side is forgotten when it grows too large, and when the guard turns; keys live until the next drain.

use std::sync::Arc;

use hashbrown::{HashMap, HashTable};
use tailwater_model::otlp::peek::SpanPeek;
use tailwater_model::otlp::text::{self, Tally};
use tailwater_model::otlp::value::{Any, Raw};
use tailwater_model::red::{OTHER, RedKey};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::aggregator::Settings;
use crate::cells::{Recent, no_thresholds};
use crate::declared::{self, Named};
use crate::guard::{Guard, hash};
use crate::rules::{Class, Seen};
use crate::span::Values;

/// Spans told apart by their bytes that are remembered, by a print each: what is sent has no bound that would do here.
const RAW_MAX: usize = 1 << 18;
/// The same of resources.
const ORIGINS_MAX: usize = 1 << 15;
/// Longest text in a key, bytes; the rest is cut. Rows of `red` are many and repeat them.
const TEXT_MAX: usize = 256;

/// A key since the last turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyId(pub u32);

/// A key, and what is counted with it.
#[derive(Debug)]
pub(crate) struct Key {
    pub key: Arc<RedKey>,
    pub thresholds: Arc<[u64]>,
    /// Stands for keys beyond the limits.
    pub is_folded: bool,
    pub recent: Recent,
}

/// A service as edges name it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Party {
    pub tenant: Arc<str>,
    pub tenant_hash: u64,
    pub service: Arc<str>,
    pub namespace: Arc<str>,
}

/// One end of an edge.
#[derive(Debug)]
pub(crate) struct End {
    pub party: Arc<Party>,
    /// Whom a caller says it calls. Empty for servers.
    pub peer: Option<Arc<str>>,
}

/// What the spans of a resource share.
#[derive(Debug)]
pub(crate) struct Origin {
    party: Arc<Party>,
    /// It as a server.
    pub end: Arc<End>,
    service_hash: u64,
    is_admitted: bool,
    service_name: Arc<str>,
    service_namespace: Arc<str>,
    deployment_env: Arc<str>,
    cloud_region: Arc<str>,
    service_version: Arc<str>,
}

/// Addresses and lengths: equal ones in one request are equal bytes.
type Places = [(usize, usize); 5];

/// Stands for bytes as sent. With a seed of this process nobody can make two that are alike, and by accident there are none.
type Print = u128;

/// Tenant of the request being walked.
#[derive(Debug)]
struct Tenant {
    name: Arc<str>,
    hash: u64,
}

/// The interner.
#[derive(Debug)]
pub(crate) struct Interner {
    tenant: Tenant,
    last: Option<(Places, u32)>,
    origins: Vec<Origin>,
    origin_of: HashMap<Print, u32, ahash::RandomState>,
    raw: HashTable<(Print, KeyId)>,
    seed: u64,
    keys: Vec<Key>,
    key_of: HashMap<Arc<RedKey>, KeyId, ahash::RandomState>,
    parties: HashMap<Arc<Party>, (), ahash::RandomState>,
    callers: HashMap<Print, Arc<End>, ahash::RandomState>,
    scratch: Vec<u8>,
}

impl Interner {
    pub fn new() -> Interner {
        Interner {
            tenant: Tenant {
                name: "".into(),
                hash: 0,
            },
            last: None,
            origins: Vec::new(),
            origin_of: HashMap::default(),
            raw: HashTable::new(),
            seed: ahash::RandomState::new().hash_one(0),
            keys: Vec::new(),
            key_of: HashMap::default(),
            parties: HashMap::default(),
            callers: HashMap::default(),
            scratch: Vec::new(),
        }
    }

    /// A request begins: its bytes lie elsewhere.
    pub fn request(&mut self, tenant: &str) {
        self.last = None;
        if *self.tenant.name != *tenant {
            self.tenant = Tenant {
                name: tenant.into(),
                hash: hash([tenant.as_bytes()]),
            };
        }
    }

    /// The guard has turned: its verdicts are asked for again.
    pub fn turn(&mut self) {
        self.last = None;
        self.origins.clear();
        self.origin_of.clear();
        self.raw.clear();
        self.parties.clear();
        self.callers.clear();
    }

    /// Of what is in the scratch.
    #[inline]
    fn print(&self) -> Print {
        xxh3_128_with_seed(&self.scratch, self.seed)
    }

    /// Nobody names keys by their id any more.
    pub fn forget_keys(&mut self) {
        self.turn();
        self.keys.clear();
        self.key_of.clear();
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub fn key_mut(&mut self, id: KeyId) -> &mut Key {
        &mut self.keys[id.0 as usize]
    }

    pub fn origin(&self, at: u32) -> &Origin {
        &self.origins[at as usize]
    }

    /// The resource of a span.
    #[inline]
    pub fn origin_of(&mut self, span: &SpanPeek<'_, '_>, guard: &mut Guard, settings: &Settings) -> u32 {
        let values = Values(span.values);
        let texts = [
            span.service_name,
            span.service_namespace,
            values.deployment_env(),
            values.cloud_region(),
            values.service_version(),
        ];
        let places = texts.map(|text| (text.as_ptr() as usize, text.len()));
        match self.last {
            Some((last, origin)) if last == places => origin,
            _ => {
                let origin = self.find_origin(texts, guard, settings);
                self.last = Some((places, origin));
                origin
            }
        }
    }

    fn find_origin(&mut self, texts: [&[u8]; 5], guard: &mut Guard, settings: &Settings) -> u32 {
        self.scratch.clear();
        put(&mut self.scratch, self.tenant.name.as_bytes());
        texts.iter().for_each(|text| put(&mut self.scratch, text));
        let print = self.print();
        if let Some(origin) = self.origin_of.get(&print) {
            return *origin;
        }
        if self.origins.len() >= ORIGINS_MAX {
            self.turn();
        }
        let [
            service_name,
            service_namespace,
            deployment_env,
            cloud_region,
            service_version,
        ] = texts.map(clean);
        let tenant = &self.tenant;
        let service_hash = hash([
            tenant.name.as_bytes(),
            service_name.as_bytes(),
            service_namespace.as_bytes(),
        ]);
        let is_admitted = guard.service(tenant.hash, service_hash, settings.services_max);
        let party = Arc::new(Party {
            tenant: tenant.name.clone(),
            tenant_hash: tenant.hash,
            service: if is_admitted {
                service_name.clone()
            } else {
                OTHER.into()
            },
            namespace: if is_admitted {
                service_namespace.clone()
            } else {
                "".into()
            },
        });
        let party = match self.parties.get_key_value(&party) {
            Some((known, ())) => known.clone(),
            None => {
                self.parties.insert(party.clone(), ());
                party
            }
        };
        let origin = self.origins.len() as u32;
        self.origins.push(Origin {
            end: Arc::new(End {
                party: party.clone(),
                peer: None,
            }),
            party,
            service_hash,
            is_admitted,
            service_name,
            service_namespace,
            deployment_env,
            cloud_region,
            service_version,
        });
        self.origin_of.insert(print, origin);
        origin
    }

    /// The key of a span of `origin`.
    #[inline]
    pub fn key_of(
        &mut self,
        span: &SpanPeek<'_, '_>,
        seen: &Seen,
        (is_entry, is_error): (bool, bool),
        origin: u32,
        guard: &mut Guard,
        settings: &Settings,
    ) -> KeyId {
        let values = Values(span.values);
        let class = Class::of(seen);
        // An error that has no type of its own is told apart by its code.
        let (error_type, code) = match is_error {
            true => (values.error_type(), seen.http),
            false => (&b""[..], 0),
        };
        let (name, route) = (span.head.name, values.route());
        let scratch = &mut self.scratch;
        scratch.clear();
        // Numbers first, with the lengths of what follows: few copies cost less than many.
        let mut head = [0; 22];
        head[..4].copy_from_slice(&origin.to_le_bytes());
        head[4..8].copy_from_slice(&[kind(seen), u8::from(is_entry), u8::from(is_error), class.code()]);
        head[8..10].copy_from_slice(&code.to_le_bytes());
        for (place, text) in [name, route, error_type].into_iter().enumerate() {
            head[10 + 4 * place..14 + 4 * place].copy_from_slice(&(text.len() as u32).to_le_bytes());
        }
        scratch.extend_from_slice(&head);
        scratch.extend_from_slice(name);
        for text in [route, error_type] {
            if !text.is_empty() {
                scratch.extend_from_slice(text);
            }
        }
        values.dimensions().iter().for_each(|value| put_value(scratch, *value));
        let print = self.print();
        match self.raw.find(bucket(print), |(known, _)| *known == print) {
            Some((_, key)) => *key,
            None => self.new_raw(print, span, seen, (is_entry, is_error), origin, guard, settings),
        }
    }

    #[cold]
    #[allow(clippy::too_many_arguments)]
    fn new_raw(
        &mut self,
        print: Print,
        span: &SpanPeek<'_, '_>,
        seen: &Seen,
        (is_entry, is_error): (bool, bool),
        origin: u32,
        guard: &mut Guard,
        settings: &Settings,
    ) -> KeyId {
        let values = Values(span.values);
        let of = &self.origins[origin as usize];
        let class = Class::of(seen);
        let mut dims = Vec::new();
        for (name, value) in settings.dimensions.iter().zip(values.dimensions()) {
            if let Some(text) = value.map(Raw::any).and_then(shown) {
                dims.push((name.clone(), text));
            }
        }
        let key = RedKey {
            tenant: of.party.tenant.clone(),
            service_name: of.service_name.clone(),
            operation: clean(span.head.name),
            service_namespace: of.service_namespace.clone(),
            deployment_env: of.deployment_env.clone(),
            cloud_region: of.cloud_region.clone(),
            service_version: of.service_version.clone(),
            http_route: clean(values.route()),
            kind: kind(seen),
            is_entry,
            is_error,
            status_class: class.name().into(),
            error_type: error_type(seen, values, is_error),
            dims,
        };
        let admitted = admit(key, of, guard, settings);
        let id = self.known_key(admitted);
        if self.raw.len() >= RAW_MAX {
            self.raw.clear();
        }
        self.raw
            .insert_unique(bucket(print), (print, id), |(known, _)| bucket(*known));
        id
    }

    fn known_key(&mut self, admitted: Admitted) -> KeyId {
        let Admitted {
            key,
            thresholds,
            is_folded,
        } = admitted;
        if let Some(id) = self.key_of.get(&key) {
            return *id;
        }
        let id = KeyId(self.keys.len() as u32);
        let key = Arc::new(key);
        self.keys.push(Key {
            key: key.clone(),
            thresholds,
            is_folded,
            recent: Recent::default(),
        });
        self.key_of.insert(key, id);
        id
    }

    /// A span of `origin` as a caller of `peer`, whose names are bounded.
    pub fn caller(&mut self, peer: &[u8], origin: u32, guard: &mut Guard, settings: &Settings) -> Arc<End> {
        self.scratch.clear();
        self.scratch.extend_from_slice(&origin.to_le_bytes());
        self.scratch.extend_from_slice(peer);
        let print = self.print();
        if let Some(end) = self.callers.get(&print) {
            return end.clone();
        }
        if self.callers.len() >= ORIGINS_MAX {
            self.callers.clear();
        }
        let party = self.origins[origin as usize].party.clone();
        let peer = clean(peer);
        // Beside the keys of services, under a name that no service's hash has but by accident.
        let set = hash([b"peers", party.tenant.as_bytes()]);
        let peer = match peer.is_empty() || guard.key(set, hash([peer.as_bytes()]), settings.keys_max) {
            true => peer,
            false => OTHER.into(),
        };
        let end = Arc::new(End {
            party,
            peer: Some(peer),
        });
        self.callers.insert(print, end.clone());
        end
    }
}

fn bucket(print: Print) -> u64 {
    print as u64
}

/// The key under which the guard has a span counted, and the thresholds that SLOs ask of it.
struct Admitted {
    key: RedKey,
    thresholds: Arc<[u64]>,
    is_folded: bool,
}

fn admit(key: RedKey, origin: &Origin, guard: &mut Guard, settings: &Settings) -> Admitted {
    let declared = declared::of(&settings.declared, &key);
    let thresholds = match &declared {
        Some((thresholds, _)) if !thresholds.is_empty() => thresholds.as_slice().into(),
        _ => no_thresholds(),
    };
    let is_folded = !(origin.is_admitted && guard.key(origin.service_hash, hash_of(&key), settings.keys_max));
    let key = match is_folded {
        true => fold(key, origin.is_admitted, declared.map(|(_, named)| named)),
        false => key,
    };
    Admitted {
        key,
        thresholds,
        is_folded,
    }
}

/// What is left of a key beyond the limits: few values each, and whatever a declaration names, which is one value each.
fn fold(key: RedKey, is_admitted: bool, named: Option<Named>) -> RedKey {
    let none: Arc<str> = "".into();
    let [_, service, namespace, env, region, operation, route] = named.unwrap_or_default();
    let keep = |named: bool, text: Arc<str>| if named { text } else { none.clone() };
    RedKey {
        tenant: key.tenant,
        service_name: if service || is_admitted {
            key.service_name
        } else {
            OTHER.into()
        },
        operation: if operation { key.operation } else { OTHER.into() },
        service_namespace: keep(namespace || is_admitted, key.service_namespace),
        deployment_env: keep(env, key.deployment_env),
        cloud_region: keep(region, key.cloud_region),
        service_version: none.clone(),
        http_route: keep(route, key.http_route),
        kind: key.kind,
        is_entry: key.is_entry,
        is_error: key.is_error,
        status_class: key.status_class,
        error_type: none,
        dims: Vec::new(),
    }
}

/// The same for equal keys in every process.
fn hash_of(key: &RedKey) -> u64 {
    let numbers = [key.kind, u8::from(key.is_entry), u8::from(key.is_error)];
    let texts = [
        &key.operation,
        &key.deployment_env,
        &key.cloud_region,
        &key.service_version,
        &key.http_route,
        &key.status_class,
        &key.error_type,
    ];
    let dims = key.dims.iter().flat_map(|(name, value)| [name, value]);
    let texts = texts.into_iter().chain(dims).map(|text| text.as_bytes());
    hash(std::iter::once(&numbers[..]).chain(texts))
}

fn error_type(seen: &Seen, values: Values<'_, '_>, is_error: bool) -> Arc<str> {
    match (is_error, values.error_type(), seen.grpc) {
        (false, _, _) => "".into(),
        (true, b"", Some(code)) if code != crate::rules::Grpc::OK => code.name().into(),
        (true, b"", _) if seen.http >= 400 => seen.http.to_string().into(),
        (true, own, _) => clean(own),
    }
}

fn kind(seen: &Seen) -> u8 {
    u8::try_from(seen.kind).ok().filter(|kind| *kind <= 5).unwrap_or(0)
}

fn clean(raw: &[u8]) -> Arc<str> {
    let mut tally = Tally::default();
    let text = text::clean(raw, &mut tally);
    text::cut(&text, TEXT_MAX, &mut tally).into()
}

/// A dimension's value as text. Lists and bytes are none: nobody counts by them.
fn shown(value: Any<'_>) -> Option<Arc<str>> {
    match value {
        Any::Str(text) => Some(clean(text)).filter(|text| !text.is_empty()),
        Any::Bool(value) => Some(value.to_string().into()),
        Any::Int(value) => Some(value.to_string().into()),
        Any::Double(value) => Some(value.to_string().into()),
        Any::Empty | Any::Bytes(_) | Any::Array(_) | Any::Kvlist(_) => None,
    }
}

#[inline]
fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

fn put_value(out: &mut Vec<u8>, value: Option<Raw<'_>>) {
    if let Some(text) = value.and_then(Raw::text) {
        out.push(1);
        put(out, text);
        return;
    }
    match value.map(Raw::any) {
        Some(Any::Bool(value)) => out.extend_from_slice(&[2, u8::from(value)]),
        Some(Any::Int(value)) => {
            out.push(3);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Some(Any::Double(value)) => {
            out.push(4);
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        _ => out.push(0),
    }
}
