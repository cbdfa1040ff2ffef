//! How much memory and how many cores this process may use: the container's limits where there are any, else the host's.

use std::fs;
use std::path::{Path, PathBuf};

use tailwater_config::Machine;

/// What a limit file says when there is no limit in cgroup v1: a number near 2^63, rounded to pages.
const V1_UNLIMITED: u64 = 1 << 60;

/// Looks at the machine.
#[must_use]
pub fn probe() -> Machine {
    Machine {
        memory_bytes: memory_bytes(Path::new("/")),
        // Takes affinity and the CPU quota of cgroups into account.
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        is_shared: false,
    }
}

/// The machine as a role sees it that `run` has started beside others.
#[must_use]
pub fn probe_shared() -> Machine {
    Machine {
        is_shared: true,
        ..probe()
    }
}

/// The smallest of the host's memory and every cgroup limit above this process, in bytes. `root` is `/`, or a test's copy of it.
fn memory_bytes(root: &Path) -> u64 {
    let host = host_bytes(root).unwrap_or(u64::MAX);
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (mount, file) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        smallest(&root.join(mount), Path::new(path.trim_start_matches('/')), file)
    });
    limits.min().map_or(host, |limit| limit.min(host))
}

/// The smallest limit of a group and all above it. Inside a container the path may be the host's; its own limit is then at the mount.
fn smallest(mount: &Path, group: &Path, file: &str) -> Option<u64> {
    let groups = group
        .ancestors()
        .filter(|g| !g.components().any(|c| c == std::path::Component::ParentDir));
    let files = groups.map(|g| mount.join(g).join(file)).chain([mount.join(file)]);
    files.filter_map(limit).min()
}

fn limit(file: PathBuf) -> Option<u64> {
    // `max` is not a number: no limit.
    let bytes = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (bytes < V1_UNLIMITED).then_some(bytes)
}

fn host_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(files: &[(&str, &str)], expect: u64) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files
            .iter()
            .chain(&[("proc/meminfo", "MemTotal:       24000000 kB\nMemFree: 1 kB\n")])
        {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(memory_bytes(root.path()), expect, "{files:?}");
    }

    #[test]
    fn limits() {
        let host = 24_000_000 * 1024;
        check(&[], host);
        check(
            &[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ],
            host,
        );
        check(
            &[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "536870912\n"),
            ],
            512 << 20,
        );
        check(
            &[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "536870912\n"),
                ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ],
            1_000_000,
        );
        // The path is the host's, the mount is the container's own.
        check(
            &[
                ("proc/self/cgroup", "0::/../../kubepods/x\n"),
                ("sys/fs/cgroup/memory.max", "1000000\n"),
            ],
            1_000_000,
        );
        check(
            &[
                ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/x\n"),
                ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "2000000\n"),
            ],
            2_000_000,
        );
        check(
            &[
                ("proc/self/cgroup", "4:memory:/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
            host,
        );
        check(&[("proc/self/cgroup", "nonsense\n0::\n")], host);
    }

    #[test]
    fn this_machine() {
        let machine = probe();
        assert!(machine.cpus >= 1);
        assert!(
            machine.memory_bytes > 16 << 20 && machine.memory_bytes < 1 << 50,
            "{machine:?}"
        );
    }
}
