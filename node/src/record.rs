//! [`Records`]: what the node remembers of each actor, one small file each.
//!
//! The file holds the fence (the highest epoch seen, and whether its activation has ended) and, as long as there is
//! one, the activation. It is replaced before every step that could not be told from its effects after a crash:
//!
//! ```text
//!  Starting ──▶ Serving ⇄ Suspending { snapshot } ──▶ (none, ended)
//!                 ⇅
//!               Frozen
//! ```
//!
//! What a crash leaves as `Starting` is destroyed by the next agent; `Serving` is adopted if it still answers;
//! `Frozen` is frozen again and adopted; `Suspending` has ended if its snapshot is committed, and goes on serving if not. No file is synced: a power loss
//! ends every activation anyway, and the control plane holds the fence too.

use std::{
    io,
    net::SocketAddrV4,
    path::{Path, PathBuf},
};

use reveille_api::{
    ActorKey, Epoch,
    manifest::{
        egress::Egress,
        template::{Resources, Runtime},
    },
    proto,
};
use serde::{Deserialize, Serialize};

use crate::{
    actor::Suspend,
    files::{self, Durability},
    images::Pin,
    process::ProcessId,
    slots::Held,
};

/// What the node remembers of an actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) actor: ActorKey,
    #[serde(flatten)]
    pub(crate) fence: Fence,
    pub(crate) activation: Option<ActivationRecord>,
}

/// The highest epoch seen. An operation of a lower one is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fence {
    pub(crate) epoch: Epoch,
    /// The activation of that epoch served and is over: the epoch cannot be activated again.
    pub(crate) ended: bool,
}

/// Refused by the fence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fenced {
    #[error("epoch {asked} is over: this node has seen epoch {highest}")]
    Lower { asked: Epoch, highest: Epoch },
    #[error("the activation of epoch {0} has ended; a new one needs a higher epoch")]
    Ended(Epoch),
}

impl Fence {
    /// Any operation.
    pub(crate) fn check(self, asked: Epoch) -> Result<(), Fenced> {
        if asked < self.epoch {
            return Err(Fenced::Lower { asked, highest: self.epoch });
        }
        Ok(())
    }

    /// An activation, which raises the fence. An epoch whose activation failed may be tried again.
    pub(crate) fn admit(&mut self, asked: Epoch) -> Result<(), Fenced> {
        self.check(asked)?;
        if asked == self.epoch && self.ended {
            return Err(Fenced::Ended(asked));
        }
        *self = Self { epoch: asked, ended: false };
        Ok(())
    }

    /// The activation of this epoch is over.
    pub(crate) fn end(&mut self, epoch: Epoch) {
        if epoch >= self.epoch {
            *self = Self { epoch, ended: true };
        }
    }
}

/// An activation as the next agent must know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ActivationRecord {
    pub(crate) epoch: Epoch,
    pub(crate) worker: String,
    pub(crate) slot: u32,
    /// End of the sandbox's network in the outer namespace.
    pub(crate) link: String,
    #[serde(default = "gvisor")]
    pub(crate) runtime: Runtime,
    pub(crate) sandbox: String,
    pub(crate) endpoint: SocketAddrV4,
    /// The port inside.
    pub(crate) port: u16,
    /// Of the template, for the manifest of the next snapshot.
    pub(crate) template: String,
    /// What it runs from, if that is not a directory.
    #[serde(default)]
    pub(crate) image: Option<Pin>,
    pub(crate) process: Option<ProcessId>,
    pub(crate) phase: Phase,
    /// The last snapshot that was called off by a resume.
    #[serde(default)]
    pub(crate) resumed: Option<String>,
    /// The highest term whose freeze was undone: one that comes after that is late.
    #[serde(default)]
    pub(crate) thawed: Option<u64>,
    #[serde(default)]
    pub(crate) limits: Resources,
    /// Whom it reaches while its endpoint is open.
    #[serde(default)]
    pub(crate) egress: Vec<Egress>,
}

/// Of records from before there was another.
fn gvisor() -> Runtime {
    Runtime::Gvisor
}

/// How far an activation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Half-made.
    Starting,
    /// Ready, with its endpoint open.
    Serving,
    /// Its processes stand still, or were about to; its endpoint is closed.
    Frozen {
        /// Of the revoke before it.
        term: u64,
    },
    /// On the way down to this snapshot.
    Suspending {
        /// Its id.
        snapshot: String,
    },
}

impl ActivationRecord {
    /// True for a repeated call that a resume has called off: the answer may have been lost.
    pub(crate) fn was_resumed(&self, suspend: &Suspend) -> bool {
        self.epoch == suspend.epoch && self.resumed.as_ref() == Some(&suspend.snapshot)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        matches!(self.phase, Phase::Frozen { .. })
    }

    pub(crate) fn held(&self) -> Held {
        Held { index: self.slot, link: self.link.clone(), endpoint: self.endpoint }
    }

    pub(crate) fn to_proto(&self, actor: &ActorKey) -> proto::Activation {
        proto::Activation {
            actor: Some(actor.into()),
            epoch: self.epoch.0,
            worker: self.worker.clone(),
            endpoint: self.endpoint.to_string(),
            serving: self.phase == Phase::Serving,
            frozen: self.is_frozen(),
        }
    }
}

/// The files.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    root: PathBuf,
}

impl Records {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Every record that says something; what an agent that died was writing is removed. Files are not synced, so a power loss can leave an empty one: it stands for no
    /// activation and no fence, which the control plane holds too. What cannot be read at all is an error.
    pub(crate) fn load(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for namespace in files::names(&self.root)? {
            let dir = self.root.join(namespace);
            for name in files::names(&dir)? {
                let path = dir.join(&name);
                if !name.ends_with(".json") {
                    // One that stays is written over by the next.
                    let _ = std::fs::remove_file(&path);
                    continue;
                }
                let context = |error: io::Error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                };
                match files::read_json(&path) {
                    Ok(record) => records.extend(record),
                    Err(error) if undecodable(&error) => {
                        let path = path.display();
                        tracing::error!(%path, %error, "a record that says nothing is passed over");
                    }
                    Err(error) => return Err(context(error)),
                }
            }
        }
        Ok(records)
    }

    pub(crate) fn save(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.actor);
        match files::write_json(&path, record, Durability::Process) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::create_private_dir(path.parent().unwrap_or(&self.root))?;
                files::write_json(&path, record, Durability::Process)
            }
            written => written,
        }
    }

    pub(crate) fn remove(&self, actor: &ActorKey) -> io::Result<()> {
        files::remove(&self.path(actor))
    }

    fn path(&self, actor: &ActorKey) -> PathBuf {
        self.root.join(actor.namespace()).join(format!("{}.json", actor.name()))
    }
}

/// Read, but no record.
fn undecodable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_epoch_is_refused_and_an_ended_one_is_not_activated_again() {
        let mut fence = Fence::default();
        fence.admit(Epoch(3)).unwrap();
        assert_eq!(
            fence.check(Epoch(2)),
            Err(Fenced::Lower { asked: Epoch(2), highest: Epoch(3) })
        );
        fence.admit(Epoch(3)).unwrap();
        fence.end(Epoch(3));
        assert_eq!(fence.admit(Epoch(3)), Err(Fenced::Ended(Epoch(3))));
        fence.check(Epoch(3)).unwrap();
        fence.admit(Epoch(4)).unwrap();
        fence.end(Epoch(3));
        assert_eq!(fence, Fence { epoch: Epoch(4), ended: false });
    }

    #[test]
    fn records_come_back_and_actors_of_one_name_in_two_namespaces_are_two() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        let activation = ActivationRecord {
            epoch: Epoch(2),
            worker: "n-0".into(),
            slot: 0,
            link: "in1".into(),
            runtime: Runtime::Criu,
            sandbox: "s".into(),
            endpoint: "10.213.0.2:20000".parse().unwrap(),
            port: 8080,
            template: "t".into(),
            image: None,
            process: Some(ProcessId { pid: 7, started: 9 }),
            phase: Phase::Suspending { snapshot: "x".into() },
            resumed: Some("w".into()),
            thawed: Some(3),
            limits: Resources { pids: Some(5), ..Resources::default() },
            egress: vec![Egress { cidr: "10.1.2.0/24".parse().unwrap(), ports: Vec::new() }],
        };
        let record = |namespace, activation| Record {
            actor: ActorKey::new(namespace, "counter").unwrap(),
            fence: Fence { epoch: Epoch(2), ended: false },
            activation,
        };
        let (a, b) = (record("a", Some(activation)), record("b", None));
        for record in [&a, &b] {
            records.save(record).unwrap();
        }
        let mut loaded = records.load().unwrap();
        loaded.sort_by_key(|record| record.actor.clone());
        assert_eq!(loaded, [a.clone(), b]);
        records.remove(&a.actor).unwrap();
        records.remove(&a.actor).unwrap();
        assert_eq!(records.load().unwrap().len(), 1);
    }

    #[test]
    fn a_record_that_cannot_be_decoded_is_passed_over_until_it_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        let record = |name| Record {
            actor: ActorKey::new("a", name).unwrap(),
            fence: Fence { epoch: Epoch(2), ended: true },
            activation: None,
        };
        records.save(&record("whole")).unwrap();
        for (name, text) in
            [("empty", ""), ("cut", "{\"actor\":"), ("other", "[1]"), ("zeros", "\0\0")]
        {
            std::fs::write(dir.path().join(format!("a/{name}.json")), text).unwrap();
        }
        assert_eq!(records.load().unwrap(), [record("whole")]);
        records.save(&record("empty")).unwrap();
        let unfinished = dir.path().join("a/new.json.tmp");
        std::fs::write(&unfinished, "{").unwrap();
        assert_eq!(records.load().unwrap().len(), 2);
        assert!(!unfinished.exists());
    }
}
