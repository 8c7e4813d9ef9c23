//! Bare `criu`.

use std::{
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{NETNS, Shell, copy_identity, layers};
use crate::harness::repository;

/// As the node has them.
const BOTH: &str = "--no-default-config -v1 --manage-cgroups=ignore --tcp-established --file-locks \
                    --log-file=criu.log";
const DUMP: &str = "--ghost-limit=64M --network-lock=skip --skip-in-flight --link-remap";

/// Where it works.
pub(super) struct Criu {
    dir: PathBuf,
    layers: String,
    identity: PathBuf,
}

impl Criu {
    pub(super) async fn prepare(bundle: &Path, dir: &Path, shell: &mut Shell) -> Result<Self> {
        let identity = copy_identity(bundle, dir)?;
        for name in ["root", "writes"] {
            fs::create_dir(dir.join(name))?;
        }
        // In the mode that the image says.
        File::options().append(true).create_new(true).mode(0o600).open(dir.join("output.log"))?;
        // As for the node's: nothing comes from outside, and it keeps what it finds out about the kernel.
        shell.run("mount --make-rprivate / && mount -t tmpfs tmpfs /run").await?;
        shell.run(&format!("mount -t tmpfs tmpfs {}", dir.join("writes").display())).await?;
        Ok(Self { dir: dir.into(), layers: layers(bundle)?, identity })
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The root directory, with what the actor wrote.
    pub(super) async fn make_room(&self, shell: &mut Shell, image: &Path) -> Result<()> {
        let (root, writes) = (self.path("root"), self.path("writes"));
        shell.run(&format!("cd {writes} && rm -rf * && mkdir -m 755 upper work && cd /")).await?;
        let archive = image.join("writes.tar");
        if archive.exists() {
            let archive = archive.display();
            let tar = "tar --extract --xattrs --xattrs-include=* --numeric-owner -p";
            shell.run(&format!("{tar} -f {archive} -C {writes}/upper")).await?;
        }
        let layers = &self.layers;
        let over = format!("lowerdir={layers},upperdir={writes}/upper,workdir={writes}/work");
        shell
            .run(&format!("mount -t overlay overlay -o {over},index=off,metacopy=off {root}"))
            .await
    }

    fn command(&self, verb: &str, image: &Path) -> String {
        let criu = repository().join(".deps/bin/criu");
        let (criu, work, image) = (criu.display(), self.path(""), image.display());
        format!("{criu} {verb} {BOTH} --work-dir={work} --images-dir={image}")
    }

    pub(super) async fn restore(&self, shell: &mut Shell, image: &Path) -> Result<()> {
        let key = fs::read_to_string(image.join("output"))?;
        // The shell has another /run.
        let netns = File::open(format!("/run/netns/{NETNS}"))?;
        let network = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        let (command, root, pid) =
            (self.command("restore", image), self.path("root"), self.path("pid"));
        let (identity, log) = (self.identity.display(), self.path("output.log"));
        // There is one of the restore before.
        let _ = fs::remove_file(&pid);
        let restore = format!(
            "{command} --restore-detached --pidfile={pid} --root={root} --inherit-fd 'fd[0]:net' \
             --inherit-fd 'fd[1]:{key}' --external='mnt[identity]:{identity}' <{network} >>{log}"
        );
        self.run(shell, &restore).await
    }

    async fn run(&self, shell: &mut Shell, command: &str) -> Result<()> {
        let ran = shell.run(command).await;
        ran.with_context(|| fs::read_to_string(self.dir.join("criu.log")).unwrap_or_default())
    }

    pub(super) async fn dump(&self, shell: &mut Shell, image: &Path) -> Result<()> {
        let pid = self.pid()?;
        let network = fs::metadata(format!("/proc/{pid}/ns/net"))?.ino();
        let key = key_of_output(pid)?;
        let command = self.command("dump", image);
        let dump = format!(
            "{command} {DUMP} --tree={pid} --external='net[{network}]:net' --external='{key}' \
             --external='mnt[/run/reveille]:identity'"
        );
        self.run(shell, &dump).await
    }

    pub(super) async fn delete(&self, shell: &mut Shell) -> Result<()> {
        self.kill();
        shell.run(&format!("umount -l {}", self.path("root"))).await
    }

    fn pid(&self) -> Result<i32> {
        let path = self.dir.join("pid");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().parse()?)
    }

    /// If it is there.
    pub(super) fn kill(&self) {
        if let Ok(pid) = self.pid()
            && fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|m| m.ino())
                == fs::metadata(format!("/run/netns/{NETNS}")).ok().map(|m| m.ino())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// What criu calls the file that its output goes to.
fn key_of_output(pid: i32) -> Result<String> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/1"))?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).context("mnt_id")?;
    let inode = fs::metadata(format!("/proc/{pid}/fd/1"))?.ino();
    Ok(format!("file[{:x}:{inode:x}]", mount.trim().parse::<u32>()?))
}
