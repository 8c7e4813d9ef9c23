//! Why an actor is as it is, as `reveille explain` shows it.

use std::fmt::Write;

use jiff::Timestamp;
use reveille_api::proto::{self, outlook::Fate, sleep::Blocker};
use serde::Serialize;

use super::{
    actor::{ActorView, Asked, LastWake, wake_name},
    some,
};
use crate::output::age;

/// Columns of the bar of the longest phase.
const BAR: u64 = 24;
/// Text is broken before this column.
const WIDTH: usize = 100;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExplanationView {
    actor: ActorView,
    since: Option<Timestamp>,
    why: Vec<String>,
    problems: Vec<String>,
    /// Of the wake under way.
    asked: Option<Asked>,
    callers: u32,
    sleep: Option<SleepView>,
    request_now: OutlookView,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SleepView {
    blocked_by: Option<&'static str>,
    message: String,
    in_flight: u32,
    routers: Vec<RouterUse>,
    idle_since: Option<Timestamp>,
    next: Option<String>,
    next_after_ms: Option<u64>,
    next_time: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RouterUse {
    router: String,
    connected: bool,
    has_binding: bool,
    in_flight: u32,
    owes_acknowledgement: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutlookView {
    /// "Served", "Waits" or "Refused".
    fate: &'static str,
    message: String,
    wake: Option<&'static str>,
    endpoint: Option<String>,
    snapshot: Option<String>,
    node: Option<String>,
    expected_us: Option<u64>,
    expected_of: Option<u32>,
    reason: Option<String>,
    park_ms: Option<u64>,
}

fn blocker_name(blocker: Blocker) -> Option<&'static str> {
    match blocker {
        Blocker::Unspecified | Blocker::Nothing => None,
        Blocker::InFlight => Some("InFlight"),
        Blocker::KeepWarm => Some("KeepWarm"),
        Blocker::NoRung => Some("NoRung"),
        Blocker::RouterAway => Some("RouterAway"),
        Blocker::HeldBack => Some("HeldBack"),
        Blocker::Waking => Some("Waking"),
        Blocker::GoingDown => Some("GoingDown"),
    }
}

fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Unspecified => "Unknown",
        Fate::Served => "Served",
        Fate::Waits => "Waits",
        Fate::Refused => "Refused",
    }
}

impl From<proto::Explanation> for ExplanationView {
    fn from(explanation: proto::Explanation) -> Self {
        Self {
            actor: explanation.actor.unwrap_or_default().into(),
            since: age::at(explanation.since_unix_ms),
            why: explanation.why,
            problems: explanation.problems,
            asked: explanation.asked.map(Asked::from),
            callers: explanation.callers,
            sleep: explanation.sleep.map(SleepView::from),
            request_now: explanation.outlook.unwrap_or_default().into(),
        }
    }
}

impl From<proto::Sleep> for SleepView {
    fn from(sleep: proto::Sleep) -> Self {
        Self {
            blocked_by: blocker_name(sleep.blocker()),
            message: sleep.message,
            in_flight: sleep.in_flight,
            routers: sleep.routers.into_iter().map(RouterUse::from).collect(),
            idle_since: age::at(sleep.idle_since_unix_ms),
            next: some(sleep.next),
            next_after_ms: positive(sleep.next_after_ms),
            next_time: age::at(sleep.next_unix_ms),
        }
    }
}

impl From<proto::RouterUse> for RouterUse {
    fn from(used: proto::RouterUse) -> Self {
        let proto::RouterUse { router, connected, has_binding, in_flight, owes_acknowledgement } =
            used;
        Self { router, connected, has_binding, in_flight, owes_acknowledgement }
    }
}

impl From<proto::Outlook> for OutlookView {
    fn from(outlook: proto::Outlook) -> Self {
        let waits = outlook.fate() == Fate::Waits;
        Self {
            fate: fate_name(outlook.fate()),
            wake: waits.then(|| wake_name(outlook.wake())),
            message: outlook.message,
            endpoint: some(outlook.endpoint),
            snapshot: some(outlook.snapshot),
            node: some(outlook.node),
            expected_us: positive(outlook.expected_us),
            expected_of: Some(outlook.expected_of).filter(|of| *of > 0),
            reason: some(outlook.reason),
            park_ms: positive(outlook.park_ms),
        }
    }
}

fn positive(value: u64) -> Option<u64> {
    Some(value).filter(|value| *value > 0)
}

impl ExplanationView {
    /// As text for people.
    pub(crate) fn page(&self) -> String {
        let actor = &self.actor;
        let since = match age::since(self.since) {
            since if since.is_empty() => since,
            since => format!(" for {since}"),
        };
        let mut page = format!(
            "{}/{}: {}{since}, epoch {}\n",
            actor.namespace, actor.name, actor.state, actor.epoch
        );
        section(&mut page, "Problems", &self.problems);
        section(&mut page, "Why", &self.why);
        section(&mut page, "A request now", std::slice::from_ref(&self.request_now.message));
        if let Some(sleep) = &self.sleep {
            let mut lines = vec![sleep.message.clone()];
            lines.extend(sleep.routers.iter().map(RouterUse::line));
            section(&mut page, "Sleep", &lines);
        }
        if let Some(asked) = &self.asked {
            section(&mut page, "Who asked for this wake", &asked.lines());
        }
        if let Some(wake) = &actor.last_wake {
            page += &last_wake(wake);
        }
        page
    }
}

impl RouterUse {
    fn line(&self) -> String {
        let Self { router, in_flight, .. } = self;
        let mut line = format!("router {router}: {in_flight} in flight");
        if self.has_binding {
            line += ", has its binding";
        }
        if self.owes_acknowledgement {
            line += ", was asked to give it up";
        }
        if !self.connected {
            line += ", has no session";
        }
        line
    }
}

impl Asked {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![match &self.router {
            _ if self.by == "User" => "a user, by a verb".to_owned(),
            Some(router) => format!("a request at router {router}"),
            None => "a request".to_owned(),
        }];
        lines.extend(self.request_id.iter().map(|id| format!("request id {id}")));
        lines.extend(self.traceparent.iter().map(|parent| format!("traceparent {parent}")));
        lines
    }
}

/// The phases with a bar each, and who asked for it.
fn last_wake(wake: &LastWake) -> String {
    let (kind, total) = (wake.kind, age::micros(wake.total_us));
    let mut text = format!("\nLast wake: {kind} in {total}, {} ago\n", age::since(wake.time));
    let phases = [
        ("place", wake.place_us),
        ("fetch", wake.fetch_us),
        ("restore", wake.restore_us),
        ("ready", wake.ready_us),
    ];
    let longest = phases.iter().map(|(_, us)| *us).max().unwrap_or(0).max(1);
    for (phase, us) in phases {
        let bar = "#".repeat((us * BAR).div_ceil(longest) as usize);
        let line = format!("  {phase:<8} {:>8}  {bar}", age::micros(us));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    match &wake.asked {
        None => text += "  who asked for it is not known\n",
        Some(asked) => {
            let lines = asked.lines().join(", ");
            text += &wrapped(&format!("asked for by {lines}"));
        }
    }
    text
}

fn section(page: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(page, "\n{title}\n");
    for line in lines {
        *page += &wrapped(line);
    }
}

/// Indented, and broken between words.
fn wrapped(text: &str) -> String {
    let (mut lines, mut column) = (String::from("  "), 2);
    for (nth, word) in text.split_whitespace().enumerate() {
        let width = word.chars().count();
        if nth > 0 && column + 1 + width > WIDTH {
            lines += "\n    ";
            column = 4;
        } else if nth > 0 {
            lines.push(' ');
            column += 1;
        }
        // What a runtime said may be in it.
        lines.extend(word.chars().filter(|c| !c.is_control()));
        column += width;
    }
    lines.push('\n');
    lines
}
