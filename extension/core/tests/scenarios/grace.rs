//! What learning the grace gains over a fixed one: root spans caught before the freeze, and time held for it.

use langfuse_extension_core::Settings;
use langfuse_extension_core::traces::Parent;

use langfuse_extension_core::time::Now;

use crate::driver::{Langfuse, Sandbox, WELL, body, span_from, traces};

const INVOCATIONS: u8 = 200;
const RTT_MS: u64 = 20;

/// When the root span of each invocation comes after the end of work, in milliseconds. `None`: not late at all.
type Pattern = fn(u8) -> Option<u64>;

#[derive(Debug, Default)]
struct Result {
    late: u32,
    caught: u32,
    held_ms: u64,
}

/// Every invocation posts a child in the handler, and its root in time or late. A root that the freeze cut off comes
/// once its thread has run for long enough in later invocations.
fn learned(pattern: Pattern) -> Result {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.langfuse = Langfuse::Answers(RTT_MS, WELL);
    let mut result = Result::default();
    let mut cut_off: Vec<(u8, u64, Now)> = Vec::new();
    for n in 0..INVOCATIONS {
        let id = n.to_string();
        sandbox.invoke(&id);
        let began = sandbox.now();
        for _ in 0..20 {
            come_late(&mut cut_off, &mut sandbox);
            sandbox.pass_ms(1);
        }
        let child = span_from(began, n, 2, Parent::Local([1; 8]));
        sandbox.post_facts(&traces(), body("child"), vec![child]);
        let late = pattern(n);
        if late.is_none() {
            post_root(&mut sandbox, n, began);
        }
        result.late += u32::from(late.is_some());
        sandbox.runtime_done(&id);
        cut_off.extend(late.map(|late| (n, late, began)));
        while !sandbox.released {
            come_late(&mut cut_off, &mut sandbox);
            sandbox.pass_ms(1);
            result.held_ms += 1;
        }
        let caught = late.is_some() && !cut_off.iter().any(|(cut, ..)| *cut == n);
        result.caught += u32::from(caught);
        sandbox.freeze_ms(60_000);
    }
    result
}

fn come_late(cut_off: &mut Vec<(u8, u64, Now)>, sandbox: &mut Sandbox) {
    for (n, _, began) in cut_off.iter().filter(|(_, left, _)| *left == 0) {
        post_root(sandbox, *n, *began);
    }
    cut_off.retain(|(_, left, _)| *left > 0);
    for (_, left, _) in cut_off {
        *left -= 1;
    }
}

fn post_root(sandbox: &mut Sandbox, n: u8, began: Now) {
    let root = span_from(began, n, 1, Parent::None);
    sandbox.post_facts(&traces(), body("root"), vec![root]);
}

/// The same with a wait of `grace_ms` since the last sign of life, whatever is known.
fn fixed(pattern: Pattern, grace_ms: u64) -> Result {
    let mut result = Result::default();
    for late in (0..INVOCATIONS).map(pattern) {
        let caught = late.filter(|late| *late < grace_ms);
        result.late += u32::from(late.is_some());
        result.caught += u32::from(caught.is_some());
        result.held_ms += caught.unwrap_or(0) + grace_ms + RTT_MS;
    }
    result
}

fn compare(name: &str, pattern: Pattern) -> (Result, Result) {
    let (learned, fixed_short, fixed_long) =
        (learned(pattern), fixed(pattern, 50), fixed(pattern, 300));
    println!("{name}: learned {learned:?}, 50 ms {fixed_short:?}, 300 ms {fixed_long:?}");
    (learned, fixed_long)
}

#[test]
fn flushed_traces_are_held_a_tenth_of_what_a_fixed_grace_holds() {
    let (learned, fixed) = compare("flushed", |_| None);
    assert!(learned.held_ms * 10 <= fixed.held_ms);
}

#[test]
fn roots_of_an_sdk_thread_are_all_caught_for_less_than_a_fixed_grace() {
    let (learned, fixed) = compare("sdk thread", |n| Some(u64::from(n) * 37 % 100));
    assert_eq!(learned.caught, fixed.caught);
    assert!(learned.held_ms * 2 <= fixed.held_ms);
}

#[test]
fn roots_that_are_seldom_late_are_caught_because_the_trace_says_so() {
    let pattern: Pattern = |n| (n % 20 == 7).then_some(80);
    let (learned, fixed) = compare("seldom late", pattern);
    assert_eq!(learned.caught, fixed.caught);
    assert!(learned.held_ms * 5 <= fixed.held_ms);
}

#[test]
fn tasks_that_end_later_than_any_grace_are_soon_not_waited_for() {
    let (learned, fixed) = compare("too late", |_| Some(900));
    assert_eq!(learned.caught, 0);
    assert!(learned.held_ms * 5 <= fixed.held_ms);
}

#[test]
fn roots_that_come_just_after_the_longest_grace_do_not_bring_it_back() {
    let (learned, fixed) = compare("just too late", |_| Some(400));
    assert!(learned.held_ms * 3 <= fixed.held_ms);
}
