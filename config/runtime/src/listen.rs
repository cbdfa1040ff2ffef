//! Binds the listeners, with errors that name the key, and hands them from a supervisor to its children.
//!
//! Guarantees: an inherited listener is used in place of a new one, so connections that arrive while a child restarts wait in its
//! queue. Assumes that a supervisor spawns its children one after the other ([`Handed`] sees to it).

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use crate::fds;
use crate::shutdown::SUPERVISOR_FD;

/// The variable with the inherited listeners: `intake.grpc.listen=3,admin.collector=4`.
pub const LISTEN_FDS: &str = "TAILWATER_LISTEN_FDS";

/// Connections that may wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{key}: {address} is taken; stop what listens there, or set {key} to another address")]
    Taken {
        /// The setting.
        key: String,
        /// What it says.
        address: SocketAddr,
    },
    /// This user may not bind it.
    #[error(
        "{key}: no permission to listen on {address}; ports below 1024 need a privilege, set {key} to another address"
    )]
    Denied {
        /// The setting.
        key: String,
        /// What it says.
        address: SocketAddr,
    },
    /// No interface of this machine has the address.
    #[error("{key}: {address} is not an address of this machine; set {key} to one that is")]
    NotLocal {
        /// The setting.
        key: String,
        /// What it says.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{key}: cannot listen on {address}: {source}")]
    Other {
        /// The setting.
        key: String,
        /// What it says.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// [`LISTEN_FDS`] is not what a supervisor of ours writes.
    #[error("{LISTEN_FDS}: {0}")]
    Inherited(String),
}

/// Binds `address` (port 0: any free one) for the setting `key`. The listener does not block: ready for tokio.
///
/// # Errors
/// [`BindError`], which names the key and says what to do.
pub fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || -> Result<TcpListener, Errno> {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = net::socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        // A restart must not wait for the old connections' TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &address)?;
        net::listen(&socket, BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|errno| {
        let key = key.to_owned();
        match errno {
            Errno::ADDRINUSE => BindError::Taken { key, address },
            Errno::ACCESS | Errno::PERM => BindError::Denied { key, address },
            Errno::ADDRNOTAVAIL => BindError::NotLocal { key, address },
            errno => BindError::Other {
                key,
                address,
                source: errno.into(),
            },
        }
    })
}

/// The listener for tokio. Must be called inside a runtime.
///
/// # Errors
/// When the runtime cannot watch it.
pub fn tokio(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Listeners that the supervisor handed down, by key.
#[derive(Debug, Default)]
pub struct Inherited(BTreeMap<String, TcpListener>);

impl Inherited {
    /// Takes what [`LISTEN_FDS`] names; nothing when it is not set. Once per process.
    ///
    /// # Errors
    /// When the variable names something that is not an inherited listener.
    pub fn from_env() -> Result<Self, BindError> {
        match std::env::var(LISTEN_FDS) {
            Ok(text) => Self::parse(&text),
            Err(std::env::VarError::NotPresent) => Ok(Self::default()),
            Err(e) => Err(BindError::Inherited(e.to_string())),
        }
    }

    /// Takes the listeners that `text` names.
    fn parse(text: &str) -> Result<Self, BindError> {
        let wrong = |what: String| BindError::Inherited(what);
        let mut listeners = BTreeMap::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let fd = pair
                .split_once('=')
                .and_then(|(key, fd)| Some((key, fd.parse::<RawFd>().ok()?)));
            let (key, fd) = fd.ok_or_else(|| wrong(format!("`{pair}` is not key=number")))?;
            let owned = fds::take(fd).map_err(|e| wrong(format!("{key}: {e}")))?;
            if !sockopt::socket_acceptconn(&owned).unwrap_or(false) {
                return Err(wrong(format!("{key}: file descriptor {fd} is not a listener")));
            }
            let listener = TcpListener::from(owned);
            listener
                .set_nonblocking(true)
                .map_err(|e| wrong(format!("{key}: {e}")))?;
            if listeners.insert(key.to_owned(), listener).is_some() {
                return Err(wrong(format!("{key} is given twice")));
            }
        }
        Ok(Self(listeners))
    }

    /// Whether nothing was handed down: no supervisor has started this process.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The inherited listener of this key, or a new one on `address`.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn bind(&mut self, key: &str, address: SocketAddr) -> Result<TcpListener, BindError> {
        self.0.remove(key).map_or_else(|| bind(key, address), Ok)
    }
}

/// One child is prepared and spawned at a time, so that no other inherits what is not its own.
static HANDING: Mutex<()> = Mutex::new(());

/// What a child is about to inherit. Set [`Handed::env`] on the command, spawn it, then drop this.
#[derive(Debug)]
pub struct Handed {
    env: Vec<(&'static str, String)>,
    /// Copies that survive exec; closed here once the child has them.
    _copies: Vec<OwnedFd>,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Handed {
    /// Variables for the child. Both are always there, so that nothing of this process's own shines through.
    #[must_use]
    pub fn env(&self) -> &[(&'static str, String)] {
        &self.env
    }
}

/// Prepares listeners (by key) and the reading end of the supervisor's pipe for a child.
///
/// # Errors
/// When file descriptors run out.
pub fn hand_down(listeners: &[(&str, &TcpListener)], pipe: &io::PipeReader) -> io::Result<Handed> {
    let guard = HANDING.lock();
    let mut copies = Vec::with_capacity(listeners.len() + 1);
    let mut pairs = Vec::with_capacity(listeners.len());
    for (key, listener) in listeners {
        // `dup` leaves close-on-exec off: this copy is the one that the child gets.
        let copy = rustix::io::dup(listener.as_fd())?;
        pairs.push(format!("{key}={}", copy.as_raw_fd()));
        copies.push(copy);
    }
    let copy = rustix::io::dup(pipe.as_fd())?;
    let env = vec![
        (LISTEN_FDS, pairs.join(",")),
        (SUPERVISOR_FD, copy.as_raw_fd().to_string()),
    ];
    copies.push(copy);
    Ok(Handed {
        env,
        _copies: copies,
        _one_at_a_time: guard,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::IntoRawFd;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_taken_port_names_port_and_key() {
        let first = bind("query.listen", any()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind("intake.grpc.listen", address).unwrap_err();
        let expect = format!(
            "intake.grpc.listen: {address} is taken; stop what listens there, or set intake.grpc.listen to another address"
        );
        assert_eq!(error.to_string(), expect);
        drop(first);
        bind("intake.grpc.listen", address).unwrap();
    }

    #[test]
    fn an_address_of_another_machine() {
        // 192.0.2.0/24 is for documentation: nobody has it.
        let error = bind("query.listen", "192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
    }

    #[test]
    fn inherited_listeners_are_used() {
        let listener = bind("query.listen", any()).unwrap();
        let address = listener.local_addr().unwrap();
        let fd = rustix::io::dup(&listener).unwrap().into_raw_fd();
        drop(listener);
        let mut inherited = Inherited::parse(&format!("query.listen={fd}")).unwrap();
        assert_eq!(
            inherited.bind("query.listen", any()).unwrap().local_addr().unwrap(),
            address
        );
        assert_ne!(
            inherited.bind("query.listen", any()).unwrap().local_addr().unwrap(),
            address
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let (reader, _writer) = io::pipe().unwrap();
        let pipe = rustix::io::dup(&reader).unwrap().into_raw_fd();
        for (text, word) in [
            ("x", "key=number"),
            ("a=b", "key=number"),
            ("a=1", "hands down"),
            (&format!("a={pipe}"), "not a listener"),
        ] {
            let error = Inherited::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(LISTEN_FDS) && error.contains(word), "{error}");
        }
        assert!(Inherited::parse("").unwrap().0.is_empty());
    }

    #[tokio::test]
    async fn ready_for_tokio() {
        let listener = bind("query.listen", any()).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio(listener).unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), tokio::net::TcpStream::connect(address));
        assert_eq!(accepted.unwrap().1, connected.unwrap().local_addr().unwrap());
    }
}
