//! Which files to merge. Pure.
//!
//! Files of a day fall into classes by size, each four times the one below. A class with enough files, or with enough bytes for a file
//! that is left alone afterwards, is merged into one of a higher class, so a row is rewritten about three times in its life. A day that is
//! over and quiet is merged whole, and once a day again when a few rows came late; more of them, sooner. The sizes aimed at grow with the
//! table ([`Policy::for_table`]), and with them days that were done are merged once more.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{DAY_MS, MIB, Policy};
use crate::lake::FileEntry;

/// Files that come to this part of the largest are worth rewriting it.
const WORTH_PART: u64 = 8;

/// Files to be merged into one, all of one date.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Their date, in days since 1970.
    pub date: i32,
    /// The files, oldest first.
    pub files: Vec<Arc<FileEntry>>,
}

impl Group {
    /// Bytes of its files: what merging them takes on the disk until they are unlinked.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Whether a file that much less came after is worth rewriting: it is not, again and again, for each late row of its day.
    fn is_worth(&self, now_ms: i64, policy: &Policy) -> bool {
        let largest = self.files.iter().max_by_key(|file| file.size);
        largest.is_some_and(|largest| {
            let others = self.bytes() - largest.size;
            others.saturating_mul(WORTH_PART) >= largest.size || largest.modified_ms + policy.rest_ms <= now_ms
        })
    }
}

/// The first group that so many free bytes are enough for, and how many wait for more.
pub(super) fn fitting(groups: Vec<Group>, room: u64) -> (Option<Group>, u64) {
    let (fits, waits): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| group.bytes() <= room);
    (fits.into_iter().next(), waits.len() as u64)
}

/// What is worth merging now, most urgent first. No file is in two groups.
pub fn plan(files: &[Arc<FileEntry>], now_ms: i64, policy: &Policy) -> Vec<Group> {
    let mut days: BTreeMap<i32, Vec<&Arc<FileEntry>>> = BTreeMap::new();
    for file in files {
        // Unsorted files are not ours: another engine wrote them, and merging needs sorted runs.
        if file.sorted && file.size < policy.large_bytes {
            days.entry(file.date).or_default().push(file);
        }
    }
    // Only what merging can make fewer counts: neither large files nor the last one of a day.
    let crowd: usize = days.values().map(|day| day.len() - 1).sum();
    let crowded = crowd > policy.crowded_files;
    let mut groups = Vec::new();
    for (date, mut day) in days {
        day.sort_by_key(|file| file.modified_ms);
        let newest = day.last().map_or(i64::MIN, |file| file.modified_ms);
        let over = i64::from(date) * DAY_MS + DAY_MS <= now_ms;
        let is_quiet = over && newest + policy.quiet_ms <= now_ms;
        if is_quiet || crowded {
            let mut whole = fill(date, &day, 2, policy);
            whole.retain(|group| crowded || group.is_worth(now_ms, policy));
            let merged = whole.iter().flat_map(|group| &group.files);
            let merged: HashSet<&str> = merged.map(|file| &*file.path).collect();
            day.retain(|file| !crowded && !merged.contains(&*file.path));
            groups.extend(whole);
        }
        let mut classes: BTreeMap<u32, Vec<&Arc<FileEntry>>> = BTreeMap::new();
        for file in day {
            classes.entry(class(file.size)).or_default().push(file);
        }
        for class in classes.values() {
            groups.extend(fill(date, class, policy.merge_files_min, policy));
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.files.len()));
    groups
}

/// Groups that together stay below the target size, of at least `min` files or so many bytes that the result is large.
fn fill(date: i32, files: &[&Arc<FileEntry>], min: usize, policy: &Policy) -> Vec<Group> {
    // Below `large_bytes` a file cut at the target could be merged again.
    let target = policy.target_bytes.max(policy.large_bytes);
    let mut groups = Vec::new();
    let mut group: Vec<Arc<FileEntry>> = Vec::new();
    let mut bytes = 0;
    let mut close = |group: &mut Vec<Arc<FileEntry>>, min: usize| {
        let files = std::mem::take(group);
        if files.len() >= min.max(2) {
            groups.push(Group { date, files });
        }
    };
    for file in files {
        let is_full = bytes + file.size > target;
        if group.len() >= policy.merge_files_max || is_full {
            // What is full will not become more files by waiting.
            close(&mut group, if is_full && bytes >= policy.large_bytes { 2 } else { min });
            bytes = 0;
        }
        bytes += file.size;
        group.push(Arc::clone(file));
    }
    close(&mut group, min);
    groups
}

/// 0 below 1 MiB, then one more for each factor of four.
fn class(size: u64) -> u32 {
    (size / MIB).checked_ilog(4).map_or(0, |log| log + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tailwater_model::table::Table;

    use super::*;
    use crate::lake::Tier;

    const NOW: i64 = 20_779 * DAY_MS + DAY_MS / 2;

    fn file(number: usize, size: u64, date: i32, age_ms: i64) -> Arc<FileEntry> {
        Arc::new(FileEntry {
            path: Arc::from(format!("f{number:04}")),
            size,
            rows: 1,
            date,
            modified_ms: NOW - age_ms,
            sorted: true,
            tier: Tier::Flushed,
            stats: Vec::new(),
            hours: None,
            crc32c: None,
        })
    }

    fn sizes(groups: &[Group]) -> Vec<usize> {
        groups.iter().map(|group| group.files.len()).collect()
    }

    #[test]
    fn today_waits_for_enough_of_one_size() {
        let policy = Policy::of(Table::Spans);
        let mut files: Vec<_> = (0..7).map(|n| file(n, 100 << 10, 20_779, 1000)).collect();
        files.extend((7..13).map(|n| file(n, 20 * MIB, 20_779, 1000)));
        assert!(plan(&files, NOW, &policy).is_empty());
        files.push(file(14, 300 << 10, 20_779, 0));
        assert_eq!(sizes(&plan(&files, NOW, &policy)), [8]);
    }

    #[test]
    fn today_does_not_wait_for_more_files_than_fit_into_one() {
        let policy = Policy::of(Table::Spans);
        let mut files: Vec<_> = (0..3).map(|n| file(n, 40 * MIB, 20_779, 1000)).collect();
        assert!(plan(&files, NOW, &policy).is_empty());
        files.push(file(3, 40 * MIB, 20_779, 0));
        assert_eq!(
            sizes(&plan(&files, NOW, &policy)),
            [3],
            "120 MiB of 128, and no room for the fourth"
        );
    }

    #[test]
    fn only_files_that_merging_makes_fewer_are_a_crowd() {
        let policy = Policy::of(Table::Spans);
        // Large ones, and one small one on each of many days.
        let mut files: Vec<_> = (0..2000).map(|n| file(n, 64 * MIB, 20_700, DAY_MS)).collect();
        files.extend((0..2000).map(|n| file(2000 + n, MIB, 18_000 + n as i32, DAY_MS)));
        files.extend((0..2).map(|n| file(4000 + n, MIB, 20_779, 0)));
        assert!(plan(&files, NOW, &policy).is_empty(), "two of today wait as ever");
        // Small ones of days that are not quiet yet.
        let crowd = (0..2400).map(|n| file(5000 + n, (4 * MIB) << (2 * (n % 2)), 20_400 + n as i32 / 8, 0));
        files.extend(crowd);
        assert_eq!(plan(&files, NOW, &policy).len(), 301);
    }

    #[test]
    fn a_day_that_is_over_and_quiet_is_merged_whole_but_large_files_are_left() {
        let policy = Policy::of(Table::Spans);
        let files = vec![
            file(0, 100 << 10, 20_778, DAY_MS),
            file(1, 20 * MIB, 20_778, DAY_MS),
            file(2, 64 * MIB, 20_778, DAY_MS),
            file(3, MIB, 20_777, DAY_MS),
        ];
        let groups = plan(&files, NOW, &policy);
        assert_eq!(
            groups,
            [Group {
                date: 20_778,
                files: files[..2].to_vec()
            }],
            "one file alone stays as it is"
        );
        let late: Vec<_> = files.iter().cloned().chain([file(4, 1000, 20_778, 60_000)]).collect();
        assert!(
            plan(&late, NOW, &policy).is_empty(),
            "a trickle of late rows does not rewrite the day each time"
        );
    }

    #[test]
    fn late_rows_are_worth_a_large_file_when_they_are_many_or_it_is_a_day_old() {
        let policy = Policy::of(Table::Spans);
        let check = |largest_mib: u64, age_ms: i64, late: &[u64], expected: &[usize]| {
            let mut files = vec![file(0, largest_mib * MIB, 20_770, age_ms)];
            let late = late.iter().enumerate();
            files.extend(late.map(|(n, kib)| file(n + 1, kib << 10, 20_770, policy.quiet_ms)));
            let groups = sizes(&plan(&files, NOW, &policy));
            assert_eq!(groups, expected, "{} files, {age_ms} ms", files.len());
        };
        let hour = DAY_MS / 24;
        check(40, hour, &[20], &[]);
        check(40, DAY_MS, &[20], &[2]);
        check(40, hour, &[5 << 10], &[2]);
        check(40, hour, &[1 << 10, 2 << 10, 2 << 10], &[4]);
        // Many small ones are merged among themselves.
        check(40, hour, &[20; 7], &[]);
        check(40, hour, &[20; 8], &[8]);
        check(0, hour, &[20, 30], &[3]);
    }

    /// A month of days that are over, each with a remainder, and a few rows for each of them every half hour.
    #[test]
    fn a_trickle_of_late_rows_rewrites_little() {
        let policy = Policy::of(Table::Spans);
        let days = 20_749..20_779;
        let remainder = 60 * MIB;
        let mut files: Vec<_> = days
            .clone()
            .map(|date| file(date as usize, remainder, date, 0))
            .collect();
        let (mut number, mut rewritten, mut most) = (100_000, 0, 0);
        let mut add = |files: &mut Vec<Arc<FileEntry>>, now: i64, date, size| {
            number += 1;
            files.push(Arc::new(FileEntry {
                modified_ms: now,
                ..(*file(number, size, date, 0)).clone()
            }));
        };
        for minute in 0..3 * 24 * 60 {
            let now = NOW + minute * 60_000;
            if minute % 30 == 0 {
                days.clone().for_each(|date| add(&mut files, now, date, 20 << 10));
            }
            while let Some(group) = plan(&files, now, &policy).into_iter().next() {
                files.retain(|file| !group.files.contains(file));
                rewritten += group.bytes();
                add(&mut files, now, group.date, group.bytes());
            }
            most = most.max(files.len());
        }
        // Once a day each, and the little ones.
        let least = days.len() as u64 * remainder;
        assert!(rewritten < 4 * least, "{} GiB rewritten", rewritten >> 30);
        assert!(most < 16 * days.len(), "{most} files");
    }

    #[test]
    fn a_group_without_room_waits_and_the_next_smaller_is_merged() {
        let group = |files: usize, mib: u64| Group {
            date: 20_770,
            files: (0..files).map(|n| file(n, mib * MIB, 20_770, DAY_MS)).collect(),
        };
        let groups = [group(8, 16), group(4, 20), group(2, 3)];
        let check = |room_mib: u64, expected: Option<usize>, waiting: u64| {
            let (fits, waits) = fitting(groups.to_vec(), room_mib * MIB);
            assert_eq!(
                (fits, waits),
                (expected.map(|at| groups[at].clone()), waiting),
                "{room_mib} MiB"
            );
        };
        check(1000, Some(0), 0);
        check(128, Some(0), 0);
        check(127, Some(1), 1);
        check(10, Some(2), 2);
        check(5, None, 3);
    }

    #[test]
    fn groups_stay_below_size_and_fan_in_and_share_no_file() {
        let policy = Policy::of(Table::Spans);
        let files: Vec<_> = (0..100).map(|n| file(n, 30 * MIB, 20_770, DAY_MS)).collect();
        let groups = plan(&files, NOW, &policy);
        let mut seen = std::collections::HashSet::new();
        for group in &groups {
            assert!(group.files.len() <= policy.merge_files_max);
            assert!(group.files.iter().map(|file| file.size).sum::<u64>() <= policy.target_bytes);
            assert!(group.files.iter().all(|file| seen.insert(file.path.clone())));
        }
        assert!(seen.len() >= 96);
    }

    #[test]
    fn foreign_files_are_never_merged() {
        let policy = Policy::of(Table::Spans);
        let files: Vec<_> = (0..20)
            .map(|n| {
                Arc::new(FileEntry {
                    sorted: false,
                    ..(*file(n, MIB, 20_770, DAY_MS)).clone()
                })
            })
            .collect();
        assert!(plan(&files, NOW, &policy).is_empty());
    }

    /// A table that comes to 1 TB in a month, and is kept at that size.
    #[test]
    fn a_table_of_any_size_stays_below_2000_files() {
        const FLUSHES: i64 = 96;
        const FLUSHED: u64 = 360 * MIB;
        let policy = Policy::of(Table::Spans);
        let (mut files, mut number, mut written, mut rewritten, mut most) = (Vec::new(), 0, 0, 0, 0);
        let mut add = |files: &mut Vec<Arc<FileEntry>>, now: i64, date, size| {
            number += 1;
            files.push(Arc::new(FileEntry {
                modified_ms: now,
                ..(*file(number, size, date, 0)).clone()
            }));
        };
        for flush in 0..45 * FLUSHES {
            let date = 20_700 + (flush / FLUSHES) as i32;
            let now = 20_700 * DAY_MS + flush * DAY_MS / FLUSHES;
            files.retain(|file: &Arc<FileEntry>| file.date > date - 30);
            for _ in 0..12 {
                add(&mut files, now, date, FLUSHED / 12);
            }
            written += FLUSHED;
            // As many as one run makes.
            for _ in 0..32 {
                let policy = policy.for_table(files.iter().map(|file| file.size).sum());
                let Some(group) = plan(&files, now, &policy).into_iter().next() else {
                    break;
                };
                let size: u64 = group.files.iter().map(|file| file.size).sum();
                files.retain(|file| !group.files.contains(file));
                add(&mut files, now, group.date, size);
                rewritten += size;
            }
            most = most.max(files.len());
        }
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        assert!(bytes > 1_000_000_000_000, "{bytes} bytes");
        assert!(most < 1200, "{most} files");
        assert!(rewritten < 4 * written, "{rewritten} bytes rewritten for {written}");
    }

    /// A commit every 30 s with one file, maintained after each: how many files and how often a row is rewritten.
    #[test]
    fn a_day_of_commits_stays_small_and_rewrites_little() {
        let policy = Policy::of(Table::Spans);
        let (mut files, mut number, mut rewritten, mut most) = (Vec::new(), 0, 0, 0);
        let flushed = 300 << 10;
        for commit in 0..2880 {
            let now = 20_779 * DAY_MS + commit * 30_000;
            let add = |number: &mut usize, size| {
                *number += 1;
                Arc::new(FileEntry {
                    modified_ms: now,
                    ..(*file(*number, size, 20_779, 0)).clone()
                })
            };
            files.push(add(&mut number, flushed));
            while let Some(group) = plan(&files, now, &policy).into_iter().next() {
                let size: u64 = group.files.iter().map(|file| file.size).sum();
                files.retain(|file| !group.files.contains(file));
                files.push(add(&mut number, size));
                rewritten += size;
            }
            most = most.max(files.len());
        }
        let written = 2880 * flushed;
        // Files of 128 MiB at most, as is configured: half as large as 256, and a few more.
        assert!(most < 64, "{most} files");
        assert!(rewritten < 4 * written, "{rewritten} bytes rewritten for {written}");
    }
}
