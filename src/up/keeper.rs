//! Keeps one part running: starts it, starts it again when it dies, ends it when told to.
//!
//! ```text
//!            ┌── ended ──▶ Ended ── backoff ──┐
//!  Running ──┤                                └──▶ Running
//!            └── told (and told again) ──▶ Stopped   Ended ── told ──▶ Stopped
//! ```

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    plan::{Part, Plan},
    relay::{LastWord, relay},
    signals,
};
use crate::{logging::Format, tls};

/// Wait before a part is started again: doubled each time, from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// A part that ran so long is sound: its next failure is a first one.
const SOUND: Duration = Duration::from_secs(30);

/// How long a part that was just started may take to listen to signals.
const TO_LISTEN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);
/// How long the last lines of a part that ended may take.
const LAST_LINES: Duration = Duration::from_millis(200);

/// What a part is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// It ended by itself, and why; it is started again.
    Ended(String),
    Stopped,
}

/// How a part is told to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) signal: Signal,
    /// After this long it is killed.
    pub(super) patience: Duration,
}

/// A part under supervision.
pub(super) struct Keeper {
    pub(super) part: Part,
    pub(super) state: watch::Receiver<State>,
    ending: watch::Sender<Option<Ending>>,
}

/// Every part started so far, in that order.
#[derive(Default)]
pub(super) struct Parts {
    keepers: Vec<Keeper>,
    tasks: JoinSet<()>,
}

impl Parts {
    /// Starts a part and keeps it running.
    pub(super) fn start(&mut self, plan: &Plan, part: Part) -> watch::Receiver<State> {
        let (state_out, state) = watch::channel(State::Running);
        let (ending, ending_in) = watch::channel(None);
        let (program, args) = plan.command(part);
        let mut command = Command::new(program);
        for variable in tls::VARIABLES {
            command.env_remove(variable);
        }
        command
            .arg0("reveille")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is for the supervisor alone.
            .process_group(0);
        let format = plan.args.logging.log_format;
        let keeping = keep(part, command, format, state_out, ending_in);
        reveille_api::task::spawn(&mut self.tasks, part.name(), keeping);
        self.keepers.push(Keeper { part, state: state.clone(), ending });
        state
    }

    pub(super) fn get(&self, part: Part) -> Option<&Keeper> {
        self.keepers.iter().find(|keeper| keeper.part == part)
    }
}

impl Keeper {
    /// Tells the part that its end has come. It may still be told another one.
    pub(super) fn tell(&self, ending: Ending) {
        self.ending.send_replace(Some(ending));
    }

    /// Ends the part and waits until it has.
    pub(super) async fn stop(&self, ending: Ending) {
        self.tell(ending);
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| *state == State::Stopped).await;
    }
}

async fn keep(
    part: Part,
    mut command: Command,
    format: Format,
    state: watch::Sender<State>,
    mut ending: watch::Receiver<Option<Ending>>,
) {
    let mut backoff = BACKOFF.0;
    loop {
        let started = Instant::now();
        state.send_replace(State::Running);
        let why = match run_once(part, &mut command, format, &mut ending).await {
            Some(why) => why,
            None => break,
        };
        if started.elapsed() >= SOUND {
            backoff = BACKOFF.0;
        }
        tracing::info!(part = part.name(), %why, wait = ?backoff, "a part ended; it is started again");
        state.send_replace(State::Ended(why));
        tokio::select! {
            () = sleep(backoff) => {}
            _ = ending.wait_for(Option::is_some) => break,
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
    state.send_replace(State::Stopped);
}

/// Runs it until it ends by itself, and says why; nothing when it was told to.
async fn run_once(
    part: Part,
    command: &mut Command,
    format: Format,
    ending: &mut watch::Receiver<Option<Ending>>,
) -> Option<String> {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Some(format!("cannot be started: {error}")),
    };
    let last = LastWord::default();
    let mut relays = JoinSet::new();
    if let Some(pipe) = child.stdout.take() {
        relay(&mut relays, part, format, pipe, last.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        relay(&mut relays, part, format, pipe, last.clone());
    }
    let ended = tokio::select! {
        status = child.wait() => Ok(status),
        told = ending.wait_for(Option::is_some) => Err(told.ok().and_then(|told| *told)),
    };
    let outcome = match ended {
        Ok(status) => Some(status.map_or_else(|error| error.to_string(), describe)),
        Err(told) => {
            if told.is_some() {
                end(part, &mut child, ending).await;
            }
            None
        }
    };
    // A grandchild may hold the pipe open: the last lines are waited for, not the end.
    let _ = timeout(LAST_LINES, async { while relays.join_next().await.is_some() {} }).await;
    outcome.map(|status| match last.take() {
        Some(word) => format!("{word} ({status})"),
        None => status,
    })
}

/// Ends it as it is told to last.
async fn end(part: Part, child: &mut Child, told: &mut watch::Receiver<Option<Ending>>) {
    loop {
        let Some(ending) = *told.borrow_and_update() else { return };
        // One that has only just been started would die of the signal, and leave what it found.
        let _ = timeout(TO_LISTEN, listens(child, ending.signal)).await;
        send(child, ending.signal);
        tokio::select! {
            _ = child.wait() => return,
            Ok(()) = told.changed() => {}
            () = sleep(ending.patience) => {
                tracing::warn!(part = part.name(), "does not end in time; it is killed");
                send(child, Signal::KILL);
                let _ = child.wait().await;
                return;
            }
        }
    }
}

/// Returns when the process has a handler for the signal, or is gone.
async fn listens(child: &Child, signal: Signal) {
    let Some(pid) = child.id() else { return };
    while signals::caught(pid, signal) == Some(false) {
        sleep(PAUSE).await;
    }
}

/// To the part alone, unless it is to be killed: then to all of its group.
fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
    let Some(pid) = pid else { return };
    let _ = match signal == Signal::KILL {
        true => kill_process_group(pid, signal),
        false => rustix::process::kill_process(pid, signal),
    };
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        _ => status.to_string(),
    }
}
