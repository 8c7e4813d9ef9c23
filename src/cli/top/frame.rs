//! One picture of what goes on, as lines of text.

use std::time::Duration;

use crate::output::{
    Table, age,
    view::{Active, OverviewView, Wake},
};

/// Wakes shown at most, so that the actors have room.
const WAKES: usize = 5;

/// How a line stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    /// The heads of columns.
    Head,
    /// Somebody should look.
    Alarm,
    Faint,
}

pub(super) struct Frame {
    pub(super) lines: Vec<(Style, String)>,
    /// It has no more.
    rows: usize,
}

impl Frame {
    /// Of so many rows at the most, the last of which is for [`Frame::foot`].
    pub(super) fn of(view: &OverviewView, rows: usize) -> Self {
        let mut frame = Self { lines: Vec::new(), rows };
        frame.plain(actors(view));
        frame.plain(workers(view));
        frame.nodes(view);
        if view.draining {
            frame.push(Style::Alarm, "Draining: nothing is woken".into());
        }
        frame.plain(String::new());
        if !view.wakes.is_empty() {
            frame.table(&wakes(view));
            frame.plain(String::new());
        }
        // Heads, what is left out, and the last line.
        let room = rows.saturating_sub(frame.lines.len() + 3);
        let shown = view.active.len().min(room);
        frame.table(&active(&view.active[..shown]));
        let more = view.active_count as usize - shown.min(view.active_count as usize);
        match (shown, more) {
            (0, 0) => frame.push(Style::Faint, "All actors are at rest.".into()),
            (_, 0) => {}
            (_, more) => frame.push(Style::Faint, format!("and {more} more that do not sleep")),
        }
        frame
    }

    /// The last line, on a terminal.
    pub(super) fn foot(&mut self, trouble: Option<&str>, age: Duration, interval: Duration) {
        self.lines.truncate(self.rows.saturating_sub(1));
        while self.lines.len() + 1 < self.rows {
            self.lines.push((Style::Plain, String::new()));
        }
        self.lines.push(match trouble {
            Some(trouble) => (Style::Alarm, format!("{} old: {trouble}", age::short(age))),
            None => {
                let every = humantime::format_duration(interval);
                (Style::Faint, format!("every {every}; q ends it, space asks at once"))
            }
        });
    }

    /// Without a terminal.
    pub(super) fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| line.trim_end().to_owned() + "\n").collect()
    }

    fn push(&mut self, style: Style, line: String) {
        self.lines.push((style, line));
    }

    fn plain(&mut self, line: String) {
        self.push(Style::Plain, line);
    }

    fn nodes(&mut self, view: &OverviewView) {
        let away: Vec<_> = view.nodes.iter().filter(|node| !node.ready).collect();
        let snapshots: u64 = view.nodes.iter().map(|node| node.snapshot_bytes).sum();
        let ready = view.nodes.len() - away.len();
        let all = view.nodes.len();
        self.plain(format!(
            "Nodes     {ready}/{all} ready, {} of snapshots",
            age::bytes(snapshots)
        ));
        for node in away {
            let name = &node.name;
            self.push(Style::Alarm, format!("          {name} is not ready"));
        }
    }

    fn table(&mut self, table: &Table) {
        for (nth, line) in table.to_string().lines().enumerate() {
            let style = if nth == 0 { Style::Head } else { Style::Plain };
            self.push(style, line.to_owned());
        }
    }
}

fn actors(view: &OverviewView) -> String {
    let all: u64 = view.actors.iter().map(|count| count.count).sum();
    let states: Vec<_> =
        view.actors.iter().map(|count| format!("{} {}", count.count, count.state)).collect();
    let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
    format!("Actors    {all}{states}; {} requests in flight", view.in_flight)
}

fn workers(view: &OverviewView) -> String {
    let w = &view.workers;
    let all = w.serving + w.starting + w.leaving + w.cleaning + w.free + w.away + w.unpooled;
    let states = [
        (w.serving, "serving"),
        (w.starting, "starting"),
        (w.leaving, "leaving"),
        (w.cleaning, "cleaning"),
        (w.free, "free"),
        (w.away, "away"),
        (w.unpooled, "in no pool"),
    ];
    let states: Vec<_> = states
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    let wakes = match (view.wake_count, view.wakes_waiting) {
        (0, _) => String::new(),
        (all, 0) => format!("; {all} wakes in progress"),
        (all, waiting) => format!("; {all} wakes in progress, {waiting} without a worker"),
    };
    let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
    format!("Workers   {all}{states}{wakes}")
}

fn wakes(view: &OverviewView) -> Table {
    let mut table = Table::new(&["WAKES", "PHASE", "FROM", "WORKER", "FOR"]);
    for Wake { namespace, name, phase, kind, worker, for_ms } in view.wakes.iter().take(WAKES) {
        table.row([
            format!("{namespace}/{name}"),
            (*phase).into(),
            (*kind).into(),
            worker.clone().unwrap_or_default(),
            passed(*for_ms),
        ]);
    }
    table
}

fn active(actors: &[Active]) -> Table {
    let mut table =
        Table::new(&["ACTOR", "STATE", "IN FLIGHT", "REQ/S", "IDLE", "SINCE", "EPOCH", "WORKER"]);
    for actor in actors {
        table.row([
            format!("{}/{}", actor.namespace, actor.name),
            actor.state.into(),
            actor.in_flight.to_string(),
            format!("{:.1}", actor.requests_per_second),
            actor.idle_ms.map(passed).unwrap_or_default(),
            passed(actor.for_ms),
            actor.epoch.to_string(),
            actor.worker.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn passed(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{:.1}s", ms as f64 / 1_000.0),
        _ => age::short(Duration::from_millis(ms)),
    }
}

#[cfg(test)]
mod tests {
    use reveille_api::proto;

    use super::*;

    fn view(actors: u32) -> OverviewView {
        let active = (0..actors).map(|n| proto::ActiveActor {
            actor: Some(proto::ActorKey { namespace: "demo".into(), name: format!("a{n}") }),
            state: proto::ActorState::Running.into(),
            ..Default::default()
        });
        let count = proto::StateCount { state: proto::ActorState::Running.into(), count: 7 };
        proto::OverviewReply {
            actors: vec![count],
            active: active.collect(),
            active_count: actors + 3,
            nodes: vec![proto::Node { name: "n1".into(), ..Default::default() }],
            wakes: vec![proto::WakeUnderWay::default(); 9],
            wake_count: 9,
            wakes_waiting: 1,
            ..Default::default()
        }
        .into()
    }

    #[test]
    fn a_frame_never_has_more_lines_than_the_screen_and_says_what_it_left_out() {
        for rows in 1..60 {
            let mut frame = Frame::of(&view(30), rows);
            frame.foot(None, Duration::ZERO, Duration::from_secs(1));
            assert_eq!(frame.lines.len(), rows);
            assert!(frame.lines[rows - 1].1.starts_with("every 1s"), "{:?}", frame.lines[rows - 1]);
        }
        let frame = Frame::of(&view(30), 24);
        let text = frame.text();
        assert!(text.contains("9 wakes in progress, 1 without a worker"), "{text}");
        assert!(text.contains("demo/a0") && !text.contains("demo/a20"), "{text}");
        assert!(text.contains("more that do not sleep"), "{text}");
        assert!(
            frame.lines.iter().any(|(s, l)| *s == Style::Alarm && l.contains("n1 is not ready"))
        );
    }

    #[test]
    fn trouble_is_told_with_the_age_of_what_is_shown() {
        let mut frame = Frame::of(&view(0), 20);
        frame.foot(Some("gone"), Duration::from_secs(75), Duration::from_secs(1));
        assert_eq!(frame.lines[19], (Style::Alarm, "1m15s old: gone".to_owned()));
    }
}
