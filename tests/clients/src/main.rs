//! Runs every client, or those whose names contain the first argument, and writes `docs/clients.md`.

#![expect(clippy::expect_used, reason = "a test's set-up fails loudly")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clients::client::CLIENTS;
use clients::table::document;
use clients::trial::Trial;
use tokio::sync::Semaphore;

/// Trials at a time: more of them would measure one another.
const TRIALS_AT_ONCE: usize = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = std::env::args().nth(1);
    let some = wanted.as_deref().unwrap_or_default();
    let permits = Arc::new(Semaphore::new(TRIALS_AT_ONCE));
    let chosen = CLIENTS.iter().filter(|client| client.name.contains(some));
    let running: Vec<_> = chosen
        .map(|client| {
            let permits = Arc::clone(&permits);
            tokio::spawn(async move {
                let _permit = permits.acquire_owned().await.expect("a permit");
                let trial = Trial::full(*client).await;
                eprintln!("{}: {} failures", client.name, trial.failures.len());
                trial
            })
        })
        .collect();
    let mut trials = Vec::new();
    for trial in running {
        trials.push(trial.await.expect("a trial that ends"));
    }
    let text = document(&trials);
    println!("{text}");
    if wanted.is_none() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        std::fs::create_dir_all(&docs).expect("a directory");
        std::fs::write(docs.join("clients.md"), text).expect("a file");
    }
    let failures: Vec<_> = trials.iter().flat_map(|trial| &trial.failures).collect();
    for failure in &failures {
        eprintln!("{failure}");
    }
    ExitCode::from(u8::from(!failures.is_empty()))
}
