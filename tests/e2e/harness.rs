//! A server under test, and the little HTTP that talks to it: plain sockets, so that a test can also send what no client would.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

/// How long anything may take before a test gives up. Generous: two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The binary, without settings from the environment of whoever runs the tests. A part of their disk that has to stay free is none of
/// them: it may be nearly full.
pub fn tailwater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("TAILWATER_")) {
        command.env_remove(key);
    }
    command.env("TAILWATER_STORAGE_DISK_RESERVE", "1MiB");
    command
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> (i32, String, String) {
    let output = tailwater().args(args).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8 output");
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Exit code of the binary when nobody reads what it says, on either stream.
pub fn run_unread(args: &[&str]) -> i32 {
    let unread = || std::io::pipe().expect("a pipe").1;
    let mut child = tailwater()
        .args(args)
        .stdout(unread())
        .stderr(unread())
        .spawn()
        .expect("the binary starts");
    child.wait().expect("the process is ours").code().unwrap_or(-1)
}

/// Runs the binary, which must succeed; answers its standard output.
pub fn run_ok(args: &[&str]) -> String {
    let (code, out, err) = run(args);
    assert_eq!(code, 0, "tailwater {args:?}\n{out}\n{err}");
    out
}

/// The number that an environment variable asks for, or the usual one.
pub fn asked<T: std::str::FromStr>(variable: &str, usual: T) -> T {
    let said = std::env::var(variable).ok();
    said.and_then(|said| said.parse().ok()).unwrap_or(usual)
}

/// Waits until `done` answers, looking ever so often.
pub fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A role, or all of them, running on a data directory.
pub struct Server {
    child: Child,
    data: PathBuf,
    log: PathBuf,
}

/// Ports are 0 unless a test says otherwise, and batches are small enough for a debug build.
const SETTINGS: &[(&str, &str)] = &[
    ("intake.grpc.listen", "127.0.0.1:0"),
    ("intake.http.listen", "127.0.0.1:0"),
    ("query.listen", "127.0.0.1:0"),
    ("admin.collector", "127.0.0.1:0"),
    ("admin.query", "127.0.0.1:0"),
    ("admin.maintain", "127.0.0.1:0"),
];

impl Server {
    /// Starts `role` on `data` and waits until the collector and, with `run`, the query role are ready.
    pub fn start(role: &str, data: &Path, settings: &[(&str, &str)]) -> Server {
        let server = Server::spawn(role, data, settings);
        let roles: &[&str] = match role {
            "run" => &["collector", "query", "maintain"],
            "collector" => &["collector"],
            "query" => &["query"],
            other => panic!("no role {other}"),
        };
        server.wait_ready(roles);
        server
    }

    /// Starts without waiting.
    pub fn spawn(role: &str, data: &Path, settings: &[(&str, &str)]) -> Server {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::fs::create_dir_all(data).expect("a data directory");
        let log = std::env::temp_dir().join(format!("tailwater-e2e-{}-{number}.log", std::process::id()));
        let file = std::fs::File::create(&log).expect("a log file");
        let mut command = tailwater();
        command.arg(role).arg("--data").arg(data);
        for (key, value) in SETTINGS
            .iter()
            .filter(|(key, _)| !settings.iter().any(|(set, _)| set == key))
            .chain(settings)
        {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        Server {
            child,
            data: data.to_owned(),
            log,
        }
    }

    /// Waits until these roles answer ready.
    pub fn wait_ready(&self, roles: &[&str]) {
        for role in roles {
            wait_for(&format!("{role} to be ready"), || {
                assert!(
                    !self.has_ended(),
                    "{role} ended before it was ready; its log:\n{}",
                    self.log()
                );
                let address = self.try_address(role, &format!("admin.{role}"))?;
                let reply = try_http(address, "GET", "/readyz", &[], b"")?;
                (reply.status == 200).then_some(())
            });
        }
    }

    /// Whether the process is over, though nobody has waited for it.
    fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
    }

    /// Where a role listens.
    pub fn address(&self, role: &str, key: &str) -> SocketAddr {
        self.try_address(role, key)
            .unwrap_or_else(|| panic!("{role} does not say where {key} is"))
    }

    fn try_address(&self, role: &str, key: &str) -> Option<SocketAddr> {
        let text = std::fs::read(self.data.join("run").join(format!("{role}.json"))).ok()?;
        let file: Value = serde_json::from_slice(&text).ok()?;
        file["addresses"][key].as_str()?.parse().ok()
    }

    /// Process id of a role.
    pub fn pid(&self, role: &str) -> Option<i32> {
        let text = std::fs::read(self.data.join("run").join(format!("{role}.json"))).ok()?;
        let file: Value = serde_json::from_slice(&text).ok()?;
        file["pid"].as_i64().map(|pid| pid as i32)
    }

    /// OTLP/HTTP.
    pub fn http(&self) -> SocketAddr {
        self.address("collector", "intake.http.listen")
    }

    /// OTLP/gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.address("collector", "intake.grpc.listen")
    }

    /// Posts a protobuf request.
    pub fn post(&self, path: &str, body: &[u8]) -> Reply {
        http(
            self.http(),
            "POST",
            path,
            &[("content-type", "application/x-protobuf")],
            body,
        )
    }

    /// The collector's counters, by their full name with labels.
    pub fn metrics(&self) -> HashMap<String, f64> {
        let reply = http(
            self.address("collector", "admin.collector"),
            "GET",
            "/metrics",
            &[],
            b"",
        );
        let text = String::from_utf8(reply.body).expect("UTF-8 metrics");
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// Sum of the counters whose name starts with `name` and contains every one of `labels`.
    pub fn counted(&self, name: &str, labels: &[&str]) -> f64 {
        let matching = |full: &str| full.starts_with(name) && labels.iter().all(|label| full.contains(label));
        self.metrics()
            .iter()
            .filter(|(full, _)| matching(full))
            .map(|(_, value)| value)
            .sum()
    }

    /// Asks the query role; rows as JSON values, column by column.
    pub fn sql(&self, query: &str) -> Vec<Vec<Value>> {
        self.try_sql(query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// As [`Server::sql`], with the error of the server.
    pub fn try_sql(&self, query: &str) -> Result<Vec<Vec<Value>>, String> {
        let address = self
            .try_address("query", "query.listen")
            .ok_or("the query role is not up")?;
        let reply = try_http(address, "POST", "/api/v1/sql?format=json", &[], query.as_bytes()).ok_or("no answer")?;
        let answer: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        if reply.status != 200 {
            return Err(format!("{} {answer}", reply.status));
        }
        let rows = answer["rows"]
            .as_array()
            .ok_or_else(|| format!("no rows in {answer}"))?;
        Ok(rows
            .iter()
            .map(|row| row.as_array().cloned().unwrap_or_default())
            .collect())
    }

    /// The first value of the first row as a number.
    pub fn sql_number(&self, query: &str) -> f64 {
        number(&self.sql(query)[0][0])
    }

    /// SIGKILL to the process and its children, and nothing else.
    pub fn kill(&mut self) {
        let children: Vec<i32> = ["collector", "query", "maintain"]
            .iter()
            .filter_map(|role| self.pid(role))
            .collect();
        self.kill_alone();
        for pid in children {
            signal(pid, rustix::process::Signal::KILL);
            wait_for("a killed process to end", || gone(pid).then_some(()));
        }
    }

    /// SIGKILL to the process; its children learn of it by themselves.
    pub fn kill_alone(&mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("the process is ours");
    }

    /// Waits until everything that was acknowledged is in a durable batch, which is when queries see it.
    pub fn settle(&self) {
        wait_for("items in flight to settle", || {
            (self.counted("tailwater_items_in_flight", &[]) == 0.0).then_some(())
        });
    }

    /// SIGTERM, and the exit status.
    pub fn stop(mut self) -> ExitStatus {
        signal(self.child.id() as i32, rustix::process::Signal::TERM);
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the process is ours") {
                return status;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "no end after SIGTERM; its log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}\n---", self.log());
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

/// Whether a process has ended; a zombie has.
pub fn gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

/// Sends a signal.
pub fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A JSON number, or the text of one.
pub fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// A gRPC answer.
#[derive(Debug)]
pub struct GrpcReply {
    pub http: u16,
    pub headers: http::HeaderMap,
    /// Unknown if there was none.
    pub status: tonic::Status,
    /// The message, without its prefix.
    pub message: Vec<u8>,
}

impl GrpcReply {
    /// Whether the client is told when to come back.
    pub fn says_when(&self) -> bool {
        let details = self.status.details();
        details.windows(9).any(|window| window == b"RetryInfo")
    }
}

/// A gRPC message with its prefix.
pub fn framed(compressed: bool, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::from(compressed)];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// A unary gRPC call: its status, and whether there were details.
pub fn grpc(address: SocketAddr, method: &str, token: Option<&str>, message: &[u8]) -> (String, bool) {
    let token: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
    let reply = grpc_call(address, method, &token, framed(false, message));
    let details = !reply.status.details().is_empty();
    ((reply.status.code() as i32).to_string(), details)
}

/// A gRPC call with these headers and this body, whatever it is.
pub fn grpc_call(address: SocketAddr, method: &str, headers: &[(&str, &str)], body: Vec<u8>) -> GrpcReply {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::post(format!("http://{address}/{method}")).header("te", "trailers");
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(bytes::Bytes::from(body))).unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().unwrap_or(&parts.headers);
        let status = tonic::Status::from_header_map(trailers);
        GrpcReply {
            http: parts.status.as_u16(),
            status: status.unwrap_or_else(|| tonic::Status::unknown("no status")),
            headers: parts.headers,
            message: body.to_bytes().get(5..).unwrap_or_default().to_vec(),
        }
    })
}

/// One HTTP/1.1 exchange.
pub fn http(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    try_http(address, method, path, headers, body)
        .unwrap_or_else(|| panic!("{method} {path}: no answer from {address}"))
}

/// One HTTP/1.1 exchange; `None` when there was no whole answer.
pub fn try_http(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    raw(address, &[head.as_bytes(), body].concat())
}

/// Sends bytes as they are, and reads the answer.
pub fn raw(address: SocketAddr, request: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // The server may answer and close before it has read everything: what it said still counts.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    parse(&answer)
}

fn parse(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = &answer[end + 4..];
    let mut whole = Vec::new();
    if headers
        .get("transfer-encoding")
        .is_some_and(|encoding| encoding == "chunked")
    {
        loop {
            let line = body.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).ok()?.trim(), 16).ok()?;
            body = &body[line + 2..];
            if size == 0 {
                break;
            }
            whole.extend_from_slice(body.get(..size)?);
            body = body.get(size + 2..)?;
        }
    } else {
        let length = headers
            .get("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(body.len());
        whole.extend_from_slice(body.get(..length)?);
    }
    Some(Reply {
        status,
        headers,
        body: whole,
    })
}

/// `../shared/data`, or what `$TAILWATER_TEST_DATA` names; says loudly when neither is there.
pub fn test_data(what: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TAILWATER_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let path = root.join(what);
    if path.exists() {
        return Some(path);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there (set TAILWATER_TEST_DATA)",
        path.display()
    );
    None
}

/// A tool that `tests/tools` installs; says loudly when it is absent.
pub fn tool(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(path);
    if path.exists() {
        return Some(path);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there (run tests/tools)",
        path.display()
    );
    None
}
