//! From a request's head to the tenant it belongs to, with that tenant's limits.
//!
//! Guarantees: there are no more tenants than the file of tokens has ever named; a change of their limits counts from the next request on, and
//! takes nothing away that is held.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use parking_lot::RwLock;
use tailwater_config::access::Quotas;
use tailwater_config::settings::{Query, Rate};
use tailwater_runtime::Access;
use tailwater_runtime::access::{Denied, Role};

use crate::admit::Tenant;

/// By name, with the generation of the file that its limits are from.
type Known = HashMap<Arc<str>, (u64, Arc<Tenant>)>;

/// All tenants that have sent something.
#[derive(Debug)]
pub struct Tenants {
    access: Arc<Access>,
    /// Bytes of memory of each.
    share: u64,
    rate: Rate,
    query: Query,
    known: RwLock<Known>,
}

impl Tenants {
    /// Nobody has sent anything yet. Each may hold `share` bytes of memory; its limits are the settings' unless the file of tokens has others.
    pub fn new(access: Arc<Access>, share: u64, rate: Rate, query: Query) -> Tenants {
        Tenants {
            access,
            share,
            rate,
            query,
            known: RwLock::default(),
        }
    }

    /// The tenant of the token in a request's head.
    ///
    /// # Errors
    /// [`Denied`] without a good token of role `ingest`.
    pub fn of(&self, headers: &HeaderMap, listener: &'static str) -> Result<Arc<Tenant>, Denied> {
        let principal = self.access.ask(headers, Role::Ingest, listener)?;
        Ok(self.named(&principal.tenant))
    }

    fn named(&self, name: &Arc<str>) -> Arc<Tenant> {
        let generation = self.access.generation();
        if let Some((of, tenant)) = self.known.read().get(name)
            && *of == generation
        {
            return tenant.clone();
        }
        let quotas = Quotas::of(&self.rate, &self.query, self.access.overrides(name).as_ref());
        let mut known = self.known.write();
        let tenant = match known.get(name) {
            Some((_, tenant)) if *tenant.quotas() == quotas => tenant.clone(),
            Some((_, tenant)) => Arc::new(tenant.changed(quotas)),
            None => Arc::new(Tenant::new(name, self.share, quotas)),
        };
        known.insert(name.clone(), (generation, tenant.clone()));
        tenant
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::{HeaderValue, header};
    use tailwater_config::Config;
    use tailwater_runtime::Metrics;
    use tailwater_runtime::access::{hash, hex};

    #[test]
    fn limits_follow_the_file_and_what_is_held_stays_held() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = |name: &str, tenant: &str| {
            let sha256 = hex(&hash(name.as_bytes()));
            format!("token {name} tenant={tenant} roles=ingest sha256={sha256}\n")
        };
        let tokens = token("tw_a", "a") + &token("tw_b", "b");
        std::fs::write(
            file.path(),
            format!("{tokens}tenant a points_per_sec=5 points_burst=5\n"),
        )
        .unwrap();
        let access = Access::of(Some(file.path().into()), &Metrics::new()).unwrap();
        let config = Config::of(&[]).unwrap();
        let tenants = Tenants::new(access.clone(), 100, config.intake.rate.clone(), config.query.clone());
        let of = |token: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::AUTHORIZATION,
                HeaderValue::from_str(&format!("Bearer {token}")).unwrap(),
            );
            tenants.of(&headers, "test")
        };
        let (a, b) = (of("tw_a").unwrap(), of("tw_b").unwrap());
        assert_eq!((&*a.name, &*b.name), ("a", "b"));
        assert!(!Arc::ptr_eq(&a.memory, &b.memory));
        assert!(
            Arc::ptr_eq(&a, &of("tw_a").unwrap()),
            "the same bucket for the next request"
        );
        assert_eq!(of("tw_c").unwrap_err(), Denied::Unknown);
        a.take_points(5).unwrap();
        assert!(
            a.take_points(1).is_err() && b.take_points(1).is_ok(),
            "b has not a's limit"
        );

        std::fs::write(file.path(), format!("{tokens}tenant b points_per_sec=5\n")).unwrap();
        assert!(access.reload().unwrap());
        let (later, b_later) = (of("tw_a").unwrap(), of("tw_b").unwrap());
        assert!(later.take_points(1_000_000).is_ok());
        assert_eq!(b_later.quotas().points, Some((5, 200_000)));
        assert!(
            Arc::ptr_eq(&a.memory, &later.memory),
            "what requests hold is still counted"
        );
    }
}
