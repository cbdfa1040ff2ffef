//! Bounds the number of different keys and services.
//!
//! A set remembers what it has seen in this hour of the record clock and in the one before, up to a limit; what is beyond is
//! folded. What was let in stays in as long as it is seen, so a key does not change sides within a slice. The state depends on the records
//! alone, not on when batches were cut; it goes into the checkpoint (rule P7) so that a replay decides as the first walk did.

use hashbrown::{HashMap, HashSet};
use xxhash_rust::xxh3::Xxh3Default;

/// Length of a generation, ns of the record clock.
const GENERATION_NS: u64 = 3600 * 1_000_000_000;

const VERSION: u8 = 1;

/// Not a state of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not the state of a guard of version 1")
    }
}

impl std::error::Error for Malformed {}

/// A stable hash of texts, each apart from the next.
pub(crate) fn hash<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> u64 {
    let mut hasher = Xxh3Default::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hasher.digest()
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Generations {
    current: HashSet<u64, ahash::RandomState>,
    /// Seen in the hour before, and not since.
    previous: HashSet<u64, ahash::RandomState>,
}

impl Generations {
    fn admits(&mut self, hash: u64, max: usize) -> bool {
        if self.current.contains(&hash) {
            return true;
        }
        let room = self.previous.remove(&hash) || self.current.len() + self.previous.len() < max;
        if room {
            self.current.insert(hash);
        }
        room
    }

    fn turn(&mut self) {
        self.previous = std::mem::take(&mut self.current);
    }

    fn is_empty(&self) -> bool {
        self.current.is_empty() && self.previous.is_empty()
    }
}

type Sets = HashMap<u64, Generations, ahash::RandomState>;

/// The guard. Names are hashes: two that collide would let one key too many in, nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Hour of the record clock.
    hour: u64,
    /// Services by tenant, keys by service.
    services: Sets,
    keys: Sets,
}

impl Guard {
    /// The clock is at `now_ns`. Answers whether a generation ended: whoever keeps verdicts must ask again.
    pub fn advance(&mut self, now_ns: u64) -> bool {
        let hour = now_ns / GENERATION_NS;
        // Records stand in about the order of time. Further back the clock was set, and nothing would turn until it has caught up.
        let turns = match self.hour.checked_sub(hour) {
            Some(0 | 1) => return false,
            Some(_) => 1,
            // After two hours of silence both generations are over.
            None => (hour - self.hour).min(2),
        };
        for _ in 0..turns {
            for sets in [&mut self.services, &mut self.keys] {
                sets.values_mut().for_each(Generations::turn);
                sets.retain(|_, set| !set.is_empty());
            }
        }
        self.hour = hour;
        true
    }

    /// Whether the tenant may have this service.
    pub fn service(&mut self, tenant: u64, service: u64, max: usize) -> bool {
        self.services.entry(tenant).or_default().admits(service, max)
    }

    /// Whether the service may have this key.
    pub fn key(&mut self, service: u64, key: u64, max: usize) -> bool {
        self.keys.entry(service).or_default().admits(key, max)
    }

    /// For the checkpoint: version, hour, then both maps, sorted, as little-endian u64s with counts before them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let mut put = |number: u64| out.extend_from_slice(&number.to_le_bytes());
        put(self.hour);
        for sets in [&self.services, &self.keys] {
            put(sets.len() as u64);
            let mut sets: Vec<_> = sets.iter().collect();
            sets.sort_unstable_by_key(|(name, _)| **name);
            for (name, set) in sets {
                put(*name);
                for hashes in [&set.current, &set.previous] {
                    put(hashes.len() as u64);
                    let mut hashes: Vec<u64> = hashes.iter().copied().collect();
                    hashes.sort_unstable();
                    hashes.into_iter().for_each(&mut put);
                }
            }
        }
        out
    }

    /// The state that was encoded.
    ///
    /// # Errors
    /// [`Malformed`] when it was not.
    pub fn decode(bytes: &[u8]) -> Result<Guard, Malformed> {
        let (version, mut rest) = bytes.split_first().ok_or(Malformed)?;
        if *version != VERSION {
            return Err(Malformed);
        }
        let mut take = || -> Result<u64, Malformed> {
            let (number, after) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
            rest = after;
            Ok(u64::from_le_bytes(*number))
        };
        let mut guard = Guard {
            hour: take()?,
            ..Guard::default()
        };
        for sets in [&mut guard.services, &mut guard.keys] {
            for _ in 0..take()? {
                let set = sets.entry(take()?).or_default();
                for hashes in [&mut set.current, &mut set.previous] {
                    for _ in 0..take()? {
                        hashes.insert(take()?);
                    }
                }
            }
        }
        if rest.is_empty() { Ok(guard) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_in_stays_in_while_it_is_seen() {
        let mut guard = Guard::default();
        assert!(guard.advance(5 * GENERATION_NS));
        assert!(!guard.advance(5 * GENERATION_NS + 1));
        assert!(guard.key(1, 10, 2) && guard.key(1, 11, 2));
        assert!(!guard.key(1, 12, 2), "full");
        assert!(guard.key(2, 12, 2), "another service");
        assert!(guard.key(1, 10, 2), "known");
        assert!(guard.advance(6 * GENERATION_NS));
        assert!(guard.key(1, 10, 2), "seen an hour ago");
        assert!(!guard.key(1, 12, 2), "11 still has its place");
        assert!(guard.advance(7 * GENERATION_NS));
        assert!(guard.key(1, 12, 2), "11 was not seen for an hour");
        assert!(!guard.key(1, 11, 2));
        assert!(guard.advance(9 * GENERATION_NS));
        assert!(guard.keys.is_empty());
        assert!(
            !guard.advance(8 * GENERATION_NS),
            "a clock that steps back changes nothing"
        );
        assert!(guard.key(1, 20, 1) && !guard.key(1, 21, 1));
        assert!(guard.advance(5 * GENERATION_NS), "set back by hours");
        assert!(guard.advance(6 * GENERATION_NS));
        assert!(guard.key(1, 21, 1), "20 has had its time");
    }

    #[test]
    fn it_survives_a_checkpoint() {
        let mut guard = Guard::default();
        guard.advance(GENERATION_NS);
        for at in 0..50 {
            guard.service(at % 3, at, 100);
            guard.key(at % 7, at, 100);
        }
        guard.advance(2 * GENERATION_NS);
        guard.key(3, 3, 100);
        let bytes = guard.encode();
        assert_eq!(Guard::decode(&bytes), Ok(guard.clone()));
        assert_eq!(Guard::decode(&bytes).unwrap().encode(), bytes);
        for cut in 0..bytes.len() {
            assert_eq!(Guard::decode(&bytes[..cut]), Err(Malformed), "{cut}");
        }
        assert_eq!(Guard::decode(&[2]), Err(Malformed));
    }

    #[test]
    fn texts_are_told_apart() {
        assert_ne!(hash([&b"ab"[..], b"c"]), hash([&b"a"[..], b"bc"]));
        assert_ne!(hash([&b"a"[..]]), hash([&b"a"[..], b""]));
    }
}
