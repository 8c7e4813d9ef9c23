//! `reveille`: wakes a sleeping process when somebody asks for it.
//!
//! | module       | owns                                                                                |
//! | ------------ | ----------------------------------------------------------------------------------- |
//! | [`cli`]      | the command line and the client verbs                                               |
//! | [`config`]   | flag before environment before config file before default                           |
//! | [`roles`]    | `reveille router`, `dns`, …: a role crate's `Config` from flags, signals, privileges |
//! | [`up`]       | every role as a child process of one supervisor                                     |
//! | [`doctor`]   | what this machine can do                                                            |
//! | [`logging`], [`telemetry`] | what a part says: log lines, spans                                    |
//! | [`tls`]      | the flags of a part's certificate                                                   |
//! | [`client`]   | the connection to the control plane                                                 |
//! | [`output`]   | tables, JSON, YAML                                                                  |
//!
//! Thin on purpose: what a role does is in its crate.

mod cli;
mod client;
mod config;
mod doctor;
mod error;
mod http;
mod logging;
mod output;
mod ports;
mod privileges;
mod roles;
mod telemetry;
mod tls;
mod tools;
mod up;

use std::process::ExitCode;

fn main() -> ExitCode {
    match config::parse(std::env::args_os().collect()).and_then(cli::Command::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
