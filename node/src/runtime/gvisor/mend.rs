//! Mends what gVisor writes of its epoll instances.
//!
//! **Deleted interests.** Up to release 20260330 the interests that one `epoll_wait` looks at stay linked to one another
//! after it (gVisor 5d857245b). The links of one that lives, a listener's, mostly lead to some whose connections were
//! closed since, and whatever can be reached is saved. A restore then reports an event for each of those, with the data
//! that was registered with it: for tokio a pointer to memory long freed. The server hangs, crashes or goes on with its
//! heap damaged, and the interests are in its next snapshot too.
//!
//! ```text
//!   EpollInstance.interest ─▶ { listener, waker }      these live
//!                               listener.next ─▶ connection 17 ─▶ connection 4     saved with it: nobody asks for them
//! ```
//!
//! So each interest that is in no instance's map gets the mask 0: a restore then reports nothing for it and forgets it,
//! which is what later releases do.
//!
//! **Torn lists.** A connection that is still open is aborted while the state is written, and that puts its interest on
//! the list of those that are ready. The list and its members are written one after another, so what is saved may be of
//! different moments; a restore puts every interest that is not marked as ready on the list, also one that is there:
//!
//! ```text
//!   written first   interest 278: not ready                    restored: 278 is put behind itself. The list ends there,
//!   written later   instance: head = tail = 278                and who is put behind it, a listener, never is seen again.
//! ```
//!
//! So every list is emptied and every mark taken away: a restore puts all interests on the list anyway, and the next
//! `epoll_wait` asks each of them what it is ready for.
//!
//! No byte moves: numbers are overwritten in place, before the snapshot is sealed. The file is a header, and then chunks
//! of a stream of values (gVisor's `pkg/state/wire`). It is written by a process that an actor may have got hold of, so
//! nothing in it is believed: not lengths, not depths.

mod rename;

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
};

pub(super) use rename::rename;

const MAGIC: &[u8] = b"gVisorSF";
/// Of the header, after its text: SHA-256.
const HASH: usize = 32;
const INTEREST: &[u8] = b"pkg/sentry/vfs.epollInterest";
const KEY: &[u8] = b"pkg/sentry/vfs.epollInterestKey";
const INSTANCE: &[u8] = b"pkg/sentry/vfs.EpollInstance";
const MASK: &[u8] = b"mask";
/// Of an interest a mark, of an instance the list.
const READY: &[u8] = b"ready";
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

/// How much there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mended {
    /// Interests that were deleted.
    pub(super) deleted: usize,
    /// Marks and ends of lists of those that were ready.
    pub(super) ready: usize,
}

/// See the module.
pub(super) fn mend(image: &Path) -> io::Result<Mended> {
    let bytes = fs::read(image)?;
    let not_understood = |what: Malformed| {
        let text = format!("gVisor's image is not as it should be: {what}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let chunks = Chunks::read(&bytes).map_err(not_understood)?;
    let faults = faults(&chunks.stream).map_err(not_understood)?;
    let ready = faults.marks.len() + faults.ends.len();
    let mended = Mended { deleted: faults.masks.len(), ready };
    let numbers = [faults.masks, faults.marks, faults.ends].concat();
    if numbers.is_empty() {
        return Ok(mended);
    }
    let file = File::options().write(true).open(image)?;
    for number in numbers {
        for at in number.clone() {
            // Zero, in as many bytes as the number had.
            let byte = if at + 1 == number.end { 0 } else { 0x80 };
            file.write_all_at(&[byte], chunks.place(at))?;
        }
    }
    Ok(mended)
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("no header")]
    Header,
    #[error("it ends too early")]
    Short,
    #[error("byte {0} of its stream makes no sense")]
    Value(usize),
    #[error("an epoll instance has an interest ready that it does not have")]
    Ready,
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

/// Numbers that are to be zero.
#[derive(Debug, Default, PartialEq, Eq)]
struct Faults {
    /// Masks of interests that no epoll instance has.
    masks: Vec<Range<usize>>,
    /// Marks of interests that are ready.
    marks: Vec<Range<usize>>,
    /// Heads and tails of lists.
    ends: Vec<Range<usize>>,
}

fn faults(stream: &[u8]) -> Result<Faults> {
    let mut reader = Reader { stream, at: 0 };
    let mut faults = Faults::default();
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
        graph.judge(&mut faults)?;
    }
    Ok(faults)
}

/// What matters of one graph of objects. Its types come before its objects.
#[derive(Default)]
struct Graph {
    types: u64,
    interest: Option<InterestType>,
    instance: Option<InstanceType>,
    key: Option<u64>,
    /// Objects that are an interest, with the place of the mask.
    masks: Vec<(u64, Range<usize>)>,
    /// Places of the marks.
    marks: Vec<Range<usize>>,
    /// Interests at an end of a list, with the place of the reference's number.
    ends: Vec<(u64, Range<usize>)>,
    /// Interests that an instance has.
    live: HashSet<u64>,
}

#[derive(Clone, Copy)]
struct InterestType {
    id: u64,
    fields: u64,
    mask: u64,
    ready: u64,
}

#[derive(Clone, Copy)]
struct InstanceType {
    id: u64,
    fields: u64,
    ready: u64,
}

impl Graph {
    fn declare(&mut self, (name, fields): (&[u8], Vec<&[u8]>)) {
        self.types += 1;
        let (id, count) = (self.types, fields.len() as u64);
        let place = |name| fields.iter().position(|field| *field == name).map(|at| at as u64);
        if name == KEY {
            self.key = Some(id);
        } else if name == INTEREST
            && let (Some(mask), Some(ready)) = (place(MASK), place(READY))
        {
            self.interest = Some(InterestType { id, fields: count, mask, ready });
        } else if name == INSTANCE
            && let Some(ready) = place(READY)
        {
            self.instance = Some(InstanceType { id, fields: count, ready });
        }
    }

    fn object(&mut self, reader: &mut Reader<'_>, id: u64) -> Result<()> {
        let begin = reader.at;
        match reader.number()? {
            kind::STRUCT => {
                let declared = reader.number()?;
                if let Some(interest) = self.interest.filter(|known| known.id == declared) {
                    let [mask, mark] = reader.interest(interest)?;
                    self.masks.extend(mask.map(|mask| (id, mask)));
                    self.marks.extend(mark);
                    return Ok(());
                }
                if let Some(instance) = self.instance.filter(|known| known.id == declared) {
                    return reader.instance(instance, &mut self.ends);
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

    fn judge(self, faults: &mut Faults) -> Result<()> {
        let live = self.live;
        // An object that nothing refers to any more would fail the restore.
        if !self.ends.iter().all(|(id, _)| live.contains(id)) {
            return Err(Malformed::Ready);
        }
        let stale = self.masks.into_iter().filter(|(id, _)| !live.contains(id));
        faults.masks.extend(stale.map(|(_, mask)| mask));
        faults.marks.extend(self.marks);
        faults.ends.extend(self.ends.into_iter().map(|(_, end)| end));
        Ok(())
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

    /// The number of fields of a struct, which is to be as declared.
    fn fields(&mut self, declared: u64) -> Result<()> {
        let found = (self.number()?, self.number()?);
        if found == (kind::FIELDS, declared) { Ok(()) } else { Err(self.nonsense()) }
    }

    /// A value that is a number of this kind: where the number is, unless it is 0.
    fn place(&mut self, wanted: u64) -> Result<Option<Range<usize>>> {
        match self.number()? {
            kind::NIL => Ok(None),
            kind if kind == wanted => {
                let begin = self.at;
                let number = self.number()?;
                Ok((number != 0).then_some(begin..self.at))
            }
            _ => Err(self.nonsense()),
        }
    }

    /// An interest after its type: where its mask and its mark are, unless they are 0.
    fn interest(&mut self, interest: InterestType) -> Result<[Option<Range<usize>>; 2]> {
        self.fields(interest.fields)?;
        let (mut mask, mut mark) = (None, None);
        for field in 0..interest.fields {
            if field == interest.mask {
                mask = self.place(kind::UINT)?;
            } else if field == interest.ready {
                mark = self.place(kind::BOOL)?;
            } else {
                self.skip(0)?;
            }
        }
        Ok([mask, mark])
    }

    /// An instance after its type: the ends of its list, unless it is empty.
    fn instance(
        &mut self,
        instance: InstanceType,
        ends: &mut Vec<(u64, Range<usize>)>,
    ) -> Result<()> {
        self.fields(instance.fields)?;
        for field in 0..instance.fields {
            if field != instance.ready {
                self.skip(0)?;
                continue;
            }
            match self.number()? {
                kind::NIL => continue,
                kind::STRUCT => {}
                _ => return Err(self.nonsense()),
            }
            // Its type, head and tail.
            self.number()?;
            match self.number()? {
                kind::NO_FIELDS | kind::NIL => continue,
                kind::FIELDS => {}
                _ => return Err(self.nonsense()),
            }
            for _ in 0..self.number()? {
                match self.number()? {
                    kind::NIL => {}
                    kind::REF => {
                        let begin = self.at;
                        let id = self.number()?;
                        let number = begin..self.at;
                        // To the whole of an interest.
                        if self.number()? != 0 {
                            return Err(self.nonsense());
                        }
                        if id != 0 {
                            ends.push((id, number));
                        }
                    }
                    _ => return Err(self.nonsense()),
                }
            }
        }
        Ok(())
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
