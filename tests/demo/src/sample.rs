//! Results as a good demonstration brings them, for tests.

use std::time::Duration;

use crate::capture::{Capture, Variant};
use crate::plan::{Health, STEPS, Way};
use crate::run::{Request, Run, Shutdown, Turn};
use crate::tally::Tally;

pub(crate) fn run(way: Way, health: Health) -> Run {
    let turn = |step| Turn {
        step,
        response: Duration::from_millis(60),
        failure: None,
        init: None,
        done: Some(Duration::from_millis(61)),
        held: way.has_extension().then(|| Duration::from_millis(70)),
        frozen: Some(Duration::from_millis(140)),
        requests: vec![Request {
            at: Duration::from_millis(50),
            carries_data: true,
            accepted: health == Health::Healthy,
        }],
    };
    let all_delivered = |sent| Tally {
        sent,
        delivered: sent,
        lost: 0,
        doubled: 0,
    };
    Run {
        way,
        health,
        turns: STEPS.map(turn).into(),
        shutdown: Shutdown {
            took: Duration::from_millis(90),
            extension_killed: false,
            requests: Vec::new(),
        },
        spans: all_delivered(24),
        scores: all_delivered(12),
    }
}

pub(crate) fn runs() -> Vec<Run> {
    let mut runs = Vec::new();
    for health in Health::ALL {
        runs.extend(Way::ALL.map(|way| run(way, health)));
    }
    runs
}

pub(crate) fn captures() -> Vec<Capture> {
    Variant::ALL
        .map(|variant| Capture {
            variant,
            response: Duration::from_millis(3_000),
            killed: variant == Variant::Plain,
            request_count: usize::from(variant != Variant::Plain),
        })
        .into()
}
