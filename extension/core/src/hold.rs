//! Until when is the sandbox held, and why? The one place that answers it.
//!
//! ```text
//!  INVOKE ── the handler ── its end ── told ─────────────────────────────────────────▶ /next
//!                             └────────┴── open request ── torn trace ── unsent, probing
//!            telemetry                 whichever still has a reason, in this order
//!                             └── flush budget, and never past the deadline's margin ──┘
//! ```
//!
//! Where nothing could be sent anyway, nothing is waited for but the platform's word. Where traffic is dense, nothing is
//! missing and nothing is due, not even that: the next event may be asked for while the handler runs, because Lambda
//! freezes only when all are done, and what would be frozen then goes beside the next handler, which is near.

use std::time::Duration;

use crate::strategy::Strategy;

/// Why the sandbox is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It is not.
    None,
    /// The end of the work is not known yet.
    Telemetry,
    /// A client is in the middle of a request.
    OpenRequest,
    /// More spans are expected: the trace is torn, or late ones were seen before.
    TornTrace,
    /// Data is on its way, or about to be.
    Unsent,
    /// Langfuse is being asked whether it is well, for the sake of what is unsent.
    Probing,
}

impl Why {
    /// All of them, in the order of [`Holds`].
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Telemetry,
        Self::OpenRequest,
        Self::TornTrace,
        Self::Unsent,
        Self::Probing,
    ];

    /// The name used in logs and in `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Telemetry => "telemetry",
            Self::OpenRequest => "open_request",
            Self::TornTrace => "torn_trace",
            Self::Unsent => "unsent",
            Self::Probing => "probing",
        }
    }
}

/// What may be had of Langfuse before a hold would have to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// Nothing could be sent.
    None,
    /// All is sent, and what may still come could be.
    Idle,
    /// Something is unsent that may be sent.
    Unsent,
    /// Something is unsent that a probe has to clear the way for.
    Probe,
}

/// The end of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet. It will be taken for over in so long, if the platform is not to tell.
    Outstanding(Option<Duration>),
    /// So long ago.
    Ago(Duration),
}

/// All that the answer depends on. Durations are what is left.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Hold or overlap.
    pub strategy: Strategy,
    /// To the function's deadline, the margin taken off.
    pub deadline: Duration,
    /// Of the invocation's work.
    pub end: End,
    /// What may be held after the end of work, in all.
    pub budget: Duration,
    /// What Langfuse promises.
    pub hope: Hope,
    /// Of the patience with a client in the middle of a request.
    pub open_request: Duration,
    /// Of the grace for late spans.
    pub grace: Duration,
    /// Whether what is waiting may wait for the next invocation.
    pub overlaps: bool,
    /// Whether the handler, should it still run, has handed over what was expected.
    pub nothing_more_is_expected: bool,
}

/// Until when the sandbox is held if nothing happens, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The reason that comes first.
    pub why: Why,
    /// How long at most. Zero: it is to be released.
    pub left: Duration,
}

impl Hold {
    /// The answer.
    pub fn of(situation: &Situation) -> Self {
        let now = Self {
            why: Why::None,
            left: Duration::ZERO,
        };
        if situation.strategy == Strategy::Background || situation.deadline.is_zero() {
            return now;
        }
        let ended = match situation.end {
            End::Outstanding(_) if situation.lets_go_early() => return now,
            End::Outstanding(quiet) => {
                return Self {
                    why: Why::Telemetry,
                    left: quiet.map_or(situation.deadline, |left| left.min(situation.deadline)),
                };
            }
            End::Ago(ended) => ended,
        };
        let budget = situation.budget.saturating_sub(ended);
        let most = budget.min(situation.deadline);
        let reasons = [
            (Why::OpenRequest, situation.open_request),
            (Why::TornTrace, situation.grace),
            (situation.for_what_is_unsent(), most),
        ];
        let held = |(why, left): (Why, Duration)| Self {
            why,
            left: left.min(most),
        };
        let holds = |hold: &Self| hold.why != Why::None && !hold.left.is_zero();
        if situation.hope == Hope::None {
            return now;
        }
        reasons.into_iter().map(held).find(holds).unwrap_or(now)
    }
}

impl Situation {
    /// Whether to ask for the next event although the handler may still run.
    fn lets_go_early(&self) -> bool {
        self.overlaps && self.nothing_more_is_expected && self.open_request.is_zero()
    }

    fn for_what_is_unsent(&self) -> Why {
        match self.hope {
            _ if self.overlaps => Why::None,
            Hope::None | Hope::Idle => Why::None,
            Hope::Unsent => Why::Unsent,
            Hope::Probe => Why::Probing,
        }
    }
}

/// For how long sandboxes were held after the end of work, by reason, and how many invocations had one last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    held: [Duration; Why::ALL.len()],
    releases: [u64; Why::ALL.len()],
}

impl Holds {
    /// The sandbox was held for so long, for this reason.
    pub fn add(&mut self, why: Why, held: Duration) {
        self.held[why as usize] += held;
    }

    /// It was released, and this was the reason that had held it last.
    pub fn released(&mut self, last: Why) {
        self.releases[last as usize] += 1;
    }

    /// For how long it was held, for this reason.
    pub fn held(&self, why: Why) -> Duration {
        self.held[why as usize]
    }

    /// How many invocations this reason held last.
    pub fn releases(&self, why: Why) -> u64 {
        self.releases[why as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sparse traffic, told 20 ms after the end, with something unsent.
    fn situation() -> Situation {
        Situation {
            strategy: Strategy::Adaptive,
            deadline: 5_000 * MS,
            end: End::Ago(20 * MS),
            budget: 2_000 * MS,
            hope: Hope::Unsent,
            open_request: Duration::ZERO,
            grace: Duration::ZERO,
            overlaps: false,
            nothing_more_is_expected: true,
        }
    }

    fn of(situation: &Situation) -> (Why, Duration) {
        let Hold { why, left } = Hold::of(situation);
        (why, left)
    }

    const RELEASED: (Why, Duration) = (Why::None, Duration::ZERO);

    #[test]
    fn what_is_unsent_is_held_for_within_the_budget_from_the_end_of_work() {
        assert_eq!(of(&situation()), (Why::Unsent, 1_980 * MS));
        let probe = Situation {
            hope: Hope::Probe,
            ..situation()
        };
        assert_eq!(of(&probe), (Why::Probing, 1_980 * MS));
        let over = Situation {
            end: End::Ago(2_000 * MS),
            ..situation()
        };
        assert_eq!(of(&over), RELEASED);
    }

    #[test]
    fn an_open_request_and_a_grace_come_first_and_share_the_budget() {
        let all = Situation {
            open_request: 700 * MS,
            grace: 100 * MS,
            ..situation()
        };
        assert_eq!(of(&all), (Why::OpenRequest, 700 * MS));
        let torn = Situation {
            open_request: Duration::ZERO,
            ..all
        };
        assert_eq!(of(&torn), (Why::TornTrace, 100 * MS));
        let poor = Situation {
            budget: 50 * MS,
            ..all
        };
        assert_eq!(of(&poor), (Why::OpenRequest, 30 * MS));
    }

    #[test]
    fn where_nothing_could_be_sent_nothing_is_waited_for_but_the_platforms_word() {
        let hopeless = Situation {
            hope: Hope::None,
            open_request: 700 * MS,
            grace: 100 * MS,
            ..situation()
        };
        assert_eq!(of(&hopeless), RELEASED);
        let running = Situation {
            end: End::Outstanding(None),
            ..hopeless
        };
        assert_eq!(of(&running), (Why::Telemetry, 5_000 * MS));
    }

    #[test]
    fn the_deadline_ends_every_hold() {
        let running = Situation {
            end: End::Outstanding(None),
            ..situation()
        };
        let guessing = Situation {
            end: End::Outstanding(Some(300 * MS)),
            ..running
        };
        assert_eq!(of(&guessing), (Why::Telemetry, 300 * MS));
        for situation in [situation(), running, guessing] {
            let soon = Situation {
                deadline: MS,
                ..situation
            };
            assert_eq!(Hold::of(&soon).left, MS);
            let over = Situation {
                deadline: Duration::ZERO,
                ..situation
            };
            assert_eq!(of(&over), RELEASED);
        }
    }

    #[test]
    fn a_handler_is_let_go_of_early_only_if_everything_says_so() {
        let early = Situation {
            end: End::Outstanding(None),
            overlaps: true,
            ..situation()
        };
        assert_eq!(of(&early), RELEASED);
        let not_early = [
            Situation {
                overlaps: false,
                ..early
            },
            Situation {
                nothing_more_is_expected: false,
                ..early
            },
            Situation {
                open_request: MS,
                ..early
            },
        ];
        for situation in not_early {
            assert_eq!(Hold::of(&situation).why, Why::Telemetry, "{situation:?}");
        }
    }

    #[test]
    fn dense_traffic_is_held_for_what_is_missing_and_not_for_what_is_unsent() {
        let dense = Situation {
            overlaps: true,
            ..situation()
        };
        assert_eq!(of(&dense), RELEASED);
        let torn = Situation {
            grace: 100 * MS,
            ..dense
        };
        assert_eq!(of(&torn), (Why::TornTrace, 100 * MS));
    }

    #[test]
    fn background_never_holds() {
        let background = Situation {
            strategy: Strategy::Background,
            open_request: MS,
            grace: MS,
            ..situation()
        };
        assert_eq!(of(&background), RELEASED);
    }

    #[test]
    fn every_reason_has_a_name_and_a_column_of_its_own() {
        let names: std::collections::BTreeSet<_> = Why::ALL.iter().map(|why| why.name()).collect();
        assert_eq!(names.len(), Why::ALL.len());
        let mut holds = Holds::default();
        for (n, why) in (1..).zip(Why::ALL) {
            holds.add(why, n * MS);
            holds.released(why);
            assert_eq!((holds.held(why), holds.releases(why)), (n * MS, 1));
        }
    }
}
