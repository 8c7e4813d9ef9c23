//! [`Watch`]: holds an activation to those limits of its template that the kernel does not hold here.
//!
//! A machine whose control groups (version 2) have the controllers needs none of this. On others the agent looks:
//!
//! | limit | held by the kernel | held by looking |
//! | --- | --- | --- |
//! | `cpu` | `cpu.max` | stopped, by the freezer, for as long as it has used too much |
//! | `memory` | `memory.max`; killed beyond it | killed when it is seen to be beyond it |
//! | `pids` | `pids.max`, or gVisor's own kernel; no more can be made | killed when it is seen to be beyond it |
//!
//! What an actor takes between two looks is over its limit. One that uses no CPU takes nothing, and is looked at less
//! often.

use std::{io, sync::Arc, time::Duration};

use reveille_api::manifest::{quantity::Bytes, template::Resources};
use tokio::time::Instant;

use crate::{
    files,
    runtime::{Runtime, cgroup::Cgroup},
};

/// Between two looks: at one that works, and at one that does nothing.
const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_millis(400);
/// Of the time, what looks may take is one part in so many.
const SHARE: u32 = 20;
/// One that used less than this since the last look does nothing.
const NOTHING: Duration = Duration::from_millis(1);
/// The longest stop.
const LONGEST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    runtime: Arc<dyn Runtime>,
    sandbox: String,
    pid: i32,
    /// As the template has them.
    limits: Resources,
    unheld: Resources,
}

impl Watch {
    pub(crate) fn new(
        runtime: &Arc<dyn Runtime>,
        sandbox: &str,
        pid: i32,
        limits: &Resources,
    ) -> Self {
        Self {
            runtime: runtime.clone(),
            sandbox: sandbox.into(),
            pid,
            limits: limits.clone(),
            unheld: runtime.unheld(limits),
        }
    }

    /// Holds it to its limits as long as this is polled. Returns, with what to tell, when it is to be killed.
    pub(crate) async fn exceeded(&self) -> String {
        let group = self.runtime.group(&self.sandbox);
        let Some(group) = group.filter(|_| self.unheld != Resources::default()) else {
            return std::future::pending().await;
        };
        let mut pace = Pace::new(Instant::now(), group.cpu_time().unwrap_or_default());
        loop {
            tokio::time::sleep(pace.pause).await;
            // A group that is gone has nobody in it: its end is seen elsewhere.
            let Ok(used) = group.cpu_time() else { continue };
            let excess = pace.spend(Instant::now(), used, self.share());
            if pace.worked {
                let begin = Instant::now();
                match self.look(&group).await {
                    Ok(Some(excess)) => return excess,
                    Ok(None) => {}
                    Err(error) => tracing::debug!(sandbox = self.sandbox, %error, "not measured"),
                }
                pace.pause = pace.pause.max(begin.elapsed() * SHARE);
            }
            if !excess.is_zero() {
                let Ok(_stopped) = group.stop() else { continue };
                tokio::time::sleep(excess).await;
            }
        }
    }

    /// CPUs it may use, where that is to be watched.
    fn share(&self) -> Option<f64> {
        self.unheld.cpu.map(|cpu| cpu.0 as f64 / 1000.0)
    }

    async fn look(&self, group: &Cgroup) -> io::Result<Option<String>> {
        let (watch, group) = (self.clone(), group.clone());
        files::blocking(move || {
            if let Some(limit) = watch.unheld.memory {
                let used = watch.runtime.memory(&watch.sandbox, watch.pid, limit.0)?;
                if used > limit.0 {
                    return Ok(Some(format!("{}, it had {}", too_much(limit), rounded(used))));
                }
            }
            if let Some(limit) = watch.unheld.pids {
                let threads = group.threads()?;
                if threads > limit {
                    return Ok(Some(format!(
                        "killed for having more processes than its template's resources.pids, {limit}: it had {threads}"
                    )));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Why the kernel killed it, if it did for a limit.
    pub(crate) fn killed(&self) -> Option<String> {
        let limit = self.limits.memory?;
        let killed = self.runtime.group(&self.sandbox)?.out_of_memory();
        killed.then(|| too_much(limit))
    }
}

fn too_much(limit: Bytes) -> String {
    format!("killed for using more memory than its template's resources.memory, {limit}")
}

fn rounded(bytes: u64) -> Bytes {
    const MIB: u64 = 1 << 20;
    Bytes(bytes.div_ceil(MIB) * MIB)
}

/// How much CPU time was used and may be used.
#[derive(Debug)]
struct Pace {
    pause: Duration,
    worked: bool,
    seen: Instant,
    used: Duration,
    /// CPU seconds that are left, or used too much.
    credit: f64,
}

impl Pace {
    fn new(now: Instant, used: Duration) -> Self {
        Self { pause: BUSY, worked: true, seen: now, used, credit: 0.0 }
    }

    /// Counts what was used since the last look. Returns for how long it is to stand still.
    fn spend(&mut self, now: Instant, used: Duration, share: Option<f64>) -> Duration {
        let (elapsed, spent) = (now - self.seen, used.saturating_sub(self.used));
        self.worked = spent >= NOTHING;
        self.pause = if self.worked { BUSY } else { IDLE };
        (self.seen, self.used) = (now, used);
        let Some(share) = share else { return Duration::ZERO };
        let most = BUSY.as_secs_f64() * share;
        self.credit += elapsed.as_secs_f64() * share - spent.as_secs_f64();
        self.credit = self.credit.min(most);
        Duration::from_secs_f64((-self.credit / share).max(0.0)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_uses_twice_its_share_stands_still_half_of_the_time() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin, Duration::ZERO);
        let (mut now, mut used, mut stood) = (begin, Duration::ZERO, Duration::ZERO);
        for _ in 0..100 {
            now += pace.pause;
            used += pace.pause;
            let stop = pace.spend(now, used, Some(0.5));
            now += stop;
            stood += stop;
        }
        let part = stood.as_secs_f64() / (now - begin).as_secs_f64();
        assert!((0.45..0.55).contains(&part), "{part}");
    }

    #[test]
    fn one_that_uses_less_than_its_share_never_stands_still_and_saves_up_no_more_than_a_tenth_of_a_second()
     {
        let begin = Instant::now();
        let mut pace = Pace::new(begin, Duration::ZERO);
        let mut now = begin;
        for _ in 0..100 {
            now += pace.pause;
            assert_eq!(pace.spend(now, Duration::ZERO, Some(1.0)), Duration::ZERO);
        }
        assert_eq!(pace.pause, IDLE);
        now += BUSY;
        let stop = pace.spend(now, Duration::from_millis(300), Some(1.0));
        let stop = stop.as_secs_f64();
        assert!((0.099..0.101).contains(&stop), "{stop}");
    }
}
