//! `reveille top`: what is running now, busiest first.
//!
//! ```text
//!  terminal ─▶ a frame, and another one each interval, key or resize, until q or Ctrl-C
//!  else     ─▶ one frame, and the end
//! ```
//!
//! The control plane sorts and cuts: it is asked for no more rows than are shown.

mod frame;
mod screen;

use std::{io::IsTerminal, time::Duration};

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use reveille_api::proto::OverviewRequest;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, timeout},
};

use crate::{
    client::{self, Overview},
    error::{Error, Result},
    output::{self, view::OverviewView},
};
use frame::Frame;
use screen::Screen;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Actors of one frame that is not on a terminal.
const ROWS: u16 = 20;

const EXAMPLES: &str = "\
Keys: q, Esc and Ctrl-C end it; the space bar asks at once.

Examples:
  reveille top
  reveille top -n demo --interval 5s
  reveille top --once -o json";

/// Show states, workers, wakes and the busiest actors, live
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Actors of this namespace only; workers are everybody's
    #[arg(short, long, value_name = "NAMESPACE", default_value = "", hide_default_value = true)]
    namespace: String,
    /// How often it is shown anew
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Actors shown at most [default: what fits the terminal, else 20]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: Option<u16>,
    /// Show it once and end; so it does also when its output is no terminal
    #[arg(long)]
    once: bool,
    /// How to print what is shown once; text when not given
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<output::Data>,
    #[command(flatten)]
    server: client::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        if self.interval < Duration::from_millis(100) {
            return Err(Error::usage("--interval: must be 100ms or longer"));
        }
        let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        let once = self.once || !terminal;
        if self.output.is_some() && !once {
            return Err(Error::usage("-o is for what is shown once: give --once too"));
        }
        let overview = self.server.overview().await?;
        if !once {
            return self.live(overview).await;
        }
        let view = ask(overview, self.request(ROWS)).await?;
        output::page(&view, self.output, |view| Frame::of(view, usize::MAX).text())
    }

    fn request(&self, rows: u16) -> OverviewRequest {
        let rows = self.limit.unwrap_or(rows);
        OverviewRequest { namespace: self.namespace.clone(), rows: rows.into() }
    }

    async fn live(self, overview: Overview) -> Result {
        // The first one fails as any other verb does.
        let mut view = ask(overview.clone(), self.request(ROWS)).await?;
        let mut asked = Instant::now();
        let mut screen = Screen::enter()?;
        let mut events = EventStream::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answer: Option<BoxFuture<'static, Result<OverviewView>>> = None;
        let mut trouble = None;
        loop {
            let rows = screen.rows();
            let mut frame = Frame::of(&view, rows.into());
            frame.foot(trouble.as_deref(), asked.elapsed(), self.interval);
            screen.draw(&frame)?;
            let again = tokio::select! {
                event = events.next() => match event {
                    Some(Ok(Event::Key(key))) if ends(&key) => return Ok(()),
                    Some(Ok(Event::Key(key))) => key.code == KeyCode::Char(' '),
                    // What has changed is drawn by the next turn.
                    Some(Ok(_)) => false,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(()),
                },
                _ = terminate.recv() => return Ok(()),
                told = answered(&mut answer) => {
                    answer = None;
                    match told {
                        Ok(told) => (view, asked, trouble) = (told, Instant::now(), None),
                        Err(error) => trouble = Some(error.to_string()),
                    }
                    false
                }
                _ = tick.tick() => true,
            };
            if again && answer.is_none() {
                answer = Some(ask(overview.clone(), self.request(rows)).boxed());
            }
        }
    }
}

async fn ask(mut overview: Overview, request: OverviewRequest) -> Result<OverviewView> {
    match timeout(PATIENCE, overview.get(request)).await {
        Ok(reply) => Ok(reply?.into_inner().into()),
        Err(_) => Err(Error::failed("the control plane takes calls and says nothing")),
    }
}

async fn answered(
    answer: &mut Option<BoxFuture<'static, Result<OverviewView>>>,
) -> Result<OverviewView> {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

fn ends(key: &KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    let quit = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
    key.kind == KeyEventKind::Press && (interrupt || quit)
}
