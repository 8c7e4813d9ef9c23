//! Mends what gVisor writes of its epoll instances.
//!
//! Up to release 20260330 the interests that one `epoll_wait` looks at stay linked to one another after it
//! (gVisor 5d857245b). The links of one that lives, a listener's, mostly lead to some whose connections were closed since,
//! and whatever can be reached is saved. A restore then reports an event for each of those, with the data that was
//! registered with it: for tokio a pointer to memory long freed. The server hangs, crashes or goes on with its heap
//! damaged, and the interests are in its next snapshot too.
//!
//! ```text
//!   EpollInstance.interest ─▶ { listener, waker }      these live
//!                               listener.next ─▶ connection 17 ─▶ connection 4     saved with it: nobody asks for them
//! ```
//!
//! So before a snapshot is sealed, each interest that is in no instance's map gets the mask 0: a restore then reports
//! nothing for it and forgets it, which is what later releases do. No byte moves: the mask is overwritten in place.
//!
//! The file is a header, and then chunks of a stream of values (gVisor's `pkg/state/wire`). It is written by a process
//! that an actor may have got hold of, so nothing in it is believed: not lengths, not depths.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

const MAGIC: &[u8] = b"gVisorSF";
/// Of the header, after its text: SHA-256.
const HASH: usize = 32;
const INTEREST: &[u8] = b"pkg/sentry/vfs.epollInterest";
const KEY: &[u8] = b"pkg/sentry/vfs.epollInterestKey";
const MASK: &[u8] = b"mask";
/// Values in values; gVisor's own go about ten deep.
const DEPTH: u32 = 100;
/// In the number of objects that follow: they are objects, not bytes.
const OBJECTS: u64 = 1 << 63;

/// What comes next in the stream.
mod kind {
    pub(super) const BOOL: u64 = 0;
    pub(super) const INT: u64 = 1;
    pub(super) const UINT: u64 = 2;
    pub(super) const FLOAT32: u64 = 3;
    pub(super) const FLOAT64: u64 = 4;
    pub(super) const NIL: u64 = 5;
    pub(super) const REF: u64 = 6;
    pub(super) const STRING: u64 = 7;
    pub(super) const SLICE: u64 = 8;
    pub(super) const ARRAY: u64 = 9;
    pub(super) const MAP: u64 = 10;
    pub(super) const STRUCT: u64 = 11;
    pub(super) const NO_FIELDS: u64 = 12;
    pub(super) const FIELDS: u64 = 13;
    pub(super) const INTERFACE: u64 = 14;
    pub(super) const COMPLEX64: u64 = 15;
    pub(super) const COMPLEX128: u64 = 16;
    pub(super) const TYPE: u64 = 17;
}

/// Silences the interests that were deleted; returns how many.
pub(super) fn mend(image: &Path) -> io::Result<usize> {
    let bytes = fs::read(image)?;
    let not_understood = |what: Malformed| {
        let text = format!("gVisor's image is not as it should be: {what}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let chunks = Chunks::read(&bytes).map_err(not_understood)?;
    let stale = stale_masks(&chunks.stream).map_err(not_understood)?;
    if stale.is_empty() {
        return Ok(0);
    }
    let file = File::options().write(true).open(image)?;
    for mask in &stale {
        for at in mask.clone() {
            // Zero, in as many bytes as the number had.
            let byte = if at + 1 == mask.end { 0 } else { 0x80 };
            file.write_all_at(&[byte], chunks.place(at))?;
        }
    }
    Ok(stale.len())
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("no header")]
    Header,
    #[error("it ends too early")]
    Short,
    #[error("byte {0} of its stream makes no sense")]
    Value(usize),
}

type Result<T> = std::result::Result<T, Malformed>;

/// The stream, and where in the file its bytes are.
struct Chunks {
    stream: Vec<u8>,
    /// In the stream and in the file, for each chunk.
    begins: Vec<(usize, usize)>,
}

impl Chunks {
    fn read(file: &[u8]) -> Result<Self> {
        let rest = file.strip_prefix(MAGIC).ok_or(Malformed::Header)?;
        let text = rest.first_chunk::<8>().ok_or(Malformed::Header)?;
        let text = usize::try_from(u64::from_be_bytes(*text)).map_err(|_| Malformed::Header)?;
        let header = text.checked_add(MAGIC.len() + 8 + HASH).ok_or(Malformed::Header)?;
        let mut chunks = Self { stream: Vec::with_capacity(file.len()), begins: Vec::new() };
        let mut at = header;
        if at > file.len() {
            return Err(Malformed::Header);
        }
        while at < file.len() {
            let rest = &file[at..];
            let length = u32::from_be_bytes(*rest.first_chunk().ok_or(Malformed::Short)?) as usize;
            let chunk = rest.get(4..4 + length).ok_or(Malformed::Short)?;
            chunks.begins.push((chunks.stream.len(), at + 4));
            chunks.stream.extend(chunk);
            at += 4 + length;
        }
        Ok(chunks)
    }

    fn place(&self, at: usize) -> u64 {
        let chunk = self.begins.partition_point(|(begin, _)| *begin <= at).saturating_sub(1);
        let (begin, place) = self.begins.get(chunk).copied().unwrap_or_default();
        (place + at - begin) as u64
    }
}

/// Where the masks are of interests that no epoll instance has.
fn stale_masks(stream: &[u8]) -> Result<Vec<Range<usize>>> {
    let mut reader = Reader { stream, at: 0 };
    let mut stale = Vec::new();
    while reader.at < stream.len() {
        let objects = reader.number()?;
        if objects & OBJECTS == 0 {
            reader.take(objects)?;
            continue;
        }
        let mut graph = Graph::default();
        let mut left = objects & !OBJECTS;
        while left > 0 {
            match reader.number()? {
                kind::TYPE => graph.declare(reader.type_declaration()?),
                kind::UINT => {
                    let id = reader.number()?;
                    graph.object(&mut reader, id)?;
                    left -= 1;
                }
                _ => return Err(reader.nonsense()),
            }
        }
        stale.extend(graph.stale());
    }
    Ok(stale)
}

/// What matters of one graph of objects. Its types come before its objects.
#[derive(Default)]
struct Graph {
    types: u64,
    interest: Option<InterestType>,
    key: Option<u64>,
    /// Objects that are an interest, with the place of the mask.
    interests: Vec<(u64, Range<usize>)>,
    /// Those that an instance has.
    live: HashSet<u64>,
}

#[derive(Clone, Copy)]
struct InterestType {
    id: u64,
    fields: u64,
    mask: u64,
}

impl Graph {
    fn declare(&mut self, (name, fields): (&[u8], Vec<&[u8]>)) {
        self.types += 1;
        let id = self.types;
        if name == KEY {
            self.key = Some(id);
        } else if name == INTEREST
            && let Some(mask) = fields.iter().position(|field| *field == MASK)
        {
            self.interest =
                Some(InterestType { id, fields: fields.len() as u64, mask: mask as u64 });
        }
    }

    fn object(&mut self, reader: &mut Reader<'_>, id: u64) -> Result<()> {
        let begin = reader.at;
        match reader.number()? {
            kind::STRUCT => {
                let declared = reader.number()?;
                let interest = self.interest.filter(|interest| interest.id == declared);
                if let Some(interest) = interest {
                    let mask = reader.interest(interest)?;
                    self.interests.extend(mask.map(|mask| (id, mask)));
                    return Ok(());
                }
            }
            kind::MAP => {
                if let Some(key) = self.key
                    && reader.map_has_key(key)?
                {
                    reader.at = begin;
                    return reader.live(&mut self.live);
                }
            }
            _ => {}
        }
        reader.at = begin;
        reader.skip(0)
    }

    fn stale(self) -> impl Iterator<Item = Range<usize>> {
        let live = self.live;
        self.interests.into_iter().filter(move |(id, _)| !live.contains(id)).map(|(_, mask)| mask)
    }
}

struct Reader<'a> {
    stream: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn nonsense(&self) -> Malformed {
        Malformed::Value(self.at)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.stream.get(self.at..end)).ok_or(Malformed::Short)?;
        self.at += taken.len();
        Ok(taken)
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(self.nonsense())
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    fn type_declaration(&mut self) -> Result<(&'a [u8], Vec<&'a [u8]>)> {
        let (name, count) = (self.string()?, self.number()?);
        let fields = (0..count).map(|_| self.string()).collect::<Result<_>>()?;
        Ok((name, fields))
    }

    /// An interest after its type: where its mask is, unless that is 0.
    fn interest(&mut self, interest: InterestType) -> Result<Option<Range<usize>>> {
        if (self.number()?, self.number()?) != (kind::FIELDS, interest.fields) {
            return Err(self.nonsense());
        }
        let mut mask = None;
        for field in 0..interest.fields {
            if field != interest.mask {
                self.skip(0)?;
                continue;
            }
            match self.number()? {
                kind::NIL => {}
                kind::UINT => {
                    let begin = self.at;
                    self.number()?;
                    mask = Some(begin..self.at);
                }
                _ => return Err(self.nonsense()),
            }
        }
        Ok(mask)
    }

    /// Whether the keys of a map, read up to its kind, are structs of this type.
    fn map_has_key(&mut self, key: u64) -> Result<bool> {
        Ok(self.number()? > 0 && self.number()? == kind::STRUCT && self.number()? == key)
    }

    /// The objects that the values of a map refer to.
    fn live(&mut self, live: &mut HashSet<u64>) -> Result<()> {
        self.number()?;
        let entries = self.number()?;
        let key = self.number()?;
        self.skip_body(key, 0)?;
        if self.number()? != kind::REF {
            return Err(self.nonsense());
        }
        live.insert(self.reference()?);
        for _ in 1..entries {
            self.skip_body(key, 0)?;
            live.insert(self.reference()?);
        }
        Ok(())
    }

    /// The object that a reference leads to, be it to a part of it.
    fn reference(&mut self) -> Result<u64> {
        let (root, steps) = (self.number()?, self.number()?);
        for _ in 0..steps {
            // A length below zero of a field's name, or an index.
            let step = self.number()?;
            if step & 1 == 1 {
                self.take((step >> 1) + 1)?;
            }
        }
        if steps > 0 {
            self.skip_type(0)?;
        }
        Ok(root)
    }

    fn skip_type(&mut self, depth: u32) -> Result<()> {
        if depth > DEPTH {
            return Err(self.nonsense());
        }
        match self.number()? {
            // Declared.
            0 => self.number().map(drop),
            // Pointer, slice.
            1 | 3 => self.skip_type(depth + 1),
            // Array.
            2 => {
                self.number()?;
                self.skip_type(depth + 1)
            }
            // Map.
            4 => {
                self.skip_type(depth + 1)?;
                self.skip_type(depth + 1)
            }
            // Nil.
            5 => Ok(()),
            _ => Err(self.nonsense()),
        }
    }

    fn skip(&mut self, depth: u32) -> Result<()> {
        let kind = self.number()?;
        self.skip_body(kind, depth)
    }

    /// Values of one kind that follow one another. Each takes some room: their number is only claimed.
    fn skip_bodies(&mut self, kinds: &[u64], count: u64, depth: u32) -> Result<()> {
        for _ in 0..count {
            let begin = self.at;
            for kind in kinds {
                self.skip_body(*kind, depth)?;
            }
            if self.at == begin {
                return Err(self.nonsense());
            }
        }
        Ok(())
    }

    fn skip_body(&mut self, kind: u64, depth: u32) -> Result<()> {
        if depth > DEPTH {
            return Err(self.nonsense());
        }
        let depth = depth + 1;
        match kind {
            kind::BOOL | kind::INT | kind::UINT | kind::FLOAT32 | kind::FLOAT64 => {
                self.number().map(drop)
            }
            kind::NIL | kind::NO_FIELDS => Ok(()),
            kind::REF => self.reference().map(drop),
            kind::STRING => self.string().map(drop),
            kind::SLICE => {
                // Length and capacity.
                self.number()?;
                self.number()?;
                self.reference().map(drop)
            }
            kind::ARRAY => match self.number()? {
                0 => Ok(()),
                count => {
                    let kind = self.number()?;
                    self.skip_bodies(&[kind], count, depth)
                }
            },
            kind::MAP => match self.number()? {
                0 => Ok(()),
                count => {
                    // The kind of each stands before the first of each.
                    let key = self.number()?;
                    self.skip_body(key, depth)?;
                    let value = self.number()?;
                    self.skip_body(value, depth)?;
                    self.skip_bodies(&[key, value], count - 1, depth)
                }
            },
            kind::STRUCT => {
                self.number()?;
                self.skip(depth)
            }
            kind::FIELDS => {
                let count = self.number()?;
                for _ in 0..count {
                    self.skip(depth)?;
                }
                Ok(())
            }
            kind::INTERFACE => {
                self.skip_type(depth)?;
                self.skip(depth)
            }
            kind::COMPLEX64 | kind::COMPLEX128 => {
                self.number()?;
                self.number().map(drop)
            }
            _ => Err(self.nonsense()),
        }
    }
}

#[cfg(test)]
mod tests;
