//! [`Tree`]: what the entries of a layer make, as a lower directory of an overlay.
//!
//! | entry | becomes |
//! | --- | --- |
//! | name with `..` | the layer is refused |
//! | absolute name | the same without the slash |
//! | below a symbolic link | where that leads with the layer as root directory: never out of it |
//! | symbolic link | itself; it may say anything, since only the sandbox follows it |
//! | hard link | another name of a file of this layer; to anything else the layer is refused |
//! | something that is there | takes its place; two directories become one |
//! | `.wh.NAME` | the overlay's mark that NAME is deleted; `.wh..wh..opq` its mark that nothing shows through |
//! | device | nothing: it is left out and counted |
//! | set-uid, set-gid | an ordinary file: nothing gains privileges here |
//! | attributes | only `user.*`, but the overlay's own |
//!
//! Every step is relative to an open directory, and none follows a link unless it says so.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    rc::Rc,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
        XattrFlags,
    },
    io::Errno,
};

use super::{
    Error,
    archive::{Budget, Entry, Kind, shown},
};

/// Directories above one another.
const MAX_DEPTH: usize = 200;
const MAX_NAME: usize = 255;
const MAX_LINK: usize = 4095;
const WHITEOUT: &[u8] = b".wh.";
/// Of marks that are for file systems of old, but for one.
const MARK: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The kernel gives up when something was renamed on the machine meanwhile.
const TRIES: u32 = 64;

/// See the module.
pub(super) struct Tree {
    root: OwnedFd,
    /// What was replaced goes here, and is removed with it.
    trash: OwnedFd,
    trashed: u64,
    /// The directory that the last entry was in.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Set at the end, since what comes into a directory changes it.
    modified: Vec<(Vec<u8>, i64)>,
    devices: u64,
}

impl Tree {
    /// In two empty directories.
    pub(super) fn new(root: &Path, trash: &Path) -> Result<Self, Error> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
        };
        let (root, trash) = (open(root)?, open(trash)?);
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755))?;
        Ok(Self { root, trash, trashed: 0, last: None, modified: Vec::new(), devices: 0 })
    }

    /// Makes what an entry says.
    pub(super) fn put(
        &mut self,
        budget: &mut Budget,
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<(), Error> {
        let parts = parts(&entry.path)?;
        let Some((name, above)) = parts.split_last() else {
            return self.put_root(entry);
        };
        if parts.iter().any(|part| part.starts_with(MARK) && *part != OPAQUE) {
            return Ok(());
        }
        if above.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(refused(&entry.path, "is below a mark of what was deleted"));
        }
        let parent = self.directory(budget, above)?;
        if *name == OPAQUE {
            return set_opaque(&parent, b".");
        }
        if let Some(deleted) = name.strip_prefix(WHITEOUT) {
            if matches!(deleted, b"" | b"." | b"..") {
                return Err(refused(&entry.path, "deletes nothing that has a name"));
            }
            return self.white_out(&parent, deleted);
        }
        self.make(&parent, name, entry, data)
    }

    /// How many devices were left out.
    pub(super) fn finish(mut self) -> Result<u64, Error> {
        self.last = None;
        while let Some((path, modified)) = self.modified.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            // It may have been replaced.
            if let Ok(directory) = self.resolve(&path, flags) {
                rustix::fs::futimens(&directory, &times(modified))?;
            }
        }
        rustix::fs::syncfs(&self.root)?;
        Ok(self.devices)
    }

    fn put_root(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != Kind::Directory {
            return Err(refused(&entry.path, "would take the place of the root directory"));
        }
        let owner = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::fchown(&self.root, Some(owner.0), Some(owner.1))?;
        rustix::fs::fchmod(&self.root, mode(entry))?;
        Ok(())
    }

    fn make(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<(), Error> {
        let there = status(parent, name)?;
        match &entry.kind {
            Kind::Device => {
                self.devices += 1;
                return Ok(());
            }
            Kind::Link(target) => return self.link(parent, name, entry, target, there),
            _ => {}
        }
        let merges =
            entry.kind == Kind::Directory && there.is_some_and(|s| is(&s, FileType::Directory));
        if let Some(there) = there.filter(|_| !merges) {
            self.clear(parent, name, &there)?;
        }
        match &entry.kind {
            Kind::File => return Ok(file(parent, name, entry, data)?),
            Kind::Directory if !merges => {
                rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                if there.is_some_and(|there| is_whiteout(&there)) {
                    set_opaque(parent, name)?;
                }
            }
            Kind::Symlink(target) if target.is_empty() || target.len() > MAX_LINK => {
                return Err(refused(&entry.path, "leads nowhere"));
            }
            Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), parent, name)?,
            Kind::Fifo => rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR, 0)?,
            _ => {}
        }
        let owner = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        rustix::fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        match entry.kind {
            Kind::Symlink(_) => {}
            Kind::Directory => {
                rustix::fs::chmodat(parent, name, mode(entry), AtFlags::empty())?;
                self.modified.push((entry.path.clone(), entry.modified));
            }
            _ => rustix::fs::chmodat(parent, name, mode(entry), AtFlags::empty())?,
        }
        if entry.kind == Kind::Directory {
            for (key, value) in attributes(entry) {
                kept(rustix::fs::lsetxattr(
                    path_of(parent, name),
                    key,
                    value,
                    XattrFlags::empty(),
                ))?;
            }
        } else {
            let times = times(entry.modified);
            rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn link(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        target: &[u8],
        there: Option<Stat>,
    ) -> Result<(), Error> {
        let missing = || refused(&entry.path, "is a link to what this layer does not have");
        let parts = parts(target)?;
        let (file, above) = parts.split_last().ok_or_else(missing)?;
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = self.resolve(&above.join(&b'/'), directory).map_err(|_| missing())?;
        let linked = status(&from, file)?.filter(|s| !is_whiteout(s)).ok_or_else(missing)?;
        if is(&linked, FileType::Directory) {
            return Err(refused(&entry.path, "is a link to a directory"));
        }
        if let Some(there) = there {
            if (there.st_dev, there.st_ino) == (linked.st_dev, linked.st_ino) {
                return Ok(());
            }
            self.clear(parent, name, &there)?;
        }
        Ok(rustix::fs::linkat(&from, *file, parent, name, AtFlags::empty())?)
    }

    fn white_out(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Error> {
        match status(parent, name)? {
            // What is in the same layer stays, and hides what is below it.
            Some(there) if is(&there, FileType::Directory) => set_opaque(parent, name),
            Some(_) => Ok(()),
            None => {
                let mode = Mode::empty();
                rustix::fs::mknodat(parent, name, FileType::CharacterDevice, mode, 0)
                    .map_err(|error| marked("whiteouts", error))?;
                Ok(())
            }
        }
    }

    /// Takes away what is there.
    fn clear(&mut self, parent: &OwnedFd, name: &[u8], there: &Stat) -> Result<(), Error> {
        if !is(there, FileType::Directory) {
            return Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?);
        }
        self.trashed += 1;
        // It may be that of the last entry.
        self.last = None;
        Ok(rustix::fs::renameat(parent, name, &self.trash, self.trashed.to_string())?)
    }

    /// The directory of this name, made as far as it is not there.
    fn directory(&mut self, budget: &mut Budget, parts: &[&[u8]]) -> Result<Rc<OwnedFd>, Error> {
        let whole = parts.join(&b'/');
        if let Some((path, directory)) = &self.last
            && *path == whole
        {
            return Ok(Rc::clone(directory));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = self.resolve(b"", flags)?;
        match self.resolve(&whole, flags) {
            Ok(found) => directory = found,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                for (at, part) in parts.iter().enumerate() {
                    let path = parts[..=at].join(&b'/');
                    directory = match self.resolve(&path, flags) {
                        Ok(found) => found,
                        Err(Errno::NOENT | Errno::NOTDIR) => {
                            budget.spend_entry()?;
                            self.make_between(&directory, part, &path)?;
                            self.resolve(&path, flags)?
                        }
                        Err(error) => return Err(below(&path, error)),
                    };
                }
            }
            Err(error) => return Err(below(&whole, error)),
        }
        if self.depth(&directory)? > MAX_DEPTH {
            return Err(refused(&whole, "is too deep"));
        }
        let directory = Rc::new(directory);
        self.last = Some((whole, Rc::clone(&directory)));
        Ok(directory)
    }

    /// A directory that the layer has no entry for.
    fn make_between(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), Error> {
        match status(parent, name)? {
            None => Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?),
            Some(there) if is_whiteout(&there) => {
                self.clear(parent, name, &there)?;
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                set_opaque(parent, name)
            }
            Some(_) => Err(refused(path, "is no directory, and something is below it")),
        }
    }

    /// As a process would that has the layer as its root directory.
    fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = TRIES;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if tries > 0 => tries -= 1,
                opened => return opened,
            }
        }
    }

    fn depth(&self, directory: &OwnedFd) -> io::Result<usize> {
        let real = |fd: &OwnedFd| std::fs::read_link(path_of(fd, b""));
        let (root, directory) = (real(&self.root)?, real(directory)?);
        let inside = directory.strip_prefix(&root).map_err(io::Error::other)?;
        Ok(inside.components().count())
    }
}

fn file(parent: &OwnedFd, name: &[u8], entry: &Entry, data: &mut dyn Read) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    io::copy(data, &mut file)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    rustix::fs::fchmod(&file, mode(entry))?;
    for (key, value) in attributes(entry) {
        kept(rustix::fs::fsetxattr(&file, key, value, XattrFlags::empty()))?;
    }
    rustix::fs::futimens(&file, &times(entry.modified))?;
    Ok(())
}

/// The names in a path, none of which leads anywhere but down.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused(path, "leads out of the image")),
            part if part.len() > MAX_NAME || part.contains(&0) => {
                return Err(refused(path, "is no name of a file"));
            }
            part => parts.push(part),
        }
    }
    Ok(parts)
}

fn status(parent: &OwnedFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is(status: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(status.st_mode) == kind
}

/// The overlay's mark of what was deleted.
pub(super) fn is_whiteout(status: &Stat) -> bool {
    is(status, FileType::CharacterDevice) && status.st_rdev == 0
}

fn set_opaque(parent: &OwnedFd, name: &[u8]) -> Result<(), Error> {
    let path = path_of(parent, name);
    rustix::fs::lsetxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(|error| marked("opaque directories", error))
}

fn mode(entry: &Entry) -> Mode {
    let allowed = if entry.kind == Kind::Directory { 0o1777 } else { 0o777 };
    Mode::from_raw_mode(entry.mode & allowed)
}

fn attributes(entry: &Entry) -> impl Iterator<Item = (&OsStr, &[u8])> {
    let ours = |name: &[u8]| name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    let attributes = entry.attributes.iter().filter(move |(name, _)| ours(name));
    attributes.map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
}

/// Not every file system has attributes.
fn kept(set: Result<(), Errno>) -> Result<(), Errno> {
    match set {
        Err(Errno::OPNOTSUPP) => Ok(()),
        set => set,
    }
}

fn times(modified: i64) -> Timestamps {
    let time = Timespec { tv_sec: modified, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// For calls that take no open directory. The last part is never followed by those that are used with it.
fn path_of(directory: &impl AsFd, name: &[u8]) -> std::path::PathBuf {
    let open = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    if name.is_empty() { open.into() } else { Path::new(&open).join(OsStr::from_bytes(name)) }
}

fn refused(path: &[u8], why: &str) -> Error {
    Error::bad(format!("a layer is not safe to unpack: {} {why}", shown(path)))
}

fn below(path: &[u8], error: Errno) -> Error {
    match error {
        Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG => refused(path, "leads nowhere"),
        error => error.into(),
    }
}

fn marked(what: &str, error: Errno) -> Error {
    match error {
        Errno::PERM | Errno::OPNOTSUPP => Error::Disk(format!(
            "the file system of the data directory cannot hold {what} of layers ({error}): use ext4 or xfs"
        )),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests;
