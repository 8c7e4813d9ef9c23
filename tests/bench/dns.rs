//! Queries/s of the DNS server on one core, and what a query costs, beside Knot DNS and dnsmasq with the same wildcard.
//!
//! Each server is bound to the first core and dnsperf to the second, one server at a time; the limit of replies to one source
//! is on, above what one sends.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    cpu,
    figure::{How, Line, Reach},
    harness::{cluster::free_address, repository},
};

const NAME: &str = "dns";
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
const NAMES: usize = 1_000;
/// Queries under way.
const OUTSTANDING: u32 = 100;
/// For latencies: what none of them is busy with.
const CALM: u32 = 2_000;
const LIMIT: Duration = Duration::from_secs(20);

/// One of the three.
struct Server {
    child: Child,
    address: SocketAddr,
    rates: Vec<f64>,
    /// CPU time of a query, in microseconds.
    costs: Vec<f64>,
    p99: Vec<f64>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn run() -> Result<Vec<Line>> {
    let dir = tempfile::tempdir()?;
    let queries = dir.path().join("queries");
    let names = (0..NAMES).map(|n| format!("actor{n}.demo.actors.localhost A\n"));
    fs::write(&queries, names.collect::<String>())?;
    let mut knot = Server::start(knot(&dir)?).await.context("Knot DNS")?;
    let mut dnsmasq = Server::start(dnsmasq()?).await.context("dnsmasq")?;
    let mut ours = Server::start(ours()?).await.context("reveille dns")?;
    for round in 1..=ROUNDS {
        for server in [&mut knot, &mut dnsmasq, &mut ours] {
            server.measure(&queries).await?;
        }
        let last = |server: &Server| server.rates[round - 1];
        eprintln!(
            "{NAME} {round}/{ROUNDS}: Knot {:.0}/s, dnsmasq {:.0}/s, Reveille {:.0}/s",
            last(&knot),
            last(&dnsmasq),
            last(&ours)
        );
    }
    let beside = |what, unit, how, bare: &[f64], ours: &[f64]| {
        Line::beside(NAME, what, unit, (bare, ours), how)
    };
    let ratio = How::Ratio;
    Ok(vec![
        beside("queries/s on one core, beside dnsmasq", "1/s", ratio, &dnsmasq.rates, &ours.rates)
            .reach("dns_rate_of_dnsmasq", Reach::AtLeast(1.0)),
        beside("… beside Knot DNS", "1/s", ratio, &knot.rates, &ours.rates)
            .reach("dns_rate_of_knot", Reach::AtLeast(0.5)),
        beside("CPU of a query, beside dnsmasq", "µs", ratio, &dnsmasq.costs, &ours.costs),
        beside("… beside Knot DNS", "µs", ratio, &knot.costs, &ours.costs),
        beside(
            "p99 at 2,000 queries/s, beside dnsmasq",
            "ms",
            How::Difference,
            &dnsmasq.p99,
            &ours.p99,
        ),
        beside("… beside Knot DNS", "ms", How::Difference, &knot.p99, &ours.p99),
    ])
}

/// On the first core.
fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0", program]).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    command
}

fn knot(dir: &TempDir) -> Result<(Command, SocketAddr)> {
    let address = free_address();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let zone = "$ORIGIN actors.localhost.\n$TTL 5\n@ SOA ns hostmaster 1 3600 600 86400 5\n@ NS ns\nns A 127.0.0.1\n* A 127.0.0.1\n";
    fs::write(path("zone"), zone)?;
    let config = format!(
        "server:\n    rundir: {dir}\n    listen: {ip}@{port}\n    udp-workers: 1\n    tcp-workers: 1\n    \
         background-workers: 1\ndatabase:\n    storage: {dir}\nzone:\n  - domain: actors.localhost\n    file: {zone}\n",
        dir = dir.path().display(),
        ip = address.ip(),
        port = address.port(),
        zone = path("zone"),
    );
    fs::write(path("knot.conf"), config)?;
    let mut command = pinned(&repository().join(".deps/bin/knotd").to_string_lossy());
    command.args(["-c", &path("knot.conf")]);
    Ok((command, address))
}

fn dnsmasq() -> Result<(Command, SocketAddr)> {
    let address = free_address();
    let mut command = pinned("/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    command.args(["--bind-interfaces", "--listen-address=127.0.0.1", "--user=root", "--pid-file="]);
    command.args(["--address=/actors.localhost/127.0.0.1", "--local-ttl=5"]);
    command.arg(format!("--port={}", address.port()));
    Ok((command, address))
}

fn ours() -> Result<(Command, SocketAddr)> {
    let address = free_address();
    let mut command = pinned(env!("CARGO_BIN_EXE_reveille"));
    command.args(["dns", "--listen", &address.to_string(), "--domain", "actors.localhost"]);
    command.args(["--front", "127.0.0.1", "--rate-limit", "1000000000", "--log", "warn"]);
    Ok((command, address))
}

impl Server {
    /// Until it answers as the others do.
    async fn start((mut command, address): (Command, SocketAddr)) -> Result<Self> {
        let child = command.spawn().context("cannot be started: deploy/setup.sh resolvers")?;
        let (rates, costs, p99) = <(Vec<f64>, Vec<f64>, Vec<f64>)>::default();
        let server = Self { child, address, rates, costs, p99 };
        let end = Instant::now() + LIMIT;
        while !answers(address).unwrap_or(false) {
            ensure!(Instant::now() < end, "it does not answer");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    async fn measure(&mut self, queries: &Path) -> Result<()> {
        let pid = self.child.id().cast_signed();
        let before = cpu::of(pid);
        let text = self.dnsperf(queries, &["-q", &OUTSTANDING.to_string()]).await?;
        let used = cpu::of(pid) - before;
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            let word = line.and_then(|rest| rest.split_whitespace().next());
            word.and_then(|word| word.parse::<f64>().ok())
                .with_context(|| format!("no {name} {text}"))
        };
        self.rates.push(number("Queries per second:")?);
        self.costs.push(used / number("Queries completed:")?);

        let text = self.dnsperf(queries, &["-Q", &CALM.to_string(), "-v"]).await?;
        let answered = text.lines().filter(|line| line.starts_with("> NOERROR "));
        let times = answered.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        let mut times: Vec<f64> = times.map(|seconds| seconds * 1e3).collect();
        ensure!(!times.is_empty(), "no answers: {text}");
        times.sort_unstable_by(f64::total_cmp);
        self.p99.push(times[(times.len() * 99).div_ceil(100) - 1]);
        Ok(())
    }

    /// On the second core, if there is one.
    async fn dnsperf(&self, queries: &Path, more: &[&str]) -> Result<String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new("taskset");
        command.args(["-c", if cores > 1 { "1" } else { "0" }, "dnsperf", "-c", "4", "-T", "1"]);
        command.args([
            "-s",
            &self.address.ip().to_string(),
            "-p",
            &self.address.port().to_string(),
        ]);
        command.args(["-l", &SECONDS.to_string()]).arg("-d").arg(queries).args(more);
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.context("dnsperf: deploy/setup.sh resolvers")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Whether there is the address of the front.
fn answers(address: SocketAddr) -> Result<bool> {
    let mut message = Message::query();
    let name = Name::from_ascii("actor1.demo.actors.localhost.")?;
    message.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect(address)?;
    socket.send(&message.to_vec()?)?;
    let mut buffer = [0; 1_500];
    let n = socket.recv(&mut buffer)?;
    let reply = Message::from_vec(&buffer[..n])?;
    Ok(reply.answers.first().is_some_and(|answer| answer.data.to_string() == "127.0.0.1"))
}
