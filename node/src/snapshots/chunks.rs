//! [`Digest`]s of the chunks of image files: what a file is compared by, and what leaves the node.
//!
//! ```text
//!  pages.img  │ 256 KiB │ 256 KiB │  hole   │ rest │
//!               digest    digest    zeros    digest ─▶ BLAKE3 of the digests = the file's, in the manifest
//! ```
//!
//! All chunks of all files are hashed by as many threads as there are processors. Holes are not read.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::{fs::SeekFrom, io::Errno};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    ahead::Known,
    manifest::{FileEntry, Stamp},
};

/// Every chunk of a file but the last is as large as this. A part of the manifest's format.
pub(crate) const CHUNK: usize = 256 << 10;
const THREADS: usize = 8;

/// BLAKE3 of a chunk; of one that is all zeros a mark, since there is nothing to keep of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) const ZEROS: Self = Self([0; 32]);

    pub(crate) fn of(chunk: &[u8]) -> Self {
        let zeros = chunk.first().is_none_or(|first| *first == 0)
            && chunk.get(1..).is_none_or(|rest| rest == &chunk[..rest.len()]);
        if zeros { Self::ZEROS } else { Self(*blake3::hash(chunk).as_bytes()) }
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::ZEROS {
            serializer.serialize_str("")
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::ZEROS);
        }
        let hash = blake3::Hash::from_hex(&text).map_err(de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// What a file is.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) entry: FileEntry,
    pub(crate) stamp: Stamp,
    pub(crate) chunks: Vec<Digest>,
}

/// The digest of a file, of those of its chunks.
pub(crate) fn of_file(chunks: &[Digest]) -> String {
    let mut hasher = blake3::Hasher::new();
    for digest in chunks {
        hasher.update(&digest.0);
    }
    hasher.finalize().to_hex().to_string()
}

/// How many chunks a file of this size has.
pub(crate) fn count(size: u64) -> u64 {
    size.div_ceil(CHUNK as u64)
}

/// Reads one chunk of a file.
pub(crate) fn read<'a>(
    file: &File,
    index: u64,
    size: u64,
    buffer: &'a mut Vec<u8>,
) -> io::Result<&'a [u8]> {
    let offset = index * CHUNK as u64;
    let length = (CHUNK as u64).min(size.saturating_sub(offset)) as usize;
    buffer.resize(CHUNK, 0);
    let chunk = &mut buffer[..length];
    file.read_exact_at(chunk, offset)?;
    Ok(chunk)
}

struct Opened<'a> {
    name: &'a str,
    file: File,
    stamp: Stamp,
    data: Vec<std::ops::Range<u64>>,
}

/// Hashes files of a directory.
pub(crate) fn hash_all(dir: &Path, names: &[String]) -> io::Result<Vec<Hashed>> {
    hash(open(dir, names)?, &mut Known::default())
}

/// Hashes files of a directory and writes them to the disk; `last` is done when their digests are known, and may be
/// done before they are on the disk.
pub(super) fn hash_and_sync<T>(
    dir: &Path,
    names: &[String],
    known: &mut Known,
    last: impl FnOnce(Vec<Hashed>) -> io::Result<T>,
) -> io::Result<T> {
    let opened = open(dir, names)?;
    let files = opened.iter().map(|file| file.file.try_clone());
    let files = files.collect::<io::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let syncing: Vec<_> =
            files.iter().map(|file| scope.spawn(move || file.sync_all())).collect();
        let done = last(hash(opened, known)?)?;
        syncing.into_iter().try_for_each(joined)?;
        Ok(done)
    })
}

fn open<'a>(dir: &Path, names: &'a [String]) -> io::Result<Vec<Opened<'a>>> {
    names.iter().map(|name| Opened::new(dir, name)).collect()
}

fn hash(opened: Vec<Opened<'_>>, known: &mut Known) -> io::Result<Vec<Hashed>> {
    let mut digests: Vec<_> = opened
        .iter()
        .map(|file| {
            let mut chunks: Vec<_> =
                known.of(file.name, &file.stamp).into_iter().map(Some).collect();
            chunks.resize(count(file.stamp.size()) as usize, None);
            chunks
        })
        .collect();
    let left = |(at, chunks): (usize, &Vec<Option<Digest>>)| {
        let left = chunks.iter().enumerate().filter(|(_, known)| known.is_none());
        left.map(move |(index, _)| (at, index)).collect::<Vec<_>>()
    };
    let left: Vec<(usize, usize)> = digests.iter().enumerate().flat_map(left).collect();
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<Vec<((usize, usize), Digest)>> {
        let (mut buffer, mut done) = (Vec::new(), Vec::new());
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((file, index)) = left.get(at) else { return Ok(done) };
            done.push(((*file, *index), opened[*file].digest(*index as u64, &mut buffer)?));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    std::thread::scope(|scope| -> io::Result<()> {
        let hashing: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in hashing {
            for ((file, index), digest) in joined(thread)? {
                digests[file][index] = Some(digest);
            }
        }
        Ok(())
    })?;
    let both = opened.into_iter().zip(digests);
    both.map(|(file, chunks)| file.finish(chunks.into_iter().flatten().collect())).collect()
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a hashing thread panicked")))
}

impl<'a> Opened<'a> {
    fn new(dir: &Path, name: &'a str) -> io::Result<Self> {
        let context = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let file = File::open(dir.join(name)).map_err(context)?;
        let stamp = Stamp::from(&file.metadata().map_err(context)?);
        let data = data(&file, stamp.size()).map_err(context)?;
        Ok(Self { name, file, stamp, data })
    }

    fn digest(&self, index: u64, buffer: &mut Vec<u8>) -> io::Result<Digest> {
        let begin = index * CHUNK as u64;
        let end = begin + CHUNK as u64;
        let at = self.data.partition_point(|data| data.end <= begin);
        if self.data.get(at).is_none_or(|data| data.start >= end) {
            return Ok(Digest::ZEROS);
        }
        let chunk = read(&self.file, index, self.stamp.size(), buffer);
        chunk.map(Digest::of).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.name)))
    }

    fn finish(self, chunks: Vec<Digest>) -> io::Result<Hashed> {
        let Self { name, file, stamp, .. } = self;
        if Stamp::from(&file.metadata()?) != stamp {
            return Err(io::Error::other(format!("{name} changed while it was hashed")));
        }
        let entry = FileEntry { name: name.into(), size: stamp.size(), blake3: of_file(&chunks) };
        Ok(Hashed { entry, stamp, chunks })
    }
}

/// Where a file has data; what lies between is holes.
fn data(file: &File, size: u64) -> io::Result<Vec<std::ops::Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn hash(dir: &Path) -> Hashed {
        hash_all(dir, &["a".to_owned()]).unwrap().remove(0)
    }

    #[test]
    fn a_stamp_tells_a_file_from_one_with_a_byte_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "abc").unwrap();
        let first = hash(dir.path());
        assert_eq!(first.chunks, [Digest::of(b"abc")]);
        assert_eq!((first.entry.size, Stamp::of(&path).unwrap()), (3, first.stamp));
        fs::write(&path, "abd").unwrap();
        assert_ne!(Stamp::of(&path).unwrap(), first.stamp);
        assert_ne!(hash(dir.path()).entry.blake3, first.entry.blake3);
    }

    #[test]
    fn a_hole_and_written_zeros_are_the_same_and_what_surrounds_them_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let size = 5 * CHUNK + 100;
        let mut bytes = vec![0; size];
        bytes[2 * CHUNK + 5] = 1;
        fs::write(&path, &bytes).unwrap();
        let written = hash(dir.path());

        fs::remove_file(&path).unwrap();
        let file = File::create(&path).unwrap();
        file.set_len(size as u64).unwrap();
        file.write_all_at(&[1], 2 * CHUNK as u64 + 5).unwrap();
        let sparse = hash(dir.path());
        assert_eq!(sparse.entry, written.entry);
        let kept: Vec<_> = sparse.chunks.iter().map(|digest| *digest != Digest::ZEROS).collect();
        assert_eq!(kept, [false, false, true, false, false, false]);

        file.write_all_at(&[1], size as u64 - 1).unwrap();
        assert_ne!(hash(dir.path()).entry.blake3, written.entry.blake3);
    }

    #[test]
    fn a_digest_is_written_as_text_and_read_back() {
        let both = [Digest::ZEROS, Digest::of(b"x")];
        let text = serde_json::to_string(&both).unwrap();
        assert!(text.starts_with("[\"\",\""), "{text}");
        assert_eq!(serde_json::from_str::<[Digest; 2]>(&text).unwrap(), both);
        assert!(serde_json::from_str::<Digest>("\"../x\"").is_err());
    }
}
