//! How much a running part logs, and who may change it.
//!
//! ```text
//!  reveille log-level router debug ─▶ @reveille-log/GROUP/router/PID ─▶ uid: root's or our own? ─▶ the filter
//! ```
//!
//! Each part listens on an abstract Unix socket that says whose it is: nothing to configure, nothing to remove. GROUP is the
//! process of the `up` that it belongs to, or its own. A line asks: empty, a filter, or `default`. A line answers.

use std::{
    convert::Infallible,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener as Listener, UnixStream as Stream},
    },
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reveille_api::net::{Io, Peer};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tonic::transport::server::Connected;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::filter;
use crate::error::{Error, Result};

/// Begins the name of each socket.
const PREFIX: &str = "reveille-log";
/// Stands for the filter that the part was started with.
pub(crate) const DEFAULT: &str = "default";
/// Longest question and answer.
const LINE: u64 = 1024;
/// For both of them.
const PATIENCE: Duration = Duration::from_secs(2);

/// The filter of this process.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    part: &'static str,
    handle: reload::Handle<EnvFilter, Registry>,
    started: Arc<str>,
    now: Arc<Mutex<String>>,
}

/// A part that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The `up` it belongs to, or itself.
    pub(crate) group: i32,
    pub(crate) part: String,
    pub(crate) pid: i32,
}

impl Level {
    pub(super) fn new(
        part: &'static str,
        handle: reload::Handle<EnvFilter, Registry>,
        filter: &str,
    ) -> Self {
        let now = Arc::new(Mutex::new(filter.to_owned()));
        Self { part, handle, started: filter.into(), now }
    }

    /// Answers, for ever.
    pub(crate) async fn serve(self, supervisor: Option<i32>) -> Infallible {
        let pid = std::process::id() as i32;
        let own = Part { group: supervisor.unwrap_or(pid), part: self.part.into(), pid };
        let listener = match own.listen() {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "the log level cannot be changed at run time");
                return std::future::pending().await;
            }
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = timeout(PATIENCE, self.answer(stream)).await;
                }
                Err(_) => tokio::time::sleep(PATIENCE).await,
            }
        }
    }

    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let stream = Io::Unix(stream);
        if stream.connect_info() != Peer::Local {
            // Anybody may come, as often as they like.
            tracing::debug!("another user asked for the log level and was refused");
            return Ok(());
        }
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        (&mut stream).take(LINE).read_line(&mut line).await?;
        let set = match line.ends_with('\n') {
            true => self.set(line.trim()),
            false => Err(format!("a filter has {} bytes at most", LINE - 1)),
        };
        let answer = match set {
            Ok(now) => format!("ok {now}\n"),
            Err(why) => format!("error {why}\n"),
        };
        stream.get_mut().write_all(answer.as_bytes()).await
    }

    /// Gives what is in force after it.
    fn set(&self, wanted: &str) -> Result<String, String> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if !wanted.is_empty() {
            let wanted = if wanted == DEFAULT { &*self.started } else { wanted };
            self.handle.reload(filter(wanted)?).map_err(|error| error.to_string())?;
            wanted.clone_into(&mut now);
            tracing::info!(filter = wanted, "the log level was changed");
        }
        Ok(now.clone())
    }
}

impl Part {
    /// Those on this machine (in this network namespace, that is).
    pub(crate) fn all() -> Result<Vec<Self>> {
        const TABLE: &str = "/proc/net/unix";
        let table = std::fs::read_to_string(TABLE);
        let table = table.map_err(|error| Error::because(TABLE, &error))?;
        let mut all: Vec<_> = table.lines().filter_map(Self::of_line).collect();
        all.sort_by_key(|part| (part.group, part.part != "up", part.pid));
        all.dedup();
        Ok(all)
    }

    fn of_line(line: &str) -> Option<Self> {
        let name = line.split_whitespace().nth(7)?.strip_prefix('@')?;
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('/')?.split('/');
        let group = parts.next()?.parse().ok()?;
        let (part, pid) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
        Some(Self { group, part, pid })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        let Self { group, part, pid } = self;
        SocketAddr::from_abstract_name(format!("{PREFIX}/{group}/{part}/{pid}"))
    }

    fn listen(&self) -> io::Result<UnixListener> {
        let listener = Listener::bind_addr(&self.address()?)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }

    /// Asks it, and gives its filter; nothing when it is neither root's nor our own: anybody may take a name.
    pub(crate) async fn ask(&self, wanted: &str) -> Result<Option<String>> {
        let failed = |error: &dyn std::error::Error| {
            Error::because(format!("{} (pid {})", self.part, self.pid), error)
        };
        let exchange = async {
            let stream = Stream::connect_addr(&self.address()?)?;
            stream.set_nonblocking(true)?;
            let mut stream = Io::Unix(UnixStream::from_std(stream)?);
            if stream.connect_info() != Peer::Local {
                return Ok(None);
            }
            stream.write_all(format!("{wanted}\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.take(LINE).read_to_string(&mut answer).await?;
            io::Result::Ok(Some(answer))
        };
        let answer = timeout(PATIENCE, exchange).await.map_err(|late| failed(&late))?;
        let Some(answer) = answer.map_err(|error| failed(&error))? else { return Ok(None) };
        match answer.trim().split_once(' ') {
            Some(("ok", now)) => Ok(Some(now.to_owned())),
            Some(("error", why)) => Err(Error::Usage(why.to_owned())),
            _ => Err(Error::Failed(format!("{} (pid {}) does not answer", self.part, self.pid))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_known_by_the_name_of_its_socket() {
        let line =
            "0000000000000000: 00000002 00000000 00010000 0001 01 4242 @reveille-log/7/router/9";
        let part = Part { group: 7, part: "router".into(), pid: 9 };
        assert_eq!(Part::of_line(line), Some(part));
        for other in [
            "",
            "Num RefCount Protocol",
            "0: 2 0 1 1 1 4242 @other/7/router/9",
            "0: 2 0 1 1 1 4242",
        ] {
            assert_eq!(Part::of_line(other), None, "{other}");
        }
    }
}
