//! A part's output: every line to stderr, with the part's name in front.

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    task::JoinSet,
};

use super::plan::Part;
use crate::logging::Format;

/// Longest line that is kept in one piece.
const LONGEST: u64 = 64 * 1024;
/// How the last word of a part that fails begins.
const LAST_WORD: &str = "error: ";

/// The last `error: …` a part said.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWord(Arc<Mutex<Option<String>>>);

impl LastWord {
    fn set(&self, line: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.into());
    }

    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Passes on what comes out of `pipe` until it is closed.
pub(super) fn relay(
    tasks: &mut JoinSet<()>,
    part: Part,
    format: Format,
    pipe: impl AsyncRead + Unpin + Send + 'static,
    last: LastWord,
) {
    reveille_api::task::spawn(tasks, "relay", async move {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut lines).take(LONGEST).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => pass_on(part, format, line.trim_ascii_end(), &last),
            }
        }
    });
}

fn pass_on(part: Part, format: Format, line: &[u8], last: &LastWord) {
    let line = String::from_utf8_lossy(line);
    if let Some(word) = line.strip_prefix(LAST_WORD) {
        last.set(word);
    }
    let mut stderr = std::io::stderr().lock();
    let _ = match format {
        Format::Text => writeln!(stderr, "{:<12} | {line}", part.name()),
        Format::Json if line.starts_with('{') => writeln!(stderr, "{line}"),
        Format::Json => {
            let plain = serde_json::json!({ "part": part.name(), "message": line });
            writeln!(stderr, "{plain}")
        }
    };
}
