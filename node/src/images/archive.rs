//! Reads a layer: a tar archive, mostly compressed, of which nothing is believed.
//!
//! What an entry says of itself beforehand (long names, attributes) is read here and not by the tar library, which takes as
//! much memory for it as the archive says.

use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, Read},
};

use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType, Header};

use super::{
    Error,
    document::{Descriptor, Digest},
};

/// Of what an entry says beforehand.
const MAX_EXTENSION: u64 = 1 << 20;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What may still be unpacked of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Of the archives, decompressed.
    pub(super) bytes: u64,
    /// Files, directories and whatever else.
    pub(super) entries: u64,
}

impl Budget {
    /// For one more thing.
    pub(super) fn spend_entry(&mut self) -> Result<(), Error> {
        self.entries = self
            .entries
            .checked_sub(1)
            .ok_or_else(|| Error::bad("it has more files than are taken: make it smaller"))?;
        Ok(())
    }
}

/// One thing in a layer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) modified: i64,
    /// Names and values.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    /// Another name of a file that came before.
    Link(Vec<u8>),
    Fifo,
    Device,
}

/// Hands each entry of a layer to `take`, and checks that the layer is the one it should be. Returns how long it is
/// decompressed. Blocks.
pub(super) fn read(
    blob: impl Read,
    descriptor: &Descriptor,
    diff_id: &Digest,
    budget: &mut Budget,
    mut take: impl FnMut(&mut Budget, Entry, &mut dyn Read) -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut source = Source { blob, hash: Sha256::new(), left: descriptor.size, broken: None };
    let outcome = (|| {
        let mut buffered = BufReader::with_capacity(1 << 16, &mut source);
        let (found, length) = decompress(&mut buffered, budget, &mut take)?;
        // Blobs sometimes end later than what is in them.
        io::copy(&mut buffered, &mut io::sink()).map_err(|error| unreadable(&error))?;
        if found != *diff_id {
            return Err(Error::bad(format!(
                "layer {diff_id} has other contents: they are {found}"
            )));
        }
        budget.bytes -= length;
        Ok(length)
    })();
    if let Some(broken) = source.broken {
        return Err(broken);
    }
    let length = outcome?;
    let found = Digest::from_hash(source.hash);
    if source.left > 0 || found != descriptor.digest {
        let wanted = &descriptor.digest;
        return Err(Error::bad(format!("blob {wanted} has other contents: they are {found}")));
    }
    Ok(length)
}

/// Hands on the entries, and says what the archive is and how long.
fn decompress(
    buffered: &mut impl BufRead,
    budget: &mut Budget,
    take: &mut impl FnMut(&mut Budget, Entry, &mut dyn Read) -> Result<(), Error>,
) -> Result<(Digest, u64), Error> {
    let start = buffered.fill_buf().map_err(|error| unreadable(&error))?;
    let plain: Box<dyn Read + '_> = if start.starts_with(GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
    } else if start.starts_with(ZSTD) {
        Box::new(zstd::Decoder::with_buffer(buffered).map_err(|error| unreadable(&error))?)
    } else {
        Box::new(buffered)
    };
    let (hash, limit) = (Sha256::new(), budget.bytes);
    let mut plain = Plain { plain, hash, read: 0, limit, broken: None };
    entries(&mut plain, budget, take)?;
    // Archives end with zeros.
    if let Err(error) = io::copy(&mut plain, &mut io::sink()) {
        return Err(plain.broken.unwrap_or_else(|| unreadable(&error)));
    }
    Ok((Digest::from_hash(plain.hash), plain.read))
}

/// As it comes, compressed.
struct Source<R> {
    blob: R,
    hash: Sha256,
    /// What is still to come.
    left: u64,
    /// Why it did not come. A decoder that reads it would tell something else.
    broken: Option<Error>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.blob.read(buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.broken = Some(Error::Away(format!("a layer did not come: {error}")));
                return Err(error);
            }
        };
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                let broken = Error::bad("a layer is longer than its manifest says");
                self.broken = Some(broken);
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Decompressed.
struct Plain<R> {
    plain: R,
    hash: Sha256,
    read: u64,
    limit: u64,
    /// Why it goes no further. Whoever reads it may say something else.
    broken: Option<Error>,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.plain.read(buffer).inspect_err(|error| {
            self.broken = Some(unreadable(error));
        })?;
        self.read += read as u64;
        if self.read > self.limit {
            self.broken = Some(Error::bad(
                "unpacked it is larger than the node has room for: make it smaller, or raise --image-cache",
            ));
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

fn entries<R: Read>(
    plain: &mut Plain<R>,
    budget: &mut Budget,
    take: &mut impl FnMut(&mut Budget, Entry, &mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut failed = None;
    let outcome = (|| {
        let mut archive = Archive::new(&mut *plain);
        let mut before = Extensions::default();
        for entry in archive.entries()?.raw(true) {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            let mut text = || -> io::Result<Vec<u8>> {
                if entry.size() > MAX_EXTENSION {
                    return Err(io::Error::other("a name or an attribute is too long"));
                }
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                Ok(bytes)
            };
            match kind {
                EntryType::GNULongName => before.path = Some(until_nul(text()?)),
                EntryType::GNULongLink => before.link = Some(until_nul(text()?)),
                EntryType::XHeader => before.read(&text()?)?,
                EntryType::XGlobalHeader => {}
                _ => {
                    let before = std::mem::take(&mut before);
                    let known = before.entry(entry.header(), entry.size())?;
                    let taken = budget.spend_entry().and_then(|()| take(budget, known, &mut entry));
                    if let Err(error) = taken {
                        failed = Some(error);
                        return Err(io::ErrorKind::Other.into());
                    }
                }
            }
        }
        Ok(())
    })();
    let Err(error) = outcome else { return Ok(()) };
    Err(plain.broken.take().or(failed).unwrap_or_else(|| unreadable(&error)))
}

fn unreadable(error: &io::Error) -> Error {
    Error::bad(format!("a layer cannot be read: {error}"))
}

/// What an entry says of itself beforehand.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    modified: Option<i64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    /// Records `<length> <key>=<value>\n`; the length is the record's, so that a value may be anything.
    fn read(&mut self, mut records: &[u8]) -> io::Result<()> {
        let invalid = || io::Error::other("an extended header is not valid");
        while !records.is_empty() {
            let space = records.iter().position(|b| *b == b' ').ok_or_else(invalid)?;
            let length = number(&records[..space]).ok_or_else(invalid)?;
            let record = records.get(space + 1..length).ok_or_else(invalid)?;
            let record = record.strip_suffix(b"\n").ok_or_else(invalid)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(invalid)?;
            self.set(&record[..equals], &record[equals + 1..]).ok_or_else(invalid)?;
            records = &records[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.into()),
            b"linkpath" => self.link = Some(value.into()),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"size" => self.size = Some(number(value)?),
            b"mtime" => self.modified = number(value.split(|b| *b == b'.').next()?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.push((name.into(), value.into()));
                } else if key.starts_with(b"GNU.sparse.") {
                    return None;
                }
            }
        }
        Some(())
    }

    fn entry(self, header: &Header, size: u64) -> io::Result<Entry> {
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        if self.size.is_some_and(|said| said != size) {
            return Err(io::Error::other(format!("{} is too large", shown(&path))));
        }
        let link = || {
            let link = self.link.or_else(|| header.link_name_bytes().map(Cow::into_owned));
            link.ok_or_else(|| io::Error::other(format!("{} leads nowhere", shown(&path))))
        };
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            // Of the oldest archives.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Symlink => Kind::Symlink(link()?),
            EntryType::Link => Kind::Link(link()?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            other => {
                let kind = char::from(other.as_byte()).escape_default();
                let path = shown(&path);
                return Err(io::Error::other(format!("{path} is of the unknown kind '{kind}'")));
            }
        };
        let id = |said: Option<u32>, header: io::Result<u64>| match said {
            Some(id) => Ok(id),
            None => u32::try_from(header?).map_err(io::Error::other),
        };
        Ok(Entry {
            kind,
            mode: header.mode()?,
            uid: id(self.uid, header.uid())?,
            gid: id(self.gid, header.gid())?,
            modified: self.modified.unwrap_or_else(|| header.mtime().unwrap_or(0) as i64),
            attributes: self.attributes,
            path,
        })
    }
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
    name
}

/// For people.
pub(super) fn shown(path: &[u8]) -> String {
    const LONGEST: usize = 200;
    path[..path.len().min(LONGEST)].escape_ascii().to_string()
}
