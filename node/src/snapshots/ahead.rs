//! [`Ahead`]: image files are hashed and sent to the disk while the runtime still writes them.
//!
//! ```text
//!  written   ████████████████████████│ the runtime is done
//!  hashed    ░░██████████████████████│░ the last chunks, by every processor
//!  sent      ░░██████████████████████│░ and synced
//! ```
//!
//! What is left of both when the runtime is done does not grow with the memory. It is sound only for a file that is
//! written from its front to its end, each byte once: whoever has it written says which ones are. Of those a sample is
//! hashed again at the end, always with the first chunk, where headers are, and nothing is taken over of a file in which
//! a byte of that has changed. Were a change missed all the same, the manifest would not fit the file: that can make a
//! snapshot useless to the next agent, and never lets a wrong one pass.
//!
//! They are sent by [`writeback`], not synced: each sync of a file that grows makes its writer wait for the file system's journal,
//! which took longer than was won.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::{
    chunks::{self, CHUNK, Digest},
    manifest::Stamp,
    writeback,
};
use crate::files;

/// Between two looks at what has been written. Files have no way to wait for that which does not slow their writer down.
const LOOK: Duration = Duration::from_millis(3);
/// Chunks of a file that are hashed again.
const SAMPLE: usize = 16;

/// The names of files that are written from front to end.
pub(crate) type InOrder = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A thread that follows the writer. It ends soon after this is dropped.
#[derive(Debug)]
pub(super) struct Ahead {
    stop: Arc<Stop>,
    hashing: Option<JoinHandle<io::Result<Vec<Followed>>>>,
}

#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(stopped, LOOK, |stopped| !*stopped);
        drop(waited);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// A file, and the digests of the chunks it begins with.
#[derive(Debug)]
struct Followed {
    name: String,
    file: File,
    chunks: Vec<Digest>,
}

/// The digests of the chunks that files begin with.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<String, ((u64, u64), Vec<Digest>)>);

impl Known {
    fn among(followed: Vec<Followed>) -> io::Result<Self> {
        let mut known = BTreeMap::new();
        for file in followed {
            let stamp = Stamp::from(&file.file.metadata()?);
            if file.is_as_it_was(&stamp)? {
                known.insert(file.name, (stamp.file(), file.chunks));
            } else {
                let name = file.name;
                tracing::warn!(name, "an image file was changed where it had been written");
            }
        }
        Ok(Self(known))
    }

    /// Of this file, if it is the one that was followed.
    pub(super) fn of(&mut self, name: &str, stamp: &Stamp) -> Vec<Digest> {
        let (file, chunks) = self.0.remove(name).unwrap_or_default();
        let whole = stamp.size() / CHUNK as u64;
        if file == stamp.file() && chunks.len() as u64 <= whole { chunks } else { Vec::new() }
    }
}

impl Ahead {
    /// Follows what is written into a directory.
    pub(super) fn begin(dir: &Path, in_order: InOrder) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let (follower, until) = (Follower::new(dir, in_order), stop.clone());
        let thread = std::thread::Builder::new().name("hash-ahead".into());
        let hashing = thread.spawn(move || follower.hash(&until))?;
        Ok(Self { stop, hashing: Some(hashing) })
    }

    /// Nobody writes any more. Blocks for a moment. What cannot be read is not known.
    pub(super) fn finish(mut self) -> Known {
        self.stop.stop();
        let followed = self.hashing.take().and_then(|hashing| hashing.join().ok());
        let known = followed.map(|followed| followed.and_then(Known::among));
        let failed = |error: &io::Error| tracing::debug!(%error, "an image was not followed");
        known.and_then(|known| known.inspect_err(failed).ok()).unwrap_or_default()
    }
}

impl Followed {
    fn is_as_it_was(&self, stamp: &Stamp) -> io::Result<bool> {
        let mut buffer = Vec::new();
        let every = self.chunks.len().div_ceil(SAMPLE).max(1);
        for (index, digest) in self.chunks.iter().enumerate().step_by(every) {
            let chunk = chunks::read(&self.file, index as u64, stamp.size(), &mut buffer)?;
            if Digest::of(chunk) != *digest {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

struct Follower {
    dir: PathBuf,
    in_order: InOrder,
    files: Vec<Followed>,
}

impl Follower {
    fn new(dir: &Path, in_order: InOrder) -> Self {
        Self { dir: dir.into(), in_order, files: Vec::new() }
    }

    /// Files that have come since the last look.
    fn look(&mut self) -> io::Result<()> {
        for name in files::names(&self.dir)? {
            if (self.in_order)(&name) && self.files.iter().all(|file| file.name != name) {
                let file = File::open(self.dir.join(&name))?;
                self.files.push(Followed { name, file, chunks: Vec::new() });
            }
        }
        Ok(())
    }

    fn hash(mut self, stop: &Stop) -> io::Result<Vec<Followed>> {
        let mut buffer = Vec::new();
        loop {
            self.look()?;
            for file in &mut self.files {
                let size = file.file.metadata()?.len();
                let whole = size / CHUNK as u64;
                let hashed = file.chunks.len() as u64;
                if hashed == whole {
                    continue;
                }
                // Where that fails, the sync at the end does all of it.
                let _ = writeback::begin(&file.file, hashed * CHUNK as u64..whole * CHUNK as u64);
                for index in hashed..whole {
                    if stop.is_set() {
                        return Ok(self.files);
                    }
                    let chunk = chunks::read(&file.file, index, size, &mut buffer)?;
                    file.chunks.push(Digest::of(chunk));
                }
            }
            if stop.is_set() {
                return Ok(self.files);
            }
            stop.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt};

    use tokio::time::Instant;

    use super::*;

    fn begin(dir: &Path) -> Ahead {
        Ahead::begin(dir, Arc::new(|name| name.starts_with("pages"))).unwrap()
    }

    fn chunk(number: usize) -> Vec<u8> {
        vec![number as u8 + 1; CHUNK]
    }

    /// One that has read a file of so many chunks.
    fn followed(dir: &Path, count: usize) -> Ahead {
        let bytes: Vec<u8> = (0..count).flat_map(chunk).collect();
        fs::write(dir.join("pages.img"), bytes).unwrap();
        let stop = Arc::new(Stop::default());
        stop.stop();
        let in_order: InOrder = Arc::new(|name| name == "pages.img");
        let mut follower = Follower::new(dir, in_order);
        follower.look().unwrap();
        let mut files = follower.hash(&stop).unwrap();
        assert_eq!(files[0].chunks, []);
        let size = files[0].file.metadata().unwrap().len();
        for index in 0..count as u64 {
            let read = chunks::read(&files[0].file, index, size, &mut Vec::new()).map(Digest::of);
            files[0].chunks.push(read.unwrap());
        }
        Ahead { stop, hashing: Some(std::thread::spawn(move || Ok(files))) }
    }

    fn known(mut known: Known, dir: &Path) -> Vec<Digest> {
        known.of("pages.img", &Stamp::of(&dir.join("pages.img")).unwrap())
    }

    #[test]
    fn what_was_written_before_the_end_is_known_and_of_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let ahead = begin(dir.path());
        let file = File::create(dir.path().join("pages.img")).unwrap();
        fs::write(dir.path().join("other.img"), chunk(0)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut written = 0;
        // However slow it is, it follows.
        let known_chunks = loop {
            file.write_all_at(&chunk(written), (written * CHUNK) as u64).unwrap();
            written += 1;
            if written == 40 {
                let mut found = ahead.finish();
                let other = Stamp::of(&dir.path().join("other.img")).unwrap();
                assert!(found.of("other.img", &other).is_empty());
                break known(found, dir.path());
            }
            std::thread::yield_now();
            assert!(Instant::now() < deadline);
        };
        assert!(known_chunks.len() <= 40);
        for (number, digest) in known_chunks.iter().enumerate() {
            assert_eq!(*digest, Digest::of(&chunk(number)));
        }
    }

    #[test]
    fn a_whole_file_that_was_followed_is_known_but_not_another_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let expected: Vec<_> = (0..5).map(|number| Digest::of(&chunk(number))).collect();
        let found = followed(dir.path(), 5).finish();
        assert_eq!(known(found, dir.path()), expected);

        let found = followed(dir.path(), 5).finish();
        let path = dir.path().join("pages.img");
        fs::rename(&path, dir.path().join("gone")).unwrap();
        fs::write(&path, chunk(0)).unwrap();
        assert_eq!(known(found, dir.path()), []);
    }

    #[test]
    fn nothing_is_known_of_a_file_whose_front_was_written_again_or_that_became_shorter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages.img");
        let open = || File::options().write(true).open(&path).unwrap();
        for count in [1, 5, 40] {
            let ahead = followed(dir.path(), count);
            open().write_all_at(b"a header", 0).unwrap();
            assert_eq!(known(ahead.finish(), dir.path()), []);
            let ahead = followed(dir.path(), count);
            open().set_len(CHUNK as u64 / 2).unwrap();
            assert_eq!(known(ahead.finish(), dir.path()), []);
        }
        // By a chunk that is not looked at again.
        let ahead = followed(dir.path(), 38);
        open().set_len(37 * CHUNK as u64).unwrap();
        assert_eq!(known(ahead.finish(), dir.path()), []);
    }
}
