//! One torture, from a fresh node to nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep};

use crate::{
    actor::{Actor, Hit, NOTICED, perform},
    agent::{self, Agent, strike},
    harness::leaks,
    judge::Verdict,
    plan::{ACTORS, Moment, Operation, Plan, Round, Victim},
    say,
    step::{Places, steps},
};

/// How long a step, or a program to be killed, is waited for.
const WATCHED: Duration = Duration::from_secs(20);
/// Until something is known of how long an operation takes.
const GUESS: Duration = Duration::from_millis(300);

/// Runs a plan until so many rounds are done; fewer, but not less than `at_least`, when the time is over.
pub(crate) async fn run(plan: &Plan, rounds: u32, at_least: u32, within: Duration) {
    let begun = Instant::now();
    let mut torture = Torture::begin().await;
    for (number, round) in (1..=rounds).zip(plan.rounds()) {
        if number > at_least && begun.elapsed() > within {
            break;
        }
        if let Err(why) = torture.round(&round).await {
            let log = torture.agent.log_tail();
            panic!(
                "TORTURE_SEED={}, round {number}, {round:?}: {why}\n--- the agent's last lines:\n{log}",
                plan.seed
            );
        }
        if number % 50 == 0 {
            say(&format!("{number} rounds in {:.0?}", begun.elapsed()));
        }
    }
    say(&torture.report());
    torture.end().await;
}

struct Torture {
    agent: Agent,
    actors: Vec<Actor>,
    /// How long an operation took, of gVisor and CRIU.
    usual: BTreeMap<(Operation, bool), Duration>,
    /// How it went.
    found: BTreeMap<(Victim, Operation), BTreeMap<&'static str, u32>>,
    restarts: Vec<Duration>,
}

impl Torture {
    async fn begin() -> Self {
        let mut agent = Agent::new();
        let started = agent.start().await;
        started.unwrap_or_else(|why| panic!("{why}\n{}", agent.log_tail()));
        let actors = (0..ACTORS).map(|number| Actor::new(number, &agent)).collect();
        let (usual, found, restarts) = Default::default();
        Self { agent, actors, usual, found, restarts }
    }

    async fn round(&mut self, round: &Round) -> Result<(), String> {
        let client = self.agent.client();
        let both = || round.operations.into_iter();
        let ready = self.actors.iter_mut().zip(both());
        try_join_all(ready.map(|(actor, operation)| actor.prepare(&client, operation))).await?;

        let requests = self.actors.iter_mut().zip(both());
        let requests: Vec<_> = requests.map(|(actor, op)| actor.request(op)).collect();
        let leader = &self.actors[round.leader];
        let kill = Kill {
            victim: round.victim,
            agent: self.agent.pid(),
            places: leader.places.clone(),
            operation: round.operations[round.leader],
            moment: round.moment,
            usual: self.usual_of(round.operations[round.leader], leader.is_criu()),
            over: Arc::default(),
        };
        let (over, begun) = (kill.over.clone(), Instant::now());
        let killing = tokio::task::spawn_blocking(move || kill.strike());
        let doings = requests.iter().enumerate().map(|(number, request)| {
            let (client, over) = (&client, &over);
            async move {
                let told = perform(client, request.clone()).await;
                if number == round.leader {
                    over.store(true, Ordering::Relaxed);
                }
                told.map(|told| (told, begun.elapsed()))
            }
        });
        let (killed, told) = tokio::join!(killing, join_all(doings));
        let killed = killed.expect("it kills");
        let told = told.into_iter().collect::<Result<Vec<_>, _>>()?;
        if matches!(round.victim, Victim::Agent | Victim::Everything) {
            self.restart(round.again).await?;
        }

        let client = self.agent.client();
        let mut recoveries = Vec::new();
        let all = self.actors.iter_mut().zip(&requests).zip(told).enumerate();
        for (number, ((actor, request), (told, took))) in all {
            let (operation, criu) = (round.operations[number], actor.is_criu());
            if told.is_ok() && round.victim != Victim::Programs {
                self.usual.insert((operation, criu), took);
            }
            let leads = number == round.leader;
            let hit = Hit {
                victim: round.victim,
                hit: leads || round.victim != Victim::Sandbox,
                killed: match round.victim {
                    Victim::Everything => true,
                    Victim::Sandbox => leads && !killed.is_empty(),
                    // While it is made, it is one of them.
                    Victim::Programs => operation.wakes(),
                    Victim::Agent => false,
                },
            };
            let (client, killed) = (&client, &killed);
            recoveries.push(async move {
                noticed(&actor.places, killed).await?;
                let ok = told.is_ok();
                let recovered = actor.recover(client, request, told, hit).await;
                let verdict = recovered.map_err(|why| format!("actor {number}: {why}"))?;
                Ok::<_, String>((operation, called(&verdict, ok)))
            });
        }
        for (operation, verdict) in try_join_all(recoveries).await? {
            let found = self.found.entry((round.victim, operation)).or_default();
            *found.entry(verdict).or_default() += 1;
        }
        let leaks = leaks::until_none(|| async { self.leaks() }).await;
        if leaks.is_empty() { Ok(()) } else { Err(format!("left over: {leaks:#?}")) }
    }

    fn usual_of(&self, operation: Operation, criu: bool) -> Duration {
        self.usual.get(&(operation, criu)).copied().unwrap_or(GUESS)
    }

    /// The agent is dead. The next one may have to die too, while it looks at what is there.
    async fn restart(&mut self, again: Option<u64>) -> Result<(), String> {
        self.agent.bury();
        if let Some(after) = again {
            self.agent.spawn();
            sleep(Duration::from_millis(after)).await;
            strike(Victim::Agent, self.agent.pid(), &self.agent.data(), None);
            self.agent.bury();
        }
        let begun = Instant::now();
        self.agent.start().await?;
        self.restarts.push(begun.elapsed());
        Ok(())
    }

    /// While every actor sleeps.
    fn leaks(&self) -> Vec<String> {
        let (data, workers, agent) = (self.agent.data(), ACTORS as u32, self.agent.pid());
        let node = leaks::Node { data: &data, workers, agent, egress: true };
        let named: BTreeSet<_> =
            self.actors.iter().filter_map(|a| a.snapshot().map(str::to_owned)).collect();
        let mut leaks = node.at_rest();
        leaks.extend(node.network());
        leaks.extend(node.unnamed(&named));
        leaks.extend(leaks::zombies(&[agent]));
        let programs = agent::programs(agent);
        leaks.extend(programs.into_iter().map(|pid| format!("a program: {pid}")));
        leaks
    }

    fn report(&self) -> String {
        let mut text = String::from("what was killed while what was done, and what then was:");
        for ((victim, operation), found) in &self.found {
            text += &format!("\n  {:<24}", format!("{victim:?}, {operation:?}"));
            let mut found: Vec<_> = found.iter().map(|(what, n)| format!("{n} {what}")).collect();
            found.sort();
            text += &found.join(", ");
        }
        let mut restarts = self.restarts.clone();
        restarts.sort();
        if let (Some(median), Some(worst)) = (restarts.get(restarts.len() / 2), restarts.last()) {
            text += &format!(
                "\n  {} restarts of the agent: {median:.1?} in the middle, {worst:.1?} at worst",
                restarts.len()
            );
        }
        text
    }

    async fn end(mut self) {
        let destroyed = self.agent.destroy().await;
        destroyed.unwrap_or_else(|why| panic!("{why}\n{}", self.agent.log_tail()));
    }
}

/// What is to be killed when.
struct Kill {
    victim: Victim,
    agent: i32,
    places: Places,
    operation: Operation,
    moment: Moment,
    usual: Duration,
    /// The leader has its answer.
    over: Arc<AtomicBool>,
}

impl Kill {
    /// Blocks until it is done.
    fn strike(self) -> Vec<i32> {
        let wait = match self.moment {
            Moment::After(thousandths) => self.usual * thousandths / 1_000,
            Moment::Step(number, micros) => {
                let steps = steps(self.operation);
                self.watch(|| self.places.seen(steps[number % steps.len()]));
                Duration::from_micros(micros)
            }
        };
        let end = Instant::now() + wait;
        while Instant::now() < end {
            std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
        }
        if self.victim == Victim::Programs {
            self.watch(|| !agent::programs(self.agent).is_empty());
        }
        strike(self.victim, self.agent, &self.places.data, Some(&self.places))
    }

    /// Until it is seen, or it is too late for that.
    fn watch(&self, seen: impl Fn() -> bool) {
        let end = Instant::now() + WATCHED;
        while !seen() && !self.over.load(Ordering::Relaxed) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_micros(100));
        }
    }
}

/// Waits until the agent does not take one for alive that was killed.
async fn noticed(places: &Places, killed: &[i32]) -> Result<(), String> {
    let end = Instant::now() + NOTICED;
    while let Some(pid) = agent::process_of(places).filter(|pid| killed.contains(pid)) {
        if Instant::now() > end {
            return Err(format!("process {pid} was killed, and nobody has noticed"));
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// For the report.
fn called(verdict: &Verdict, ok: bool) -> &'static str {
    match (verdict, ok) {
        (Verdict::Serves(activation), _) if activation.frozen => "stayed frozen",
        (Verdict::Serves(_), true) => "done, serves",
        (Verdict::Serves(_), false) => "serves",
        (Verdict::New(_), true) => "done, sleeps",
        (Verdict::New(_), false) => "not told, sleeps",
        (Verdict::Last(None), _) => "sleeps as before",
        (Verdict::Last(Some(_)), _) => "died, back to its last snapshot",
        (Verdict::Nothing, true) => "done, gone",
        (Verdict::Nothing, false) => "gone",
    }
}
