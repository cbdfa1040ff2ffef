//! `tailwater run`: the three roles as child processes of one binary, because a query that aborts its process must not take ingest down.
//!
//! ```text
//!                 listeners (bound here, once)        pipe (its closing ends the children)
//!                      | by fd                          |
//!   run --spawns--> collector   query   maintain  <-----+
//!    ^                 |          |         |
//!    +---- exit code --+----------+---------+   restart after a back-off; 78 ends everything
//! ```
//!
//! Guarantees: every port is bound before a child starts, and stays bound while a child restarts, so that connections wait instead
//! of failing; a child never outlives this process by more than its drain; a configuration that a child calls bad (exit 78) stops
//! all with that code; SIGHUP goes on to the children; SIGTERM drains the children and exits 0 when all of them did.
//! Assumes that children watch the pipe ([`tailwater_runtime::Shutdown`]) and take listeners from the environment.
//! Leaves out: limits of children's memory, which are systemd's and the container's work; what children size by the memory follows half of it ([`tailwater_config::Machine`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tailwater_config::Config;
use tailwater_runtime::listen::{self, BindError};
use tailwater_runtime::{Exit, Shutdown};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// A role and the settings whose listeners it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Name of the subcommand.
    pub name: &'static str,
    /// Keys of their addresses.
    pub keys: &'static [&'static str],
}

/// The roles of `run`, in the order they start.
pub const ROLES: [Role; 3] = [
    Role {
        name: "collector",
        keys: &["intake.grpc.listen", "intake.http.listen", "admin.collector"],
    },
    Role {
        name: "query",
        keys: &["query.listen", "admin.query"],
    },
    Role {
        name: "maintain",
        keys: &["admin.maintain"],
    },
];

/// What to do about a taken port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Fail, naming port and key.
    Refuse,
    /// Take any free one.
    Other,
}

/// How a child is started: `exe before... <role> after...`.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub exe: PathBuf,
    /// Arguments before the role's name.
    pub before: Vec<OsString>,
    /// Arguments after it.
    pub after: Vec<OsString>,
    /// Variables set for the children.
    pub env: Vec<(String, String)>,
}

/// Listeners bound, children not yet started.
#[derive(Debug)]
pub struct Supervisor {
    launch: Launch,
    listeners: BTreeMap<&'static str, TcpListener>,
    /// Kept open for the life of the supervisor; nothing is ever written.
    pipe: (PipeReader, PipeWriter),
    drain: Duration,
    pace: Pace,
}

impl Supervisor {
    /// Binds every listener of every role.
    ///
    /// # Errors
    /// [`BindError`], naming port and key; an [`io::Error`] when file descriptors run out.
    pub fn bind(config: &Config, launch: Launch, taken: Taken) -> anyhow::Result<Supervisor> {
        let mut listeners = BTreeMap::new();
        for key in ROLES.iter().flat_map(|role| role.keys) {
            let address = address_of(config, key);
            let listener = match listen::bind(key, address) {
                Err(BindError::Taken { .. }) if taken == Taken::Other => {
                    listen::bind(key, SocketAddr::new(address.ip(), 0))?
                }
                other => other?,
            };
            listeners.insert(*key, listener);
        }
        Ok(Supervisor {
            launch,
            listeners,
            pipe: io::pipe()?,
            drain: config.drain_timeout,
            pace: Pace::default(),
        })
    }

    /// Where the listener of a setting really is.
    ///
    /// # Errors
    /// When the key names no listener, or the system has forgotten its address.
    pub fn address(&self, key: &str) -> io::Result<SocketAddr> {
        self.listeners
            .get(key)
            .ok_or_else(|| io::Error::other(format!("{key} is no listener")))?
            .local_addr()
    }

    /// All listeners by key, with real ports.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.listeners
            .iter()
            .filter_map(|(key, listener)| Some((*key, listener.local_addr().ok()?)))
            .collect()
    }

    /// Runs the roles until `shutdown` begins, then drains them. The exit code is that of a child that called the configuration
    /// bad, else 0 when every child ended well, else "trouble".
    ///
    /// # Errors
    /// When a child cannot be started at all.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<Exit> {
        let supervisor = std::sync::Arc::new(self);
        let mut keepers = JoinSet::new();
        for role in ROLES {
            keepers.spawn(supervisor.clone().keep(role, shutdown.clone()));
        }
        let mut exit = Exit::Ok;
        let mut failure = None;
        while let Some(ended) = keepers.join_next().await {
            match ended? {
                Ok(Exit::Ok) => {}
                // Of two bad ends, the configuration is what the user can mend.
                Ok(other) => exit = if exit == Exit::Config { exit } else { other },
                Err(error) => failure = failure.or(Some(error)),
            }
            shutdown.begin("a role ended for good");
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(exit),
        }
    }

    /// Keeps one role running until the shutdown.
    async fn keep(self: std::sync::Arc<Self>, role: Role, shutdown: Shutdown) -> io::Result<Exit> {
        let mut restarts = Restarts::new(self.pace);
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            let mut child = tokio::select! {
                child = self.start(role, &mut restarts) => child?,
                () = shutdown.begun() => return Ok(Exit::Ok),
            };
            let started = Instant::now();
            let pid = child.id();
            info!(role = role.name, pid, "started");
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status?,
                    // It reads its tokens and certificates again.
                    _ = hangup.recv() => send(&child, Signal::HUP),
                    () = shutdown.begun() => return self.end(role, child, &shutdown).await,
                }
            };
            if shutdown.is_begun() {
                return Ok(verdict(status));
            }
            if status.code() == Some(Exit::Config.code().into()) {
                error!(role = role.name, "calls the configuration bad, stopping everything");
                return Ok(Exit::Config);
            }
            let wait = restarts.after_end(started.elapsed());
            warn!(role = role.name, pid, %status, restarts = restarts.count, wait_ms = wait.as_millis() as u64, "ended, restarting");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.begun() => return Ok(Exit::Ok),
            }
        }
    }

    /// Starts a child. What cannot be started even once is told at once; later, processes or descriptors have run out for a while, which is no
    /// reason to end the other roles.
    async fn start(&self, role: Role, restarts: &mut Restarts) -> io::Result<Child> {
        loop {
            let error = match self.spawn(role) {
                Err(error) if restarts.count > 0 => error,
                other => return other,
            };
            let wait = restarts.after_end(Duration::ZERO);
            warn!(role = role.name, %error, wait_ms = wait.as_millis() as u64, "cannot be started, trying again");
            tokio::time::sleep(wait).await;
        }
    }

    fn spawn(&self, role: Role) -> io::Result<Child> {
        let listeners: Vec<(&str, &TcpListener)> = role
            .keys
            .iter()
            .filter_map(|key| Some((*key, self.listeners.get(key)?)))
            .collect();
        let handed = listen::hand_down(&listeners, &self.pipe.0)?;
        Command::new(&self.launch.exe)
            .args(&self.launch.before)
            .arg(role.name)
            .args(&self.launch.after)
            .envs(self.launch.env.iter().map(|(name, value)| (name, value)))
            .envs(handed.env().iter().map(|(name, value)| (name, value)))
            .stdin(std::process::Stdio::null())
            // Ctrl-C reaches a whole process group; the children are to hear of it from here, once.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// Ends a child: SIGTERM, again when there is no time, SIGKILL when it does not heed it.
    async fn end(&self, role: Role, mut child: Child, shutdown: &Shutdown) -> io::Result<Exit> {
        /// What a child may need beyond its own drain limit to flush and leave.
        const LEAVE: Duration = Duration::from_secs(5);
        send(&child, Signal::TERM);
        let ended = tokio::select! {
            status = child.wait() => Some(status?),
            () = shutdown.immediate_begun() => {
                send(&child, Signal::TERM);
                tokio::time::timeout(Duration::from_secs(1), child.wait()).await.ok().transpose()?
            }
            () = tokio::time::sleep(self.drain + LEAVE) => None,
        };
        match ended {
            Some(status) => {
                info!(role = role.name, %status, "ended");
                Ok(verdict(status))
            }
            None => {
                error!(role = role.name, "does not end, killing it");
                child.kill().await?;
                Ok(Exit::Trouble)
            }
        }
    }
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
        // A child that has just ended cannot be signalled, and need not be.
        let _ = kill_process(pid, signal);
    }
}

/// What a child's end during the drain means for the whole.
fn verdict(status: ExitStatus) -> Exit {
    match status.code() {
        Some(0) => Exit::Ok,
        Some(code) if code == i32::from(Exit::Config.code()) => Exit::Config,
        _ => Exit::Trouble,
    }
}

/// The configured address of a listener.
fn address_of(config: &Config, key: &str) -> SocketAddr {
    match key {
        "intake.grpc.listen" => config.intake.grpc.listen,
        "intake.http.listen" => config.intake.http.listen,
        "query.listen" => config.query.listen,
        "admin.collector" => config.admin.collector,
        "admin.query" => config.admin.query,
        _ => config.admin.maintain,
    }
}

/// How quickly a role is restarted.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Wait after the first end.
    pub first: Duration,
    /// Longest wait; waits double up to it.
    pub most: Duration,
    /// A run at least so long is a good one: the next wait is the first again.
    pub stable: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            first: Duration::from_millis(200),
            most: Duration::from_secs(30),
            stable: Duration::from_secs(60),
        }
    }
}

/// The restart policy of one role. Pure: told how long a run lasted, it says how long to wait.
#[derive(Debug)]
pub struct Restarts {
    pace: Pace,
    wait: Duration,
    /// Restarts so far.
    pub count: u64,
}

impl Restarts {
    /// A policy that has seen nothing.
    pub fn new(pace: Pace) -> Restarts {
        Restarts {
            pace,
            wait: pace.first,
            count: 0,
        }
    }

    /// A run of this length has ended: how long to wait before the next.
    pub fn after_end(&mut self, lasted: Duration) -> Duration {
        self.count += 1;
        if lasted >= self.pace.stable {
            self.wait = self.pace.first;
        }
        let wait = self.wait;
        self.wait = (self.wait * 2).min(self.pace.most);
        wait
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn waits_double_to_their_cap_and_a_good_run_resets_them() {
        let pace = Pace {
            first: Duration::from_secs(1),
            most: Duration::from_secs(5),
            stable: Duration::from_secs(60),
        };
        let mut restarts = Restarts::new(pace);
        let short = Duration::from_secs(3);
        let waits: Vec<u64> = (0..5).map(|_| restarts.after_end(short).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(restarts.after_end(pace.stable), pace.first);
        assert_eq!(restarts.after_end(short).as_secs(), 2);
        assert_eq!(restarts.count, 7);
    }

    /// A supervisor whose children are a shell script; `$0` is the role.
    fn supervisor(script: &str, dir: &std::path::Path) -> Supervisor {
        let ports = [
            "intake.grpc.listen",
            "intake.http.listen",
            "query.listen",
            "admin.collector",
            "admin.query",
            "admin.maintain",
        ];
        let config = Config::of(&ports.map(|key| (key, "127.0.0.1:0"))).unwrap();
        let launch = Launch {
            exe: "/bin/sh".into(),
            before: vec!["-c".into(), script.into()],
            after: vec![],
            env: vec![("DIR".into(), dir.display().to_string())],
        };
        let mut supervisor = Supervisor::bind(&config, launch, Taken::Refuse).unwrap();
        supervisor.pace.first = Duration::from_millis(1);
        supervisor
    }

    /// Waits until the file exists.
    async fn appears(path: &std::path::Path) {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stays until told to go; `sleep` in the background so that the shell runs its trap at once.
    const STAY: &str = "trap 'exit 0' TERM; touch $DIR/$0.up; while :; do sleep 1 & wait $!; done";

    #[tokio::test]
    async fn a_shutdown_ends_the_children_and_is_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let running = tokio::spawn(supervisor(STAY, dir.path()).run(shutdown.clone()));
        for role in ROLES {
            appears(&dir.path().join(format!("{}.up", role.name))).await;
        }
        shutdown.begin("test");
        assert_eq!(running.await.unwrap().unwrap(), Exit::Ok);
    }

    #[tokio::test]
    async fn a_child_that_ends_comes_back_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        // The query role dies twice; every role counts its starts.
        let script = format!(
            "echo x >> $DIR/$0.starts; if [ $0 = query ] && [ $(wc -l < $DIR/query.starts) -lt 3 ]; then kill -9 $$; fi; {STAY}"
        );
        let shutdown = Shutdown::new();
        let running = tokio::spawn(supervisor(&script, dir.path()).run(shutdown.clone()));
        appears(&dir.path().join("query.up")).await;
        appears(&dir.path().join("collector.up")).await;
        appears(&dir.path().join("maintain.up")).await;
        shutdown.begin("test");
        assert_eq!(running.await.unwrap().unwrap(), Exit::Ok);
        let starts = |role: &str| {
            std::fs::read_to_string(dir.path().join(format!("{role}.starts")))
                .unwrap()
                .lines()
                .count()
        };
        assert_eq!((starts("collector"), starts("query"), starts("maintain")), (1, 3, 1));
    }

    #[tokio::test]
    async fn a_start_that_fails_is_final_the_first_time_and_tried_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut supervisor = supervisor("exit 7", dir.path());
        supervisor.launch.exe = dir.path().join("gone");
        let mut restarts = Restarts::new(supervisor.pace);
        supervisor.start(ROLES[0], &mut restarts).await.unwrap_err();
        restarts.after_end(Duration::ZERO);
        {
            let mut starting = std::pin::pin!(supervisor.start(ROLES[0], &mut restarts));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(
                starting.as_mut().poll(&mut context).is_pending(),
                "it failed, and waits"
            );
            std::os::unix::fs::symlink("/bin/sh", dir.path().join("gone")).unwrap();
            let status = starting.await.unwrap().wait().await.unwrap();
            assert_eq!(status.code(), Some(7));
        }
        assert!(restarts.count > 1);
    }

    #[tokio::test]
    async fn a_bad_configuration_stops_everything() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("if [ $0 = maintain ]; then exit 78; fi; {STAY}");
        let exit = supervisor(&script, dir.path()).run(Shutdown::new()).await.unwrap();
        assert_eq!(exit, Exit::Config);
    }

    #[tokio::test]
    async fn children_get_their_own_listeners_and_the_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("echo \"$TAILWATER_LISTEN_FDS\" > $DIR/$0.fds; ls -l /proc/$$/fd >> $DIR/$0.fds; {STAY}");
        let supervisor = supervisor(&script, dir.path());
        let bound = supervisor.addresses();
        assert_eq!(bound.len(), 6);
        assert!(
            bound
                .iter()
                .all(|(key, address)| address.port() != 0 && supervisor.address(key).unwrap() == *address)
        );
        let shutdown = Shutdown::new();
        let running = tokio::spawn(supervisor.run(shutdown.clone()));
        for role in ROLES {
            appears(&dir.path().join(format!("{}.up", role.name))).await;
            let text = std::fs::read_to_string(dir.path().join(format!("{}.fds", role.name))).unwrap();
            let keys: Vec<&str> = text
                .lines()
                .next()
                .unwrap()
                .split(',')
                .map(|pair| pair.split_once('=').unwrap().0)
                .collect();
            assert_eq!(keys, role.keys);
            assert_eq!(
                text.matches("socket:").count(),
                role.keys.len(),
                "no other role's listeners: {text}"
            );
        }
        shutdown.begin("test");
        running.await.unwrap().unwrap();
    }

    #[test]
    fn a_taken_port_is_refused_or_replaced() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = holder.local_addr().unwrap().to_string();
        let free = "127.0.0.1:0";
        let config = Config::of(&[
            ("query.listen", &taken),
            ("intake.grpc.listen", free),
            ("intake.http.listen", free),
            ("admin.collector", free),
            ("admin.query", free),
            ("admin.maintain", free),
        ])
        .unwrap();
        let launch = || Launch {
            exe: "true".into(),
            before: vec![],
            after: vec![],
            env: vec![],
        };
        let error = Supervisor::bind(&config, launch(), Taken::Refuse).unwrap_err();
        assert!(error.to_string().contains("query.listen"), "{error}");
        let supervisor = Supervisor::bind(&config, launch(), Taken::Other).unwrap();
        assert_ne!(supervisor.address("query.listen").unwrap().to_string(), taken);
        assert!(supervisor.address("nope").is_err());
    }
}
