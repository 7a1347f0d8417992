//! What the work costs: processor time, instructions, and how much of it fits into a second.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::load::Post;
use crate::platform::PATIENCE;
use crate::results::{Results, ms};
use crate::sink::Sink;
use crate::subject::Subject;

/// How long the extension is kept busy to see what it sustains.
const BUSY: Duration = Duration::from_secs(2);

/// POSTs of ten spans of one invocation.
const POSTS: usize = 1_000;

/// Processor time and bytes on the wire for 10,000 spans in one invocation, from the first POST until all is sent.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn ten_thousand_spans(results: &mut Results, subjects: &[Subject], rounds: usize) {
    for subject in subjects {
        let (mut cpu, mut wire, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let sink = Sink::start();
            let running = subject.start(&format!("http://{}", sink.address));
            running.platform.asked_next(1);
            running.platform.invoke();
            let before = running.cpu();
            let mut client = running.connect();
            let mut post = Post::of_ten(&subject.path);
            for _ in 0..POSTS {
                client.exchange(post.fresh());
            }
            running.platform.runtime_done();
            running.settle();
            cpu.push(ms(running.cpu().saturating_sub(before)));
            // What is still held for a fuller batch goes now.
            running.shut_down();
            let taken = sink.take();
            wire.push(taken.wire_bytes as f64 / 1e6);
            delivered.push(taken.spans as f64);
        }
        results.add("processor time for 10,000 spans", "ms", &subject.name, cpu);
        if delivered.iter().any(|spans| *spans > 0.0) {
            results.add("sent for 10,000 spans", "MB", &subject.name, wire);
            results.add(
                "delivered of 10,000 spans",
                "spans",
                &subject.name,
                delivered,
            );
        }
    }
}

/// As much as goes through in [`BUSY`], from two connections at once with POSTs of 100 spans.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn sustained(results: &mut Results, subjects: &[Subject], rounds: usize) {
    for subject in subjects {
        let (mut spans, mut megabytes) = (Vec::new(), Vec::new());
        let (mut delivered, mut in_the_end) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let sink = Sink::start();
            let running = subject.start(&format!("http://{}", sink.address));
            running.platform.asked_next(1);
            running.platform.invoke();
            let body_bytes = Post::new(&subject.path, 100, 420).body_bytes as f64;
            let accepted: usize = thread::scope(|scope| {
                let workers: Vec<_> = (0..2)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut client = running.connect();
                            let mut post = Post::new(&subject.path, 100, 420);
                            let (start, mut accepted) = (Instant::now(), 0);
                            while start.elapsed() < BUSY {
                                match client.exchange(post.fresh()) {
                                    Some(200) => accepted += 1,
                                    Some(_) => thread::sleep(Duration::from_millis(1)),
                                    None => break,
                                }
                            }
                            accepted
                        })
                    })
                    .collect();
                workers
                    .into_iter()
                    .map(|worker| worker.join().unwrap())
                    .sum()
            });
            let seconds = BUSY.as_secs_f64();
            let meanwhile = sink.take().spans as f64;
            delivered.push(meanwhile / seconds);
            running.platform.runtime_done();
            running.settle();
            running.shut_down();
            let all = meanwhile + sink.take().spans as f64;
            in_the_end.push(100.0 * all / (accepted as f64 * 100.0));
            spans.push(accepted as f64 * 100.0 / seconds);
            megabytes.push(accepted as f64 * body_bytes / seconds / 1e6);
        }
        results.add("accepted per second", "spans", &subject.name, spans);
        results.add("accepted per second", "MB", &subject.name, megabytes);
        if delivered.iter().any(|spans| *spans > 0.0) {
            results.add(
                "delivered per second meanwhile",
                "spans",
                &subject.name,
                delivered,
            );
            results.add(
                "delivered in the end of what was accepted",
                "%",
                &subject.name,
                in_the_end,
            );
        }
    }
}

/// By callgrind, which does not depend on the machine's mood: until the first next, and for each span.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2⁵²")]
pub(crate) fn instructions(results: &mut Results, subjects: &[Subject]) {
    const CALLGRIND_POSTS: usize = 100;
    for subject in subjects {
        let Some(start) = callgrind(subject, 0) else {
            eprintln!("instructions: valgrind is not here");
            return;
        };
        let Some(all) = callgrind(subject, CALLGRIND_POSTS) else {
            return;
        };
        let name = &subject.name;
        results.add(
            "instructions of a life without work",
            "M",
            name,
            vec![start / 1e6],
        );
        let each = (all - start) / (CALLGRIND_POSTS * 10) as f64;
        results.add("instructions for each span", "k", name, vec![each / 1e3]);
    }
}

fn callgrind(subject: &Subject, posts: usize) -> Option<f64> {
    Command::new("valgrind").arg("--version").output().ok()?;
    let dir = tempfile::tempdir().ok()?;
    let out = format!("--callgrind-out-file={}/out", dir.path().display());
    let sink = Sink::start();
    let wrapper = ["/usr/bin/valgrind", "--tool=callgrind", &out];
    let running = subject.start_under(&wrapper, &format!("http://{}", sink.address));
    running.platform.asked_next(1);
    running.platform.invoke();
    if posts > 0 {
        let mut client = running.connect();
        let mut post = Post::of_ten(&subject.path);
        for _ in 0..posts {
            client.exchange(post.fresh());
        }
    }
    running.platform.runtime_done();
    running.platform.asked_next(2);
    running.shut_down_within(PATIENCE);
    let text = fs::read_to_string(dir.path().join("out")).ok()?;
    let total = text.lines().find_map(|line| {
        line.strip_prefix("totals: ")
            .or(line.strip_prefix("summary: "))
    })?;
    total.trim().parse().ok()
}
