//! The router's memory, as its own benchmark measures it: resident, in a process of its own. One run says it: with so many of each,
//! a second differs by nothing that counts.

use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    figure::{Line, Reach},
    harness::repository,
};

const NAME: &str = "memory";
const PARKED: f64 = 20.0 * 1024.0;
const BINDING: f64 = 400.0;

/// What `cargo bench -p reveille-router --bench memory` prints.
#[derive(Deserialize)]
struct Measured {
    bytes_per_parked_request: f64,
    bytes_per_binding: f64,
}

pub(crate) fn run() -> Result<Vec<Line>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "bench",
            "--quiet",
            "--package",
            "reveille-router",
            "--bench",
            "memory",
            "--",
            "--json",
        ])
        .current_dir(repository())
        .output()
        .context("cargo")?;
    // It fails when it needs more than it may; that is a figure too.
    let measured: Measured = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let line = |what, name, bytes, most| {
        Line::alone(NAME, what, "bytes", vec![bytes]).reach(name, Reach::AtMost(most))
    };
    Ok(vec![
        line(
            "a parked request",
            "bytes_per_parked_request",
            measured.bytes_per_parked_request,
            PARKED,
        ),
        line("a binding, of 1,000,000", "bytes_per_binding", measured.bytes_per_binding, BINDING),
    ])
}
