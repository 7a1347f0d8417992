//! What a function pays, in the emulator: how long the sandbox is held after the handler, and how much slower the
//! handler gets by sharing its processor.

use std::fs;
use std::time::Duration;

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Fault};
use lambda_emulator::{Builder, Invocation, Lambda};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::results::{Results, ms};
use crate::subject::{Subject, free_port};
use crate::{distance, handler};

/// Invocations of an environment, after the first one.
const WARM_INVOCATIONS: usize = 7;

/// Invocations of a busy environment, and how many of them come before an extension that goes by how often it is invoked
/// knows it.
const BUSY_INVOCATIONS: usize = 40;
const BUSY_FROM: usize = 30;

/// How far away Langfuse is, and in which way.
#[derive(Clone, Copy)]
struct Distance {
    label: &'static str,
    tls: bool,
    /// From a request to its answer, in milliseconds.
    answers_after: u64,
    /// Of the network, in milliseconds: opening a connection and TLS pay for it too.
    round_trip: u64,
    invocations: usize,
}

const fn distance(label: &'static str, tls: bool, answers_after: u64, round_trip: u64) -> Distance {
    Distance {
        label,
        tls,
        answers_after,
        round_trip,
        invocations: 1 + WARM_INVOCATIONS,
    }
}

const DISTANCES: [Distance; 6] = [
    distance("0 ms, plain", false, 0, 0),
    distance("0 ms, TLS", true, 0, 0),
    distance("20 ms, TLS", true, 20, 0),
    Distance {
        invocations: BUSY_INVOCATIONS,
        ..distance("50 ms, TLS", true, 50, 0)
    },
    distance("100 ms, TLS", true, 100, 0),
    distance("20 ms + network of 30 ms, TLS", true, 20, 30),
];

/// Held after the runtime is done, with one trace of ten spans whole and flushed in each invocation.
pub(crate) fn held(results: &mut Results, subjects: &[Subject]) {
    for distance in DISTANCES {
        for subject in subjects.iter().filter(|subject| subject.name != "floor") {
            let runtime = runtime();
            let langfuse = FakeLangfuse::start(Config {
                tls: distance.tls,
                ..Config::default()
            })
            .unwrap();
            if distance.answers_after > 0 {
                langfuse.set_fault(Fault::latency(Duration::from_millis(
                    distance.answers_after,
                )));
            }
            let mut url = langfuse.url();
            if distance.round_trip > 0 {
                let round_trip = Duration::from_millis(distance.round_trip);
                let address = distance::between(langfuse.address(), round_trip);
                url = url.replace(&langfuse.address().to_string(), &address.to_string());
            }
            let ca = langfuse.ca_file().map(|path| path.display().to_string());
            let stage = Stage::new(Some(subject), &url, &ca.unwrap_or_default());
            let (first, warm, busy, waiting) = runtime.block_on(async {
                let lambda = stage.builder(1, 5).start().await.unwrap();
                let mut waiting = Vec::new();
                let mut held = Vec::new();
                for nth in 1..=distance.invocations {
                    held.push(held_for(&lambda.invoke("{}").await));
                    #[expect(clippy::cast_precision_loss, reason = "a small number")]
                    let left = (nth * 10).saturating_sub(langfuse.observations().len()) as f64;
                    waiting.push(left);
                    lambda.pause(Duration::from_millis(30)).await;
                }
                lambda.shutdown().await;
                let warm = held[1..=WARM_INVOCATIONS].to_vec();
                let busy = held.get(BUSY_FROM..).unwrap_or_default().to_vec();
                (held[0], warm, busy, waiting)
            });
            let delivered = langfuse.observations().len();
            let expected = distance.invocations * 10;
            if delivered != expected {
                eprintln!(
                    "{}: {delivered} of {expected} spans were delivered",
                    subject.name
                );
            }
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let x = Some((distance.answers_after + distance.round_trip) as f64);
            let mut add = |what, samples| {
                results.add_at(what, "ms", distance.label, x, &subject.name, samples);
            };
            add("held after the first invocation, Langfuse at", vec![first]);
            add("held after a warm invocation, Langfuse at", warm);
            if !busy.is_empty() {
                add("held after the 31st invocation on, Langfuse at", busy);
            }
            let mut add = |what, samples| {
                results.add_at(what, "spans", distance.label, x, &subject.name, samples);
            };
            let late = waiting.get(BUSY_FROM..).unwrap_or_default().to_vec();
            add(
                "not delivered when frozen, first invocation, Langfuse at",
                waiting[..1].to_vec(),
            );
            add(
                "not delivered when frozen, warm invocation, Langfuse at",
                waiting[1..=WARM_INVOCATIONS].to_vec(),
            );
            if !late.is_empty() {
                add(
                    "not delivered when frozen, 31st invocation on, Langfuse at",
                    late,
                );
            }
        }
    }
}

/// Not a number, which is no measurement, if it was not held but failed.
fn held_for(invocation: &Invocation) -> f64 {
    invocation.held.map_or(f64::NAN, ms)
}

/// Held with a Langfuse that never answers.
pub(crate) fn held_when_hanging(results: &mut Results, subjects: &[Subject]) {
    for subject in subjects.iter().filter(|subject| subject.name != "floor") {
        let langfuse = FakeLangfuse::start(Config::default()).unwrap();
        langfuse.set_fault(Fault::HangBeforeAccepting);
        let stage = Stage::new(Some(subject), &langfuse.url(), "");
        let held = runtime().block_on(async {
            let lambda = stage
                .builder(1, 5)
                .timeout(Duration::from_secs(20))
                .start()
                .await
                .unwrap();
            let mut held = Vec::new();
            for _ in 0..4 {
                held.push(held_for(&lambda.invoke("{}").await));
            }
            lambda.shutdown().await;
            held
        });
        let mut add = |what, samples| results.add(what, "ms", &subject.name, samples);
        add("held by a hanging Langfuse, first time", held[..1].to_vec());
        add(
            "held by a hanging Langfuse, from then on",
            held[1..].to_vec(),
        );
    }
}

/// The handler's own time as a share of that without any extension, at the processor of a function's memory.
pub(crate) fn slowdown(results: &mut Results, subjects: &[Subject]) {
    for (memory_mb, rounds) in [(128_u32, 3), (512, 5), (1769, 7)] {
        let cpus = f64::from(memory_mb) / 1769.0;
        let label = format!("{memory_mb} MB");
        let mut everyone = vec![None];
        everyone.extend(subjects.iter().map(Some));
        for subject in everyone {
            let langfuse = FakeLangfuse::start(Config::default()).unwrap();
            let stage = Stage::new(subject, &langfuse.url(), "");
            let (times, in_force) = runtime().block_on(async {
                let builder = stage.builder(10, 100).cpu_quota(cpus).memory_mb(memory_mb);
                let builder = builder.timeout(Duration::from_mins(1));
                let lambda = builder.start().await.unwrap();
                lambda.invoke("{}").await;
                let mut times = Vec::new();
                for _ in 0..rounds {
                    // Long enough for a fresh processor quota: else who holds the sandbox longer has the quicker handler.
                    lambda.pause(Duration::from_millis(250)).await;
                    let seconds = lambda.invoke("{}").await.text().parse::<f64>();
                    times.push(seconds.unwrap_or(f64::NAN) * 1e3);
                }
                lambda.shutdown().await;
                (times, lambda.cpu_quota_in_force())
            });
            if !in_force {
                eprintln!("handler at {label}: no processor quota can be set here");
                return;
            }
            let name = subject.map_or("none", |subject| &subject.name);
            results.add_at(
                "handler with 10 POSTs, function of",
                "ms",
                &label,
                Some(memory_mb.into()),
                name,
                times,
            );
        }
    }
}

/// What a local Lambda is made of.
struct Stage<'a> {
    subject: Option<&'a Subject>,
    opt: TempDir,
    env: Vec<(String, String)>,
    port: u16,
}

impl<'a> Stage<'a> {
    fn new(subject: Option<&'a Subject>, langfuse: &str, ca: &str) -> Self {
        let opt = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut env = Vec::new();
        if let Some(subject) = subject {
            let extensions = opt.path().join("extensions");
            fs::create_dir(&extensions).unwrap();
            // An extension registers under the name of its file.
            let name = subject.binary.file_name().unwrap();
            fs::copy(&subject.binary, extensions.join(name)).unwrap();
            let dir = opt.path().join("spool").display().to_string();
            env = subject.env(port, langfuse, ca, &dir);
        }
        Self {
            subject,
            opt,
            env,
            port,
        }
    }

    fn builder(&self, posts: u32, work: u32) -> Builder {
        let bench = std::env::current_exe().unwrap().display().to_string();
        let mut builder = Lambda::builder()
            .bootstrap([bench, "handler".to_owned()])
            .function_env(handler::POSTS, posts.to_string())
            .function_env(handler::WORK, work.to_string());
        if let Some(subject) = self.subject {
            builder = builder
                .opt_dir(self.opt.path())
                .function_env(handler::PATH, &subject.path)
                .function_env(handler::ADDRESS, format!("127.0.0.1:{}", self.port));
        }
        self.env.iter().fold(builder, |builder, (name, value)| {
            builder.extension_env(name, value)
        })
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
