//! `make demo`: one traced function, straight against Langfuse and through the extension, while Langfuse is healthy, hung and
//! refusing; then the other half of the incident, which is no network's. See `plan` for what is run, `verdict` for what
//! must hold, `table` and `picture` for what is shown.

mod capture;
mod picture;
mod plan;
mod run;
#[cfg(test)]
mod sample;
mod setup;
mod table;
mod tally;
mod verdict;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use capture::{Capture, Variant};
use plan::{Health, Way};
use run::Run;
use setup::{Error, Setup, at};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match show().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo cannot go on: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, and says whether the promises held.
async fn show() -> Result<bool, Error> {
    let setup = Setup::new()?;
    let started = Instant::now();
    let runs = run_all(&setup, started).await?;
    let captures = call_all(&setup).await?;
    let verdict = verdict::judge(&runs, &captures);
    let file = setup.out_dir.join("timeline.html");
    fs::write(&file, picture::page(&runs, &captures, &verdict)).map_err(at(&file))?;
    if let Some(animation) = picture::animation(&runs) {
        let file = setup.out_dir.join("animation.svg");
        fs::write(&file, animation).map_err(at(&file))?;
    }
    println!("\n{}", table::table(&runs));
    println!(
        "@observe around an argument that holds an asyncpg pool of 2, Langfuse healthy, no extension:"
    );
    println!("{}", table::captures(&captures));
    println!("{}", table::verdict(&verdict));
    println!("The picture: {}", file.display());
    Ok(verdict.problems.is_empty())
}

/// Those whose times are judged run one after another; then those that wait for a bad Langfuse, beside one another.
async fn run_all(setup: &Setup, started: Instant) -> Result<Vec<Run>, Error> {
    let mut runs = Vec::new();
    for health in Health::ALL {
        for way in Way::ALL {
            if way.has_extension() || health == Health::Healthy {
                runs.push(run_one(setup, way, health, started).await?);
            }
        }
    }
    let (hung, refused) = tokio::join!(
        run_one(setup, Way::Direct, Health::Hung, started),
        run_one(setup, Way::Direct, Health::Refusing, started)
    );
    runs.push(hung?);
    runs.push(refused?);
    runs.sort_by_key(|run| {
        let place = |health| Health::ALL.iter().position(|one| *one == health);
        let way = Way::ALL.iter().position(|one| *one == run.way);
        (place(run.health), way)
    });
    Ok(runs)
}

async fn run_one(setup: &Setup, way: Way, health: Health, started: Instant) -> Result<Run, Error> {
    run::run(setup, way, health, |turn| {
        println!(
            "[{:>5.1} s] {}",
            started.elapsed().as_secs_f64(),
            table::row(way, health, turn)
        );
    })
    .await
}

async fn call_all(setup: &Setup) -> Result<Vec<Capture>, Error> {
    let mut captures = Vec::new();
    for variant in Variant::ALL {
        captures.push(capture::call(setup, variant).await?);
    }
    Ok(captures)
}
