//! Lambda × app × Langfuse, from a seed, with every promise checked after every step.
//!
//! `SEED=7 cargo test -p langfuse-extension-core --test simulation -- --nocapture` replays one run with its trace.

mod checks;
mod lambda;
mod langfuse;
mod load;
mod nature;
mod rng;
mod spool;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lambda::{Lambda, Tally};

/// Runs in plain `cargo test`.
const SEEDS: u64 = 2_500;

/// Simulated invocations of `make sim`.
const MILLION: u64 = 1_000_000;

/// Lines of the trace that are shown of a failed run.
const TRACE_LINES: usize = 400;

#[test]
fn every_promise_holds_after_every_step() {
    if let Ok(seed) = std::env::var("SEED") {
        replay(seed.parse().expect("SEED is a number"));
        return;
    }
    let seeds = std::env::var("SEEDS").map_or(SEEDS, |n| n.parse().expect("SEEDS is a number"));
    let tally = run_until(|seed, _| seed >= seeds);
    println!("{seeds} seeds: {tally:?}");
}

#[test]
#[ignore = "takes minutes in a debug build; make sim runs it"]
fn a_million_invocations() {
    let began = Instant::now();
    let tally = run_until(|_, invocations| invocations >= MILLION);
    let per_second = tally.invocations as f64 / began.elapsed().as_secs_f64();
    println!("{tally:?}, {per_second:.0} invocations a second");
}

/// Runs seed after seed on all cores until `enough` of (seeds, invocations).
fn run_until(enough: impl Fn(u64, u64) -> bool + Sync) -> Tally {
    let (seeds, invocations) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut tally = Tally::default();
        loop {
            let seed = seeds.fetch_add(1, Ordering::Relaxed);
            if enough(seed, invocations.load(Ordering::Relaxed)) {
                return tally;
            }
            let one = run(seed);
            invocations.fetch_add(one.invocations, Ordering::Relaxed);
            tally.add(&one);
        }
    };
    let mut sum = Tally::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            sum.add(&worker.join().expect("a run failed; its seed is above"));
        }
    });
    sum
}

fn run(seed: u64) -> Tally {
    catch_unwind(|| Lambda::new(seed, false).run())
        .unwrap_or_else(|_| panic!("replay it with SEED={seed}"))
}

fn replay(seed: u64) {
    let mut lambda = Lambda::new(seed, true);
    let result = catch_unwind(AssertUnwindSafe(|| lambda.run()));
    let trace = lambda.world.trace.take().unwrap_or_default();
    let lines: Vec<_> = trace.lines().collect();
    for line in &lines[lines.len().saturating_sub(TRACE_LINES)..] {
        println!("{line}");
    }
    println!("SEED={seed}: {result:?}");
    assert!(result.is_ok());
}
