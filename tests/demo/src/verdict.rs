//! Whether the promises held: what the exit status says.

use std::time::Duration;

use crate::capture::{Capture, Variant};
use crate::plan::{Health, Way};
use crate::run::Run;

/// Differences of medians below this are noise on any machine.
const NOISE_FLOOR: Duration = Duration::from_millis(250);
/// However restless the machine, a difference above this is never noise: the least that a hung Langfuse costs a direct
/// function is twice as much, its shortest timeout.
const NOISE_CEILING: Duration = Duration::from_millis(1_000);
/// How many times the spread of the healthy runs is still called noise.
const NOISE_SPREADS: u32 = 3;

/// How the handler's time through the extension compares with that of the healthy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) way: Way,
    pub(crate) health: Health,
    /// The median of the healthy run's warm invocations.
    pub(crate) healthy: Duration,
    /// The median of the warm invocations during the outage.
    pub(crate) outage: Duration,
    /// What may lie between them.
    pub(crate) noise: Duration,
}

impl Comparison {
    pub(crate) fn holds(&self) -> bool {
        self.outage <= self.healthy + self.noise
    }
}

/// What is said at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) comparisons: Vec<Comparison>,
    /// What must not be; none means success.
    pub(crate) problems: Vec<String>,
}

/// Judges everything that ran.
pub(crate) fn judge(runs: &[Run], captures: &[Capture]) -> Verdict {
    let mut verdict = Verdict::default();
    for run in runs {
        verdict.problems.extend(problems_of(run));
    }
    for run in runs
        .iter()
        .filter(|run| run.way.has_extension() && run.health != Health::Healthy)
    {
        let healthy = runs
            .iter()
            .find(|other| other.way == run.way && other.health == Health::Healthy);
        match healthy.and_then(|healthy| compare(healthy, run)) {
            Some(comparison) => verdict.comparisons.push(comparison),
            None => verdict.problems.push(format!("{} has no healthy run beside it", name(run))),
        }
    }
    for comparison in verdict.comparisons.iter().filter(|comparison| !comparison.holds()) {
        verdict.problems.push(format!(
            "{} · Langfuse {}: the handler took {:?}, against {:?} with Langfuse healthy",
            comparison.way.label(),
            comparison.health.label(),
            comparison.outage,
            comparison.healthy
        ));
    }
    verdict.problems.extend(captures.iter().filter_map(problem_of));
    verdict
}

/// Direct runs may lose what they like, as long as Langfuse is not healthy.
fn problems_of(run: &Run) -> Vec<String> {
    let mut problems = Vec::new();
    if !run.way.has_extension() && run.health != Health::Healthy {
        return problems;
    }
    for (what, tally) in [("spans", run.spans), ("scores", run.scores)] {
        if tally.sent == 0 {
            problems.push(format!("{}: no {what} were sent", name(run)));
        }
        if tally.lost > 0 || tally.doubled > 0 {
            problems.push(format!(
                "{}: of {} {what}, {} lost and {} doubled",
                name(run),
                tally.sent,
                tally.lost,
                tally.doubled
            ));
        }
    }
    for turn in &run.turns {
        if let Some(failure) = &turn.failure {
            problems.push(format!("{}: {} failed: {failure}", name(run), turn.step.label));
        }
    }
    if run.shutdown.extension_killed {
        problems.push(format!("{}: the extension outlived its shutdown", name(run)));
    }
    problems
}

fn name(run: &Run) -> String {
    format!("{} · Langfuse {}", run.way.label(), run.health.label())
}

fn compare(healthy: &Run, outage: &Run) -> Option<Comparison> {
    let usual = warm(healthy, |_| true);
    // In the outage alone: once Langfuse has recovered, nothing is left to prove.
    let unusual = warm(outage, |recovered| !recovered);
    Some(Comparison {
        way: outage.way,
        health: outage.health,
        healthy: median(&usual)?,
        outage: median(&unusual)?,
        noise: noise(&usual),
    })
}

/// The handler's times in warm environments, in order of size.
fn warm(run: &Run, wanted: impl Fn(bool) -> bool) -> Vec<Duration> {
    let mut times: Vec<Duration> = run
        .turns
        .iter()
        .filter(|turn| !turn.step.cold && wanted(turn.step.recovered))
        .map(|turn| turn.response)
        .collect();
    times.sort_unstable();
    times
}

/// The middle one, the later of two.
pub(crate) fn median(sorted: &[Duration]) -> Option<Duration> {
    sorted.get(sorted.len() / 2).copied()
}

fn noise(sorted: &[Duration]) -> Duration {
    let spread = match (sorted.first(), sorted.last()) {
        (Some(first), Some(last)) => *last - *first,
        _ => Duration::ZERO,
    };
    (spread * NOISE_SPREADS).clamp(NOISE_FLOOR, NOISE_CEILING)
}

fn problem_of(capture: &Capture) -> Option<String> {
    let as_expected = match capture.variant {
        Variant::Plain => capture.killed && capture.request_count == 0,
        Variant::CaptureOff | Variant::Fixed => !capture.killed && capture.request_count > 0,
    };
    (!as_expected).then(|| {
        format!(
            "@observe with {}: killed {}, {} requests, which is not what was to be shown",
            capture.variant.label(),
            capture.killed,
            capture.request_count
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn with_response(way: Way, health: Health, response_ms: u64) -> Run {
        let mut run = sample::run(way, health);
        for turn in &mut run.turns {
            turn.response = Duration::from_millis(response_ms);
        }
        run
    }

    #[test]
    fn a_flawless_demonstration_has_no_problems() {
        let verdict = judge(&sample::runs(), &sample::captures());
        assert!(verdict.problems.is_empty(), "{:?}", verdict.problems);
        assert_eq!(verdict.comparisons.len(), 4);
    }

    #[test]
    fn a_handler_moved_beyond_the_noise_is_a_problem() {
        let usual = with_response(Way::Extension, Health::Healthy, 100);
        let within = with_response(Way::Extension, Health::Hung, 350);
        let beyond = with_response(Way::Extension, Health::Hung, 351);
        assert!(judge(&[usual.clone(), within], &[]).problems.is_empty());
        assert_eq!(judge(&[usual, beyond], &[]).problems.len(), 1);
    }

    #[test]
    fn one_slow_invocation_is_noise_and_two_of_three_are_not() {
        let usual = with_response(Way::Extension, Health::Healthy, 100);
        let mut hung = with_response(Way::Extension, Health::Hung, 100);
        hung.turns[1].response = Duration::from_secs(5);
        assert!(judge(&[usual.clone(), hung.clone()], &[]).problems.is_empty());
        hung.turns[2].response = Duration::from_secs(5);
        assert_eq!(judge(&[usual, hung], &[]).problems.len(), 1);
    }

    #[test]
    fn restless_healthy_runs_never_excuse_more_than_the_ceiling() {
        let mut usual = with_response(Way::Extension, Health::Healthy, 100);
        usual.turns[1].response = Duration::from_secs(9);
        let hung = with_response(Way::Extension, Health::Hung, 1_101);
        assert_eq!(judge(&[usual, hung], &[]).problems.len(), 1);
    }

    #[test]
    fn a_lost_span_and_a_doubled_score_are_problems_through_the_extension() {
        let mut runs = sample::runs();
        let run = runs.iter_mut().find(|run| run.way == Way::Extension).unwrap();
        run.spans.lost = 1;
        run.scores.doubled = 1;
        assert_eq!(judge(&runs, &[]).problems.len(), 2);
    }

    #[test]
    fn what_a_direct_function_loses_to_a_hung_langfuse_is_no_problem() {
        let mut run = sample::run(Way::Direct, Health::Hung);
        run.spans.lost = run.spans.sent;
        run.turns[0].failure = Some("Sandbox.Timedout".to_owned());
        assert!(judge(&[run], &[]).problems.is_empty());
    }

    #[test]
    fn a_failed_invocation_or_nothing_sent_is_a_problem() {
        let mut runs = sample::runs();
        let run = runs.iter_mut().find(|run| run.way == Way::Extension).unwrap();
        run.turns[2].failure = Some("Extension.Crash".to_owned());
        run.spans = crate::tally::Tally::default();
        assert_eq!(judge(&runs, &[]).problems.len(), 2);
    }

    #[test]
    fn a_capture_that_returns_where_it_should_not_is_a_problem() {
        let mut captures = sample::captures();
        captures[0].killed = false;
        assert_eq!(judge(&[], &captures).problems.len(), 1);
    }
}
