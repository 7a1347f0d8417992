//! Resident memory.

use crate::load::Post;
use crate::results::Results;
use crate::sink::Sink;
use crate::subject::{Running, Subject, free_port};

/// Invocations in a row, with so many POSTs of ten spans in each.
const STAGES: [(&str, f64, usize, usize); 3] = [
    ("after 1,000 spans", 1_000.0, 1, 100),
    ("after 10,000 spans", 10_000.0, 9, 100),
    ("after 50,000 spans", 50_000.0, 40, 100),
];

pub(crate) fn after_work(results: &mut Results, subjects: &[Subject]) {
    for subject in subjects {
        let sink = Sink::start();
        let running = subject.start(&format!("http://{}", sink.address));
        running.platform.asked_next(1);
        running.settle();
        note(results, &running, subject, "idle", Some(0.0));
        let (mut asked, mut post) = (1, Post::of_ten(&subject.path));
        for (label, x, invocations, posts) in STAGES {
            for _ in 0..invocations {
                running.platform.invoke();
                let mut client = running.connect();
                for _ in 0..posts {
                    client.exchange(post.fresh());
                }
                running.platform.runtime_done();
                asked += 1;
                running.platform.asked_next(asked);
            }
            sink.take();
            note(results, &running, subject, label, Some(x));
        }
    }
}

/// Langfuse refuses connections, and the app goes on: two and a half times what the buffer holds.
pub(crate) fn full_buffer(results: &mut Results, subjects: &[Subject]) {
    const MEGABYTES: usize = 80;
    for subject in subjects {
        let running = subject.start(&format!("http://127.0.0.1:{}", free_port()));
        running.platform.asked_next(1);
        running.platform.invoke();
        let mut client = running.connect();
        let mut post = Post::of_bytes(&subject.path, 200 << 10);
        for _ in 0..MEGABYTES * 5 {
            if client.exchange(post.fresh()).is_none() {
                client = running.connect();
            }
        }
        note(results, &running, subject, "at a full buffer", None);
    }
}

fn note(results: &mut Results, running: &Running, subject: &Subject, at: &str, x: Option<f64>) {
    let (all, anonymous) = running.memory();
    let name = &subject.name;
    results.add_at("resident memory", "MiB", at, x, name, vec![all]);
    results.add_at("of it not of files", "MiB", at, x, name, vec![anonymous]);
}
