//! `reveille dns` as a process: how it ends, where it writes, and what it refuses.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Stdio},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    #[track_caller]
    fn ends_in_order(mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(server: SocketAddr) {
    let mut message = Message::query();
    let name = Name::from_ascii("counter.demo.actors.internal.").unwrap();
    message.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket.send(&message.to_vec().unwrap()).unwrap();
    socket.recv(&mut [0; 512]).unwrap();
}

#[test]
fn who_keeps_a_clusters_dns_waits_for_its_api_server_and_ends_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{{"name": "c", "cluster": {{"server": "http://{nobody}"}}}}],
            "users": [{{"name": "c", "user": {{}}}}],
            "contexts": [{{"name": "c", "context": {{"cluster": "c", "user": "c"}}}}]}}"#
    );
    let config = write(&dir, "kubeconfig", &config);
    let mut command = reveille(&["dns", "install", "--watch"]);
    command.env("KUBECONFIG", &config).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut keeper = Running::start(&mut command);
    let log = BufReader::new(keeper.0.stderr.take().unwrap());
    // Twice: it goes on.
    let told =
        log.lines().map_while(Result::ok).filter(|line| line.contains("is not as it should be"));
    assert_eq!(told.take(2).count(), 2);
    keeper.ends_in_order();
}

#[test]
fn the_query_log_goes_to_a_standard_output_that_has_no_path() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut command = reveille(&["dns", "--query-log", "-", "--listen", &free.to_string()]);
    command.args(["--grace", "0s"]).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped());
    let mut server = Running::start(&mut command);
    // Its one end in this process: that it can be seen that the other one has closed it.
    drop(command);
    let mut log = BufReader::new(server.0.stderr.take().unwrap()).lines();
    log.find(|line| line.as_ref().is_ok_and(|line| line.contains("dns serves")))
        .expect("serves")
        .unwrap();
    ask(free);
    let mut line = String::new();
    BufReader::new(ours).read_line(&mut line).unwrap();
    assert!(line.contains("\"name\":\"counter.demo.actors.internal.\""), "{line}");
    server.ends_in_order();
}

#[test]
fn what_nobody_could_use_is_refused() {
    for (args, says) in [
        (&["--ttl", "500ms"][..], "whole seconds"),
        (&["--ttl", "2147483648s"], "whole seconds"),
        (&["--listen", "0.0.0.0:0"], "--front"),
        (&["--listen", "127.0.0.1:0,[::]:0"], "--front"),
    ] {
        let line = error(&run(&[&["dns"], args, &["--check-config"]].concat()), 2);
        assert!(line.contains(says), "{line}");
    }
    for right in [
        &["--ttl", "0s"][..],
        &["--ttl", "2147483647s", "--listen", "[::1]:0"],
        &["--listen", "0.0.0.0:0", "--front", "192.0.2.1"],
    ] {
        assert!(
            run(&[&["dns"], right, &["--check-config"]].concat()).status.success(),
            "{right:?}"
        );
    }
}
