//! How long a client waits for its answer, on a kept connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::load::Post;
use crate::results::{Results, percentile, us};
use crate::sink::Sink;
use crate::subject::{Running, Subject};

/// POSTs of a repetition; the first tenth only warms up.
const POSTS: usize = 2_000;

/// What else the extension does meanwhile.
#[derive(Clone, Copy)]
pub(crate) enum Beside {
    Nothing,
    /// 100 KB bodies, one after the other, which are compressed and sent.
    Exporting,
    /// Bodies of 4 MB, one after the other.
    LargeBodies,
}

impl Beside {
    fn body_bytes(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Exporting => 100 << 10,
            Self::LargeBodies => 4 << 20,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "idle",
            Self::Exporting => "while exporting",
            Self::LargeBodies => "beside 4 MB bodies",
        }
    }
}

pub(crate) fn beside(results: &mut Results, subjects: &[Subject], beside: Beside, rounds: usize) {
    let shares = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
    let mut samples = vec![vec![Vec::new(); shares.len()]; subjects.len()];
    for _ in 0..rounds {
        for (at, subject) in subjects.iter().enumerate() {
            let sink = Sink::start();
            let running = subject.start(&format!("http://{}", sink.address));
            running.platform.asked_next(1);
            running.platform.invoke();
            let mut times = with_load(&running, &subject.path, beside, || {
                let pause = match beside {
                    Beside::Nothing => Duration::ZERO,
                    _ => Duration::from_micros(500),
                };
                posts(&running, Post::of_ten(&subject.path), POSTS, pause)
            });
            for (nth, (_, share)) in shares.iter().enumerate() {
                samples[at][nth].push(percentile(&mut times, *share));
            }
        }
    }
    for (nth, (share, _)) in shares.iter().enumerate() {
        for (at, subject) in subjects.iter().enumerate() {
            let what = format!("ack of 10 spans, {}, {share}", beside.name());
            results.add(
                &what,
                "µs",
                &subject.name,
                std::mem::take(&mut samples[at][nth]),
            );
        }
    }
}

/// The median for each size of body.
pub(crate) fn by_body_size(results: &mut Results, subjects: &[Subject]) {
    for (bytes, label, count) in [
        (1 << 10, "1 KB", 1_000),
        (16 << 10, "16 KB", 1_000),
        (128 << 10, "128 KB", 200),
        (1 << 20, "1 MB", 40),
        (4 << 20, "4 MB", 16),
    ] {
        for subject in subjects {
            let sink = Sink::start();
            let running = subject.start(&format!("http://{}", sink.address));
            running.platform.asked_next(1);
            running.platform.invoke();
            let post = Post::of_bytes(&subject.path, bytes);
            let mut times = posts(&running, post, count, Duration::from_micros(200));
            let median = percentile(&mut times, 0.5);
            let x = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
            results.add_at(
                "ack, body of",
                "µs",
                label,
                Some(x),
                &subject.name,
                vec![median],
            );
        }
    }
}

/// Microseconds of each answer that was a success.
fn posts(running: &Running, mut post: Post, count: usize, pause: Duration) -> Vec<f64> {
    let mut client = running.connect();
    let mut times = Vec::with_capacity(count);
    for nth in 0..count {
        let request = post.fresh();
        let before = Instant::now();
        let status = client.exchange(request);
        let time = us(before.elapsed());
        if nth >= count / 10 && status == Some(200) {
            times.push(time);
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    assert!(!times.is_empty(), "no POST was answered 200");
    times
}

fn with_load<T>(running: &Running, path: &str, beside: Beside, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        if beside.body_bytes() > 0 {
            scope.spawn(|| {
                let mut client = running.connect();
                let mut post = Post::of_bytes(path, beside.body_bytes());
                while !over.load(Ordering::Relaxed) && keep_busy(&mut client, &mut post).is_some() {
                }
            });
        }
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn keep_busy(client: &mut Client, post: &mut Post) -> Option<()> {
    if client.exchange(post.fresh())? != 200 {
        // The buffer is full: Langfuse is slower than this load.
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(2));
    Some(())
}
