use proptest::prelude::*;

use super::*;

/// A value of the stream, as gVisor writes it.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn uint(value: u64) -> Vec<u8> {
    [number(kind::UINT), number(value)].concat()
}

fn text(text: &[u8]) -> Vec<u8> {
    [number(text.len() as u64), text.to_vec()].concat()
}

fn declared(name: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let names = fields.iter().flat_map(|field| text(field)).collect();
    [number(kind::TYPE), text(name), number(fields.len() as u64), names].concat()
}

/// A reference without its kind, to the whole of an object.
fn to(object: u64) -> Vec<u8> {
    [number(object), number(0)].concat()
}

fn structure(declared: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    let (count, fields) = (number(fields.len() as u64), fields.concat());
    [number(declared), number(kind::FIELDS), count, fields].concat()
}

const KEY_TYPE: u64 = 1;
const INTEREST_TYPE: u64 = 2;
const INSTANCE_TYPE: u64 = 3;
const LIST_TYPE: u64 = 4;
const MASK_VALUE: u64 = 0x8000_201d;

/// Those with an even number are marked as ready.
fn interest(id: u64, mask: &[u8]) -> Vec<u8> {
    let next = [number(kind::REF), to(id + 1)].concat();
    let ready = if id.is_multiple_of(2) {
        [number(kind::BOOL), number(1)].concat()
    } else {
        number(kind::NIL)
    };
    let fields = [number(kind::NIL), mask.to_vec(), ready, next];
    [uint(id), number(kind::STRUCT), structure(INTEREST_TYPE, &fields)].concat()
}

/// With a list that has this at its end, and nothing at its head.
fn instance(id: u64, tail: u64) -> Vec<u8> {
    let list = [number(kind::NIL), [number(kind::REF), to(tail)].concat()];
    let list = [number(kind::STRUCT), structure(LIST_TYPE, &list)].concat();
    [uint(id), number(kind::STRUCT), structure(INSTANCE_TYPE, &[number(kind::NIL), list])].concat()
}

/// Two interests that an instance has, 10 and 300, and three others, one of them without a mask.
fn stream() -> Vec<u8> {
    stream_with(300)
}

fn stream_with(tail: u64) -> Vec<u8> {
    let key = |file: u64| {
        // A pointer to a part of an object: its path, a name and an index, and its type.
        let inside = [number(file), number(2), number(2 * 4 - 1), b"file".to_vec(), number(6)];
        let inside = [number(kind::REF), inside.concat(), number(1), number(0), number(7)].concat();
        structure(KEY_TYPE, &[inside, [number(kind::INT), number(9)].concat()])
    };
    let instance = [
        [uint(1), number(kind::MAP), number(2)].concat(),
        [number(kind::STRUCT), key(5), number(kind::REF), to(10), key(6), to(300)].concat(),
        instance(20, tail),
    ];
    let other = [
        [uint(2), number(kind::ARRAY), number(3), number(kind::UINT)].concat(),
        [number(1), number(2), number(300)].concat(),
        [uint(3), number(kind::MAP), number(0), uint(4), number(kind::NIL)].concat(),
        [uint(5), number(kind::INTERFACE), number(5), number(kind::NIL)].concat(),
        [uint(6), number(kind::STRING), text(b"text")].concat(),
        [uint(7), number(kind::SLICE), number(1), number(2), to(2)].concat(),
    ];
    let objects = [
        interest(10, &uint(MASK_VALUE)),
        interest(300, &uint(1)),
        interest(12, &uint(MASK_VALUE)),
        interest(13, &uint(1)),
        interest(14, &number(kind::NIL)),
    ];
    let count = (2 + 6 + objects.len() as u64) | OBJECTS;
    [
        // Raw bytes, and a graph without anything of ours.
        [number(3), b"raw".to_vec(), number(1 | OBJECTS), uint(1), uint(7)].concat(),
        [number(count), declared(KEY, &[b"file", b"num", b"x"])].concat(),
        declared(INTEREST, &[b"epoll", MASK, READY, b"entry"]),
        declared(INSTANCE, &[b"q", READY]),
        [instance.concat(), other.concat(), objects.concat()].concat(),
    ]
    .concat()
}

fn file(stream: &[u8], chunk: usize) -> Vec<u8> {
    let header = [MAGIC, &4_u64.to_be_bytes(), b"{..}", &[0; HASH]].concat();
    let chunks = stream
        .chunks(chunk)
        .flat_map(|chunk| [&(chunk.len() as u32).to_be_bytes(), chunk].concat())
        .collect::<Vec<_>>();
    [header, chunks].concat()
}

#[test]
fn interests_that_no_instance_has_lose_their_mask_and_nothing_is_ready() {
    let stream = stream();
    let faults = faults(&stream).unwrap();
    let bytes = |places: &[Range<usize>]| {
        places.iter().map(|place| stream[place.clone()].to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&faults.masks), [number(MASK_VALUE), number(1)]);
    assert_eq!(bytes(&faults.marks), [number(1), number(1), number(1), number(1)]);
    assert_eq!(bytes(&faults.ends), [number(300)]);
}

#[test]
fn a_list_that_ends_with_a_deleted_interest_is_refused() {
    assert_eq!(faults(&stream_with(12)), Err(Malformed::Ready));
}

#[test]
fn a_mended_file_is_as_long_as_before_and_has_nothing_left_to_mend() {
    for chunk in [1, 2, 7, 10_000] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint.img");
        let before = file(&stream(), chunk);
        fs::write(&path, &before).unwrap();
        assert_eq!(mend(&path).unwrap(), Mended { deleted: 2, ready: 5 });
        let after = fs::read(&path).unwrap();
        assert_eq!(after.len(), before.len());
        // Of the one mask three of the five bytes, two are as they should be; the other mask, four marks, an end's two.
        assert_eq!(after.iter().zip(&before).filter(|(a, b)| a != b).count(), 3 + 1 + 4 + 2);
        let mended = Chunks::read(&after).unwrap().stream;
        assert_eq!(faults(&mended), Ok(Faults::default()));
        assert_eq!(mended.len(), stream().len());
    }
}

#[test]
fn what_is_not_an_image_is_refused() {
    let stream = stream();
    let whole = file(&stream, 7);
    assert_eq!(Chunks::read(b"something else").err(), Some(Malformed::Header));
    assert_eq!(Chunks::read(&whole[..20]).err(), Some(Malformed::Header));
    assert_eq!(Chunks::read(&whole[..whole.len() - 1]).err(), Some(Malformed::Short));
    // After the raw bytes and the first graph each prefix is too short.
    for length in 20..stream.len() {
        assert_eq!(faults(&stream[..length]), Err(Malformed::Short), "{length}");
    }
}

#[test]
fn a_claim_of_many_or_deep_values_is_not_believed() {
    let graph = |value: Vec<u8>| [number(1 | OBJECTS), uint(1), value].concat();
    let many = graph([number(kind::ARRAY), number(u64::MAX), number(kind::NIL)].concat());
    assert!(matches!(faults(&many), Err(Malformed::Value(_))));
    for deep in [[kind::INTERFACE, 5], [kind::STRUCT, 1]] {
        let deep = graph([number(deep[0]), number(deep[1])].concat().repeat(1_000_000));
        assert!(matches!(faults(&deep), Err(Malformed::Value(_))));
    }
    let deep = graph([vec![kind::INTERFACE as u8], vec![1; 1_000_000]].concat());
    assert!(matches!(faults(&deep), Err(Malformed::Value(_))));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = faults(&bytes);
        let _ = faults(&[number(5 | OBJECTS), bytes.clone()].concat());
        let _ = Chunks::read(&[MAGIC, &bytes].concat());
    }

    #[test]
    fn a_changed_byte_does_not_make_it_panic(at in 0..10_000_usize, byte in any::<u8>()) {
        let mut stream = stream();
        let at = at % stream.len();
        stream[at] = byte;
        let _ = faults(&stream);
    }
}
