//! Every setting there is: its name, type, default, range and one sentence. The structs here are what the other crates read;
//! `docs/configuration.md` is generated from the same lines.
//!
//! Limits that must hold between settings are in `check`; what depends on the machine is in `limits`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::section::section;
use crate::units::{Percent, Size};
use crate::value::{Auto, Limit, Names, words};

section! {
    /// All settings.
    pub struct Settings {
        /// The data directory: the logs, the checkpoint, the locks and the lake.
        data: PathBuf = "./tailwater-data",
        /// Lets listeners bind addresses that other machines can reach, without TLS or tokens.
        allow_insecure: bool = "false",
        /// Who may do what, as which tenant.
        access: Access,
        /// TLS of every listener that has no certificate of its own.
        tls: Tls,
        /// What is written to stderr.
        log: Log,
        /// Where OTLP comes in: listeners, admission, limits.
        intake: Intake,
        /// Rate, errors and durations of every span, and calls between services, counted before sampling.
        red: Red,
        /// Which traces stay.
        sampling: Sampling,
        /// What is promised.
        slo: Slo,
        /// The two logs, the lake and its upkeep.
        storage: Storage,
        /// The query role and what one query may use.
        query: Query,
        /// `/metrics`, `/healthz` and `/readyz` of each role.
        admin: Admin,
        /// How long a role may take to finish its work after SIGTERM, before it stops anyway.
        drain_timeout: Duration = "25s" in "0s".."1h",
    }
}

section! {
    /// Who may do what, as which tenant. `docs/security.md` has the rules.
    pub struct Access {
        /// The file of tokens, made with `tailwater token add`. `null`: whoever reaches a listener may use it, as tenant `default`.
        tokens: Option<PathBuf> = "null",
        /// How often the files of tokens, certificates and keys are looked at for changes; SIGHUP does it at once.
        reload: Duration = "10s" in "100ms".."1d",
    }
}

section! {
    /// TLS 1.2 or newer. All files are PEM and are read again when they change.
    pub struct Tls {
        /// The certificate and those between it and the authority. `null` is no TLS.
        cert: Option<PathBuf> = "null",
        /// Its private key; nobody but its owner and group may read the file.
        key: Option<PathBuf> = "null",
        /// Authorities of client certificates: who has none of theirs is not let in. `null` asks for none.
        client_ca: Option<PathBuf> = "null",
    }
}

section! {
    /// What is written to stderr.
    pub struct Log {
        /// The least important level that is written.
        level: Level = "info",
        /// One line of text per event for people, or one JSON object for machines.
        format: LogFormat = "text",
    }
}

words! {
    /// Levels of log events, from few to many.
    pub enum Level {
        /// Something failed and someone should look.
        Error = "error",
        /// Something is not as it should be; work goes on.
        Warn = "warn",
        /// Starts, stops and rare changes.
        Info = "info",
        /// What a developer of Tailwater wants.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// Shapes of a log line.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}

section! {
    /// Where OTLP comes in: listeners, admission, limits.
    pub struct Intake {
        /// OTLP/gRPC.
        grpc: GrpcIntake,
        /// OTLP/HTTP, protobuf and JSON.
        http: HttpIntake,
        /// Largest request body as it arrives, before decompression.
        wire_body: Size = "16MiB" in "1KiB".."1GiB",
        /// Largest request body after decompression. Decoding one takes up to three times as much of what a tenant may hold (`intake.tenant_share` of
        /// `intake.memory`): where that is too little, this and `intake.wire_body` are lowered to a third of it, unless they are set, and what still does
        /// not fit is refused for good.
        body: Size = "64MiB" in "1KiB".."1GiB",
        /// Largest ratio of decompressed to compressed bytes, checked after the first MiB.
        inflate_ratio: u32 = "200" in "1".."10000",
        /// Bytes of requests held in memory at once; `auto` is a quarter of the machine's or container's memory, at most 2GiB. Under `run`, where three roles share that memory, this and all sizes that follow it follow half of it.
        memory: Auto<Size> = "auto" in "1MiB".."1TiB",
        /// The part of `intake.memory` that one tenant may hold.
        tenant_share: Percent = "50%" in "1%".."100%",
        /// How much one tenant may send.
        rate: Rate,
        /// How long a request may take, from its head to its answer; beyond, it is answered 503 with a time to come back, and what it waited for.
        request_timeout: Duration = "30s" in "100ms".."10m",
        /// Limits of connections, against slow and hostile clients.
        connections: Connections,
        /// Takes byte-identical requests of a tenant within `intake.dedup_window` as retries: answered like the first, stored once.
        /// So two identical requests made by hand count as one; `off` stores both.
        dedup: bool = "true",
        /// How long a request is remembered for `intake.dedup`. At most 1048576 are, of 15 minutes those at 1165 a second; the oldest beyond that are
        /// forgotten sooner, and `tailwater_digests_evicted_total` counts them.
        dedup_window: Duration = "15m" in "1s".."24h",
        /// Limits of one item (span, log record, metric point); what exceeds them is cut or rejected, and counted.
        caps: Caps,
    }
}

section! {
    /// OTLP/gRPC.
    pub struct GrpcIntake {
        /// Address of OTLP/gRPC.
        listen: SocketAddr = "127.0.0.1:4317",
        /// TLS of this listener alone, in place of `tls`.
        tls: Tls,
    }
}

section! {
    /// OTLP/HTTP, protobuf and JSON.
    pub struct HttpIntake {
        /// Address of OTLP/HTTP (`/v1/traces`, `/v1/metrics`, `/v1/logs`).
        listen: SocketAddr = "127.0.0.1:4318",
        /// TLS of this listener alone, in place of `tls`.
        tls: Tls,
    }
}

section! {
    /// How much one tenant may send. The file of tokens can say something else of a tenant.
    pub struct Rate {
        /// Decompressed bytes a second that one tenant may send before it is told to wait; `off` leaves it to memory and disk.
        bytes_per_sec: Limit<Size> = "512MiB" in "1KiB".."1TiB",
        /// Bytes that one tenant may send at once above the rate.
        burst: Size = "1GiB" in "1KiB".."1TiB",
        /// Metric points a second that one tenant may send before it is told to wait.
        points_per_sec: Limit<u32> = "off" in "1".."1000000000",
        /// Metric points that one tenant may send at once above that rate.
        points_burst: u32 = "200000" in "1".."1000000000",
        /// Different metric series that one tenant may send in an hour; points of others are rejected. 16 bytes each.
        series: Limit<u32> = "150000" in "1".."100000000",
        /// Traces of one tenant that may wait for their decision at once; beyond, whole traces are decided by R, and those that stay say so in their
        /// weight. Counts with `sampling.policy` alone.
        live_traces: Limit<u32> = "off" in "1".."1000000000",
    }
}

section! {
    /// Limits of connections, against slow and hostile clients.
    pub struct Connections {
        /// Open connections in all, per listener.
        total: u32 = "4096" in "1".."1000000",
        /// Open connections from one address, per listener.
        per_peer: u32 = "256" in "1".."1000000",
        /// HTTP/2 streams at once on one connection.
        streams: u32 = "100" in "1".."10000",
        /// HTTP/2 streams reset by the client that may wait for clean-up before the connection is closed.
        pending_resets: u32 = "20" in "1".."10000",
        /// Largest head of a request. HTTP/2 counts 32 bytes more for each field.
        header_bytes: Size = "16KiB" in "1KiB".."256KiB",
        /// Most header fields of a request.
        headers: u32 = "100" in "10".."1000",
        /// Time to finish a handshake.
        handshake_timeout: Duration = "5s" in "100ms".."5m",
        /// Time for the head of a request to arrive; the first bytes of a connection are expected within it, too.
        header_timeout: Duration = "10s" in "100ms".."5m",
        /// Longest pause inside a body.
        body_idle: Duration = "10s" in "100ms".."5m",
        /// A connection without a request is closed after this. More than the pause between two exports, which for metrics is often 60s: who sends
        /// while the connection closes has to send again.
        idle: Duration = "90s" in "1s".."1h",
        /// Pause after which an HTTP/2 ping, and a TCP probe, asks whether the client is still there.
        keepalive: Duration = "30s" in "1s".."1h",
        /// Time for the answer to that ping.
        keepalive_timeout: Duration = "10s" in "100ms".."5m",
        /// A connection is asked to end after this, so that load spreads again.
        max_age: Duration = "30m" in "1s".."24h",
        /// Time for requests under way on a connection that was asked to end; then it is cut off.
        max_age_grace: Duration = "30s" in "0s".."10m",
    }
}

section! {
    /// Limits of one item (span, log record, metric point); what exceeds them is cut or rejected, and counted.
    pub struct Caps {
        /// Largest item, as encoded; larger ones are rejected, and with a resource or scope of such a size all of its items.
        item: Size = "1MiB" in "1KiB".."64MiB",
        /// Attributes of one item; more are cut.
        attributes: u32 = "512" in "1".."65536",
        /// Attributes of one resource or scope, which every row of theirs repeats; more are cut.
        origin_attributes: u32 = "128" in "1".."65536",
        /// Attributes of one event, link or exemplar; more are cut.
        nested_attributes: u32 = "128" in "0".."65536",
        /// Largest value of one attribute: longer texts are cut, other values left out.
        value: Size = "64KiB" in "16B".."16MiB",
        /// Largest body of a log record: a longer text is cut, another body left out.
        body: Size = "1MiB" in "16B".."64MiB",
        /// Longest name, unit, description, status message, trace state or schema URL; more is cut.
        text: Size = "64KiB" in "16B".."16MiB",
        /// Longest attribute key; more is cut.
        key: Size = "256B" in "16B".."64KiB",
        /// Deepest nesting of a value; items that go deeper are rejected.
        depth: u32 = "16" in "1".."64",
        /// Events of one span; more are cut.
        events: u32 = "128" in "0".."65536",
        /// Links of one span; more are cut.
        links: u32 = "128" in "0".."65536",
        /// Exemplars of one metric point; more are cut.
        exemplars: u32 = "128" in "0".."65536",
        /// How far ahead of the clock an item's time may be; beyond, spans and log records are stored under their arrival date with a flag
        /// (`ts_flag`), and metric points are rejected.
        future: Duration = "10m" in "0s".."36500d",
        /// How far back an item's time may be; beyond, as `intake.caps.future` says.
        past: Duration = "30d" in "1m".."36500d",
    }
}

section! {
    /// Rate, errors and durations of every span, and calls between services, counted before sampling. `docs/red.md` has the rules.
    pub struct Red {
        /// Counts at all; `off` leaves SLIs and the service graph without data.
        enabled: bool = "true",
        /// Different keys (operation, route, version and so on) that one service may have in two hours; the rest counts as `__other__`.
        keys: u32 = "2000" in "1".."1000000",
        /// Different services that one tenant may have in two hours; the rest counts as `__other__`.
        services: u32 = "2000" in "1".."1000000",
        /// Attributes of spans or resources to count by as well, at most 4, separated by commas; `none` for none.
        dimensions: Names = "none",
        /// What counts as an error where conventions leave it open.
        errors: RedErrors,
        /// Where a service is entered.
        entry: RedEntry,
        /// Calls between services.
        edges: RedEdges,
    }
}

section! {
    /// Which traces stay. `docs/sampling.md` has the rules; RED and edges are counted before.
    pub struct Sampling {
        /// The policy, a YAML file; read again when it changes. `null` keeps everything.
        policy: Option<PathBuf> = "null",
        /// Log records with a trace id: all stored, or only those whose trace is; errors always. Without a policy all are.
        logs: Logs = "keep",
        /// Requests whose traces wait for their decision are kept in memory up to this, if it is not set a sixteenth of it at the most; what is not is
        /// read from the intake log.
        recent: Size = "256MiB" in "1MiB".."64GiB",
    }
}

words! {
    /// What becomes of log records of traces that are sampled.
    pub enum Logs {
        /// All are stored.
        Keep = "keep",
        /// Those whose trace is stored, and errors.
        FollowTrace = "follow_trace",
    }
}

section! {
    /// What is promised. `docs/slo.md` has the rules.
    pub struct Slo {
        /// OpenSLO documents, a file or a folder of `*.yaml`: for their latency thresholds exact counts are kept, and what they select is never folded
        /// into `__other__`; and their SLOs have the series `slo:...` in the Prometheus API. Read when collector and query role start. `null` for none.
        files: Option<PathBuf> = "null",
    }
}

section! {
    /// What counts as an error where conventions leave it open. On the side that answers; a caller's own status decides for the caller.
    pub struct RedErrors {
        /// HTTP 429 and gRPC `RESOURCE_EXHAUSTED`: the service refused because the caller asks too much.
        too_many_requests: Judged = "ok",
        /// HTTP 499 and gRPC `CANCELLED`: the caller hung up.
        client_closed: Judged = "ok",
        /// A span whose status the application set to Ok is none, whatever its HTTP or gRPC status.
        trust_ok: bool = "true",
    }
}

words! {
    /// How a case is judged.
    pub enum Judged {
        /// Not an error.
        Ok = "ok",
        /// An error.
        Error = "error",
    }
}

section! {
    /// Where a service is entered: besides server spans and spans whose parent is flagged remote.
    pub struct RedEntry {
        /// Spans without a parent, of any kind: jobs, timers, browsers.
        roots: bool = "true",
        /// Consumer spans: a message taken up.
        consumers: bool = "true",
    }
}

section! {
    /// Calls between services.
    pub struct RedEdges {
        /// Joins client with server spans, and producer with consumer spans.
        enabled: bool = "true",
        /// How long one side of a call waits for the other, by arrival. A restart reads twice as much of the intake log again.
        wait: Duration = "10s" in "1s".."5m",
        /// Sides waiting at once; beyond, they count as unpaired. Some 200 bytes each.
        waiting: u32 = "500000" in "1".."100000000",
    }
}

section! {
    /// The two logs, the lake and its upkeep.
    pub struct Storage {
        /// Directory of the intake log and the outbox, perhaps on a disk of its own; `null` is the data directory.
        wal_dir: Option<PathBuf> = "null",
        /// What a success means: `fsync`, the request is on the disk; `write`, it is with the operating system, and a power cut may lose the last moments.
        ack: Ack = "fsync",
        /// Lets `ack: fsync` be promised where no sync can keep it: on tmpfs, ramfs or NFS, under the data directory or `storage.wal_dir`.
        allow_volatile: bool = "false",
        /// The intake log: requests as they came.
        intake_log: IntakeLog,
        /// The outbox: decided rows on their way to the tables, and what queries read before they are there.
        outbox: OutboxLog,
        /// Free space that is never used up: new data is refused before; `auto` is the larger of 5 % of the disk and 256MiB.
        disk_reserve: Auto<Size> = "auto" in "0B".."1PiB",
        /// How often the collector notes what it has decided, so that old log segments can go and a restart is short. While the outbox is more than half full it does so up to once a second.
        checkpoint_interval: Duration = "10s" in "100ms".."10m",
        /// When decided rows leave for the outbox.
        batch: Batch,
        /// When rows of the outbox become a commit of a table.
        commit: Commit,
        /// How long rows are kept.
        retention: Retention,
        /// Merging small files into large sorted ones.
        compact: Compact,
        /// A checkpoint of a table's Delta log is written after so many commits.
        checkpoint_every: u32 = "50" in "1".."10000",
        /// Files that no table names any more are deleted after this; running queries must be done with them, and commits under way, which take up to half a
        /// day when the disk is slow. A table's log names removed files for two days, so it cannot be longer.
        vacuum_after: Duration = "24h" in "1d".."2d",
        /// How long old versions of a table stay in its Delta log; a collector that last looked an hour ago must still find what came since.
        log_retention: Duration = "6h" in "2h".."2d",
    }
}

words! {
    /// What a success promises.
    pub enum Ack {
        /// The request is on the disk.
        Fsync = "fsync",
        /// The request is with the operating system.
        Write = "write",
    }
}

section! {
    /// The intake log: requests as they came.
    pub struct IntakeLog {
        /// Size of one segment file; the largest request must fit.
        segment: Size = "128MiB" in "64KiB".."4GiB",
        /// Disk it may use; when that is full, requests are refused until old segments can go.
        budget: Size = "16GiB" in "128KiB".."1PiB",
    }
}

section! {
    /// The outbox: decided rows on their way to the tables, and what queries read before they are there.
    pub struct OutboxLog {
        /// Size of one segment file; a larger batch gets one of its own. A request whose rows would take more is refused.
        segment: Size = "256MiB" in "64KiB".."4GiB",
        /// Disk it may use; when that is full, because tables cannot be committed, requests are refused. Up to three batches may go beyond it, and into the disk reserve, when tables have the others and a checkpoint that lets them go waits for these.
        budget: Size = "16GiB" in "128KiB".."1PiB",
    }
}

section! {
    /// When decided rows leave for the outbox.
    pub struct Batch {
        /// Longest wait of a decided row; sets how soon a query sees it.
        delay: Duration = "200ms" in "1ms".."10s",
        /// A batch is cut when it has so many rows.
        rows: u32 = "32768" in "1".."1000000",
        /// A batch is cut when its columns have so many bytes; if it is not set, a 128th of the memory at the most.
        bytes: Size = "8MiB" in "4KiB".."512MiB",
    }
}

section! {
    /// When rows of the outbox become a commit of a table.
    pub struct Commit {
        /// Longest wait of a row in the outbox.
        interval: Duration = "30s" in "100ms".."1h",
        /// A table is committed when so many bytes of its rows wait; if it is not set, a 64th of the memory at the most.
        bytes: Size = "64MiB" in "16KiB".."4GiB",
    }
}

section! {
    /// How long rows are kept, by table. Whole days are removed. The ledger is kept for ever: its sums account for every item.
    pub struct Retention {
        /// Table `spans`.
        spans: Duration = "30d" in "1h".."36500d",
        /// Table `traces`.
        traces: Duration = "30d" in "1h".."36500d",
        /// Table `logs`.
        logs: Duration = "30d" in "1h".."36500d",
        /// Table `metric_points`: gauges and sums.
        metric_points: Duration = "30d" in "1h".."36500d",
        /// Table `metric_dists`: histograms and summaries.
        metric_dists: Duration = "30d" in "1h".."36500d",
        /// Table `metric_series`: the names and attributes that points refer to.
        metric_series: Duration = "30d" in "1h".."36500d",
        /// Slices of 10 s in table `red`; older ones become slices of a minute.
        red_10s: Duration = "3d" in "1h".."36500d",
        /// Table `red`: rate, errors and durations. The longest SLO window has to fit.
        red: Duration = "100d" in "1h".."36500d",
        /// Table `red_15m`: the same in slices of 15 minutes.
        red_15m: Duration = "100d" in "1h".."36500d",
        /// Table `red_1h`: the same in slices of an hour.
        red_1h: Duration = "400d" in "1h".."36500d",
        /// Slices of 10 s in table `edges`; older ones become slices of a minute.
        edges_10s: Duration = "3d" in "1h".."36500d",
        /// Table `sampling_ticks`: what the sampler saw and kept.
        sampling_ticks: Duration = "30d" in "1h".."36500d",
        /// Table `edges`: calls between services.
        edges: Duration = "100d" in "1h".."36500d",
    }
}

section! {
    /// Merging small files into large sorted ones.
    pub struct Compact {
        /// How often each table is looked at.
        interval: Duration = "60s" in "100ms".."24h",
        /// Size that merged files aim at. In a table of more than 600 times as much they aim at twice that, of more than 1200 times at four times, and so on, so that no table has more than 2000 files; a merge takes no more memory for it. If it is not set, an eighth of the memory at the most.
        target_file: Size = "128MiB" in "64KiB".."4GiB",
        /// A day's small files are merged when there are so many, or as many as `max_files` comes to.
        min_files: u32 = "8" in "2".."1000",
        /// Files merged in one go; if it is not set, one for each 64MiB of the memory at the most.
        max_files: u32 = "64" in "2".."1000",
    }
}

section! {
    /// The query role and what one query may use.
    pub struct Query {
        /// Address of SQL and the other query interfaces.
        listen: SocketAddr = "127.0.0.1:4319",
        /// TLS of this listener alone, in place of `tls`.
        tls: Tls,
        /// Memory of all queries together; never more than half of the machine's or container's memory, and if it is not set, under `run`, a quarter of it at the most.
        memory: Size = "1GiB" in "16MiB".."1TiB",
        /// Disk that queries may use for what does not fit into memory.
        temp: Size = "10GiB" in "0B".."1PiB",
        /// A query is stopped after this.
        timeout: Duration = "30s" in "100ms".."1h",
        /// Most rows of an answer.
        rows: u32 = "10000" in "1".."100000000",
        /// Largest answer.
        result: Size = "64MiB" in "4KiB".."4GiB",
        /// Longest query text.
        text: Size = "64KiB" in "128B".."1MiB",
        /// Deepest nesting of an expression or subquery.
        depth: u32 = "50" in "5".."200",
        /// Most terms chained by one operator (`a or b or c ...`) and most parts of a union.
        terms: u32 = "500" in "10".."5000",
        /// Queries at once; more wait, then are refused.
        concurrency: u32 = "4" in "1".."1000",
        /// Queries of one tenant at once; more are refused. What one request asks, such as the queries of a report, counts once. The file of tokens can
        /// say something else of a tenant.
        tenant_concurrency: Limit<u32> = "off" in "1".."1000",
    }
}

section! {
    /// `/metrics`, `/healthz` and `/readyz` of each role.
    pub struct Admin {
        /// Address of the collector's admin endpoints.
        collector: SocketAddr = "127.0.0.1:4320",
        /// Address of the query role's admin endpoints.
        query: SocketAddr = "127.0.0.1:4321",
        /// Address of the maintain role's admin endpoints.
        maintain: SocketAddr = "127.0.0.1:4322",
        /// TLS of these listeners alone, in place of `tls`.
        tls: Tls,
    }
}
