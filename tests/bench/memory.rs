//! The router's memory, as its own benchmark measures it with a counting allocator.

use std::process::Command;

use anyhow::{Context, Result, ensure};
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
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Measured = serde_json::from_slice(&output.stdout).context("its JSON")?;
    let line = |what, bytes, most| {
        Line::alone(NAME, what, "bytes", vec![bytes]).reach(Reach::AtMost(most))
    };
    Ok(vec![
        line("a parked request", measured.bytes_per_parked_request, PARKED),
        line("a binding, of 1,000,000", measured.bytes_per_binding, BINDING),
    ])
}
