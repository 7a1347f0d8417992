//! What is run: which way the function's spans take, how Langfuse is meanwhile, and the invocations of each run.

use std::time::Duration;

use lambda_emulator::fake_langfuse::Fault;

/// The timeout of the function that answers questions.
pub(crate) const FUNCTION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the environment is left frozen before an invocation that thaws it.
pub(crate) const FREEZE: Duration = Duration::from_secs(3);

/// How the function's spans and scores travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Straight to Langfuse, with `flush()` at the end of the handler, as before the extension.
    Direct,
    /// The same function, with the extension in between.
    Extension,
    /// Through the extension and without `flush()`: `LANGFUSE_FLUSH_AT=1` sends each span as it ends.
    ExtensionUnflushed,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Extension, Self::ExtensionUnflushed];

    pub(crate) fn flushes(self) -> bool {
        self != Self::ExtensionUnflushed
    }

    pub(crate) fn has_extension(self) -> bool {
        self != Self::Direct
    }

    /// A few words for a column.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Extension => "extension",
            Self::ExtensionUnflushed => "ext., no flush()",
        }
    }
}

/// How Langfuse is during the first invocations; afterwards it is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Answers at once.
    Healthy,
    /// Takes every request, stores nothing and never answers.
    Hung,
    /// Refuses every connection.
    Refusing,
}

impl Health {
    pub(crate) const ALL: [Self; 3] = [Self::Healthy, Self::Hung, Self::Refusing];

    /// What to bring into the fake Langfuse.
    pub(crate) fn fault(self) -> Option<Fault> {
        match self {
            Self::Healthy => None,
            Self::Hung => Some(Fault::HangBeforeAccepting),
            Self::Refusing => Some(Fault::Refuse),
        }
    }

    /// A word for a column.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Hung => "hung",
            Self::Refusing => "refusing",
        }
    }
}

/// One invocation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What it shows.
    pub(crate) label: &'static str,
    /// How long the environment stays frozen before it.
    pub(crate) frozen_before: Duration,
    /// Whether Langfuse is healthy again by then.
    pub(crate) recovered: bool,
    /// Whether its environment is expected to be a new one, so that its handler's time says nothing.
    pub(crate) cold: bool,
}

const WARM: Step = Step {
    label: "warm",
    frozen_before: Duration::ZERO,
    recovered: false,
    cold: false,
};

/// The invocations of every run.
pub(crate) const STEPS: [Step; 6] = [
    Step {
        label: "cold start",
        cold: true,
        ..WARM
    },
    WARM,
    WARM,
    Step {
        label: "thawed",
        frozen_before: FREEZE,
        ..WARM
    },
    Step {
        label: "recovered",
        recovered: true,
        ..WARM
    },
    Step {
        label: "rec., thawed",
        frozen_before: FREEZE,
        recovered: true,
        ..WARM
    },
];
