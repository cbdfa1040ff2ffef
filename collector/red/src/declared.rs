//! What SLOs declare: keys that are always counted by themselves, and thresholds that are counted exactly.

use tailwater_model::red::RedKey;

/// A set of keys that an SLO names, and the latency thresholds it asks about. `None` is any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declared {
    /// Whose.
    pub tenant: Option<String>,
    /// `service.name`.
    pub service_name: Option<String>,
    /// `service.namespace`.
    pub service_namespace: Option<String>,
    /// `deployment.environment.name`.
    pub deployment_env: Option<String>,
    /// `cloud.region`.
    pub cloud_region: Option<String>,
    /// Span name.
    pub operation: Option<String>,
    /// `http.route`.
    pub http_route: Option<String>,
    /// Thresholds, ns.
    pub thresholds_ns: Vec<u64>,
}

impl Declared {
    fn fields(&self) -> [&Option<String>; 7] {
        [
            &self.tenant,
            &self.service_name,
            &self.service_namespace,
            &self.deployment_env,
            &self.cloud_region,
            &self.operation,
            &self.http_route,
        ]
    }

    fn names(&self, key: &RedKey) -> bool {
        let values = [
            &key.tenant,
            &key.service_name,
            &key.service_namespace,
            &key.deployment_env,
            &key.cloud_region,
            &key.operation,
            &key.http_route,
        ];
        let mut pairs = self.fields().into_iter().zip(values);
        pairs.all(|(wanted, value)| wanted.as_deref().is_none_or(|wanted| wanted == &**value))
    }
}

/// Which of the fields of [`Declared`] some declaration of a key names, in their order.
pub(crate) type Named = [bool; 7];

/// The declarations that hold for a key: the thresholds of all, ascending, and what they name together. `None` if there are none.
pub(crate) fn of(declared: &[Declared], key: &RedKey) -> Option<(Vec<u64>, Named)> {
    let mut found: Option<(Vec<u64>, Named)> = None;
    for one in declared.iter().filter(|one| one.names(key)) {
        let (thresholds, named) = found.get_or_insert_default();
        thresholds.extend(&one.thresholds_ns);
        for (named, field) in named.iter_mut().zip(one.fields()) {
            *named |= field.is_some();
        }
    }
    if let Some((thresholds, _)) = &mut found {
        thresholds.sort_unstable();
        thresholds.dedup();
    }
    found
}
