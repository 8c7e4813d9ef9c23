//! Envoy's log, line by line, as events of our own.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::ChildStderr,
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::Level;

/// Level, component, text. A tab is in none of the first two.
pub(super) const FORMAT: &str = "%l\t%n\t%v";
/// From the end of Envoy to the end of its log.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// A longer line is cut.
const LINE: usize = 4096;

/// What is known of the log of one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Said(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    last: Mutex<String>,
    ending: AtomicBool,
    closed: CancellationToken,
}

impl Said {
    /// The last thing that Envoy said at WARN or worse: usually why it ended. It has ended.
    pub(super) async fn last(&self) -> String {
        // Its last words may still be in the pipe.
        let _ = time::timeout(LAST_WORDS, self.0.closed.cancelled()).await;
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on Envoy is ending because it was told to; what it says of that warns nobody.
    pub(super) fn expect_the_end(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
    }
}

/// Reads until the pipe is closed.
pub(super) fn follow(stderr: Option<ChildStderr>) -> Said {
    let said = Said::default();
    if let Some(stderr) = stderr {
        reveille_api::task::detach("envoy-log", read(stderr, said.clone()));
    }
    said
}

async fn read(stderr: ChildStderr, said: Said) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    let _closed = said.0.closed.clone().drop_guard();
    // What comes before the log is set up is why it cannot be.
    let mut level = Level::ERROR;
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line[..line.len().min(LINE)]);
        let mut line = Line::parse(&line, level);
        level = line.level;
        if level <= Level::WARN {
            line.text.clone_into(&mut said.0.last.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if said.0.ending.load(Ordering::Relaxed) {
            line.level = level.max(Level::DEBUG);
        }
        line.log();
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    level: Level,
    component: &'a str,
    text: &'a str,
}

impl<'a> Line<'a> {
    /// A line without a level goes on with the one before.
    fn parse(line: &'a str, before: Level) -> Self {
        let mut parts = line.splitn(3, '\t');
        if let (Some(level), Some(component), Some(text)) =
            (parts.next().and_then(level), parts.next(), parts.next())
        {
            return Self { level, component, text };
        }
        Self { level: before, component: "", text: line }
    }

    fn log(&self) {
        let Self { level, component, text } = *self;
        match level {
            Level::ERROR => tracing::error!(target: "envoy", component, text, "Envoy says"),
            Level::WARN => tracing::warn!(target: "envoy", component, text, "Envoy says"),
            Level::INFO => tracing::info!(target: "envoy", component, text, "Envoy says"),
            Level::DEBUG => tracing::debug!(target: "envoy", component, text, "Envoy says"),
            Level::TRACE => tracing::trace!(target: "envoy", component, text, "Envoy says"),
        }
    }
}

fn level(name: &str) -> Option<Level> {
    Some(match name {
        "critical" | "error" => Level::ERROR,
        "warning" => Level::WARN,
        "info" => Level::INFO,
        "debug" => Level::DEBUG,
        "trace" => Level::TRACE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_envoys_level_and_its_continuation_has_it_too() {
        let line = Line::parse("critical\tmain\tno such\tfile", Level::INFO);
        assert_eq!(line, Line { level: Level::ERROR, component: "main", text: "no such\tfile" });
        let next = Line::parse("  at line 3", line.level);
        assert_eq!(next, Line { level: Level::ERROR, component: "", text: "  at line 3" });
    }
}
