//! Points of an operation that can be seen from outside, in the data directory and the store.

use std::{fs, path::PathBuf};

use crate::{harness::leaks::names, plan::Operation};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The record says what is about to be done.
    Starting,
    Freezing,
    Suspending,
    /// The record says that it serves.
    Serving,
    /// The record has no activation any more.
    Ended,
    /// The record is gone.
    Forgotten,
    /// The sandbox has a directory, and then a process.
    Bundle,
    Process,
    /// A snapshot is being written, and has files; its manifest comes last.
    Draft,
    Image,
    Manifest,
    Committed,
    /// The same in the store.
    Intent,
    Whole,
    /// The snapshot is not on the node any more, or about to be.
    Grave,
    Evicted,
}

/// Those of an operation, in their order.
pub(crate) fn steps(operation: Operation) -> &'static [Step] {
    use Step::*;
    match operation {
        Operation::Start | Operation::Wake => &[Starting, Bundle, Process, Serving],
        Operation::Fetch => {
            &[Draft, Image, Manifest, Committed, Starting, Bundle, Process, Serving]
        }
        Operation::Freeze => &[Freezing],
        Operation::Thaw => &[Serving],
        Operation::Suspend | Operation::SuspendFrozen => {
            &[Suspending, Draft, Image, Manifest, Committed, Ended]
        }
        Operation::Upload => {
            &[Suspending, Draft, Image, Committed, Ended, Intent, Whole, Grave, Evicted]
        }
        Operation::Delete => &[Ended, Grave, Evicted, Forgotten],
    }
}

/// Where to look.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) data: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Of the operation.
    pub(crate) snapshot: String,
}

impl Places {
    pub(crate) fn record(&self) -> String {
        let records = self.data.join("node/records");
        let file = records.join(&self.namespace).join(format!("{}.json", self.name));
        fs::read_to_string(file).unwrap_or_default()
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.data.join("node/snapshots").join(&self.namespace).join(&self.name)
    }

    /// A snapshot's files in the store.
    pub(crate) fn stored(&self, id: &str, kind: &str) -> PathBuf {
        self.store.join(&self.namespace).join(&self.name).join(format!("{id}.{kind}"))
    }

    fn hidden(&self, prefix: &str) -> Option<PathBuf> {
        let found = names(&self.snapshots()).into_iter().find(|name| name.starts_with(prefix));
        found.map(|name| self.snapshots().join(name))
    }

    fn bundle(&self) -> Option<PathBuf> {
        let record: serde_json::Value = serde_json::from_str(&self.record()).ok()?;
        let sandbox = record["activation"]["sandbox"].as_str()?.to_owned();
        let places = ["node/bundles", "node/criu"].map(|dir| self.data.join(dir).join(&sandbox));
        places.into_iter().find(|dir| dir.exists())
    }

    pub(crate) fn seen(&self, step: Step) -> bool {
        let record = |text: &str| self.record().contains(text);
        let draft = || self.hidden(".tmp-");
        match step {
            Step::Starting => record("\"phase\":\"starting\""),
            Step::Freezing => record("\"frozen\":{"),
            Step::Suspending => record("\"suspending\":{"),
            Step::Serving => record("\"phase\":\"serving\""),
            Step::Ended => record("\"activation\":null"),
            Step::Forgotten => self.record().is_empty(),
            Step::Bundle => self.bundle().is_some(),
            Step::Process => self.bundle().is_some_and(|bundle| bundle.join("pid").exists()),
            Step::Draft => draft().is_some(),
            Step::Image => draft().is_some_and(|dir| !names(&dir).is_empty()),
            Step::Manifest => draft()
                .is_some_and(|dir| names(&dir).iter().any(|name| name.starts_with("manifest"))),
            Step::Committed => self.snapshots().join(&self.snapshot).exists(),
            Step::Intent => self.stored(&self.snapshot, "intent").exists(),
            Step::Whole => self.stored(&self.snapshot, "snapshot").exists(),
            Step::Grave => self.hidden(".del-").is_some(),
            Step::Evicted => !self.snapshots().join(&self.snapshot).exists(),
        }
    }
}
