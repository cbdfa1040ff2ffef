//! The rules of the protocol, broken one by one, so that the checker can show that it notices.

use tailwater_journal::Reasons;
use tailwater_journal::checkpoint::Checkpoint;
use tailwater_journal::settlement::{Settlement, ShardMark, Writer};
use tailwater_model::ids::Lsn;

/// A rule broken on purpose: the checker must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// RED and ledger count every replayed item, not only those above A.
    CountAgain,
    /// A restart forgets up to where a trace was settled.
    ThroughForgotten,
    /// A decision taken during a replay claims all of A.
    ThroughIsComplete,
    /// A restart forgets what was decided.
    DecisionsForgotten,
    /// A restart replays what lies below low as if it could be pending.
    LowForgotten,
    /// Outbox segments go once the tables have them, checkpoint or not.
    OutboxTrimmedByVersions,
    /// Intake segments go once the running process needs them no more, checkpoint or not.
    IntakeTrimmedByRunningLow,
    /// The next LSN follows from the log alone.
    LsnReused,
    /// The reply does not wait for the sync.
    AckBeforeSync,
    /// Records are handed on before they are durable.
    EffectBeforeDurable,
    /// The checkpoint does not wait for its batch.
    CheckpointAheadOfOutbox,
    /// A digest counts as done when its record is appended.
    DigestDoneAtAppend,
    /// Replay rejects by today's limits.
    RejectedAnew,
    /// A commit of unknown outcome is simply done again.
    DoubtfulCommitAgain,
}

impl Bug {
    pub const ALL: [Bug; 14] = [
        Bug::CountAgain,
        Bug::ThroughForgotten,
        Bug::ThroughIsComplete,
        Bug::DecisionsForgotten,
        Bug::LowForgotten,
        Bug::OutboxTrimmedByVersions,
        Bug::IntakeTrimmedByRunningLow,
        Bug::LsnReused,
        Bug::AckBeforeSync,
        Bug::EffectBeforeDurable,
        Bug::CheckpointAheadOfOutbox,
        Bug::DigestDoneAtAppend,
        Bug::RejectedAnew,
        Bug::DoubtfulCommitAgain,
    ];
}

impl Bug {
    /// Beginnings of what the checker says when it notices this bug for what it is.
    pub fn symptoms(self) -> &'static [&'static str] {
        match self {
            Bug::CountAgain => &["ledger of", "metric_dists:", "ledger:"],
            Bug::ThroughForgotten | Bug::LowForgotten => &["span outcomes:", "ledger of"],
            Bug::ThroughIsComplete | Bug::EffectBeforeDurable => &["span outcomes:", "ledger of"],
            Bug::DecisionsForgotten => &["span outcomes:", "a decision flips:"],
            Bug::OutboxTrimmedByVersions => &["span outcomes:", "a trimmed batch is needed:", "outbox batch"],
            Bug::IntakeTrimmedByRunningLow => &["span outcomes:", "stored twice:", "ledger of", "a reply promised"],
            Bug::LsnReused => &["LSN used twice:"],
            Bug::AckBeforeSync => &["acknowledged and gone:"],
            Bug::CheckpointAheadOfOutbox => &["span outcomes:"],
            Bug::DigestDoneAtAppend => &["a reply promised"],
            Bug::RejectedAnew => &["span outcomes:", "logs:", "metric_points:"],
            Bug::DoubtfulCommitAgain => &["spans:", "logs:", "metric_points:", "metric_dists:", "ledger:", "parts"],
        }
    }
}

/// What a broken restart makes of a checkpoint.
pub fn break_checkpoint(bug: Option<Bug>, checkpoint: &mut Checkpoint) {
    match bug {
        Some(Bug::ThroughForgotten) => checkpoint
            .decisions
            .iter_mut()
            .flatten()
            .for_each(|trace| trace.through = Lsn(0)),
        Some(Bug::DecisionsForgotten) => checkpoint.decisions.iter_mut().for_each(Vec::clear),
        Some(Bug::LowForgotten) => checkpoint.shards.iter_mut().for_each(|shard| shard.low = Lsn(1)),
        _ => {}
    }
}

/// What a broken restart makes of a settlement.
pub fn break_settlement(bug: Option<Bug>, bytes: &[u8], reasons: &Reasons) -> Vec<u8> {
    if !matches!(
        bug,
        Some(Bug::ThroughForgotten | Bug::ThroughIsComplete | Bug::DecisionsForgotten | Bug::LowForgotten)
    ) {
        return bytes.to_vec();
    }
    let settlement = Settlement::decode(bytes, reasons).expect("it was written a moment ago");
    let mut writer = Writer::new(settlement.at_ns, settlement.tables, Lsn(0));
    for mark in &settlement.shards {
        let through = match bug {
            Some(Bug::ThroughForgotten) => Lsn(0),
            Some(Bug::ThroughIsComplete) => mark.complete,
            _ => mark.through,
        };
        let low = if bug == Some(Bug::LowForgotten) {
            Lsn(1)
        } else {
            mark.low
        };
        writer.shard(ShardMark { through, low, ..*mark });
        for touch in settlement.touches.iter().filter(|touch| touch.shard == mark.shard) {
            if bug != Some(Bug::DecisionsForgotten) {
                let policy = &settlement.policies[touch.policy as usize];
                writer.trace(touch.trace, touch.threshold, touch.policy, || policy.clone());
            }
        }
    }
    writer.finish(&settlement.ledger)
}
