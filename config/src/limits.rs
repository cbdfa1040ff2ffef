//! What depends on the machine: memory shares and the disk reserve, worked out once at start.
//!
//! Pure: the machine is an argument, so a test can be any machine.

use crate::load::Config;
use crate::problem::Problems;
use crate::units::Size;
use crate::value::Auto;

/// What the process may use. `tailwater_runtime::machine` finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Memory limit of the container, or the memory of the host, in bytes.
    pub memory_bytes: u64,
    /// Cores that may be used, at least 1.
    pub cpus: usize,
    /// Whether other roles run beside this one, as under `run`: sizes that follow the memory then follow half of it.
    pub is_shared: bool,
}

impl Machine {
    /// The memory that sizes follow, bytes.
    fn own_bytes(&self) -> u64 {
        if self.is_shared {
            self.memory_bytes / 2
        } else {
            self.memory_bytes
        }
    }
}

/// The settings that had to know the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `intake.memory`, bytes.
    pub intake_memory_bytes: u64,
    /// The part of it that one tenant may hold, bytes.
    pub tenant_memory_bytes: u64,
    /// `intake.body`, bytes: if nobody set it, lowered so that every such request fits the tenant's part when nothing else is there.
    pub body_bytes: u64,
    /// `intake.wire_body`, bytes: never above `body_bytes`.
    pub wire_body_bytes: u64,
    /// `query.memory`, bytes: lowered to half of the machine if nobody set it.
    pub query_memory_bytes: u64,
    /// `sampling.recent`, bytes: lowered to a sixteenth of the machine if nobody set it.
    pub recent_bytes: u64,
    /// What the policy's `trace.buffer_bytes` may be at the most: a quarter of the machine.
    pub waiting_bytes_max: u64,
    /// Accepted payload bytes that are in no durable batch yet.
    pub backlog_bytes: u64,
    /// `storage.batch.bytes`: lowered to a 128th of the machine if nobody set it.
    pub batch_bytes: u64,
    /// `storage.commit.bytes`: lowered to a 64th of the machine if nobody set it.
    pub commit_bytes: u64,
    /// `storage.compact.max_files`: if nobody set it, lowered to one for each 64 MiB of the machine. A file that is read for a merge takes 7 to 16 MiB.
    pub merge_files_max: usize,
    /// `storage.compact.target_file`: lowered to an eighth of the machine if nobody set it. A merge has a row group of what it writes in memory.
    pub merged_bytes: u64,
}

/// Memory of the machine for each file that is merged with others.
const MEMORY_PER_MERGED: u64 = 64 << 20;

/// Most that `intake.memory: auto` takes.
const INTAKE_MEMORY_AUTO_MAX: u64 = 2 << 30;

/// Most of [`Limits::backlog_bytes`].
const BACKLOG_MAX: u64 = 128 << 20;

/// A request takes up to so many times the size of its body while it is decoded: it stands there compressed and plain, or as JSON and as
/// protobuf, and what grows is copied.
const DECODING_PER_BODY: u64 = 3;

impl Config {
    /// Works out what depends on the machine.
    ///
    /// # Errors
    /// When a size that was set does not fit this machine, or a request of the largest size could never be admitted.
    pub fn limits(&self, machine: Machine) -> Result<Limits, Problems> {
        let mut problems = Vec::new();
        let own = machine.own_bytes();
        let total = Size::bytes_of(machine.memory_bytes);
        let intake_memory_bytes = match self.intake.memory {
            Auto::Auto => (own / 4).clamp(1 << 20, INTAKE_MEMORY_AUTO_MAX),
            Auto::Is(size) => size.bytes(),
        };
        if intake_memory_bytes > machine.memory_bytes {
            let size = Size::bytes_of(intake_memory_bytes);
            problems.push(self.conflict(
                &["intake.memory"],
                format!("{size} is more than the machine's or container's memory of {total}"),
            ));
        }
        // What nobody set is lowered to what there is room for.
        let lowered = |key: &str, says: u64, most: u64| if self.is_set(key) { says } else { says.min(most) };
        // What is sized for 4 GiB and more, so that all of it together fits where there is less.
        let part = |parts: u64| (own / parts).max(1 << 20);
        let tenant_memory_bytes = self.intake.tenant_share.of(intake_memory_bytes);
        let body_most = tenant_memory_bytes / DECODING_PER_BODY;
        let body_bytes = lowered("intake.body", self.intake.body.bytes(), body_most);
        let wire_body_bytes = lowered("intake.wire_body", self.intake.wire_body.bytes(), body_most).min(body_bytes);
        if body_bytes > tenant_memory_bytes {
            let share = Size::bytes_of(tenant_memory_bytes);
            problems.push(self.conflict(
                &["intake.tenant_share", "intake.memory", "intake.body"],
                format!(
                    "a request of intake.body ({}) could never be admitted: one tenant may hold {share}, intake.tenant_share ({}) of intake.memory ({}); \
                     lower intake.body or raise intake.memory",
                    self.intake.body,
                    self.intake.tenant_share,
                    Size::bytes_of(intake_memory_bytes),
                ),
            ));
        }
        let query_memory_bytes = lowered("query.memory", self.query.memory.bytes(), own / 2);
        if query_memory_bytes > machine.memory_bytes / 2 {
            let message = format!(
                "{} is more than half of the machine's or container's memory of {total}",
                self.query.memory
            );
            problems.push(self.conflict(&["query.memory"], message));
        }
        Problems::or(
            problems,
            Limits {
                intake_memory_bytes,
                tenant_memory_bytes,
                body_bytes,
                wire_body_bytes,
                query_memory_bytes,
                recent_bytes: lowered("sampling.recent", self.sampling.recent.bytes(), part(16)),
                waiting_bytes_max: own / 4,
                backlog_bytes: BACKLOG_MAX.min(own / 16).min(intake_memory_bytes),
                batch_bytes: lowered("storage.batch.bytes", self.storage.batch.bytes.bytes(), part(128)),
                commit_bytes: lowered("storage.commit.bytes", self.storage.commit.bytes.bytes(), part(64)),
                merge_files_max: lowered(
                    "storage.compact.max_files",
                    self.storage.compact.max_files.into(),
                    (own / MEMORY_PER_MERGED).max(2),
                ) as usize,
                merged_bytes: lowered(
                    "storage.compact.target_file",
                    self.storage.compact.target_file.bytes(),
                    part(8),
                ),
            },
        )
    }

    /// Bytes of a disk of `disk_bytes` that `storage.disk_reserve` keeps free.
    #[must_use]
    pub fn disk_reserve_bytes(&self, disk_bytes: u64) -> u64 {
        match self.storage.disk_reserve {
            Auto::Auto => (disk_bytes / 20).max(256 << 20),
            Auto::Is(size) => size.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GIB: u64 = 1 << 30;

    fn limits(memory_bytes: u64, pairs: &[(&str, &str)]) -> Result<Limits, Problems> {
        limits_of(memory_bytes, false, pairs)
    }

    fn limits_of(memory_bytes: u64, is_shared: bool, pairs: &[(&str, &str)]) -> Result<Limits, Problems> {
        Config::of(pairs).unwrap().limits(Machine {
            memory_bytes,
            cpus: 2,
            is_shared,
        })
    }

    #[test]
    fn follow_the_machine() {
        let big = limits(64 * GIB, &[]).unwrap();
        assert_eq!(
            (big.intake_memory_bytes, big.tenant_memory_bytes, big.query_memory_bytes),
            (2 * GIB, GIB, GIB)
        );
        assert_eq!((big.body_bytes, big.wire_body_bytes), (64 << 20, 16 << 20));
        let small = limits(GIB / 4, &[]).unwrap();
        assert_eq!(
            (
                small.intake_memory_bytes,
                small.tenant_memory_bytes,
                small.query_memory_bytes
            ),
            (64 << 20, 32 << 20, 128 << 20)
        );
        assert_eq!(
            (small.body_bytes, small.wire_body_bytes),
            ((32 << 20) / 3, (32 << 20) / 3)
        );
        let tiny = limits(16 << 20, &[]).unwrap();
        assert_eq!((tiny.body_bytes, tiny.wire_body_bytes), ((2 << 20) / 3, (2 << 20) / 3));
    }

    #[test]
    fn what_waits_in_the_collector_follows_the_machine() {
        let of = |memory_bytes, pairs: &[(&str, &str)]| {
            let limits = limits(memory_bytes, pairs).unwrap();
            let sizes = [
                limits.recent_bytes,
                limits.waiting_bytes_max,
                limits.backlog_bytes,
                limits.batch_bytes,
                limits.commit_bytes,
            ];
            sizes.map(|bytes| bytes >> 20)
        };
        assert_eq!(of(24 * GIB, &[]), [256, 6144, 128, 8, 64]);
        assert_eq!(of(4 * GIB, &[]), [256, 1024, 128, 8, 64]);
        assert_eq!(of(GIB / 2, &[]), [32, 128, 32, 4, 8]);
        assert_eq!(of(16 << 20, &[]), [1, 4, 1, 1, 1]);
        let set = [
            ("sampling.recent", "100MiB"),
            ("storage.batch.bytes", "7MiB"),
            ("storage.commit.bytes", "50MiB"),
        ];
        assert_eq!(of(GIB / 2, &set), [100, 128, 32, 7, 50]);
    }

    #[test]
    fn merges_follow_the_machine() {
        let of = |memory_bytes, pairs: &[(&str, &str)]| {
            let limits = limits(memory_bytes, pairs).unwrap();
            (limits.merge_files_max, limits.merged_bytes >> 20)
        };
        assert_eq!(of(24 * GIB, &[]), (64, 128));
        assert_eq!(of(GIB, &[]), (16, 128));
        assert_eq!(of(GIB / 4, &[]), (4, 32));
        assert_eq!(of(16 << 20, &[]), (2, 2));
        let set = [
            ("storage.compact.max_files", "50"),
            ("storage.compact.target_file", "100MiB"),
        ];
        assert_eq!(of(GIB / 4, &set), (50, 100));
    }

    #[test]
    fn roles_that_share_the_memory_follow_half_of_it() {
        let shared = |memory_bytes, pairs: &[_]| limits_of(memory_bytes, true, pairs);
        for mib in [16, 256, 512, 1024, 4096, 65_536] {
            assert_eq!(
                shared(2 * (mib << 20), &[]).unwrap(),
                limits(mib << 20, &[]).unwrap(),
                "{mib} MiB"
            );
        }
        // What was set is as good as it is for a role alone.
        let set = [("query.memory", "500MiB"), ("intake.memory", "900MiB")];
        let found = shared(GIB, &set).unwrap();
        assert_eq!(
            (found.query_memory_bytes, found.intake_memory_bytes),
            (500 << 20, 900 << 20)
        );
        let error = shared(GIB, &[("query.memory", "600MiB")]).unwrap_err().to_string();
        assert!(error.contains("more than half"), "{error}");
    }

    #[test]
    fn a_body_that_nobody_set_fits_while_it_is_decoded() {
        for mib in [16, 256, 512, 1000, 1536, 2048, 65_536] {
            let limits = limits(mib << 20, &[]).unwrap();
            assert!(
                limits.wire_body_bytes + 2 * limits.body_bytes <= limits.tenant_memory_bytes,
                "{mib} MiB"
            );
        }
        // Without need it is not lowered.
        assert_eq!(limits(1536 << 20, &[]).unwrap().body_bytes, 64 << 20);
    }

    #[test]
    fn what_was_set_is_not_bent() {
        let check = |pairs: &[(&str, &str)], words: &str| {
            let error = limits(GIB, pairs).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check(
            &[("intake.memory", "2GiB")],
            "intake.memory: 2GiB is more than the machine's or container's memory of 1GiB",
        );
        check(&[("query.memory", "600MiB")], "query.memory: 600MiB is more than half");
        check(
            &[
                ("intake.body", "256MiB"),
                ("storage.intake_log.segment", "1GiB"),
                ("storage.outbox.segment", "1GiB"),
            ],
            "could never be admitted",
        );
        assert_eq!(
            limits(GIB, &[("intake.memory", "64MiB"), ("intake.body", "32MiB")])
                .unwrap()
                .body_bytes,
            32 << 20
        );
    }

    #[test]
    fn disk_reserve() {
        assert_eq!(Config::of(&[]).unwrap().disk_reserve_bytes(GIB), 256 << 20);
        assert_eq!(Config::of(&[]).unwrap().disk_reserve_bytes(100 * GIB), 5 * GIB);
        assert_eq!(
            Config::of(&[("storage.disk_reserve", "4MiB")])
                .unwrap()
                .disk_reserve_bytes(GIB),
            4 << 20
        );
    }
}
