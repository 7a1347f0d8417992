//! The results as plain text.

use std::fmt::Write;
use std::time::Duration;

use crate::capture::Capture;
use crate::plan::{Health, Way};
use crate::run::{Run, Turn};
use crate::tally::Tally;
use crate::verdict::Verdict;

const HEAD: &str = "Langfuse  way               invocation     response        held";

/// Every invocation of every run, and below each run what became of its spans and scores.
pub(crate) fn table(runs: &[Run]) -> String {
    let rule = "─".repeat(HEAD.chars().count());
    let mut text = format!("{HEAD}\n{rule}\n");
    for run in runs {
        for turn in &run.turns {
            line(&mut text, &row(run.way, run.health, turn));
        }
        let spindown = readable(run.shutdown.took);
        line(&mut text, &cells(run.way, run.health, "shutdown", "–", &spindown));
        line(&mut text, &fate("spans", run.spans));
        line(&mut text, &fate("scores", run.scores));
        line(&mut text, &rule);
    }
    text
}

/// One invocation, as in the table.
pub(crate) fn row(way: Way, health: Health, turn: &Turn) -> String {
    cells(way, health, turn.step.label, &response(turn), &held(turn))
}

fn cells(way: Way, health: Health, invocation: &str, response: &str, held: &str) -> String {
    format!(
        "{:<9} {:<17} {invocation:<13} {response:>9}  {held:>10}",
        health.label(),
        way.label(),
    )
}

fn fate(what: &str, tally: Tally) -> String {
    format!(
        "          {what:<7} {:>3} sent  {:>3} delivered  {:>3} lost  {:>3} doubled",
        tally.sent, tally.delivered, tally.lost, tally.doubled
    )
}

/// The response's time, marked where it was no response but the end of the function's time.
fn response(turn: &Turn) -> String {
    let mark = if turn.failure.is_some() { "✗ " } else { "" };
    format!("{mark}{}", readable(turn.response))
}

fn held(turn: &Turn) -> String {
    turn.held.map_or_else(|| "–".to_owned(), readable)
}

/// `@observe` with an argument that holds a connection pool.
pub(crate) fn captures(captures: &[Capture]) -> String {
    let mut text = String::new();
    for capture in captures {
        let end = if capture.killed { "✗ killed after" } else { "returned after" };
        line(
            &mut text,
            &format!(
                "{:<68} {end} {:>8}, {} requests sent",
                capture.variant.label(),
                readable(capture.response),
                capture.request_count
            ),
        );
    }
    text
}

/// The comparisons, then what is wrong or that nothing is.
pub(crate) fn verdict(verdict: &Verdict) -> String {
    let mut text = String::new();
    for one in &verdict.comparisons {
        line(
            &mut text,
            &format!(
                "Handler, {} · Langfuse {}: median {} (healthy {}, noise {}): {}",
                one.way.label(),
                one.health.label(),
                readable(one.outage),
                readable(one.healthy),
                readable(one.noise),
                if one.holds() { "not moved" } else { "MOVED" }
            ),
        );
    }
    for problem in &verdict.problems {
        line(&mut text, &format!("FAILED: {problem}"));
    }
    if verdict.problems.is_empty() {
        line(
            &mut text,
            "Through the extension nothing was lost, nothing doubled, and no outage reached the handler.",
        );
    }
    text
}

/// Milliseconds below ten seconds, then seconds.
pub(crate) fn readable(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::STEPS;
    use crate::sample;

    #[test]
    fn the_table_has_a_line_for_each_invocation_and_three_for_each_end() {
        let runs = sample::runs();
        let text = table(&runs);
        assert_eq!(text.lines().count(), 2 + runs.len() * (STEPS.len() + 4));
        assert!(text.contains("spans    24 sent   24 delivered    0 lost    0 doubled"));
    }

    #[test]
    fn a_killed_invocation_is_marked_and_nothing_held_is_a_dash() {
        let mut run = sample::run(Way::Direct, Health::Hung);
        run.turns[0].failure = Some("Sandbox.Timedout".to_owned());
        run.turns[0].response = Duration::from_millis(20_004);
        let row = row(run.way, run.health, &run.turns[0]);
        assert!(row.ends_with("✗ 20.0 s           –"), "{row}");
    }

    #[test]
    fn all_rows_are_as_wide_as_the_head() {
        let run = sample::run(Way::ExtensionUnflushed, Health::Refusing);
        for turn in &run.turns {
            assert_eq!(row(run.way, run.health, turn).chars().count(), HEAD.chars().count());
        }
    }

    #[test]
    fn problems_are_said_and_success_only_without_them() {
        let mut result = Verdict::default();
        assert!(verdict(&result).contains("nothing was lost"));
        result.problems.push("a span is missing".to_owned());
        assert_eq!(verdict(&result), "FAILED: a span is missing\n");
    }
}
