//! The command line of the built binary: what is wrong is told in one line, with the right exit code.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

#[path = "cli/config.rs"]
mod config;
#[path = "cli/dns.rs"]
mod dns;

/// "nobody" on most systems; any user that is not root will do.
const NOBODY: u32 = 65_534;

fn reveille(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REVEILLE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    reveille(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line that a failed command says.
#[track_caller]
fn error(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    stderr
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

/// Executable files that do nothing, where `up` looks for its tools.
fn tools(dir: &TempDir) -> [String; 2] {
    ["envoy", "runsc"].map(|name| {
        let path = write(dir, name, "#!/bin/sh\nexit 1\n");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    })
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this test needs root");
    }
    root
}

#[test]
fn a_wrong_command_line_is_told_in_one_line_and_is_exit_code_2() {
    let cases: [(&[&str], &str); 17] = [
        (&["frobnicate"], "frobnicate"),
        (&["get"], "<KIND>"),
        (&["get", "gadgets"], "gadgets"),
        (&["get", "actors", "-o", "xml"], "xml"),
        (&["up", "--htp", "127.0.0.1:1"], "--htp"),
        (&["up", "--http", "here"], "here"),
        (&["get", "actor", "Not_A_Label"], "Not_A_Label"),
        (&["get", "actors", "--server", "nowhere"], "nowhere"),
        (&["create", "actor", "a"], "--template"),
        (&["up", "--workers", "100000"], "4096"),
        (&["up", "--max-parked", "0"], "--max-parked"),
        (&["dns", "--front", "192.0.2.1", "--front-file", "fronts"], "--front-file"),
        (&["dns", "--front-service", "envoy"], "NAMESPACE/NAME"),
        (&["dns", "--dot", "127.0.0.1:1"], "--dot-cert"),
        (&["dns", "--wake-hint"], "--control-plane"),
        (&["dns", "install", "--server", "here"], "IP:PORT"),
        (
            &["router", "--listen", "unix:/tmp/r.sock", "--access-log", "/nowhere/log"],
            "--access-log",
        ),
    ];
    for (args, named) in cases {
        let line = error(&run(args), 2);
        assert!(line.contains(named), "{line}");
    }
}

#[test]
fn the_ladder_of_timeouts_is_explained_with_the_values_of_the_command_line_and_nothing_runs() {
    let table = stdout(&run(&["router", "--explain-timeouts", "--park", "40s", "--wake", "25s"]));
    for text in ["STANDS ABOVE", "45s", "wake deadline (25s)", "--max-requests", "parking capacity"]
    {
        assert!(table.contains(text), "{text} is not in\n{table}");
    }
    let json = stdout(&run(&["router", "--explain-timeouts", "--park", "40s", "-o", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rungs = json["items"].as_array().unwrap();
    let ext_proc = rungs.iter().find(|rung| rung["name"] == "ext_proc timeout").unwrap();
    assert_eq!((&ext_proc["value"], &ext_proc["from"]), (&"45s".into(), &"--park and 5s".into()));
    assert_eq!(ext_proc["above"][0]["value"], "40s");
}

#[test]
fn an_inverted_ladder_is_refused_by_every_role_that_has_it_with_both_values() {
    let inverted: &[(&[&str], [&str; 2])] = &[
        (&["--park", "3s"], ["(3s)", "(20s)"]),
        (&["--max-requests", "7", "--max-parked", "8"], ["(7)", "(8)"]),
        (&["--park", "2h"], ["(1h)", "(2h 5s)"]),
    ];
    for role in ["router", "controlplane", "up"] {
        for (flags, values) in inverted {
            let mut args = vec![role];
            args.extend(*flags);
            let line = error(&run(&args), 2);
            assert!(values.iter().all(|value| line.contains(value)), "{role}: {line}");
        }
    }
    for (flag, value, above) in
        [("--drain", "29s", "(30s)"), ("--grace", "1s", "(2s)"), ("--stream-idle", "30s", "(35s)")]
    {
        let line = error(&run(&["router", flag, value]), 2);
        assert!(line.contains(flag) && line.contains(value) && line.contains(above), "{line}");
    }
}

#[test]
fn help_has_examples_and_exit_codes_and_version_is_told() {
    let help = stdout(&run(&["--help"]));
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    for verb in [
        "up", "get", "describe", "explain", "apply", "create", "wake", "logs", "events", "top",
        "dns",
    ] {
        let output = run(&[verb, "--help"]);
        assert!(output.status.success() && stdout(&output).contains("Example"), "{verb}");
    }
    assert!(stdout(&run(&["--version"])).starts_with("reveille "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&run(&["completion", shell])).contains("reveille"), "{shell}");
    }
}

#[test]
fn no_control_plane_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let line = error(&run(&["get", "actors", "--data-dir", dir.path().to_str().unwrap()]), 1);
    assert!(line.contains("no control plane answers at unix:"), "{line}");
    assert!(line.contains("is 'reveille up' running?"), "{line}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let line = error(&run(&["top", "--server", &closed]), 1);
    assert!(line.contains(&closed), "{line}");
}

#[test]
fn a_bad_manifest_is_told_with_file_and_line_before_anything_is_asked_of_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let good = "apiVersion: reveille.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: a}\n\
                spec: {workersPerNode: 1}\n";
    let good_file = write(&dir, "good.yaml", good);
    let bad = write(&dir, "bad.yaml", &good.replace("workersPerNode", "workersPerNod"));
    let line = error(&run(&["apply", "-f", &good_file, "-f", &bad]), 2);
    assert!(line.contains("bad.yaml:4: ") && line.contains("workersPerNod"), "{line}");
    let line = error(&run(&["up", "--apply", &bad]), 2);
    assert!(line.contains("bad.yaml:4: "), "{line}");
    let line = error(&run(&["apply", "-f", "/nowhere/x.yaml"]), 2);
    assert!(line.contains("cannot read /nowhere/x.yaml"), "{line}");
}

#[test]
fn an_unknown_config_key_is_told_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "reveille.toml", "[dns]\nttl = \"5s\"\n\n[router]\nlisen = \"x\"\n");
    for part in ["dns", "router", "up"] {
        let line = error(&run(&[part, "--config", &file]), 2);
        assert!(line.contains("reveille.toml:5: unknown key \"lisen\" in [router]"), "{line}");
    }
    let mut command = reveille(&["dns"]);
    let line = error(&command.env("REVEILLE_CONFIG", &file).output().unwrap(), 2);
    assert!(line.contains("reveille.toml:5: "), "{line}");
    let line = error(&run(&["dns", "--config", "/nowhere.toml"]), 2);
    assert!(line.contains("/nowhere.toml"), "{line}");
}

#[test]
fn a_flag_comes_before_the_environment_and_that_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let file =
        write(&dir, "reveille.toml", "[dns]\nlisten = \"198.51.100.1:1\"\nfront = \"192.0.2.1\"\n");
    // Each place names another address that cannot be had; the error tells which one counted.
    let from_file = error(&run(&["dns", "--config", &file]), 1);
    assert!(from_file.contains("198.51.100.1:1"), "{from_file}");
    let mut command = reveille(&["dns", "--config", &file]);
    let from_env = command.env("REVEILLE_DNS_LISTEN", "203.0.113.2:2").output().unwrap();
    assert!(error(&from_env, 1).contains("203.0.113.2:2"));
    let mut command = reveille(&["dns", "--config", &file, "--listen", &taken]);
    let from_flag = command.env("REVEILLE_DNS_LISTEN", "203.0.113.2:2").output().unwrap();
    assert!(error(&from_flag, 1).contains(&taken));
}

#[test]
fn up_refuses_a_port_in_use_and_starts_nothing() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let [envoy, runsc] = tools(&dir);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = up_args(&data, &envoy, &runsc);
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.extend(["--http", &address]);
    let line = error(&run(&args), 1);
    assert!(line.contains(&address) && line.contains("in use by"), "{line}");
    assert!(line.contains("choose another --http"), "{line}");
    assert!(!data.join("run").exists());
    assert!(!data.join("control").exists());
}

fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn up_args(data: &Path, envoy: &str, runsc: &str) -> Vec<String> {
    let mut args = vec!["up".to_owned()];
    for (flag, value) in [
        ("--data-dir", data.to_str().unwrap().to_owned()),
        ("--envoy", envoy.to_owned()),
        ("--runsc", runsc.to_owned()),
        ("--status", free()),
        ("--grpc", free()),
        ("--dns", free()),
        ("--admin", free()),
    ] {
        args.extend([flag.to_owned(), value]);
    }
    args
}

#[test]
fn up_tells_what_is_missing_or_contradicts_itself() {
    let line = error(&run(&["up", "--http", "127.0.0.1:9", "--status", "127.0.0.1:9"]), 2);
    assert!(line.contains("--http and --status are both 127.0.0.1:9"), "{line}");
    let line = error(&run(&["up", "--wake", "40s"]), 2);
    assert!(line.contains("40s") && line.contains("30s"), "{line}");
    let line = error(&run(&["up", "--admin", "0.0.0.0:9901"]), 2);
    assert!(line.contains("loopback"), "{line}");
    if is_root() {
        let line = error(&run(&["up", "--envoy", "/nowhere/envoy"]), 1);
        assert!(line.contains("/nowhere/envoy") && line.contains("--envoy"), "{line}");
    }
}

#[test]
fn up_starts_nothing_that_cannot_work() {
    let deps = concat!(env!("CARGO_MANIFEST_DIR"), "/.deps/bin");
    let (envoy, runsc) = (&*format!("{deps}/envoy"), &*format!("{deps}/runsc"));
    if !is_root() || !Path::new(envoy).exists() || !Path::new(runsc).exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let long = "d".repeat(100);
    let route = ["--worker-cidr", "127.0.0.0/30"];
    let egress = "apiVersion: reveille.dev/v1alpha1\nkind: ActorTemplate\nmetadata: { name: a }\n\
                  spec: { runtime: criu, rootfs: { directory: / }, command: [/a], egress: [{ cidr: 10.1.2.0/24 }] }\n";
    let egress = &*write(&dir, "egress.yaml", egress);
    let cases: [([&str; 3], &[&str], i32, &str); 9] = [
        (["data", "/bin/true", runsc], &[], 1, "--envoy"),
        (["data", envoy, "/bin/true"], &[], 1, "--runsc"),
        (["data", envoy, runsc], &["--worker-cidr", "10.78.0.0/30"], 1, "not for 8"),
        (["data", envoy, runsc], &route, 2, "127.0.0.0/30"),
        ([&long, envoy, runsc], &[], 2, "choose a shorter one"),
        (["data", envoy, runsc], &["--access-log", "/nowhere/log"], 2, "--access-log /nowhere/log"),
        (["data", envoy, runsc], &["--apply", egress], 1, "add --allow-egress 10.1.2.0/24"),
        (["data", envoy, runsc], &["--allow-egress", "10.1.2.3/8"], 2, "write 10.0.0.0/8"),
        (["data", envoy, runsc], &["--allow-egress", "127.0.0.1/32"], 1, "--allow-egress: nobody"),
    ];
    for ([data, envoy, runsc], flags, code, named) in cases {
        let data = dir.path().join(data);
        let mut args = up_args(&data, envoy, runsc);
        args.extend(["--http", "--https"].into_iter().flat_map(|flag| [flag.to_owned(), free()]));
        args.extend(flags.iter().map(ToString::to_string));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let line = error(&run(&args), code);
        assert!(line.contains(named), "{line}");
        assert!(!data.join("run").exists() && !data.join("https").exists(), "{line}");
    }
}

/// Serves whoever connects these bytes once it has said something, and hangs up.
fn hangs_up(says: &'static [u8]) -> String {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut some = [0; 1024];
            let _ = stream.read(&mut some);
            let _ = stream.write_all(says);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while stream.read(&mut some).is_ok_and(|n| n > 0) {}
        }
    });
    address
}

#[test]
fn what_is_no_control_plane_or_goes_away_is_told_with_what_to_do() {
    // The alert of TLS that somebody gets who does not speak it.
    let tls = hangs_up(&[0x15, 3, 3, 0, 2, 2, 70]);
    let line = error(&run(&["get", "actors", "--server", &tls]), 1);
    assert!(line.contains("--tls-cert"), "{line}");
    // An empty SETTINGS frame, and no more.
    let gone = hangs_up(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let line = error(&run(&["get", "actors", "--server", &gone]), 1);
    assert!(line.contains("went away during the call"), "{line}");
}

#[test]
fn a_certificate_is_valid_for_a_time_and_not_longer_than_its_ca() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let certs = |args: &[&str]| run(&[&["certs"], args, &["--dir", dir]].concat());
    error(&certs(&["init", "--valid", "0s"]), 2);
    stdout(&certs(&["init", "--valid", "30days"]));
    let line = error(&certs(&["issue", "client", "--valid", "0s"]), 2);
    assert!(line.contains("too short"), "{line}");
    let line = error(&certs(&["issue", "client"]), 2);
    assert!(line.contains("longer than the CA"), "{line}");
    stdout(&certs(&["issue", "client", "--valid", "29days"]));
}

#[test]
fn a_second_up_on_the_same_data_is_refused() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("run")).unwrap();
    let lock = fs::File::create(data.join("run/up.lock")).unwrap();
    let _held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let [envoy, runsc] = tools(&dir);
    let args = up_args(&data, &envoy, &runsc);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let line = error(&run(&args), 1);
    assert!(line.contains("another 'reveille up'"), "{line}");
}

/// A copy where everybody may run it: a checkout in a home directory is closed to others.
fn public_copy(dir: &TempDir) -> PathBuf {
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = dir.path().join("reveille");
    fs::copy(env!("CARGO_BIN_EXE_reveille"), &copy).unwrap();
    copy
}

#[test]
fn doctor_works_without_root_and_without_anything_installed() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(public_copy(&dir));
    command.args(["doctor", "-o", "json"]).env_clear().current_dir("/").stdin(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let items = list["items"].as_array().unwrap();
    let of = |name: &str| items.iter().find(|item| item["name"] == name).cloned().unwrap();
    for missing in ["root", "runsc", "envoy"] {
        let check = of(missing);
        assert_eq!(check["outcome"], "fail", "{check}");
        assert!(!check["fix"].as_str().unwrap().is_empty(), "{check}");
    }
    assert_eq!(of("kernel")["outcome"], "ok");
}

#[test]
fn up_without_root_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(public_copy(&dir));
    command.args(["up", "--data-dir", "/nowhere"]).env_clear().stdin(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let line = error(&command.output().unwrap(), 1);
    assert!(line.contains("root") && line.contains("sudo"), "{line}");
}

#[test]
fn doctor_tells_a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut command = reveille(&["doctor"]);
    let output = command.env("REVEILLE_HTTP", address.to_string()).output().unwrap();
    let table = stdout(&output);
    let line = table.lines().find(|line| line.contains(&format!("port {} (http)", address.port())));
    let line = line.unwrap_or_else(|| panic!("{table}"));
    assert!(line.starts_with("FAIL") && line.contains("in use"), "{line}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let mut command = reveille(&["completion", "bash"]);
    let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `reveille certs …` in a folder of the test's own.
fn certs(dir: &Path, args: &[&str]) -> Output {
    let dir = dir.to_str().unwrap();
    run(&[&["certs"], args, &["--dir", dir]].concat())
}

#[test]
fn certs_makes_a_ca_and_certificates_that_openssl_takes_and_keeps_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("certs");
    let line = error(&certs(&dir, &["issue", "client"]), 1);
    assert!(line.contains("reveille certs init --dir"), "{line}");
    assert!(certs(&dir, &["init", "--trust-domain", "example.org"]).status.success());
    let issue: &[&str] = &["issue", "node", "--name", "n1", "--dns", "n1.example", "--ip", "::1"];
    let output = certs(&dir, issue);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let (ca, cert, key) = (read("ca.pem"), read("node-n1.pem"), read("node-n1.key"));
    for name in ["ca.pem", "ca.key", "node-n1.pem", "node-n1.key"] {
        let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    for purpose in ["sslserver", "sslclient"] {
        openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            "ca.pem",
            "node-n1.pem",
        ]);
    }
    let text = openssl(&["x509", "-in", "node-n1.pem", "-noout", "-text"]);
    let names =
        "URI:spiffe://example.org/reveille/node/n1, DNS:n1.example, IP Address:0:0:0:0:0:0:0:1";
    assert!(text.contains(names) && text.contains("prime256v1"), "{text}");
    // Again: nothing changes.
    for args in [&["init", "--trust-domain", "example.org"], issue] {
        assert!(stdout(&certs(&dir, args)).contains("unchanged"), "{args:?}");
    }
    assert_eq!((read("ca.pem"), read("node-n1.pem"), read("node-n1.key")), (ca.clone(), cert, key));
    // Something else under the same name: not without --force.
    for (args, why) in [
        (["init", "--trust-domain", "example.net"].as_slice(), "trust domain example.org"),
        (&["issue", "node", "--name", "n1", "--dns", "other"], "has not all of these host names"),
    ] {
        let line = error(&certs(&dir, args), 1);
        assert!(line.contains(why) && line.contains("--force"), "{line}");
    }
    assert_eq!(read("ca.pem"), ca);
    assert!(certs(&dir, &[issue, &["--force"]].concat()).status.success());
    for (args, why) in [
        (["issue", "node"].as_slice(), "a node has a name"),
        (&["issue", "emperor"], "emperor"),
        (&["issue", "node", "--name", "a/b"], "a/b"),
    ] {
        let line = error(&certs(&dir, args), 2);
        assert!(line.contains(why), "{line}");
    }
    fs::set_permissions(dir.join("ca.key"), PermissionsExt::from_mode(0o640)).unwrap();
    let line = error(&certs(&dir, &["issue", "client"]), 1);
    assert!(line.contains("ca.key can be read by others"), "{line}");
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_in_one_line_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(certs(dir, &["init"]).status.success());
    for args in [&["issue", "client"][..], &["issue", "node", "--name", "n1"]] {
        assert!(certs(dir, args).status.success());
    }
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let with = |args: &[&str], cert: &str, key: &str| {
        let (cert, key, ca) = (file(cert), file(key), file("ca.pem"));
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca];
        run(&[args, &tls].concat())
    };
    let get = ["get", "nodes", "--server", "127.0.0.1:1"];
    let line = error(&with(&get, "node-n1.pem", "node-n1.key"), 2);
    assert!(
        line.contains("reveille.local/reveille/node/n1") && line.contains("issue client"),
        "{line}"
    );
    let line = error(&with(&get, "client.pem", "node-n1.key"), 2);
    assert!(line.contains("node-n1.key cannot be used with"), "{line}");
    let line = error(&with(&get, "client.pem", "client.key"), 1);
    assert!(line.contains("no control plane answers at 127.0.0.1:1"), "{line}");
    let router = ["router", "--name", "r1"];
    let line = error(&with(&router, "node-n1.pem", "node-n1.key"), 2);
    assert!(line.contains("reveille certs issue router --name r1"), "{line}");
    fs::set_permissions(file("client.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let line = error(&with(&get, "client.pem", "client.key"), 2);
    assert!(line.contains("client.key can be read by others (mode 644): chmod 600 it"), "{line}");

    let line = error(&run(&[&get[..], &["--tls-cert", &file("client.pem")]].concat()), 2);
    assert!(line.contains("give --tls-key and --tls-ca too"), "{line}");
    let line = error(&run(&["get", "nodes", "--server", "control.example:8082"]), 2);
    assert!(line.contains("is not on this machine: give --tls-cert"), "{line}");
    for args in [
        ["router", "--listen", "127.0.0.1:0"],
        ["router", "--control-plane", "127.0.0.1:1"],
        ["controlplane", "--listen", "127.0.0.1:0"],
        ["controlplane", "--tcp", "0.0.0.0:0"],
    ] {
        let data = file("data");
        let mut command = reveille(&args);
        let line = error(&command.env("REVEILLE_DATA_DIR", data).output().unwrap(), 1);
        assert!(line.contains("--tls-cert"), "{line}");
    }
}
