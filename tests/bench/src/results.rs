//! What was measured: samples → data, and a table of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// One thing measured of one subject, in one place of a growing parameter if there is one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// `ms`, `µs`, `MiB`, …
    pub(crate) unit: &'static str,
    /// Where on the axis, as `body = 4 MB`; empty if there is none.
    pub(crate) at: String,
    /// The same as a number.
    pub(crate) x: Option<f64>,
    pub(crate) subject: String,
    pub(crate) samples: usize,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Collects rows, and prints each as it comes.
#[derive(Debug, Default)]
pub(crate) struct Results(pub(crate) Vec<Row>);

impl Results {
    pub(crate) fn add(&mut self, what: &str, unit: &'static str, subject: &str, samples: Vec<f64>) {
        self.add_at(what, unit, "", None, subject, samples);
    }

    pub(crate) fn add_at(
        &mut self,
        what: &str,
        unit: &'static str,
        at: &str,
        x: Option<f64>,
        subject: &str,
        mut samples: Vec<f64>,
    ) {
        samples.retain(|sample| sample.is_finite());
        if samples.is_empty() {
            eprintln!("{what} {at}: nothing measured of {subject}");
            return;
        }
        samples.sort_by(f64::total_cmp);
        let row = Row {
            what: what.to_owned(),
            unit,
            at: at.to_owned(),
            x,
            subject: subject.to_owned(),
            samples: samples.len(),
            median: samples[samples.len() / 2],
            min: samples[0],
            max: samples[samples.len() - 1],
        };
        eprintln!(
            "{:<58} {:<14} {:>24} {unit}",
            format!("{what} {at}"),
            row.subject,
            spread(&row)
        );
        self.0.push(row);
    }

    /// A row for each thing measured, a column for each subject, and the ratio to the floor.
    pub(crate) fn table(&self, subjects: &[String]) -> String {
        let mut lines: Vec<(String, BTreeMap<&str, &Row>)> = Vec::new();
        for row in &self.0 {
            let label = format!("{} {} ({})", row.what, row.at, row.unit).replace("  ", " ");
            match lines.iter_mut().find(|(known, _)| *known == label) {
                Some((_, cells)) => drop(cells.insert(&row.subject, row)),
                None => lines.push((label, BTreeMap::from([(row.subject.as_str(), row)]))),
            }
        }
        let mut out = format!("| | {} |\n|---|", subjects.join(" | "));
        out.push_str(&"---|".repeat(subjects.len()));
        out.push('\n');
        for (label, cells) in lines {
            let floor = cells.get("floor").map(|row| row.median);
            let cell = |subject: &String| {
                let Some(row) = cells.get(subject.as_str()) else {
                    return String::new();
                };
                let mut text = spread(row);
                if let Some(floor) = floor.filter(|floor| subject != "floor" && *floor > 0.0) {
                    let _ = write!(text, " · {:.2} ×", row.median / floor);
                }
                text
            };
            let cells: Vec<_> = subjects.iter().map(cell).collect();
            let _ = writeln!(out, "| {label} | {} |", cells.join(" | "));
        }
        out
    }
}

/// Median, and minimum and maximum where there is more than one sample.
fn spread(row: &Row) -> String {
    let median = digits(row.median);
    if row.samples == 1 {
        return median;
    }
    format!("{median} ({}–{})", digits(row.min), digits(row.max))
}

fn digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub(crate) fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The value that this share of all does not exceed. Sorts.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a short list"
    )]
    let at = (last as f64 * share).round() as usize;
    values[at.min(last)]
}
