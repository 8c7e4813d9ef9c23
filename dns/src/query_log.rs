//! Every question as a line of JSON, for those who ask for it. A log that is too slow loses lines, and never delays a reply.

use std::{io, net::SocketAddr, os::fd::AsFd, path::Path, time::SystemTime};

use reveille_api::metrics::Label;
use serde::Serialize;
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncWriteExt, BufWriter},
    sync::mpsc,
};

use crate::{
    message::Replied,
    metrics::{Code, Metrics, Transport},
};

/// Lines that may wait.
const WAITING: usize = 4_096;
/// Lines that are written together.
const TOGETHER: usize = 256;

/// Path that means standard output.
pub const STDOUT: &str = "-";

#[derive(Debug, Serialize)]
struct Line {
    unix_ms: u64,
    client: SocketAddr,
    transport: &'static str,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    code: String,
    truncated: bool,
    bytes: usize,
}

/// Where lines go.
#[derive(Debug)]
pub(crate) struct QueryLog(mpsc::Sender<Line>);

/// What writes them.
pub(crate) struct Writer {
    lines: mpsc::Receiver<Line>,
    to: File,
}

/// Opens it; what is there already stays, and what is cut off by somebody else (`copytruncate`) is gone.
pub(crate) async fn open(path: &Path) -> io::Result<(QueryLog, Writer)> {
    let to = match path == Path::new(STDOUT) {
        // Not by a path: a socket has none that can be opened, and a pipe may be another user's.
        true => std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?).into(),
        false => OpenOptions::new().create(true).append(true).open(path).await?,
    };
    let (sender, lines) = mpsc::channel(WAITING);
    Ok((QueryLog(sender), Writer { lines, to }))
}

impl QueryLog {
    pub(crate) fn write(
        &self,
        transport: Transport,
        client: SocketAddr,
        replied: &Replied,
        bytes: usize,
        metrics: &Metrics,
    ) {
        let Ok(place) = self.0.try_reserve() else {
            metrics.log_dropped.inc();
            return;
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let query = replied.query.as_ref();
        place.send(Line {
            unix_ms: now.as_millis() as u64,
            client,
            transport: transport.value(),
            name: query.map(|query| query.name.to_ascii()),
            kind: query.map(|query| query.query_type.to_string()),
            code: Code::of(replied.code).mnemonic(),
            truncated: replied.truncated,
            bytes,
        });
    }
}

impl Writer {
    /// Until nobody can send any more. A file that cannot be written to loses what is sent meanwhile.
    pub(crate) async fn run(self) {
        let Self { mut lines, to } = self;
        let mut to = BufWriter::new(to);
        let mut batch = Vec::with_capacity(TOGETHER);
        let mut well = true;
        while lines.recv_many(&mut batch, TOGETHER).await > 0 {
            let mut text = Vec::new();
            for line in batch.drain(..) {
                if serde_json::to_writer(&mut text, &line).is_ok() {
                    text.push(b'\n');
                }
            }
            let written = async {
                to.write_all(&text).await?;
                to.flush().await
            };
            match written.await {
                Ok(()) => well = true,
                Err(error) if well => {
                    tracing::warn!(%error, "the query log cannot be written");
                    well = false;
                }
                Err(_) => {}
            }
        }
    }
}
