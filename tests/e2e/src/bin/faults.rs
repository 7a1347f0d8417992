//! Runs the fault matrix and writes it to the file named: `faults docs/faults.md`. Fails if a promise is broken.
//! With a second argument it runs the cells whose names contain it: `faults /tmp/some.md "1.5 buffers"`.

use std::fmt::Write;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use e2e::matrix::{self, Cell};

/// Cells run beside one another: most of each is waiting.
const AT_ONCE: usize = 3;

fn main() -> ExitCode {
    let Some(file) = std::env::args().nth(1) else {
        eprintln!("usage: faults FILE.md [PART OF A CELL'S NAME]");
        return ExitCode::from(2);
    };
    let wanted = std::env::args().nth(2).unwrap_or_default();
    let mut chosen = matrix::all();
    chosen.retain(|(condition, situation)| {
        format!("{}, {}", condition.name(), situation.name()).contains(&wanted)
    });
    let started = Instant::now();
    let commit = one_line("git", &["describe", "--always", "--dirty", "--exclude=*"]);
    let baseline = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(matrix::baseline()),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let cells = matrix::run(&chosen, AT_ONCE, |cell| {
        let outcome = if cell.broken.is_empty() {
            "kept".to_owned()
        } else {
            cell.broken.join(", ")
        };
        eprintln!(
            "{:4.0} s  {}, {}: {outcome}",
            started.elapsed().as_secs_f64(),
            cell.condition.name(),
            cell.situation.name()
        );
    });
    let table = matrix::table(&cells, &baseline);
    println!("{table}");
    let broken: Vec<_> = cells
        .iter()
        .filter(|cell| !cell.broken.is_empty())
        .collect();
    let page = page(&commit, &table, &cells, &baseline, started.elapsed());
    if let Err(error) = std::fs::write(&file, page) {
        eprintln!("{file}: {error}");
        return ExitCode::FAILURE;
    }
    println!(
        "{} cells, {} with a broken promise; written to {file}",
        cells.len(),
        broken.len()
    );
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn page(
    commit: &str,
    table: &str,
    cells: &[Cell],
    baseline: &[Duration],
    took: Duration,
) -> String {
    let broken = cells.iter().filter(|cell| !cell.broken.is_empty()).count();
    let mut page = String::from(
        "# The fault matrix\n\nWhat Langfuse does × what happens to the sandbox, on the release binary under `lambda-emulator`. \
         Written by `make faults`, which fails if a promise is broken; do not edit.\n\n",
    );
    let mean = baseline.iter().sum::<Duration>().as_secs_f64() * 1_000.0
        / f64::from(u32::try_from(baseline.len()).unwrap_or(1).max(1));
    let _ = write!(
        page,
        "- Commit {commit}, on {}; {} cells in {:.0} s, {} of them with a broken promise.\n\
         - Handler: from the event to the whole response, median (maximum), of a Python function that posts one trace of two \
         spans and waits for the answer. \"− none\": against the median of the same function without the extension and without \
         posting (mean {mean:.1} ms).\n\
         - Held: from the runtime's end to the release of the sandbox, median (maximum) per invocation. The flush budget is 2,000 ms.\n\
         - On disk at SHUTDOWN: what would be lost if the sandbox were destroyed there, while Langfuse is down. Here it lives on: \
         Langfuse recovers, a new process starts in the same sandbox, and then delivered, doubled and lost are counted.\n\
         - Doubled (counted): stored twice by Langfuse (sent again although it may have arrived, as the extension counts them).\n\
         - A half-open connection is played by a peer that reads and never answers. A freeze of hours differs from one of 2 s by \
         the wall clock alone, which the simulation (`make sim`) moves.\n\n",
        machine(),
        cells.len(),
        took.as_secs_f64(),
        broken,
    );
    page.push_str(table);
    page
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores ({model}), {}", one_line("uname", &["-srm"]))
}

fn one_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}
