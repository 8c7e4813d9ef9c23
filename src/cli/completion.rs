//! `reveille completion`: a script for the shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, error::Result, output};

const EXAMPLES: &str = "\
Examples:
  source <(reveille completion bash)
  reveille completion fish > ~/.config/fish/completions/reveille.fish";

/// Print a completion script for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    shell: Shell,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "reveille", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
