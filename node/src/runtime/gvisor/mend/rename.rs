//! Gives the host of a saved sandbox another name: that of a clone, in a copy of its image.
//!
//! gVisor has no way to name a host from outside. A name is a string of the stream, so another one makes it longer or
//! shorter: the chunk that it is in becomes up to three.

use std::{fs, io, ops::Range, os::unix::fs::symlink, path::Path};

use super::{Chunks, OBJECTS, Reader, Result, kind};

const UTS: &[u8] = b"pkg/sentry/kernel.UTSNamespace";
const HOST: &[u8] = b"hostName";

/// Writes an image into a new directory whose host has the new name; all other files are those of the old one. False
/// when there is no host of the old name.
pub(in crate::runtime::gvisor) fn rename(
    image: &Path,
    kernel: &str,
    names: [&str; 2],
    copy: &Path,
) -> io::Result<bool> {
    let [old, new] = names;
    let file = fs::read(image.join(kernel))?;
    let renamed = renamed(&file, old.as_bytes(), new.as_bytes());
    let renamed =
        renamed.map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what.to_string()))?;
    let Some(renamed) = renamed else { return Ok(false) };
    fs::create_dir(copy)?;
    for name in crate::files::names(image)?.iter().filter(|name| *name != kernel) {
        symlink(image.join(name), copy.join(name))?;
    }
    fs::write(copy.join(kernel), renamed)?;
    Ok(true)
}

fn renamed(file: &[u8], old: &[u8], new: &[u8]) -> Result<Option<Vec<u8>>> {
    let chunks = Chunks::read(file)?;
    let places = places(&chunks.stream, old)?;
    // In one byte, as every length of a host's name.
    let Ok(length @ ..0x80) = u8::try_from(new.len()) else { return Ok(None) };
    let value = [&[length], new].concat();
    let header = chunks.begins.first().map_or(file.len(), |(_, place)| place - 4);
    let mut out = file[..header].to_vec();
    let mut put = |bytes: &[u8]| {
        if !bytes.is_empty() {
            out.extend((bytes.len() as u32).to_be_bytes());
            out.extend(bytes);
        }
    };
    let ends = chunks.begins.iter().skip(1).map(|(begin, _)| *begin);
    for ((begin, _), end) in chunks.begins.iter().zip(ends.chain([chunks.stream.len()])) {
        let mut at = *begin;
        for place in places.iter().filter(|place| place.start < end && place.end > *begin) {
            put(&chunks.stream[at..place.start.max(at)]);
            if place.start >= *begin {
                put(&value);
            }
            at = place.end.min(end);
        }
        put(&chunks.stream[at..end]);
    }
    Ok((!places.is_empty()).then_some(out))
}

/// Where hosts of this name have it, with its length.
fn places(stream: &[u8], name: &[u8]) -> Result<Vec<Range<usize>>> {
    let mut reader = Reader { stream, at: 0 };
    let mut places = Vec::new();
    while reader.at < stream.len() {
        let objects = reader.number()?;
        if objects & OBJECTS == 0 {
            reader.take(objects)?;
            continue;
        }
        let (mut types, mut host) = (0, None);
        let mut left = objects & !OBJECTS;
        while left > 0 {
            match reader.number()? {
                kind::TYPE => {
                    types += 1;
                    let (declared, fields) = reader.type_declaration()?;
                    let field = fields.iter().position(|field| *field == HOST);
                    if let (UTS, Some(field)) = (declared, field) {
                        host = Some(HostType { id: types, fields: fields.len() as u64, field });
                    }
                }
                kind::UINT => {
                    reader.number()?;
                    places.extend(reader.host(host.as_ref(), name)?);
                    left -= 1;
                }
                _ => return Err(reader.nonsense()),
            }
        }
    }
    Ok(places)
}

struct HostType {
    id: u64,
    fields: u64,
    field: usize,
}

impl Reader<'_> {
    /// An object; where its name is, if it is a host of this one.
    fn host(&mut self, host: Option<&HostType>, name: &[u8]) -> Result<Option<Range<usize>>> {
        let begin = self.at;
        let (first, declared) = (self.number()?, self.number()?);
        let Some(host) = host.filter(|host| (first, declared) == (kind::STRUCT, host.id)) else {
            self.at = begin;
            return self.skip(0).map(|()| None);
        };
        self.fields(host.fields)?;
        let mut place = None;
        for field in 0..host.fields {
            let kind = self.number()?;
            if field != host.field as u64 || kind != kind::STRING {
                self.skip_body(kind, 0)?;
                continue;
            }
            let begin = self.at;
            if self.string()? == name {
                place = Some(begin..self.at);
            }
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::MAGIC, *};

    fn text(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8], text].concat()
    }

    /// An image in chunks of this size with a graph of two hosts of another type's name and one of the right one.
    fn image(names: [&[u8]; 3], size: usize) -> Vec<u8> {
        let declared = |name: &[u8]| {
            [vec![kind::TYPE as u8], text(name), vec![2], text(b"id"), text(HOST)].concat()
        };
        let object = |id: u8, declared: u8, name: &[u8]| {
            let head = [kind::UINT as u8, id, kind::STRUCT as u8, declared, kind::FIELDS as u8, 2];
            let fields = [kind::UINT as u8, 9, kind::STRING as u8];
            [&head[..], &fields, &text(name)].concat()
        };
        // The number of objects, above the mark that says that they are objects.
        let count = [0x83, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        let [first, second, other] = names;
        let stream = [
            count.to_vec(),
            declared(UTS),
            declared(b"pkg/other.UTSNamespace"),
            object(1, 1, first),
            object(2, 2, other),
            object(3, 1, second),
            // Bytes that are no objects.
            vec![3, 1, 2, 3],
        ];
        let mut file = [MAGIC, &[0; 8], &[7; 32]].concat();
        for chunk in stream.concat().chunks(size) {
            file.extend((chunk.len() as u32).to_be_bytes());
            file.extend(chunk);
        }
        file
    }

    #[test]
    fn hosts_of_that_name_get_the_new_one_wherever_the_chunks_end() {
        for size in 1..160 {
            for new in [&b"a"[..], b"golden", &[b'x'; 63]] {
                let before = image([b"golden", b"other", b"golden"], size);
                let after = renamed(&before, b"golden", new).unwrap().unwrap();
                let expected = image([new, b"other", b"golden"], size);
                let stream = |file: &[u8]| Chunks::read(file).unwrap().stream;
                assert!(stream(&after) == stream(&expected), "chunks of {size}");
            }
        }
        let other = image([b"other", b"other", b"golden"], 64);
        assert_eq!(renamed(&other, b"golden", b"ann").unwrap(), None);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = image([b"golden", b"other", b"golden"], 32);
        for length in 48..whole.len() {
            let _ = renamed(&whole[..length], b"golden", b"ann");
        }
        assert!(renamed(&whole[..whole.len() - 1], b"golden", b"ann").is_err());
    }
}
