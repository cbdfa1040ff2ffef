//! Trace ids of one tenant told from another's: two may use the same, by accident or to learn of each other.

use tailwater_model::ids::TraceId;

/// Whose traces. The same in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own(u128);

/// Its traces keep their ids: logs from before there were tenants have no others.
const DEFAULT: &[u8] = b"default";

impl Own {
    /// Those of this tenant.
    pub fn of(tenant: &[u8]) -> Own {
        match tenant {
            DEFAULT => Own(0),
            _ => Own(xxhash_rust::xxh3::xxh3_64(tenant).into()),
        }
    }

    /// The id of a trace of the tenant's among all tenants' traces.
    pub fn trace(self, id: TraceId) -> TraceId {
        TraceId((u128::from_be_bytes(id.0) ^ self.0).to_be_bytes())
    }
}
