//! Figures for metrics.

/// A snapshot of a log. Counters start at 0 when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live segments.
    pub segments: u64,
    /// Trimmed segments kept for reuse.
    pub free_segments: u64,
    /// Disk taken, preallocated room and free segments included.
    pub disk_bytes: u64,
    /// Most disk the log may take.
    pub budget_bytes: u64,
    /// First sequence number still on disk.
    pub first_seq: u64,
    /// Next sequence number.
    pub next_seq: u64,
    /// Largest durable sequence number.
    pub durable_seq: u64,
    /// Records waiting for the disk.
    pub queue_records: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// Most bytes that may wait.
    pub queue_bytes_max: u64,
    /// Records written.
    pub records: u64,
    /// Groups written.
    pub groups: u64,
    /// Bytes written, headers and padding included.
    pub bytes: u64,
    /// Syncs done.
    pub syncs: u64,
    /// Nanoseconds spent in them.
    pub sync_nanos: u64,
    /// The longest.
    pub sync_nanos_max: u64,
    /// Sync markers written.
    pub markers: u64,
    /// Appends refused because the queue was full.
    pub refused_queue: u64,
    /// Appends refused because of the budget.
    pub refused_budget: u64,
    /// Appends refused because of the reserve.
    pub refused_reserve: u64,
    /// Appends refused because the file system had no room.
    pub refused_disk: u64,
    /// Whether a write or sync failed.
    pub poisoned: bool,
}

impl Stats {
    /// Records accepted and not yet durable.
    pub fn lag(&self) -> u64 {
        self.next_seq.saturating_sub(1).saturating_sub(self.durable_seq)
    }
}
