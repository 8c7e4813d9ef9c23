//! `reveille top`, on a terminal of its own.

use std::{
    fs::File,
    io::{Read, Write},
    num::NonZeroU16,
    os::fd::OwnedFd,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::sys::signal::Signal;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
        processes,
    },
};

const LIMIT: Duration = Duration::from_secs(30);

/// A program on a terminal, and what that shows.
struct Terminal {
    child: Child,
    master: File,
    slave: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn start(cluster: &Cluster, args: &[&str], rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let path = ptsname(&master, Vec::new()).expect("its name").into_string().expect("UTF-8");
        // Not to be the terminal of this process.
        let slave = rustix::fs::open(
            path,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let (master, slave) = (File::from(master), slave.expect("opened"));
        tcsetwinsize(&master, size(rows, columns)).expect("resized");
        let end = || Stdio::from(slave.try_clone().expect("cloned"));
        // In a session of its own, so that it is told when the size changes.
        let top = cluster.reveille();
        let mut command = std::process::Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(top.get_program()).args(args);
        command.envs(top.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env_remove("REVEILLE_SERVER").env("TERM", "xterm-256color");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("it starts");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(some(rows), some(columns), 0)));
        let mut output = master.try_clone().expect("cloned");
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                shown.lock().expect("not poisoned").process(&buffer[..n]);
            }
        });
        Self { child, master, slave, screen }
    }

    fn text(&self) -> String {
        self.screen.lock().expect("not poisoned").screen().contents()
    }

    async fn shows(&self, words: &str) -> String {
        eventually(&format!("it shows {words:?}"), LIMIT, || async {
            let text = self.text();
            if text.contains(words) { Ok(text) } else { Err(text) }
        })
        .await
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("written");
    }

    fn resize(&self, rows: u16, columns: u16) {
        let mut screen = self.screen.lock().expect("not poisoned");
        screen.set_size(some(rows), some(columns));
        tcsetwinsize(&self.master, size(rows, columns)).expect("resized");
    }

    /// The end, with the terminal given back as it was.
    async fn ends(mut self) -> std::process::ExitStatus {
        let status = eventually("it ends", LIMIT, || {
            let ended = self.child.try_wait().expect("waited");
            async move { ended.ok_or("it runs") }
        })
        .await;
        let modes = tcgetattr(&self.slave).expect("a terminal").local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON), "it is raw: {modes:?}");
        eventually("the screen is given back", LIMIT, || async {
            let parser = self.screen.lock().expect("not poisoned");
            let screen = parser.screen();
            match (screen.alternate_screen(), screen.hide_cursor()) {
                (false, false) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        status
    }
}

fn some(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a size")
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_what_goes_on_follows_the_terminal_and_gives_it_back_as_it_was() {
    if !machine_can_run_it("top") {
        return;
    }
    let mut manifests = Manifests::new().counter("demo", "counter", "");
    for name in ["counter", "b", "c", "d"] {
        manifests = manifests.actor("demo", name, "counter");
    }
    let cluster = Cluster::start(Options::new(manifests)).await;
    let mut top = Terminal::start(&cluster, &["top", "--interval", "200ms"], 24, 100);
    let first = top.shows("All actors are at rest.").await;
    assert!(first.contains("4 Suspended") && first.contains("4 free"), "{first}");
    assert!(first.contains("every 200ms; q ends it"), "{first}");

    for name in ["b", "c", "d"] {
        cluster.client.get(&format!("{name}.demo.actors.localhost"), "/").await.count();
    }
    cluster.client.get(COUNTER, "/").await.count();
    let busy = top.shows("4 Running").await;
    assert!(busy.contains("demo/counter"), "{busy}");
    // No more than fits is asked for and shown.
    top.resize(9, 60);
    let small = top.shows("more that do not sleep").await;
    assert!(small.lines().count() <= 9, "{small}");
    assert!(small.lines().last().is_some_and(|line| line.starts_with("every 200ms")), "{small}");
    top.resize(30, 100);
    top.shows("demo/d").await;

    // A control plane that says nothing.
    let control_plane = cluster.pid_of("controlplane").expect("it runs");
    processes::signal(control_plane, Signal::SIGSTOP);
    top.shows("says nothing").await;
    processes::signal(control_plane, Signal::SIGCONT);
    top.shows("every 200ms").await;
    top.press(b"q");
    assert!(top.ends().await.success());

    let mut interrupted = Terminal::start(&cluster, &["top"], 24, 100);
    interrupted.shows("every 1s").await;
    interrupted.press(b"\x03");
    assert!(interrupted.ends().await.success());

    let json = cluster.ok(&["top", "--once", "-o", "json", "--limit", "2"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["active"].as_array().map(Vec::len), Some(2), "{json}");
    assert_eq!((&json["activeCount"], &json["workers"]["serving"]), (&4.into(), &4.into()));
    let text = cluster.ok(&["top"]).await;
    assert!(text.contains("demo/counter") && !text.contains('\x1b'), "{text:?}");
    let elsewhere = cluster.ok(&["top", "-n", "other"]).await;
    assert!(elsewhere.contains("Actors    0; 0 requests in flight"), "{elsewhere}");
    let wrong = cluster.cli(&["top", "-n", "No_Name"]).await;
    assert_eq!(wrong.status.code(), Some(1));
    cluster.stop().await;
}
