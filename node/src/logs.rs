//! [`Logs`]: what actors print, one file each, over all their activations.
//!
//! The sandbox writes into the file itself, so that an actor's output neither needs the agent nor stops with it. The
//! file is cut when it is large: its contents go to `.1`, which is replaced, and it begins anew. What is written in
//! between, microseconds, is lost.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::Stream;
use reveille_api::ActorKey;

use crate::files;

/// A file that is larger is cut.
const MAX_BYTES: u64 = 4 << 20;
/// Longest piece sent at a time.
const CHUNK: usize = 64 << 10;
/// How often files are looked at: for new output while somebody follows, and for their size.
const POLL: Duration = Duration::from_millis(200);
pub(crate) const ROTATE_EVERY: Duration = Duration::from_secs(1);

/// The files.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    root: PathBuf,
}

impl Logs {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// The file for a sandbox to write to.
    pub(crate) fn open(&self, actor: &ActorKey) -> io::Result<File> {
        let path = self.path(actor);
        files::create_private_dir(path.parent().unwrap_or(&self.root))?;
        // Appending: also after the file was cut, and with two sandboxes.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)
    }

    /// Cuts the file if it is large.
    pub(crate) fn rotate(&self, actor: &ActorKey) -> io::Result<()> {
        let path = self.path(actor);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_BYTES => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        // Only the end is kept, should it have grown by more than that since the last look.
        let excess = file.metadata()?.len().saturating_sub(MAX_BYTES);
        file.seek(SeekFrom::Start(excess))?;
        io::copy(&mut file, &mut File::create(rotated(&path))?)?;
        file.set_len(0)
    }

    pub(crate) fn remove(&self, actor: &ActorKey) -> io::Result<()> {
        let path = self.path(actor);
        files::remove(&path)?;
        files::remove(&rotated(&path))
    }

    /// What is kept, from its last `tail` lines on (all of it for 0), and what comes if it is followed.
    pub(crate) fn read(
        &self,
        actor: &ActorKey,
        tail: u32,
        follow: bool,
    ) -> impl Stream<Item = io::Result<Vec<u8>>> + use<> {
        let reader = Reader { path: self.path(actor), position: 0, kept: None, tail, follow };
        futures::stream::try_unfold(reader, |mut reader| async move {
            let chunk = reader.next().await?;
            Ok(chunk.map(|chunk| (chunk, reader)))
        })
    }

    fn path(&self, actor: &ActorKey) -> PathBuf {
        self.root.join(actor.namespace()).join(format!("{}.log", actor.name()))
    }
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

struct Reader {
    path: PathBuf,
    /// In the current file.
    position: u64,
    /// What was there at the beginning, and how much of it was sent. `None` before the first read.
    kept: Option<(Vec<u8>, usize)>,
    tail: u32,
    follow: bool,
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.kept.is_none() {
            let (path, tail) = (self.path.clone(), self.tail);
            let (kept, position) = files::blocking(move || kept(&path, tail)).await?;
            (self.kept, self.position) = (Some((kept, 0)), position);
        }
        if let Some((kept, sent)) = &mut self.kept
            && *sent < kept.len()
        {
            let end = kept.len().min(*sent + CHUNK);
            let chunk = kept[*sent..end].to_vec();
            *sent = end;
            return Ok(Some(chunk));
        }
        self.kept = Some((Vec::new(), 0));
        while self.follow {
            let (path, position) = (self.path.clone(), self.position);
            let (chunk, position) = files::blocking(move || after(&path, position)).await?;
            self.position = position;
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(None)
    }
}

/// Both files, or the last lines of them, and the length of the current one.
fn kept(path: &Path, tail: u32) -> io::Result<(Vec<u8>, u64)> {
    let read = |path: &Path| match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    };
    let mut kept = read(&rotated(path))?;
    let current = read(path)?;
    let position = current.len() as u64;
    kept.extend(current);
    if tail > 0 {
        // The newline that ends the last line begins no other.
        let ends = kept.iter().enumerate().rev().skip(1).filter(|(_, b)| **b == b'\n');
        if let Some(cut) = ends.map(|(at, _)| at + 1).nth(tail as usize - 1) {
            kept.drain(..cut);
        }
    }
    Ok((kept, position))
}

/// What was written after `position`, and where that ends. A shorter file was cut: it is read from its beginning.
fn after(path: &Path, position: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        file => file?,
    };
    let start = if file.metadata()?.len() < position { 0 } else { position };
    file.seek(SeekFrom::Start(start))?;
    let mut chunk = Vec::new();
    file.take(CHUNK as u64).read_to_end(&mut chunk)?;
    let end = start + chunk.len() as u64;
    Ok((chunk, end))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::StreamExt;

    use super::*;

    fn actor() -> ActorKey {
        ActorKey::new("demo", "counter").unwrap()
    }

    async fn all(logs: &Logs, tail: u32) -> String {
        let chunks: Vec<_> = logs.read(&actor(), tail, false).collect().await;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(Result::unwrap).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn the_tail_is_the_last_lines_and_nothing_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path());
        assert_eq!(all(&logs, 5).await, "");
        logs.open(&actor()).unwrap().write_all(b"one\ntwo\nthree\n").unwrap();
        logs.open(&actor()).unwrap().write_all(b"four").unwrap();
        assert_eq!(all(&logs, 0).await, "one\ntwo\nthree\nfour");
        assert_eq!(all(&logs, 2).await, "three\nfour");
        assert_eq!(all(&logs, 9).await, "one\ntwo\nthree\nfour");
    }

    #[tokio::test]
    async fn a_large_log_is_cut_and_its_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path());
        let mut writer = logs.open(&actor()).unwrap();
        for round in 0..3 {
            writer.write_all(&vec![b'a' + round; MAX_BYTES as usize + 10]).unwrap();
            logs.rotate(&actor()).unwrap();
        }
        writer.write_all(b"end").unwrap();
        let text = all(&logs, 0).await;
        assert_eq!(text.len() as u64, MAX_BYTES + 3);
        assert!(text.starts_with('c') && text.ends_with("cend"));
    }

    #[tokio::test]
    async fn a_follower_gets_what_comes_also_after_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path());
        let mut writer = logs.open(&actor()).unwrap();
        writer.write_all(b"old\nlast\n").unwrap();
        let mut stream = std::pin::pin!(logs.read(&actor(), 1, true));
        assert_eq!(stream.next().await.unwrap().unwrap(), b"last\n");
        writer.write_all(b"new\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), b"new\n");
        writer.write_all(&vec![b'x'; MAX_BYTES as usize]).unwrap();
        logs.rotate(&actor()).unwrap();
        writer.write_all(b"fresh\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), b"fresh\n");
    }
}
