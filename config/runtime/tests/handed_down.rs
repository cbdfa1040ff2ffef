//! Listeners, the supervisor's pipe and signals across a real process boundary.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tailwater_runtime::listen::{self, Inherited, hand_down};
use tailwater_runtime::shutdown::{Drained, LAST_GRACE, Shutdown};

/// Says to this test binary, started again, that it is the child, and how it drains.
const CHILD: &str = "TAILWATER_TEST_CHILD";

/// Not a test unless started by one below: the child. Greets whoever connects, then waits to be stopped.
#[test]
fn child() {
    let Ok(drain) = std::env::var(CHILD) else { return };
    let mut inherited = Inherited::from_env().unwrap();
    let listener = inherited.bind("query.listen", "127.0.0.1:0".parse().unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let drained = runtime.block_on(async {
        let shutdown = Shutdown::install().unwrap();
        let listener = listen::tokio(listener).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.write_all(b"hello\n").unwrap();
        shutdown.begun().await;
        stream.write_all(format!("{}\n", shutdown.reason()).as_bytes()).unwrap();
        match drain.as_str() {
            "quick" => shutdown.drain(LAST_GRACE * 10, async {}).await,
            "slow" => shutdown.drain(LAST_GRACE * 1000, std::future::pending()).await,
            // Does not even notice.
            _ => std::future::pending().await,
        }
    });
    // The test harness would end with its own codes.
    std::process::exit(if drained == Drained::Done(()) { 0 } else { 1 });
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = listen::bind("query.listen", "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn start(drain: &str, listener: &TcpListener, pipe: &PipeReader) -> Child {
    let handed = hand_down(&[("query.listen", listener)], pipe).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD, drain)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.envs(handed.env().iter().cloned());
    command.spawn().unwrap()
}

/// Connects, and waits for the greeting: the child accepts and watches signals by then.
fn greeted(stream: TcpStream) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    stream
}

fn rest(mut stream: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn connections_wait_for_the_next_child() {
    let (listener, address) = listener();
    let (reader, _writer) = std::io::pipe().unwrap();
    for _ in 0..2 {
        // Nobody accepts yet; the connection is made all the same, and answered once a child is there.
        let early = TcpStream::connect(address).unwrap();
        let mut child = start("quick", &listener, &reader);
        let stream = greeted(early);
        signal(&child, Signal::TERM);
        assert_eq!(rest(stream), "SIGTERM\n");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_child_ends_with_its_supervisor() {
    let (listener, address) = listener();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = start("quick", &listener, &reader);
    let stream = greeted(TcpStream::connect(address).unwrap());
    drop(writer);
    assert_eq!(rest(stream), "supervisor gone\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_cuts_the_drain() {
    for (drain, code) in [("slow", 1), ("stuck", 2)] {
        let (listener, address) = listener();
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut child = start(drain, &listener, &reader);
        let mut stream = greeted(TcpStream::connect(address).unwrap());
        signal(&child, Signal::INT);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "SIGINT\n");
        signal(&child, Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{drain}");
    }
}
