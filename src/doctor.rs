//! `reveille doctor`: what this machine can do, and how to fix what it cannot.

mod machine;

use reveille_api::check::{Check, Outcome};
use std::path::PathBuf;

use crate::{
    client::DEFAULT_DATA_DIR,
    error::{Error, Result},
    output::{self, Format, Table},
    tools,
};

const EXAMPLES: &str = "\
Examples:
  reveille doctor
  reveille doctor -o json

Exit code 1 when something is missing without which `reveille up` cannot run.";

/// Show what this machine can do, and how to fix what it cannot
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Data directory that `reveille up` would use
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    #[arg(env = "REVEILLE_DATA_DIR", hide_env_values = true)]
    data_dir: PathBuf,
    /// Envoy [default: .deps/bin/envoy here or above, else in PATH]
    #[arg(long, value_name = "PATH", env = "REVEILLE_ENVOY", hide_env_values = true)]
    envoy: Option<PathBuf>,
    #[command(flatten)]
    runtimes: tools::Runtimes,
    #[command(flatten)]
    output: output::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        let checks = machine::checks(&self).await;
        let text = match self.output.output {
            Some(Format::Json) => output::json(&serde_json::json!({ "items": checks }))?,
            Some(Format::Yaml) => output::yaml(&serde_json::json!({ "items": checks }))?,
            Some(Format::Name) => checks.iter().map(|check| format!("{}\n", check.name)).collect(),
            None | Some(Format::Wide) => table(&checks),
        };
        output::print(&text)?;
        match checks.iter().any(|check| matches!(check.outcome, Outcome::Fail { .. })) {
            true => Err(Error::Told),
            false => Ok(()),
        }
    }
}

fn table(checks: &[Check]) -> String {
    let mut table = Table::new(&["", "CHECK", "FOUND", "WHAT TO DO"]);
    for Check { name, outcome } in checks {
        let (mark, found, fix) = match outcome {
            Outcome::Ok { found } => ("ok", found, None),
            Outcome::Warn { found, fix } => ("warn", found, Some(fix)),
            Outcome::Fail { found, fix } => ("FAIL", found, Some(fix)),
        };
        table.row([
            mark.into(),
            name.clone(),
            found.clone(),
            fix.cloned().unwrap_or_else(|| " ".into()),
        ]);
    }
    table.to_string()
}
