//! One run as a drawing: a line for each invocation, and one for the shutdown.

use std::fmt::Write;
use std::time::Duration;

use super::scale::{END_X, MARKS_MS, START_X, label, x};
use crate::plan::FREEZE;
use crate::run::{Request, Run, Turn};
use crate::table::readable;

const WIDTH: f64 = 480.0;
const TOP: f64 = 22.0;
const LINE_HEIGHT: f64 = 38.0;
const BAR_HEIGHT: f64 = 14.0;
/// From the top of a line to the top of its bar; the marks of requests lie above.
const BAR_INSET: f64 = 15.0;
/// What can hardly be seen is drawn at least this wide.
const LEAST_WIDTH: f64 = 2.0;

/// The drawing of a run.
pub(crate) fn draw(run: &Run) -> String {
    let height = TOP + LINE_HEIGHT * (count(run.turns.len()) + 1.0) + 6.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">"
    );
    axis(&mut svg, height);
    for (index, turn) in run.turns.iter().enumerate() {
        let next = run.turns.get(index + 1);
        line(&mut svg, TOP + LINE_HEIGHT * count(index), turn, next);
    }
    shutdown(&mut svg, TOP + LINE_HEIGHT * count(run.turns.len()), run);
    svg.push_str("</svg>");
    svg
}

fn count(index: usize) -> f64 {
    u32::try_from(index).map_or(f64::MAX, f64::from)
}

fn axis(svg: &mut String, height: f64) {
    for mark in MARKS_MS {
        let x = x(Duration::from_millis(mark));
        // Writing to a String cannot fail.
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{height}\"/>\
             <text class=\"mark\" x=\"{x:.1}\" y=\"14\">{}</text>",
            label(mark)
        );
    }
}

/// Handler, hold and freeze one after another, the requests above them, the response's time behind them.
fn line(svg: &mut String, top: f64, turn: &Turn, next: Option<&Turn>) {
    let note = turn.init.map(|init| format!("init {}", readable(init)));
    name(svg, top, turn.step.label, note.as_deref(), turn.step.recovered);
    let class = if turn.failure.is_some() { "killed" } else { "handler" };
    bar(svg, class, top, Duration::ZERO, turn.response);
    let mut end = turn.response;
    if let (Some(done), Some(held)) = (turn.done, turn.held)
        && !held.is_zero()
    {
        end = done + held;
        bar(svg, "held", top, done, end);
    }
    let frozen_for = next.map_or(Duration::ZERO, |next| next.step.frozen_before);
    if let Some(frozen) = turn.frozen
        && !frozen_for.is_zero()
    {
        bar(svg, "frozen", top, frozen, frozen + frozen_for);
        end = frozen + frozen_for;
    }
    requests(svg, top, &turn.requests);
    caption(svg, top, end, turn);
}

fn shutdown(svg: &mut String, top: f64, run: &Run) {
    name(svg, top, "shutdown", None, true);
    bar(svg, "held", top, Duration::ZERO, run.shutdown.took);
    requests(svg, top, &run.shutdown.requests);
    text(svg, "time", x(run.shutdown.took) + 6.0, top + 26.0, &readable(run.shutdown.took));
}

fn name(svg: &mut String, top: f64, label: &str, note: Option<&str>, healthy: bool) {
    let class = if healthy { "name healthy" } else { "name" };
    text(svg, class, START_X - 8.0, top + 26.0, label);
    if let Some(note) = note {
        text(svg, "note", START_X - 8.0, top + 36.0, note);
    }
}

/// The response's time, behind the bars, or on them where there is no room behind.
fn caption(svg: &mut String, top: f64, end: Duration, turn: &Turn) {
    let mut words = readable(turn.response);
    if turn.failure.is_some() {
        words = format!("✗ killed after {words}");
    }
    if let Some(held) = turn.held.filter(|held| !held.is_zero()) {
        let _ = write!(words, ", held {}", readable(held));
    }
    let behind = x(end) + 6.0;
    if behind < END_X - 130.0 {
        text(svg, "time", behind, top + 26.0, &words);
    } else if turn.failure.is_some() || x(turn.response) > END_X - 130.0 {
        text(svg, "time inside", x(turn.response) - 6.0, top + 26.0, &words);
    } else {
        text(svg, "time", behind.min(END_X - 30.0), top + 26.0, &words);
    }
}

fn bar(svg: &mut String, class: &str, top: f64, from: Duration, to: Duration) {
    let width = (x(to) - x(from)).max(LEAST_WIDTH);
    let _ = write!(
        svg,
        "<rect class=\"{class}\" x=\"{:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\"/>",
        x(from),
        top + BAR_INSET
    );
}

fn requests(svg: &mut String, top: f64, requests: &[Request]) {
    for request in requests {
        let class = match (request.carries_data, request.accepted) {
            (false, _) => "probe",
            (true, true) => "stored",
            (true, false) => "unanswered",
        };
        let (x, tip) = (x(request.at), top + BAR_INSET);
        let _ = write!(
            svg,
            "<path class=\"{class}\" d=\"M{x:.1} {tip}l-4 -8h8z\"/>"
        );
    }
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, words: &str) {
    let _ = write!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>");
}

const _: () = assert!(FREEZE.as_secs() < 20, "a freeze must fit the axis");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Health, Way};
    use crate::sample;

    #[test]
    fn a_run_is_drawn_with_a_bar_for_each_phase_and_a_mark_for_each_request() {
        let run = sample::run(Way::Extension, Health::Hung);
        let svg = draw(&run);
        assert_eq!(svg.matches("class=\"handler\"").count(), 6);
        assert_eq!(svg.matches("class=\"held\"").count(), 6 + 1);
        assert_eq!(svg.matches("class=\"frozen\"").count(), 2);
        assert_eq!(svg.matches("class=\"unanswered\"").count(), 6);
    }

    #[test]
    fn a_killed_invocation_is_drawn_as_one() {
        let mut run = sample::run(Way::Direct, Health::Hung);
        run.turns[0].failure = Some("Sandbox.Timedout".to_owned());
        assert_eq!(draw(&run).matches("class=\"killed\"").count(), 1);
    }
}
