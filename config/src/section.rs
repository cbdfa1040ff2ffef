//! One definition per setting: the [`section!`](crate::section::section) macro makes the typed struct, its reader, its description
//! and its printer from one list of `/// sentence`, `name: Type = "default"`, `in "min" .. "max"`.
//!
//! Guarantees: a default is text and goes through the same parser as everything else; every value remembers where it came from;
//! reading never stops at the first problem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::problem::{Origin, Problem, nearest};
use crate::value::Value;
use crate::yaml;

/// What the macro notes about one field.
pub(crate) struct Meta {
    pub name: &'static str,
    pub doc: &'static [&'static str],
    /// `None` for a section.
    pub default: Option<&'static str>,
    /// Smallest and largest value, both allowed.
    pub range: Option<(&'static str, &'static str)>,
}

/// One line of the catalogue: a setting or a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Full key, as `intake.grpc.listen`.
    pub key: String,
    /// What to write: `size`, `duration`, words. Empty for a section.
    pub kind: String,
    /// The default as it would be written; `None` for a section.
    pub default: Option<&'static str>,
    /// Smallest and largest value, both allowed.
    pub range: Option<(&'static str, &'static str)>,
    /// What it does.
    pub doc: String,
    /// Never printed.
    pub secret: bool,
    pub(crate) nullable: bool,
}

impl Setting {
    /// The environment variable that sets it: `TAILWATER_INTAKE_GRPC_LISTEN`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!(
            "{}{}",
            crate::load::PREFIX,
            self.key.replace('.', "_").to_ascii_uppercase()
        )
    }
}

/// A setting or a section of them.
pub(crate) trait Field: Sized {
    fn read(meta: &Meta, key: &str, node: Option<&yaml::Node>, reader: &mut Reader<'_>) -> Self;
    fn describe(meta: &Meta, key: &str, out: &mut Vec<Setting>);
    /// The effective values by full key, in the order of the catalogue.
    fn show(&self, meta: &Meta, key: &str, out: &mut Vec<(String, String)>);
}

impl<V: Value> Field for V {
    fn read(meta: &Meta, key: &str, node: Option<&yaml::Node>, reader: &mut Reader<'_>) -> Self {
        reader.value(meta, key, node)
    }

    fn describe(meta: &Meta, key: &str, out: &mut Vec<Setting>) {
        out.push(Setting {
            key: key.into(),
            kind: V::kind(),
            default: meta.default,
            range: meta.range,
            doc: sentence(meta.doc),
            secret: V::SECRET,
            nullable: V::NULLABLE,
        });
    }

    fn show(&self, _: &Meta, key: &str, out: &mut Vec<(String, String)>) {
        out.push((key.into(), Value::show(self)));
    }
}

/// Doc lines as one sentence.
pub(crate) fn sentence(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// `parent.name`, or `name` at the top.
pub(crate) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.into()
    } else {
        format!("{parent}.{name}")
    }
}

/// Reads values from the three layers, and collects where they came from and what is wrong with them.
pub(crate) struct Reader<'a> {
    /// The file's name, for messages.
    pub file: Arc<PathBuf>,
    /// Values from the environment: variable name and text, by key.
    pub env: &'a BTreeMap<String, (String, String)>,
    /// Values from the caller, by key.
    pub overrides: &'a BTreeMap<String, String>,
    /// Every key there is, sections included.
    pub catalogue: &'a [Setting],
    pub problems: Vec<Problem>,
    pub origins: BTreeMap<String, Origin>,
    /// Keys whose value is a stand-in, because what was given is wrong.
    pub broken: BTreeSet<String>,
}

impl Reader<'_> {
    pub fn at(&self, at: yaml::At) -> Origin {
        Origin::File {
            path: self.file.clone(),
            line: at.line,
            column: at.column,
        }
    }

    pub fn complain(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.broken.insert(key.into());
        self.problems.push(Problem {
            origin,
            key: key.into(),
            message: message.into(),
            nearest: None,
        });
    }

    /// The entries of a section. Unknown keys in it are problems.
    pub fn section<'n>(&mut self, key: &str, node: Option<&'n yaml::Node>, known: &[&str]) -> &'n [yaml::Entry] {
        let Some(node) = node else { return &[] };
        if node.is_null() {
            return &[];
        }
        let yaml::Value::Map(entries) = &node.value else {
            let what = if key.is_empty() {
                "expected settings, one `key: value` per line"
            } else {
                "expected a section with keys below it"
            };
            self.complain(self.at(node.at), key, what);
            return &[];
        };
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let full = join(key, &entry.key);
                let nearest = self.meant(key, &entry.key, known);
                let origin = self.at(entry.at);
                self.problems.push(Problem {
                    origin,
                    key: full,
                    message: "unknown key".into(),
                    nearest,
                });
            }
        }
        entries
    }

    /// What an unknown key in a section was meant to be: a neighbour, else a key elsewhere that ends like it, else something close
    /// anywhere.
    fn meant(&self, section: &str, name: &str, known: &[&str]) -> Option<String> {
        if let Some(near) = nearest(name, known.iter().copied()) {
            return Some(join(section, near));
        }
        let tail = format!("_{}", name.replace('.', "_"));
        let elsewhere = self
            .catalogue
            .iter()
            .find(|s| format!("_{}", s.key.replace('.', "_")).ends_with(&tail));
        elsewhere
            .map(|s| s.key.clone())
            .or_else(|| self.nearest_key(&join(section, name)))
    }

    /// The setting (not a section) closest to a full key, an underscore counting as a dot.
    pub fn nearest_key(&self, full: &str) -> Option<String> {
        let flat = |key: &str| key.replace('.', "_");
        let settings: Vec<(String, &str)> = self
            .catalogue
            .iter()
            .filter(|s| s.default.is_some())
            .map(|s| (flat(&s.key), s.key.as_str()))
            .collect();
        let near = nearest(&flat(full), settings.iter().map(|(flat, _)| flat.as_str()))?;
        settings
            .iter()
            .find(|(flat, _)| flat == near)
            .map(|(_, key)| (*key).to_owned())
    }

    /// One value: the caller's pair wins over the environment, which wins over the file, which wins over the default. All
    /// that are given are checked, so that taking one away uncovers no surprise.
    fn value<V: Value>(&mut self, meta: &Meta, key: &str, node: Option<&yaml::Node>) -> V {
        let mut found = None;
        if let Some(node) = node {
            let origin = self.at(node.at);
            match &node.value {
                _ if node.is_null() && !V::NULLABLE => self.complain(origin, key, "has no value"),
                yaml::Value::Scalar { .. } if node.is_null() => self.take(meta, key, "null", origin, &mut found),
                yaml::Value::Scalar { text, .. } => self.take(meta, key, text, origin, &mut found),
                _ => self.complain(
                    origin,
                    key,
                    format!("expected one value ({}), not a section or a list", V::kind()),
                ),
            }
        }
        if let Some((name, text)) = self.env.get(key).cloned() {
            self.take(meta, key, &text, Origin::Env(name), &mut found);
        }
        if let Some(text) = self.overrides.get(key).cloned() {
            self.take(meta, key, &text, Origin::Override(key.into()), &mut found);
        }
        found.unwrap_or_else(|| {
            let default = meta.default.expect("every setting has a default");
            V::parse(default).unwrap_or_else(|e| panic!("the default of {key} is wrong: {e}"))
        })
    }

    fn take<V: Value>(&mut self, meta: &Meta, key: &str, text: &str, origin: Origin, found: &mut Option<V>) {
        match V::parse(text).and_then(|value| in_range(meta, value)) {
            Ok(value) => {
                *found = Some(value);
                self.origins.insert(key.into(), origin);
            }
            Err(message) if V::SECRET => self.complain(origin, key, message),
            Err(message) => self.complain(origin, key, format!("`{}` is wrong: {message}", clip(text))),
        }
    }
}

/// Enough of a wrong value to recognise it.
fn clip(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(60)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(60).is_some() {
        short.push_str("...");
    }
    short
}

fn in_range<V: Value>(meta: &Meta, value: V) -> Result<V, String> {
    let (Some((min, max)), Some(magnitude)) = (meta.range, value.magnitude()) else {
        return Ok(value);
    };
    let bound = |text: &str| {
        V::parse(text)
            .ok()
            .and_then(|v| v.magnitude())
            .expect("a range is written in its own type")
    };
    if magnitude < bound(min) {
        Err(format!("must be at least {min}"))
    } else if magnitude > bound(max) {
        Err(format!("must be at most {max}"))
    } else {
        Ok(value)
    }
}

/// Defines a section. Fields are `/// sentence` and `name: Type = "default" in "min" .. "max"`, or `name: Section`.
macro_rules! section {
    ($(#[doc = $doc:literal])+ pub struct $name:ident {
        $($(#[doc = $fdoc:literal])+ $field:ident : $ty:ty $(= $default:literal $(in $min:literal .. $max:literal)?)?,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $fdoc])+ $(#[doc = concat!("\n\nDefault: `", $default, "`.")])? pub $field: $ty,)+
        }

        impl $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];
            const METAS: &'static [$crate::section::Meta] = &[$($crate::section::Meta {
                name: stringify!($field),
                doc: &[$($fdoc),+],
                default: $crate::section::optional!($($default)?),
                range: $crate::section::optional!($($(($min, $max))?)?),
            }),+];
        }

        impl $crate::section::Field for $name {
            fn read(_: &$crate::section::Meta, key: &str, node: Option<&$crate::yaml::Node>, reader: &mut $crate::section::Reader<'_>) -> Self {
                let entries = reader.section(key, node, Self::NAMES);
                let mut metas = Self::METAS.iter();
                let mut next = || {
                    let meta = metas.next().expect("one meta per field");
                    let node = entries.iter().find(|e| e.key == meta.name).map(|e| &e.node);
                    (meta, $crate::section::join(key, meta.name), node)
                };
                // Struct fields are evaluated in the order written, which is the order of METAS.
                Self { $($field: { let (meta, key, node) = next(); <$ty as $crate::section::Field>::read(meta, &key, node, reader) }),+ }
            }

            fn describe(meta: &$crate::section::Meta, key: &str, out: &mut Vec<$crate::section::Setting>) {
                if !key.is_empty() {
                    out.push($crate::section::Setting {
                        key: key.into(), kind: String::new(), default: None, range: None,
                        doc: $crate::section::sentence(meta.doc), secret: false, nullable: true,
                    });
                }
                let mut metas = Self::METAS.iter();
                $({
                    let meta = metas.next().expect("one meta per field");
                    <$ty as $crate::section::Field>::describe(meta, &$crate::section::join(key, stringify!($field)), out);
                })+
            }

            fn show(&self, _: &$crate::section::Meta, key: &str, out: &mut Vec<(String, String)>) {
                let mut metas = Self::METAS.iter();
                $({
                    let meta = metas.next().expect("one meta per field");
                    $crate::section::Field::show(&self.$field, meta, &$crate::section::join(key, stringify!($field)), out);
                })+
            }
        }
    };
}
pub(crate) use section;

/// `Some(x)`, or `None` for nothing.
macro_rules! optional {
    () => { None };
    ($($x:tt)+) => { Some($($x)+) };
}
pub(crate) use optional;
