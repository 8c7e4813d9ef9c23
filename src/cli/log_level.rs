//! `reveille log-level`: how much running parts log.

use std::path::PathBuf;

use serde_json::json;

use crate::{
    client::DEFAULT_DATA_DIR,
    error::{Error, Result},
    logging::level::Part,
    output::{self, Format, Table},
    up,
};

const EXAMPLES: &str = "\
Examples:
  reveille log-level                             of every part
  reveille log-level router debug
  reveille log-level all info,reveille_node=trace
  reveille log-level router default              as it was started

Parts on this machine, for root and the user that runs them. With an 'up' in the data directory these are its parts, else
all there are. Envoy's own log is another thing: POST /logging at its admin address.";

/// Show or change how much running parts log
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Part: up, router, controlplane, node, envoy, dns, or all
    #[arg(value_name = "PART")]
    part: Option<String>,
    /// A level, or directives as --log takes them, or default
    #[arg(value_name = "FILTER", requires = "part")]
    filter: Option<String>,
    /// Only the part of this process
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// Data directory of `reveille up`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    #[arg(env = "REVEILLE_DATA_DIR", hide_env_values = true)]
    data_dir: PathBuf,
    #[command(flatten)]
    output: output::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        let parts = self.parts()?;
        let wanted = self.filter.as_deref().unwrap_or_default();
        if wanted.contains('\n') {
            return Err(Error::usage("a filter is one line"));
        }
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        for part in parts {
            match part.ask(wanted).await {
                Ok(Some(filter)) => answers.push((part, filter)),
                Ok(None) => {}
                // The others would say the same.
                Err(refused @ Error::Usage(_)) => return Err(refused),
                // That one part has just gone does not keep the others from it.
                Err(failed) => failures.push(failed.to_string()),
            }
        }
        if answers.is_empty() && failures.is_empty() {
            return Err(Error::failed("what runs here is another user's: run this as that user"));
        }
        let values = || {
            let value = |(part, filter): &(Part, String)| json!({ "part": part.part, "pid": part.pid, "filter": filter });
            json!({ "items": answers.iter().map(value).collect::<Vec<_>>() })
        };
        output::print(&match self.output.output {
            Some(Format::Json) => output::json(&values())?,
            Some(Format::Yaml) => output::yaml(&values())?,
            Some(Format::Name) => {
                answers.iter().map(|(part, _)| format!("{}\n", part.part)).collect()
            }
            None | Some(Format::Wide) => {
                let mut table = Table::new(&["PART", "PID", "LOGS"]);
                for (part, filter) in answers {
                    table.row([part.part, part.pid.to_string(), filter]);
                }
                table.to_string()
            }
        })?;
        match failures.is_empty() {
            true => Ok(()),
            false => Err(Error::failed(failures.join("; "))),
        }
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let group: Option<i32> = up::holder(&self.data_dir).and_then(|up| up.trim().parse().ok());
        let wanted = self.part.as_deref().filter(|part| *part != "all");
        let mut parts = Part::all()?;
        parts.retain(|part| {
            let mine =
                self.pid.map_or(group.is_none_or(|up| up == part.group), |pid| pid == part.pid);
            mine && wanted.is_none_or(|wanted| wanted == part.part)
        });
        if parts.is_empty() {
            let what = wanted.map(|part| format!(" {part}")).unwrap_or_default();
            return Err(Error::failed(format!(
                "no{what} part runs here: write one of up, router, controlplane, node, envoy, dns, all"
            )));
        }
        Ok(parts)
    }
}
