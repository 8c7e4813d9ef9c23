//! `reveille apply`: all of the files are read and checked before anything is sent.

use std::{
    io::{Read, Write},
    path::Path,
};

use futures::{StreamExt, stream};
use reveille_api::{
    manifest::{self, Manifest, Spec},
    proto::{ApplyReply, ApplyRequest, apply_reply::Outcome},
};

use crate::{
    client::{self, Control},
    error::{Error, Result},
    output,
};

/// Actors that are applied at a time: what waits for the control plane's disk shares its next write.
const AT_A_TIME: usize = 64;

const EXAMPLES: &str = "\
Examples:
  reveille apply -f deploy/demo/demo.yaml
  cat template.yaml | reveille apply -f -";

/// Create or change templates, worker pools and actors from YAML or JSON files
///
/// All files are checked first; when one is wrong nothing is applied. Relative directories in a file are seen
/// from that file's folder (with `-`, from the current one).
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// File to apply, or - for stdin; may be given more than once
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    file: Vec<String>,
    #[command(flatten)]
    server: client::Args,
}

impl Args {
    pub(crate) async fn run(self) -> Result {
        let manifests = read_all(&self.file)?;
        let mut control = self.server.connect().await?;
        let is_actor = |manifest: &Manifest| matches!(manifest.spec, Spec::Actor(_));
        let (actors, others): (Vec<_>, Vec<_>) = manifests.into_iter().partition(is_actor);
        // What only the control plane can refuse: before anything is changed.
        for manifest in &others {
            send(&mut control, manifest, true).await?;
        }
        for manifest in others {
            let line = apply(&mut control, &manifest).await?;
            output::print(&format!("{line}\n"))?;
        }
        let actors = actors.iter().map(|actor| {
            let mut control = control.clone();
            async move { apply(&mut control, actor).await }
        });
        let mut lines = stream::iter(actors).buffered(AT_A_TIME);
        while let Some(line) = lines.next().await {
            output::print(&format!("{}\n", line?))?;
        }
        Ok(())
    }
}

/// Every object of the files, what others refer to first.
pub(crate) fn read_all(files: &[String]) -> Result<Vec<Manifest>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file)?);
    }
    all.sort_by_key(|manifest| match manifest.spec {
        Spec::WorkerPool(_) => 0,
        Spec::ActorTemplate(_) => 1,
        Spec::Actor(_) => 2,
    });
    Ok(all)
}

fn read(file: &str) -> Result<Vec<Manifest>> {
    let cannot = |error| Error::usage(format!("cannot read {file}: {error}"));
    let mut text = String::new();
    let (name, folder) = match file {
        "-" => {
            std::io::stdin().read_to_string(&mut text).map_err(cannot)?;
            ("stdin", Path::new("."))
        }
        path => {
            text = std::fs::read_to_string(path).map_err(cannot)?;
            let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
            (path, folder.unwrap_or(Path::new(".")))
        }
    };
    let folder = std::path::absolute(folder).map_err(cannot)?;
    manifest::parse_all(&text, &folder).map_err(|error| Error::manifest(name, &error))
}

/// Applies one object and gives the line that says so; warnings go to stderr.
pub(crate) async fn apply(control: &mut Control, manifest: &Manifest) -> Result<String> {
    let what = || named(manifest);
    let reply = send(control, manifest, false).await?;
    for warning in &reply.warnings {
        let _ = writeln!(std::io::stderr(), "warning: {}: {warning}", what());
    }
    let outcome = match reply.outcome() {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Unspecified => "applied",
    };
    Ok(format!("{} {outcome}", what()))
}

async fn send(control: &mut Control, manifest: &Manifest, check: bool) -> Result<ApplyReply> {
    let request = ApplyRequest { manifest: manifest.to_json().to_string(), check };
    let reply = control.apply(request).await.map_err(|status| match Error::from(status) {
        Error::Failed(message) => Error::Failed(format!("{}: {message}", named(manifest))),
        other => other,
    });
    reply.map(tonic::Response::into_inner)
}

/// As the client verbs name it: `actortemplate demo/counter`.
fn named(manifest: &Manifest) -> String {
    let (kind, name) = (manifest.spec.kind().to_lowercase(), &manifest.metadata.name);
    match manifest.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
