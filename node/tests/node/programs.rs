//! Programs that people run, over both runtimes: each keeps what it has in memory, in open files, transactions and pipes. What works
//! is a table of the README, which is compared with what is seen here.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use rstest::rstest;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{CRIU, GVISOR, Node, Place, Wake, eventually, get};

/// In the README.
const WORKS: &str = "works";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Counter,
    Python,
    Node,
    Redis,
    Shell,
}

/// What a program answers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
struct Answer {
    /// Drawn at its start.
    nonce: String,
    /// One more with each question.
    steps: BTreeMap<String, u64>,
    /// More as time goes by.
    ticks: BTreeMap<String, u64>,
}

impl Program {
    /// As its row in the README begins.
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "the demo's counter",
            Self::Python => "Python",
            Self::Node => "Node.js",
            Self::Redis => "Redis",
            Self::Shell => "a shell",
        }
    }

    /// In `.deps/rootfs`, and the step of `deploy/setup.sh` that puts it there.
    fn rootfs(self) -> (&'static str, &'static str) {
        match self {
            Self::Counter => ("counter", "counter"),
            Self::Python => ("python", "python-rootfs"),
            Self::Node => ("node", "programs"),
            Self::Redis => ("redis", "programs"),
            Self::Shell => ("shell", "programs"),
        }
    }

    fn command(self) -> Vec<&'static str> {
        match self {
            Self::Counter => vec!["/counter"],
            Self::Python => vec!["/usr/bin/python3", "-c", include_str!("../programs/notes.py")],
            Self::Node => vec!["/usr/bin/node", "-e", include_str!("../programs/server.js")],
            Self::Redis => {
                let options = "--port 8080 --protected-mode no --dir /tmp --appendonly yes";
                ["/usr/bin/redis-server"].into_iter().chain(options.split(' ')).collect()
            }
            Self::Shell => vec!["/bin/sh", "-c", include_str!("../programs/jobs.sh")],
        }
    }

    /// `None`, and a loud word about it, where it is missing; a failure in CI.
    fn wake(self, place: &mut Place) -> Option<Wake> {
        let (rootfs, step) = self.rootfs();
        place.machine.rootfs = place.machine.rootfs.with_file_name(rootfs);
        if !place.machine.rootfs.exists() {
            assert!(std::env::var_os("CI").is_none(), "this test needs deploy/setup.sh {step}");
            eprintln!("SKIPPED: this test needs deploy/setup.sh {step}");
            return None;
        }
        let path = json!([{ "name": "PATH", "value": "/usr/bin:/bin" }]);
        let wake = place.wake(1).with("command", json!(self.command())).with("env", path);
        Some(wake.with("readiness", json!({ "timeout": "60s" })))
    }

    async fn ask(self, endpoint: &str) -> Result<Answer, String> {
        let path = if self == Self::Shell { "/cgi-bin/ask" } else { "/" };
        let asked = async {
            if self == Self::Redis {
                return redis(endpoint).await.map_err(|error| error.to_string());
            }
            let text = get(endpoint, path).await.map_err(|error| error.to_string())?;
            if self == Self::Counter {
                return counter(&text);
            }
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text:?}"))
        };
        timeout(Duration::from_secs(20), asked)
            .await
            .map_err(|_| "it does not answer".to_owned())?
    }
}

fn counter(text: &str) -> Result<Answer, String> {
    let answer: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let number = |name: &str| BTreeMap::from([(name.to_owned(), answer[name].as_u64().unwrap())]);
    let nonce = answer["nonce"].as_str().unwrap().to_owned();
    Ok(Answer { nonce, steps: number("count"), ticks: number("ticks") })
}

/// Its run id is drawn at its start; its timer removes what has expired; it appends to a file that it holds open.
async fn redis(endpoint: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(endpoint).await?;
    let asks = "INCR count\r\nRPUSH list x\r\nSET gone x PX 1\r\nINFO\r\nQUIT\r\n";
    stream.write_all(asks.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let replies: Vec<_> = text.lines().collect();
    let number = |reply: Option<&&str>| {
        let number = reply.and_then(|reply| reply.strip_prefix(':')?.parse().ok());
        number.ok_or_else(|| std::io::Error::other(format!("{text:?}")))
    };
    let info = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let count = |name: &str| (name.to_owned(), info(name).parse().unwrap_or_default());
    let steps = [("count", number(replies.first())?), ("list", number(replies.get(1))?)];
    Ok(Answer {
        nonce: info("run_id"),
        steps: steps.map(|(name, number)| (name.to_owned(), number)).into(),
        ticks: [count("expired_keys"), count("aof_current_size")].into(),
    })
}

/// One more question, and its timers run.
async fn goes_on(program: Program, endpoint: &str, before: &mut Answer) -> Result<(), String> {
    let now = program.ask(endpoint).await?;
    let steps = before.steps.iter().map(|(name, step)| (name.clone(), step + 1)).collect();
    let right = (&before.nonce, &steps);
    if (&now.nonce, &now.steps) != right {
        return Err(format!("it remembers {now:?}, and had {before:?}"));
    }
    *before = now.clone();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while before.ticks.iter().any(|(name, tick)| *tick <= now.ticks[name]) {
        if tokio::time::Instant::now() > end {
            return Err(format!("its timers stand still: {before:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        *before = program.ask(endpoint).await?;
    }
    Ok(())
}

async fn freezes(
    program: Program,
    node: &Node,
    endpoint: &str,
    before: &mut Answer,
) -> Result<(), String> {
    let said = |status: tonic::Status| status.message().to_owned();
    node.freeze(1, 1).await.map_err(said)?;
    node.resume_term(1, 1).await.map_err(said)?;
    goes_on(program, endpoint, before).await
}

/// Twice: what was restored is saved again.
async fn suspends(
    program: Program,
    node: &Node,
    wake: &Wake,
    before: &mut Answer,
) -> Result<(), String> {
    let said = |status: tonic::Status| status.message().to_owned();
    for (epoch, snapshot) in [(1, "s1"), (2, "s2")] {
        node.suspend(epoch, snapshot).await.map_err(said)?;
        let wake = Wake { epoch: epoch + 1, ..wake.clone().from(snapshot) };
        let woken = node.activate(&wake).await.map_err(said)?;
        goes_on(program, &woken.endpoint, before).await?;
    }
    Ok(())
}

/// The cells of a program's row, of a runtime: freeze and thaw, suspend and wake.
fn documented(program: Program, runtime: &str) -> [String; 2] {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let start = format!("| {}", program.name());
    let row = readme.lines().find(|line| line.starts_with(&start));
    let row = row.unwrap_or_else(|| panic!("README.md has no row {start:?}"));
    let cells: Vec<String> =
        row.trim_matches('|').split('|').map(|cell| cell.trim().into()).collect();
    let first = if runtime == GVISOR { 2 } else { 4 };
    [cells[first].clone(), cells[first + 1].clone()]
}

fn compare(program: Program, runtime: &str, what: &str, cell: &str, seen: Result<(), String>) {
    let right = match &seen {
        Ok(()) => cell == WORKS,
        Err(_) => cell.starts_with("no"),
    };
    let name = program.name();
    assert!(right, "README.md says of {name} with {runtime}, {what}: {cell:?}; seen: {seen:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_keep_their_state_as_the_readme_says(
    #[values(Program::Counter, Program::Python, Program::Node, Program::Redis, Program::Shell)]
    program: Program,
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(mut place) = Place::of(runtime) else { return };
    let Some(wake) = program.wake(&mut place) else { return };
    let [freeze, suspend] = documented(program, runtime);
    let node = place.start(1).await;
    let started = node.activate(&wake).await;
    let endpoint = match started {
        Ok(started) => started.endpoint,
        Err(status) => panic!("{}\n{}", status.message(), crate::support::logs(&node).await),
    };
    let mut before = eventually("it answers", async || program.ask(&endpoint).await).await;
    goes_on(program, &endpoint, &mut before).await.unwrap();
    let frozen = freezes(program, &node, &endpoint, &mut before).await;
    compare(program, runtime, "freeze and thaw", &freeze, frozen);
    let suspended = suspends(program, &node, &wake, &mut before).await;
    compare(program, runtime, "suspend and wake", &suspend, suspended);
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}
