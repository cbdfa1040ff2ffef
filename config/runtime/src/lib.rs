//! What every role shares: logs, the metrics registry, admin endpoints, signals and drain.
