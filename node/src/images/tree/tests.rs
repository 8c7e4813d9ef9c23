use std::{
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::PathBuf,
};

use super::*;
use crate::images::{
    archive::{self, Budget},
    document::{Descriptor, Digest},
};

const BUDGET: Budget = Budget { bytes: 1 << 24, entries: 1000 };

/// An archive as anybody may write it.
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, kind: u8, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.add(b'0', path, "", 0o644, data.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.add(b'5', path, "", 0o755, b"")
    }

    fn symlink(self, path: &str, to: &str) -> Self {
        self.add(b'2', path, to, 0o777, b"")
    }

    fn link(self, path: &str, to: &str) -> Self {
        self.add(b'1', path, to, 0o644, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
            write!(text, "{} {key}=", rest + length).unwrap();
            text.extend(*value);
            text.push(b'\n');
        }
        self.add(b'x', "pax", "", 0o644, &text)
    }
}

/// A layer being unpacked, with something outside of it that must not change.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root", "trash", "outside"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn unpack_within(&self, tar: Tar, mut budget: Budget) -> Result<u64, Error> {
        let mut bytes = tar.0;
        bytes.resize(bytes.len() + 1024, 0);
        let (root, trash) = (self.path(""), self.dir.path().join("trash"));
        let mut tree = Tree::new(&root, &trash).unwrap();
        let put =
            |budget: &mut Budget, entry: Entry, data: &mut dyn Read| tree.put(budget, &entry, data);
        archive::read(&*bytes, &described(&bytes), &Digest::of(&bytes), &mut budget, put)?;
        let devices = tree.finish();
        let outside: Vec<_> = fs::read_dir(self.dir.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "{outside:?}");
        let secret = self.dir.path().join("outside/secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(secret).unwrap().nlink(), 1);
        devices
    }

    fn unpack(&self, tar: Tar) -> Result<u64, String> {
        self.unpack_within(tar, BUDGET).map_err(|error| error.to_string())
    }

    fn refuses(tar: Tar, says: &str) {
        let why = Self::new().unpack(tar).unwrap_err();
        assert!(why.contains(says), "{why}");
    }

    fn is_whiteout(&self, name: &str) -> bool {
        let found = fs::symlink_metadata(self.path(name)).unwrap();
        found.file_type().is_char_device() && found.rdev() == 0
    }

    fn is_opaque(&self, name: &str) -> bool {
        let mut value = [0; 8];
        let path = self.path(name);
        let read = rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut value);
        read.is_ok_and(|length| &value[..length] == b"y")
    }
}

fn described(bytes: &[u8]) -> Descriptor {
    let (digest, size) = (Digest::of(bytes), bytes.len());
    serde_json::from_value(serde_json::json!({ "digest": digest, "size": size })).unwrap()
}

#[test]
fn a_layer_is_unpacked_with_everything_that_matters() {
    let place = Place::new();
    let long = "d/".repeat(60) + "file";
    let tar = Tar::new()
        .dir("./")
        .dir("./bin/")
        .add(b'0', "bin/tool", "", 0o755, b"tool")
        .link("bin/other", "bin/tool")
        .symlink("sh", "/bin/tool")
        .pax(&[("path", long.as_bytes()), ("uid", b"70000")])
        .file("short", "deep")
        .add(b'6', "fifo", "", 0o600, b"")
        .file("/absolute", "inside");
    assert_eq!(place.unpack(tar), Ok(0));
    assert_eq!(place.text("bin/other"), "tool");
    assert_eq!(fs::metadata(place.path("bin/tool")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(place.path("bin/tool")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(place.path("bin/tool")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(place.path("bin")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read_link(place.path("sh")).unwrap(), PathBuf::from("/bin/tool"));
    assert_eq!(fs::metadata(place.path(&long)).unwrap().uid(), 70_000);
    assert!(fs::metadata(place.path("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(place.text("absolute"), "inside");
    assert_eq!(fs::metadata(place.path("")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn nothing_is_written_outside_of_the_layer() {
    for bad in ["../outside/x", "a/../../outside/x", "/../outside/x", "./..", "a/.."] {
        Place::refuses(Tar::new().dir("a").file(bad, "x"), "leads out of the image");
    }
    Place::refuses(Tar::new().link("x", "../outside/secret"), "leads out of the image");

    // A link out of the layer ends in it, whatever it says.
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    for (at, target) in ["../outside", outside.to_str().unwrap()].into_iter().enumerate() {
        let name = format!("l{at}");
        let tar = Tar::new().symlink(&name, target).file(&format!("{name}/x"), "x");
        assert!(place.unpack(tar).unwrap_err().contains("something is below it"));
        let tar = Tar::new().symlink(&name, target).link("hard", &format!("{name}/secret"));
        assert!(place.unpack(tar).unwrap_err().contains("does not have"));
    }
    let tar = Tar::new().dir("real").symlink("l", "/../../real").file("l/x", "x");
    assert_eq!(place.unpack(tar), Ok(0));
    assert_eq!(place.text("real/x"), "x");
    assert!(place.unpack(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "")).is_err());

    // A file over a link takes its place and does not go through it.
    let tar = Tar::new().symlink("f", "../outside/secret").file("f", "mine");
    assert_eq!(place.unpack(tar), Ok(0));
    assert_eq!(place.text("f"), "mine");
    let tar = Tar::new().symlink("d", "../outside").dir("d").file("d/x", "mine");
    assert_eq!(place.unpack(tar), Ok(0));
    assert_eq!(place.text("d/x"), "mine");
}

#[test]
fn a_hard_link_leads_to_a_file_of_the_layer_only() {
    Place::refuses(Tar::new().link("x", "etc/passwd"), "does not have");
    Place::refuses(Tar::new().link("x", "/"), "does not have");
    Place::refuses(Tar::new().dir("d").link("x", "d"), "is a link to a directory");
    Place::refuses(Tar::new().file(".wh.gone", "").link("x", "gone"), "does not have");
    // One to a link is another name of the link.
    let place = Place::new();
    let tar =
        Tar::new().symlink("s", "../outside/secret").link("x", "s").file("f", "f").link("f", "f");
    assert_eq!(place.unpack(tar), Ok(0));
    assert!(fs::symlink_metadata(place.path("x")).unwrap().is_symlink());
    assert_eq!(place.text("f"), "f");
}

#[test]
fn what_was_deleted_is_marked_as_the_overlay_wants_it() {
    let place = Place::new();
    let tar = Tar::new()
        .dir("d")
        .file("d/.wh.gone", "")
        .file("d/.wh..wh.aufs", "")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "")
        // Replaced by what comes after, or before.
        .file(".wh.later", "")
        .dir("later")
        .dir("earlier")
        .file(".wh.earlier", "")
        .file(".wh.between", "")
        .file("between/file", "")
        .file("stays", "stays")
        .file(".wh.stays", "");
    assert_eq!(place.unpack(tar), Ok(0));
    assert!(place.is_whiteout("d/gone"));
    assert!(!place.is_opaque("d"));
    for opaque in ["opaque", "later", "earlier", "between"] {
        assert!(place.is_opaque(opaque), "{opaque}");
    }
    assert_eq!(place.text("stays"), "stays");
    assert_eq!(fs::read_dir(place.path("d")).unwrap().count(), 1);

    for bad in [".wh.", ".wh..", ".wh...", "d/.wh..."] {
        Place::refuses(Tar::new().dir("d").file(bad, ""), "deletes nothing that has a name");
    }
    Place::refuses(Tar::new().file(".wh.d/x", ""), "below a mark");
}

#[test]
fn what_comes_later_takes_the_place_of_what_is_there() {
    let place = Place::new();
    let tar = Tar::new()
        .dir("a")
        .file("a/b", "old")
        .file("a", "file")
        .file("f", "")
        .dir("f")
        .file("f/x", "x")
        .dir("merged")
        .file("merged/one", "1")
        .add(b'5', "merged", "", 0o700, b"")
        .file("merged/two", "2")
        .file("twice", "a longer text")
        .file("twice", "short");
    assert_eq!(place.unpack(tar), Ok(0));
    assert_eq!(place.text("a"), "file");
    assert_eq!(place.text("f/x"), "x");
    assert_eq!(place.text("merged/one") + &place.text("merged/two"), "12");
    assert_eq!(fs::metadata(place.path("merged")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(place.text("twice"), "short");
    Place::refuses(Tar::new().file("a", "").file("a/b", ""), "is no directory");
    Place::refuses(Tar::new().symlink(".", "x"), "the root directory");
}

#[test]
fn devices_privileges_and_attributes_of_the_system_are_left_out() {
    let place = Place::new();
    let tar = Tar::new()
        .add(b'3', "null", "", 0o666, b"")
        .add(b'4', "disk", "", 0o660, b"")
        .add(b'0', "su", "", 0o6755, b"")
        .add(b'5', "tmp", "", 0o3777, b"")
        .pax(&[
            ("SCHILY.xattr.user.note", b"two\nlines"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.capability", b"\x01\x00\x00\x02"),
        ])
        .dir("d");
    assert_eq!(place.unpack(tar), Ok(2));
    assert!(!place.path("null").exists() && !place.path("disk").exists());
    assert_eq!(fs::metadata(place.path("su")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(place.path("tmp")).unwrap().mode() & 0o7777, 0o1777);
    let mut names = [0; 256];
    let length = rustix::fs::llistxattr(place.path("d"), &mut names).unwrap();
    assert_eq!(&names[..length], b"user.note\0");
    let mut value = [0; 32];
    let length = rustix::fs::lgetxattr(place.path("d"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"two\nlines");
}

#[test]
fn a_layer_takes_no_more_than_its_budget() {
    let within = |tar: Tar, budget: Budget| {
        let unpacked = Place::new().unpack_within(tar, budget);
        unpacked.map_err(|error| error.to_string())
    };
    let many = (0..20).fold(Tar::new(), |tar, at| tar.file(&format!("f{at}"), ""));
    assert!(within(many, Budget { entries: 19, ..BUDGET }).unwrap_err().contains("more files"));
    // Directories that the archive has no entries for count as well.
    let deep = Tar::new().file("a/b/c/d/e", "");
    assert!(within(deep, Budget { entries: 4, ..BUDGET }).unwrap_err().contains("more files"));
    let large = Tar::new().file("large", &"0".repeat(100_000));
    let error = within(large, Budget { bytes: 99_000, ..BUDGET }).unwrap_err();
    assert!(error.contains("--image-cache"), "{error}");

    // Of a bomb only so much is unpacked as it may be.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&Tar::new().add(b'0', "bomb", "", 0o644, &vec![0; 50 << 20]).0).unwrap();
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 100_000);
    let place = Place::new();
    let (root, trash) = (place.path(""), place.dir.path().join("trash"));
    let mut tree = Tree::new(&root, &trash).unwrap();
    let mut budget = Budget { bytes: 1 << 20, ..BUDGET };
    let put = |b: &mut Budget, entry: Entry, data: &mut dyn Read| tree.put(b, &entry, data);
    let read = archive::read(&*bomb, &described(&bomb), &Digest::of(b""), &mut budget, put);
    assert!(read.unwrap_err().to_string().contains("--image-cache"));
    assert!(fs::metadata(place.path("bomb")).unwrap().len() <= 1 << 20);

    // A name that says it is as long as memory is not read into it.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    Place::refuses(Tar(header.as_bytes().to_vec()), "too long");
    let deep = "d/".repeat(MAX_DEPTH + 1);
    Place::refuses(Tar::new().pax(&[("path", (deep + "x").as_bytes())]).file("x", ""), "too deep");
    let name = "n".repeat(256);
    Place::refuses(Tar::new().pax(&[("path", name.as_bytes())]).file("x", ""), "no name of a file");
    // Also with links that lead deeper than any name.
    let half = "d/".repeat(MAX_DEPTH - 10);
    let deep = half.clone() + "x";
    let tar = Tar::new()
        .pax(&[("path", deep.as_bytes())])
        .file("x", "")
        .pax(&[("path", b"s"), ("linkpath", half.as_bytes())])
        .symlink("s", "s")
        .pax(&[("path", ("s/".to_owned() + &deep).as_bytes())])
        .file("x", "");
    Place::refuses(tar, "too deep");
}

#[test]
fn a_layer_that_is_not_the_one_it_should_be_is_refused() {
    let tar = Tar::new().file("a", "a").0;
    let zstd = zstd::encode_all(&*tar, 0).unwrap();
    let read = |blob: &[u8], descriptor: &Descriptor, diff_id: &Digest| {
        let mut budget = BUDGET;
        let read = archive::read(blob, descriptor, diff_id, &mut budget, |_, _, _| Ok(()));
        read.map_err(|error| error.to_string())
    };
    let diff_id = Digest::of(&tar);
    assert_eq!(read(&zstd, &described(&zstd), &diff_id), Ok(tar.len() as u64));
    assert_eq!(read(&tar, &described(&tar), &diff_id), Ok(tar.len() as u64));
    let other = described(b"other");
    let mut of_other = described(&zstd);
    of_other.digest = other.digest;
    assert!(read(&zstd, &of_other, &diff_id).unwrap_err().contains("other contents"));
    assert!(
        read(&zstd, &described(&zstd), &Digest::of(b"")).unwrap_err().contains("other contents")
    );
    let mut longer = zstd.clone();
    longer.push(0);
    assert!(read(&longer, &described(&zstd), &diff_id).is_err());
    assert!(read(&zstd[..zstd.len() - 1], &described(&zstd), &diff_id).is_err());
    let mut torn = zstd.clone();
    torn[zstd.len() / 2] ^= 0xff;
    assert!(read(&torn, &described(&torn), &diff_id).is_err());
    assert!(read(b"no archive", &described(b"no archive"), &diff_id).is_err());
    assert!(read(b"", &described(b""), &diff_id).is_err());
}
