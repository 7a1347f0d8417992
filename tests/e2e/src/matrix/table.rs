//! The matrix as a Markdown table.

use std::fmt::Write;
use std::time::Duration;

use super::{Cell, Measured};
use crate::{Exit, median};

/// The rows of all cells below a head; `baseline`: handler times without the extension.
pub fn table(cells: &[Cell], baseline: &[Duration]) -> String {
    let none = median(baseline);
    let mut text = String::from(
        "| Langfuse | the sandbox | handler, ms | − none, ms | held, ms | SHUTDOWN, ms | acknowledged | on disk at SHUTDOWN \
         | delivered | doubled (counted) | lost | exit |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for cell in cells {
        let measured = &cell.measured;
        let handler = median(&measured.handlers);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:+.1} | {} | {:.0} | {} | {} | {} | {} ({}) | {} | {} |",
            cell.condition.name(),
            cell.situation.name(),
            spread(&measured.handlers),
            (handler.as_secs_f64() - none.as_secs_f64()) * 1_000.0,
            spread(&measured.held),
            millis(measured.shutdown),
            measured.acknowledged.len(),
            measured.left_on_disk,
            measured.delivered.len(),
            measured.doubled,
            measured.counted_doubles,
            lost(measured),
            exit(cell),
        );
    }
    text
}

/// Median and, in brackets, maximum.
fn spread(times: &[Duration]) -> String {
    let longest = times.iter().max().copied().unwrap_or_default();
    format!("{:.0} ({:.0})", millis(median(times)), millis(longest))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn lost(measured: &Measured) -> String {
    let reasons: Vec<_> = measured
        .reasons
        .iter()
        .map(|(reason, units)| format!("{reason} {units}"))
        .collect();
    if reasons.is_empty() {
        measured.lost.len().to_string()
    } else {
        format!("{} ({})", measured.lost.len(), reasons.join(", "))
    }
}

fn exit(cell: &Cell) -> String {
    let wrong: Vec<_> = cell
        .measured
        .exits
        .iter()
        .filter(|exit| **exit != Exit::Code(0))
        .collect();
    let exits = if wrong.is_empty() {
        "0".to_owned()
    } else {
        format!("{wrong:?}")
    };
    if cell.broken.is_empty() {
        exits
    } else {
        format!("{exits}; **broken: {}**", cell.broken.join(", "))
    }
}
