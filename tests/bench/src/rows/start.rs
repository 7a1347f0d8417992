//! What a cold start pays: sizes, and the time from exec to registration, first next, and first answer.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::load::Post;
use crate::results::{Results, ms};
use crate::sink::Sink;
use crate::subject::Subject;

#[expect(clippy::cast_precision_loss, reason = "sizes of files")]
pub(crate) fn sizes(results: &mut Results, subjects: &[Subject]) {
    for subject in subjects {
        let binary = fs::read(&subject.binary).unwrap();
        let mut zip = DeflateEncoder::new(Vec::new(), Compression::best());
        zip.write_all(&binary).unwrap();
        let zip = zip.finish().unwrap();
        let megabytes = |bytes: usize| vec![bytes as f64 / 1e6];
        results.add("binary", "MB", &subject.name, megabytes(binary.len()));
        results.add("binary in a zip", "MB", &subject.name, megabytes(zip.len()));
    }
}

pub(crate) fn times(results: &mut Results, subjects: &[Subject], rounds: usize) {
    let sink = Sink::start();
    let langfuse = format!("http://{}", sink.address);
    let mut register = vec![Vec::new(); subjects.len()];
    let mut next = register.clone();
    let mut answer = register.clone();
    let mut cpu = register.clone();
    for _ in 0..rounds {
        for (at, subject) in subjects.iter().enumerate() {
            let running = subject.start(&langfuse);
            register[at].push(ms(running.platform.registered() - running.started));
            next[at].push(ms(running.platform.asked_next(1) - running.started));
            cpu[at].push(ms(running.cpu()));
            running.shut_down();

            let running = subject.start(&langfuse);
            running
                .connect()
                .exchange(Post::of_ten(&subject.path).fresh());
            answer[at].push(ms(running.started.elapsed()));
            running.shut_down();
        }
    }
    for (at, subject) in subjects.iter().enumerate() {
        let mut add = |what, samples: &mut Vec<f64>| {
            results.add(what, "ms", &subject.name, std::mem::take(samples));
        };
        add("exec → register", &mut register[at]);
        add("exec → first next", &mut next[at]);
        add("exec → first answered POST", &mut answer[at]);
        add("processor time until first next", &mut cpu[at]);
    }
}
