//! All environments of one client, and what must be true of them.

use std::collections::BTreeMap;

use crate::client::{Address, Client};
use crate::install::{Installed, install};
use crate::normal::Stored;
use crate::run::{Outcome, Plan, Way, run};

/// What the handler may wait longer for spans, scores, flush and shutdown than straight to a healthy Langfuse on loopback,
/// in milliseconds: noise of a busy machine, and far below any timeout of a client.
pub const EXTRA_WAIT_MAX_MS: f64 = 700.0;

/// What the handler may wait for prompts, media and `auth_check`, in milliseconds: the
/// pass-through's bound of 2 s, and the client's own tries and pauses. They try again after a 404, too, with pauses of
/// random length, so the bound is for a healthy Langfuse as well.
pub const PASSTHROUGH_WAIT_MAX_MS: f64 = 10_000.0;

/// The features that the extension answers from memory.
pub const FROM_MEMORY: &[&str] = &["trace", "flush", "shutdown"];

/// How many spans and scores are written out in full where they are not as they should be.
const DIFFERENCES_SHOWN: usize = 4;

/// A client's environments, and what was not as it should be.
#[derive(Debug)]
pub struct Trial {
    /// Which client.
    pub client: Client,
    /// Everything it can do, once per way.
    pub ways: BTreeMap<Way, Outcome>,
    /// The same with placeholders for keys in the function; not for clients that have no keys at all.
    pub placeholder_keys: Option<Outcome>,
    /// One trace, and the end of the sandbox at once: told to hand over at once, and left at its defaults.
    pub ended: Option<Ended>,
    /// Everything that was not as it should be.
    pub failures: Vec<String>,
}

/// One trace without a flush, and the end of the sandbox directly after the invocation. What the client handed over, that is
/// what the extension acknowledged, must arrive; what it kept to itself goes down with its process.
#[derive(Debug)]
pub struct Ended {
    /// What arrives from a process that lives on.
    pub expected: Stored,
    /// What arrived from a client that hands over at once.
    pub at_once: Stored,
    /// What arrived from a client at its defaults.
    pub defaults: Stored,
    /// What arrived from a client at its defaults, and with its address of Langfuse, behind `/opt/langfuse`.
    pub attached: Stored,
}

impl Trial {
    /// Straight, healthy, hung and with placeholder keys: what every change is tested with.
    pub async fn quick(client: Client) -> Self {
        let installed = installed(client).await;
        let mut trial = Self::start(client, &installed).await;
        trial.through(Way::Healthy, &installed).await;
        trial.through(Way::Hung, &installed).await;
        trial.placeholders(&installed).await;
        trial
    }

    /// One trace of a client that knows nothing of the extension, and the end of the sandbox: straight from a process that
    /// lives on, and behind `/opt/langfuse` at the client's defaults. Every span must arrive.
    pub async fn attached(client: Client) -> Self {
        let installed = installed(client).await;
        let mut trial = Self::empty(client);
        let straight = Plan {
            features: &["trace"],
            ..plan(&client, Way::Direct)
        };
        let expected = run(&client, &installed, straight).await;
        let attached = trial.attach(&installed).await;
        for difference in attached.differences(&Stored {
            scores: attached.scores.clone(),
            ..expected.stored
        }) {
            trial.fail(&format!("attached: {difference}"));
        }
        trial
    }

    /// What is stored of `features` straight, and through an extension with these settings.
    pub async fn with_settings(
        client: Client,
        features: &'static [&'static str],
        settings: &[(&str, &str)],
    ) -> (Stored, Stored) {
        let installed = installed(client).await;
        let straight = Plan {
            features,
            ..plan(&client, Way::Direct)
        };
        let straight = run(&client, &installed, straight).await.stored;
        let through = Plan {
            features,
            settings,
            awaited: Some(&straight),
            ..plan(&client, Way::Healthy)
        };
        let through = run(&client, &installed, through).await.stored;
        (straight, through)
    }

    /// Everything.
    pub async fn full(client: Client) -> Self {
        let installed = installed(client).await;
        let mut trial = Self::start(client, &installed).await;
        for way in [Way::Healthy, Way::Hung, Way::Refusing] {
            trial.through(way, &installed).await;
        }
        if client.address != Address::OpenTelemetry {
            trial.placeholders(&installed).await;
        }
        trial.end(&installed).await;
        trial
    }

    fn empty(client: Client) -> Self {
        Self {
            client,
            ways: BTreeMap::new(),
            placeholder_keys: None,
            ended: None,
            failures: Vec::new(),
        }
    }

    async fn start(client: Client, installed: &Installed) -> Self {
        let direct = run(&client, installed, plan(&client, Way::Direct)).await;
        let mut trial = Self::empty(client);
        for (feature, answer) in &direct.answers {
            if answer.result.starts_with("raised") {
                trial.fail(&format!("straight, {feature}: {}", answer.result));
            }
        }
        if direct.stored.spans.is_empty() {
            trial.fail(&format!("nothing arrives straight\n{}", direct.log));
        }
        trial.ways.insert(Way::Direct, direct);
        trial
    }

    async fn through(&mut self, way: Way, installed: &Installed) {
        let plan = Plan {
            awaited: Some(&self.direct().stored),
            ..plan(&self.client, way)
        };
        let outcome = run(&self.client, installed, plan).await;
        self.check(&format!("{way:?}"), way, &outcome);
        self.ways.insert(way, outcome);
    }

    async fn placeholders(&mut self, installed: &Installed) {
        let plan = Plan {
            awaited: Some(&self.direct().stored),
            placeholder_keys: true,
            ..plan(&self.client, Way::Healthy)
        };
        let outcome = run(&self.client, installed, plan).await;
        self.check("placeholder keys", Way::Healthy, &outcome);
        self.placeholder_keys = Some(outcome);
    }

    async fn end(&mut self, installed: &Installed) {
        let plan = |way, at_once| Plan {
            features: &["trace"],
            at_once,
            ..plan(&self.client, way)
        };
        let expected = run(&self.client, installed, plan(Way::Direct, true)).await;
        let at_once = run(&self.client, installed, plan(Way::Healthy, true)).await;
        let defaults = run(&self.client, installed, plan(Way::Healthy, false)).await;
        let attached = self.attach(installed).await;
        for outcome in [&at_once, &defaults] {
            self.check_acknowledged(outcome);
        }
        if at_once.stored.spans != expected.stored.spans {
            self.fail(&format!("process exit: other spans\n{}", at_once.log));
        }
        if attached.spans != expected.stored.spans {
            self.fail("attached: other spans than those of a client that hands over at once");
        }
        self.ended = Some(Ended {
            expected: expected.stored,
            at_once: at_once.stored,
            defaults: defaults.stored,
            attached,
        });
    }

    /// One trace at the client's defaults behind `/opt/langfuse`, and the end of the sandbox.
    async fn attach(&mut self, installed: &Installed) -> Stored {
        let plan = Plan {
            features: &["trace"],
            at_once: false,
            attached: true,
            ..plan(&self.client, Way::Healthy)
        };
        let outcome = run(&self.client, installed, plan).await;
        self.check_acknowledged(&outcome);
        if outcome.stored.spans.is_empty() {
            self.fail(&format!("attached: nothing arrived\n{}", outcome.log));
        }
        outcome.stored
    }

    fn check_acknowledged(&mut self, outcome: &Outcome) {
        let arrived = outcome.stored.spans.len() + outcome.stored.scores.len();
        if outcome.acknowledged != Some(arrived) {
            let acknowledged = outcome.acknowledged;
            self.fail(&format!(
                "process exit: {acknowledged:?} acknowledged, {arrived} arrived\n{}",
                outcome.log
            ));
        }
    }

    fn direct(&self) -> &Outcome {
        &self.ways[&Way::Direct]
    }

    fn check(&mut self, name: &str, way: Way, outcome: &Outcome) {
        let mut failures = Vec::new();
        let direct = self.direct();
        let mut expected = direct.stored.clone();
        if way != Way::Healthy {
            expected.media.clone_from(&outcome.stored.media); // Media passes through, so it needs Langfuse.
        }
        let differences = outcome.stored.differences(&expected);
        failures.extend(differences.into_iter().take(DIFFERENCES_SHOWN));
        if outcome.doubled > 0 {
            failures.push(format!("{} stored twice", outcome.doubled));
        }
        for (feature, answer) in &outcome.answers {
            let straight = &direct.answers[feature];
            let from_memory = FROM_MEMORY.contains(&feature.as_str());
            let must_equal = way == Way::Healthy || from_memory || feature == "fallback";
            if must_equal && answer.result != straight.result {
                failures.push(format!("{feature} returned {:?}", answer.result));
            }
            let most = if from_memory {
                straight.waited_ms + EXTRA_WAIT_MAX_MS
            } else {
                PASSTHROUGH_WAIT_MAX_MS
            };
            if answer.waited_ms > most {
                failures.push(format!("{feature} waited {} ms", answer.waited_ms));
            }
        }
        if !failures.is_empty() {
            failures.push(outcome.log.clone());
        }
        for failure in failures {
            self.fail(&format!("{name}: {failure}"));
        }
    }

    fn fail(&mut self, failure: &str) {
        self.failures
            .push(format!("{}: {failure}", self.client.name));
    }
}

fn plan(client: &Client, way: Way) -> Plan<'static> {
    Plan {
        way,
        at_once: true,
        placeholder_keys: false,
        attached: false,
        settings: &[],
        features: client.features,
        awaited: None,
    }
}

async fn installed(client: Client) -> Installed {
    let installation = tokio::task::spawn_blocking(move || install(&client));
    installation.await.expect("an installation")
}
