//! Documents by kind and name, and the way from a reference to what it names.

use std::collections::BTreeMap;

use tailwater_config::{Origin, Problem, nearest};

use crate::document::{
    AlertCondition, AlertNotificationTarget, AlertPolicy, DataSource, Document, Inline, Metadata, Object, Objective,
    Sli, Slo,
};
use crate::read::join;

/// All documents by kind and name.
pub(crate) struct Index<'d> {
    by_name: BTreeMap<(&'static str, &'d str), &'d Document>,
    /// What is there and cannot be used: whoever refers to it does nothing wrong.
    broken: &'d [(String, String)],
}

/// An object and where it stands: its document, and the path of its `spec`.
#[derive(Clone)]
pub(crate) struct Site<'d, T> {
    pub document: &'d Document,
    pub path: String,
    pub metadata: &'d Metadata,
    pub object: &'d T,
}

impl<'d, T> Site<'d, T> {
    /// `spec.key`
    pub fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    pub fn origin(&self, key: &str) -> Origin {
        self.document.places.find(&self.at(key))
    }

    pub fn wrong(&self, key: &str, message: impl Into<String>) -> Problem {
        wrong(self.document, &self.at(key), message, None)
    }

    /// The object that `inline` is or names. `key` is where it stands if it is here, `ref_key` if it is named.
    fn follow<U>(&self, index: &Index<'d>, inline: &'d Inline<U>, key: &str, ref_key: &str) -> Found<'d, U>
    where
        U: Kind,
    {
        match inline {
            Inline::Here(metadata, object) => Ok(Site {
                document: self.document,
                path: format!("{}.spec", self.at(key)),
                metadata,
                object,
            }),
            Inline::Ref(name) if index.is_broken(U::KIND, name) => Err(None),
            Inline::Ref(name) => index.get(name).ok_or_else(|| {
                let near = nearest(name, index.names(U::KIND)).map(str::to_owned);
                let message = match index.names(U::KIND).next() {
                    Some(_) => format!("no {} is named `{name}`", U::KIND),
                    None => format!("no {} is named `{name}`: there is none in what was read", U::KIND),
                };
                Some(Box::new(wrong(self.document, &self.at(ref_key), message, near)))
            }),
        }
    }
}

/// The object, or the problem with its reference; no problem if what it names is there and has problems of its own.
pub(crate) type Found<'d, T> = Result<Site<'d, T>, Option<Box<Problem>>>;

fn wrong(document: &Document, path: &str, message: impl Into<String>, near: Option<String>) -> Problem {
    Problem {
        origin: document.places.find(path),
        key: document.places.said(path),
        message: message.into(),
        nearest: near,
    }
}

/// A kind that can be referred to.
pub(crate) trait Kind: Sized {
    const KIND: &'static str;
    fn of(object: &Object) -> Option<&Self>;
}

macro_rules! kinds {
    ($($type:ident $kind:literal $variant:ident),+ $(,)?) => {$(
        impl Kind for $type {
            const KIND: &'static str = $kind;
            fn of(object: &Object) -> Option<&Self> {
                match object {
                    Object::$variant(found) => Some(found),
                    _ => None,
                }
            }
        }
    )+};
}

kinds! {
    DataSource "DataSource" DataSource,
    Sli "SLI" Sli,
    Slo "SLO" Slo,
    AlertPolicy "AlertPolicy" AlertPolicy,
    AlertCondition "AlertCondition" AlertCondition,
    AlertNotificationTarget "AlertNotificationTarget" AlertNotificationTarget,
}

impl<'d> Index<'d> {
    /// All documents, and a problem for each name that is taken.
    pub fn new(documents: &'d [Document], broken: &'d [(String, String)]) -> (Self, Vec<Problem>) {
        let mut by_name: BTreeMap<(&'static str, &'d str), &'d Document> = BTreeMap::new();
        let mut problems = Vec::new();
        for document in documents {
            let (kind, name) = (document.object.kind(), document.metadata.name.as_str());
            match by_name.get(&(kind, name)) {
                Some(first) => {
                    let first = first.places.find("metadata.name");
                    let message = format!("another {kind} is named `{name}`, at {first}: choose a name of its own");
                    problems.push(wrong(document, "metadata.name", message, None));
                }
                None => {
                    by_name.insert((kind, name), document);
                }
            }
        }
        (Self { by_name, broken }, problems)
    }

    pub fn is_broken(&self, kind: &str, name: &str) -> bool {
        self.broken.iter().any(|(k, n)| k == kind && n == name)
    }

    pub fn names(&self, kind: &'static str) -> impl Iterator<Item = &'d str> + use<'_, 'd> {
        self.by_name
            .keys()
            .filter(move |(found, _)| *found == kind)
            .map(|(_, name)| *name)
    }

    fn get<T: Kind>(&self, name: &str) -> Option<Site<'d, T>> {
        let (_, document) = self.by_name.get_key_value(&(T::KIND, name))?;
        site(document)
    }

    pub fn data_source(&self, name: &str) -> Option<&'d DataSource> {
        self.get::<DataSource>(name).map(|site| site.object)
    }
}

/// The document as an object of one kind; `None` if it is of another.
pub(crate) fn site<T: Kind>(document: &Document) -> Option<Site<'_, T>> {
    Some(Site {
        document,
        path: "spec".to_owned(),
        metadata: &document.metadata,
        object: T::of(&document.object)?,
    })
}

impl<'d> Site<'d, Slo> {
    /// Path of an objective below `spec`.
    pub fn objective(i: usize) -> String {
        format!("objectives[{i}]")
    }

    /// The SLI of an objective, its own or that of the SLO.
    pub fn sli(&self, index: &Index<'d>, i: usize, objective: &'d Objective) -> Option<Found<'d, Sli>> {
        let (inline, prefix) = match (&objective.indicator, &self.object.indicator) {
            (Some(own), _) => (own, format!("objectives[{i}].")),
            (None, Some(shared)) => (shared, String::new()),
            (None, None) => return None,
        };
        Some(self.follow(
            index,
            inline,
            &format!("{prefix}indicator"),
            &format!("{prefix}indicatorRef"),
        ))
    }

    pub fn policies(&self, index: &Index<'d>) -> Vec<Found<'d, AlertPolicy>> {
        let each = |(i, policy): (usize, &'d Inline<AlertPolicy>)| {
            let key = format!("alertPolicies[{i}]");
            self.follow(index, policy, &key, &format!("{key}.alertPolicyRef"))
        };
        self.object.alert_policies.iter().enumerate().map(each).collect()
    }
}

impl<'d> Site<'d, AlertPolicy> {
    pub fn condition(&self, index: &Index<'d>) -> Found<'d, AlertCondition> {
        self.follow(
            index,
            &self.object.condition,
            "conditions[0]",
            "conditions[0].conditionRef",
        )
    }

    pub fn targets(&self, index: &Index<'d>) -> Vec<Found<'d, AlertNotificationTarget>> {
        let each = |(i, target): (usize, &'d Inline<AlertNotificationTarget>)| {
            let key = format!("notificationTargets[{i}]");
            self.follow(index, target, &key, &format!("{key}.targetRef"))
        };
        self.object.notification_targets.iter().enumerate().map(each).collect()
    }
}
