//! What `reveille doctor` reports: one line for each thing a machine must have.

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was looked at, in a word or two: "root", "runsc", "port 8080".
    pub name: String,
    /// What was found.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// It is as it should be.
    Ok {
        /// A version or a value.
        found: String,
    },
    /// Something optional is missing.
    Warn {
        /// What was found instead.
        found: String,
        /// What to do.
        fix: String,
    },
    /// Reveille cannot run here.
    Fail {
        /// What was found instead.
        found: String,
        /// What to do.
        fix: String,
    },
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Ok { found: found.into() } }
    }

    /// Something optional is missing.
    pub fn warn(name: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        let outcome = Outcome::Warn { found: found.into(), fix: fix.into() };
        Self { name: name.into(), outcome }
    }

    /// Reveille cannot run here.
    pub fn fail(name: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        let outcome = Outcome::Fail { found: found.into(), fix: fix.into() };
        Self { name: name.into(), outcome }
    }
}
