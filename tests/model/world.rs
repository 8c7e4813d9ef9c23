//! The world: everything whose state matters, and who may lose what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reveille_controlplane::lifecycle;
use reveille_router::model::{self, At};

use crate::mutant::Mutant;

pub(crate) const ROUTERS: usize = 2;
pub(crate) const NODE: &str = "n1";

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// Nothing while it is down.
    pub(crate) control: Option<Control>,
    pub(crate) store: Store,
    pub(crate) node: Node,
    pub(crate) routers: [Router; ROUTERS],
    pub(crate) requests: Vec<Request>,
    pub(crate) left: Left,
    pub(crate) seen: Seen,
    /// The rule that is switched off.
    pub(crate) mutant: Option<Mutant>,
}

/// How much may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    /// Suspends by a user, which wait for what is in flight.
    pub(crate) suspends: u8,
    /// Suspends of an actor believed idle, which do not.
    pub(crate) idles: u8,
    /// Callers that leave while they wait.
    pub(crate) leaves: u8,
    /// Of [`Fault`]s.
    pub(crate) faults: u8,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    ControlPlaneCrashes,
    /// The connection between a router and the control plane breaks.
    ConnectionBreaks,
    RouterCrashes,
    /// SIGSTOP.
    RouterStops,
    AgentCrashes,
    /// The connections between the node and the control plane break.
    NodeCutOff,
    SandboxCrashes,
    RestoreFails,
    CheckpointFails,
    /// A deadline passes although nobody is dead: somebody was slow.
    TooSlow,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::ControlPlaneCrashes,
        Self::ConnectionBreaks,
        Self::RouterCrashes,
        Self::RouterStops,
        Self::AgentCrashes,
        Self::NodeCutOff,
        Self::SandboxCrashes,
        Self::RestoreFails,
        Self::CheckpointFails,
        Self::TooSlow,
    ];

    /// None of these ends a request that was told where to go.
    pub(crate) fn spares_requests_in_flight(self) -> bool {
        matches!(
            self,
            Self::ControlPlaneCrashes
                | Self::ConnectionBreaks
                | Self::AgentCrashes
                | Self::NodeCutOff
                | Self::RestoreFails
                | Self::CheckpointFails
        )
    }
}

/// What was seen, for the invariants alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) faults: BTreeSet<Fault>,
    /// The highest epoch that served.
    pub(crate) served: u64,
    /// The highest epoch whose activation has ended.
    pub(crate) ended: u64,
    /// An activation began to serve after a later one had, or after its own end.
    pub(crate) old_one_serves: bool,
    /// A request reached an activation it was not sent to, or one that does not serve.
    pub(crate) misdelivered: bool,
    /// Effects that must not be forgotten.
    pub(crate) floor: u8,
    /// Of the last commit.
    pub(crate) committed: u8,
    pub(crate) state_lost: bool,
    pub(crate) activations: u8,
    /// Ends of activations that served: suspends and crashes.
    pub(crate) ends: u8,
}

/// One HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) stage: Stage,
    /// The router and the epoch at which it counts as in flight.
    pub(crate) counted: Option<(usize, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    NotSent,
    /// At a router.
    Parked(usize),
    /// Envoy knows the endpoint.
    Told(At),
    /// The actor has it, and its effect.
    Arrived(u64),
    Answered,
    /// Its caller was told why.
    Refused,
    /// It was told where to go, and did not get an answer from there.
    CutOff,
    /// Its caller left.
    Left,
}

impl Stage {
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Answered | Self::Refused | Self::CutOff | Self::Left)
    }
}

/// What is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) life: lifecycle::Actor,
    pub(crate) routers: BTreeSet<usize>,
}

/// The control plane: `driver.rs` and `routers.rs` of reveille-controlplane around the real lifecycle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Control {
    pub(crate) life: lifecycle::Actor,
    /// The last write is under way ([`lifecycle::Write::Behind`]).
    pub(crate) behind: bool,
    /// Wakes that wait for their answer.
    pub(crate) wakes: Vec<Waiter>,
    pub(crate) links: [Link; ROUTERS],
    /// Routers of before its start that have not said what they hold.
    pub(crate) awaited: BTreeSet<usize>,
    pub(crate) usage: Option<Usage>,
    pub(crate) node: NodeLink,
    /// Of the node: quoted by every call to it.
    pub(crate) stay: u8,
    /// Epoch of what has the one worker.
    pub(crate) worker: Option<u64>,
    pub(crate) errand: Errand,
    /// A resume that was asked for; true once it was sent.
    pub(crate) resume: Option<bool>,
    /// Activations to destroy; true once sent.
    pub(crate) cleaning: BTreeMap<u64, bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Waiter {
    pub(crate) router: usize,
    pub(crate) instance: u8,
    /// Its connection still stands.
    pub(crate) live: bool,
}

/// A router, as the control plane sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Link {
    #[default]
    Unknown,
    Up(u8),
    Away(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NodeLink {
    Away,
    /// Away for longer than the grace.
    Lost,
    Ready,
}

/// `routers/usage.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Usage {
    pub(crate) epoch: u64,
    pub(crate) valid_from: u64,
    pub(crate) routers: [Use; ROUTERS],
    pub(crate) drain: Option<Drain>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Use {
    pub(crate) holds: Option<u64>,
    pub(crate) in_flight: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Drain {
    pub(crate) term: u64,
    pub(crate) waiting: BTreeSet<usize>,
    /// Requests in flight have time to end.
    pub(crate) patient: bool,
}

/// The call that the present state has under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Errand {
    None,
    Place,
    Activate { epoch: u64, snapshot: Option<String>, sent: bool },
    Drain { term: u64, patient: bool, begun: bool },
    Suspend { epoch: u64, id: String, sent: bool },
}

/// The node: `actor.rs` of reveille-node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    /// The agent; sandboxes live on without it.
    pub(crate) up: bool,
    /// The highest epoch seen, and whether its activation has ended.
    pub(crate) fence: (u64, bool),
    /// The highest stay it has heard of.
    pub(crate) stay: u8,
    /// The last suspend that a resume has called off.
    pub(crate) resumed: Option<String>,
    pub(crate) sandbox: Sandbox,
    /// Epoch and effects, by name.
    pub(crate) snapshots: BTreeMap<String, (u64, u8)>,
    /// Calls on their way, in no order.
    pub(crate) calls: BTreeSet<Call>,
    /// Calls that wait for the operation under way.
    pub(crate) backlog: VecDeque<Call>,
    /// Answers on their way, in no order.
    pub(crate) replies: BTreeSet<Reply>,
    /// Epochs whose end is reported.
    pub(crate) exits: VecDeque<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sandbox {
    None,
    Activating { epoch: u64, snapshot: Option<String>, answer: bool, cancelled: bool },
    Serving { epoch: u64, effects: u8 },
    Suspending { epoch: u64, id: String, effects: u8, step: Step, cancelled: bool, answer: bool },
}

/// How far a suspend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// The endpoint is closed and connections are reset.
    Closed,
    /// The image is taken, with these effects.
    Sealed(u8),
    Committed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    /// Once it is over, nobody hears the answer.
    pub(crate) stay: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Operation {
    Activate { epoch: u64, snapshot: Option<String> },
    Suspend { epoch: u64, id: String },
    Resume { epoch: u64 },
    Destroy { epoch: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reply {
    Activated { epoch: u64 },
    ActivateFailed { epoch: u64 },
    Fenced { epoch: u64, seen: u64 },
    Committed { id: String, epoch: u64 },
    Resumed { id: String, epoch: u64 },
    CheckpointFailed { id: String, epoch: u64 },
    NotRunning { id: String, epoch: u64 },
    Destroyed { epoch: u64 },
}

/// A router: `wake.rs`, `revoke.rs` and `session.rs` of reveille-router around the real machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Router {
    pub(crate) process: Process,
    pub(crate) instance: u8,
    pub(crate) actor: model::Actor,
    pub(crate) wake: Option<Wake>,
    pub(crate) session: Option<Session>,
    /// Revokes that wait for requests to end.
    pub(crate) drains: BTreeSet<At>,
    /// Acknowledgements, said again on the next session.
    pub(crate) said: BTreeSet<At>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Process {
    Up,
    Stopped,
    Down,
}

/// The one wake of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wake {
    /// To be asked, or asked again.
    Asking,
    /// The control plane has it.
    Waiting,
    /// The answer is on its way.
    Answered(Result<At, Refusal>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// Worth trying again.
    NoSession,
    Failed,
}

/// The stream between a router and the control plane. Both directions keep their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub(crate) reports: VecDeque<Report>,
    pub(crate) revokes: VecDeque<Revoke>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Report {
    Hello(u8),
    Held(Vec<(At, u32)>),
    Ack(At, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Revoke {
    pub(crate) at: At,
    pub(crate) patient: bool,
}

impl World {
    pub(crate) fn new(requests: usize, left: Left, mutant: Option<Mutant>) -> Self {
        let life = lifecycle::Actor::new(reveille_api::Epoch(0));
        let store = Store { life, routers: BTreeSet::new() };
        let router = || Router {
            process: Process::Up,
            instance: 0,
            actor: model::Actor::default(),
            wake: None,
            session: None,
            drains: BTreeSet::new(),
            said: BTreeSet::new(),
        };
        let mut world = Self {
            control: None,
            store,
            node: Node {
                up: true,
                fence: (0, false),
                stay: 0,
                resumed: None,
                sandbox: Sandbox::None,
                snapshots: BTreeMap::new(),
                calls: BTreeSet::new(),
                backlog: VecDeque::new(),
                replies: BTreeSet::new(),
                exits: VecDeque::new(),
            },
            routers: std::array::from_fn(|_| router()),
            requests: vec![Request { stage: Stage::NotSent, counted: None }; requests],
            left,
            seen: Seen::default(),
            mutant,
        };
        // Begins with every session standing.
        world.start_control();
        world.register();
        for router in 0..ROUTERS {
            world.connect(router);
            while world.routers[router].session.as_ref().is_some_and(|s| !s.reports.is_empty()) {
                world.report_arrives(router);
            }
        }
        world
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Nothing is under way, and what was promised is kept. A router that is stopped keeps what waits for it, and nothing
    /// else.
    pub(crate) fn is_quiet(&self) -> bool {
        let Some(control) = &self.control else { return false };
        let phase = control.life.phase();
        let sandbox = match (&self.node.sandbox, control.life.activation()) {
            (Sandbox::None, None) => phase.is_rest(),
            (Sandbox::Serving { epoch, .. }, Some(_)) => *epoch == control.life.epoch.0,
            _ => false,
        };
        let at_rest = |router: &Router| {
            let idle = router.wake.is_none() && router.drains.is_empty();
            let at_work = matches!(router.actor.state, model::State::Waking { .. });
            let well = router.session.is_some() && idle && !at_work;
            router.process == Process::Stopped || router.process == Process::Up && well
        };
        let over = |request: &Request| match request.stage {
            Stage::Parked(router) => self.routers[router].process == Process::Stopped,
            stage => stage.is_over() || stage == Stage::NotSent,
        };
        let free = control.worker.is_some() == control.life.place().is_some();
        sandbox
            && (phase.is_rest() || phase == lifecycle::Phase::Running)
            && control.wakes.is_empty()
            && control.cleaning.is_empty()
            && free
            && self.store.life == control.life.stored()
            && self.node.up
            && self.routers.iter().all(at_rest)
            && self.requests.iter().all(over)
    }
}
