//! Trace ids of one tenant told from another's: two may use the same, by accident or to learn of each other.

use siphasher::sip128::{Hasher128, SipHasher13};
use tailwater_model::ids::TraceId;

/// Whose traces. The same in every process that has the same key.
#[derive(Debug, Clone, Copy)]
pub struct Own(Option<SipHasher13>);

/// Its traces keep their ids: logs from before there were tenants have no others.
const DEFAULT: &[u8] = b"default";

impl Own {
    /// Those of this tenant. `key` must be known to no tenant: with it one could find ids that are taken for another's.
    pub fn of(key: &[u8; 16], tenant: &[u8]) -> Own {
        use std::hash::Hasher;
        Own((tenant != DEFAULT).then(|| {
            let mut hasher = SipHasher13::new_with_key(key);
            hasher.write(&(tenant.len() as u64).to_le_bytes());
            hasher.write(tenant);
            hasher
        }))
    }

    /// The id of a trace of the tenant's among all tenants' traces.
    pub fn trace(self, id: TraceId) -> TraceId {
        use std::hash::Hasher;
        match self.0 {
            None => id,
            Some(mut hasher) => {
                hasher.write(&id.0);
                TraceId(hasher.finish128().as_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_tenants_say_nothing_of_each_other() {
        let id = |key: u8, tenant: &str, id: u8| Own::of(&[key; 16], tenant.as_bytes()).trace(TraceId([id; 16])).0;
        assert_eq!(id(1, "default", 7), [7; 16]);
        assert_eq!(id(1, "shop", 7), id(1, "shop", 7));
        assert_ne!(id(1, "shop", 7), id(2, "shop", 7), "another key");
        assert_ne!(id(1, "shop", 7), id(1, "shop", 8));
        assert_ne!(id(1, "shop", 7), id(1, "bank", 7));
        // What tells two ids of a tenant apart must not do so for another tenant.
        let apart = |tenant: &str| u128::from_be_bytes(id(1, tenant, 7)) ^ u128::from_be_bytes(id(1, tenant, 8));
        assert_ne!(apart("shop"), apart("bank"));
    }
}
