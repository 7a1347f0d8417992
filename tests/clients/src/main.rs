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
                for failure in &trial.failures {
                    eprintln!("{failure}");
                }
                trial
            })
        })
        .collect();
    let (mut trials, mut panics) = (Vec::new(), 0);
    for trial in running {
        match trial.await {
            Ok(trial) => trials.push(trial),
            Err(panic) => {
                eprintln!("{panic}");
                panics += 1;
            }
        }
    }
    let text = document(&trials);
    println!("{text}");
    if wanted.is_none() && panics == 0 {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        std::fs::create_dir_all(&docs).expect("a directory");
        std::fs::write(docs.join("clients.md"), text).expect("a file");
    }
    let failed = panics > 0 || trials.iter().any(|trial| !trial.failures.is_empty());
    ExitCode::from(u8::from(failed))
}
