//! The product beside the bare floor, no extension, and any peer, in one run on one machine: `make bench`.
//!
//! Everything is measured from outside the process: its calls to Lambda's API, its answers, its processor time and
//! memory as the kernel tells them. Medians with minimum and maximum go to a JSON file and a table; nothing is asserted,
//! because a busy machine is no fault of the product.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that fails may stop"
)]

mod distance;
mod handler;
mod http;
mod load;
mod platform;
mod results;
mod rows;
mod sink;
mod subject;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use serde::Serialize;

use crate::results::{Results, Row};
use crate::rows::ack::Beside;
use crate::subject::Subject;

/// Measures extensions beside one another.
#[derive(Parser)]
struct Arguments {
    /// The product's binary.
    #[arg(long, default_value = "target/release/langfuse-extension")]
    ours: PathBuf,
    /// The same as it lies in the layer, if it was built.
    #[arg(long)]
    layer: Option<PathBuf>,
    /// The bench-only floor.
    #[arg(long, default_value = "target/release/floor")]
    floor: PathBuf,
    /// Another extension's binary.
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// A setting of it, `NAME=value`, in which {port}, {langfuse}, {ca} and {dir} are filled in. May be repeated.
    #[arg(long)]
    baseline_env: Vec<String>,
    /// Its path for OTLP over HTTP.
    #[arg(long, default_value = "/v1/traces")]
    baseline_path: String,
    /// Where `results.json` and `results.md` go.
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,
    /// Only groups whose name contains this: start, ack, memory, cost, held, slowdown, spool.
    #[arg(long, default_value = "")]
    only: String,
    /// The command to be named in the results.
    #[arg(long, default_value = "make bench")]
    command: String,
}

/// The data file.
#[derive(Serialize)]
struct Data {
    machine: String,
    commit: String,
    command: String,
    unix_seconds: u64,
    /// Of the last minute, before and after.
    load: [String; 2],
    minutes: f64,
    subjects: Vec<String>,
    rows: Vec<Row>,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("handler") {
        handler::live();
        return;
    }
    let arguments = Arguments::parse();
    let subjects = subjects(&arguments);
    let (start, load) = (Instant::now(), load_average());
    let mut results = Results::default();
    measure(&mut results, &subjects, &arguments.only);
    let mut names: Vec<_> = subjects
        .iter()
        .map(|subject| subject.name.clone())
        .collect();
    names.extend(["none".to_owned(), "no spool".to_owned()]);
    let data = Data {
        machine: machine(),
        commit: first_line("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        command: arguments.command,
        unix_seconds: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        load: [load, load_average()],
        minutes: start.elapsed().as_secs_f64() / 60.0,
        subjects: names.clone(),
        rows: results.0.clone(),
    };
    write(&arguments.out, &data, &results.table(&names));
}

fn measure(results: &mut Results, subjects: &[Subject], only: &str) {
    let wanted = |group: &str| group.contains(only);
    if wanted("start") {
        rows::start::sizes(results, subjects);
        rows::start::times(results, subjects, 25);
    }
    if wanted("ack") {
        rows::ack::beside(results, subjects, Beside::Nothing, 9);
        rows::ack::beside(results, subjects, Beside::Exporting, 2);
        rows::ack::beside(results, subjects, Beside::LargeBodies, 2);
        rows::ack::by_body_size(results, subjects);
    }
    if wanted("memory") {
        rows::memory::after_work(results, subjects);
        rows::memory::full_buffer(results, subjects);
    }
    if wanted("cost") {
        rows::cost::ten_thousand_spans(results, subjects, 3);
        rows::cost::sustained(results, subjects, 2);
        rows::cost::instructions(results, subjects);
    }
    if wanted("held") {
        rows::function::held(results, subjects);
        rows::function::held_when_hanging(results, subjects);
    }
    if wanted("slowdown") {
        rows::function::slowdown(results, subjects);
    }
    if wanted("spool") {
        without_spool(results, subjects);
    }
}

/// What the spool costs: the same measurements without it.
fn without_spool(results: &mut Results, subjects: &[Subject]) {
    let Some(ours) = subjects.iter().find(|subject| subject.name == "ours") else {
        return;
    };
    let mut ours = ours.with("LANGFUSE_EXTENSION_SPOOL_BYTES", "0");
    "no spool".clone_into(&mut ours.name);
    let alone = [ours];
    rows::start::times(results, &alone, 10);
    rows::ack::beside(results, &alone, Beside::Nothing, 9);
    rows::ack::by_body_size(results, &alone);
    rows::cost::ten_thousand_spans(results, &alone, 3);
}

fn subjects(arguments: &Arguments) -> Vec<Subject> {
    let subject = |name: &str, binary: &PathBuf, path: &str, env: &[(&str, &str)]| Subject {
        name: name.to_owned(),
        binary: fs::canonicalize(binary)
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display())),
        path: path.to_owned(),
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let ours = [
        ("LANGFUSE_EXTENSION_LISTEN", "127.0.0.1:{port}"),
        ("LANGFUSE_EXTENSION_BASE_URL", "{langfuse}"),
        ("LANGFUSE_EXTENSION_CA_FILE", "{ca}"),
        ("LANGFUSE_EXTENSION_SPOOL_DIR", "{dir}"),
    ];
    let path = "/api/public/otel/v1/traces";
    let mut subjects = vec![
        subject(
            "floor",
            &arguments.floor,
            path,
            &[("FLOOR_LISTEN", "127.0.0.1:{port}")],
        ),
        subject("ours", &arguments.ours, path, &ours),
    ];
    if let Some(layer) = &arguments.layer {
        subjects.push(subject("ours, layer", layer, path, &ours));
    }
    if let Some(baseline) = &arguments.baseline {
        let env: Vec<_> = arguments
            .baseline_env
            .iter()
            .filter_map(|setting| setting.split_once('='))
            .collect();
        subjects.push(subject(
            "baseline",
            baseline,
            &arguments.baseline_path,
            &env,
        ));
    }
    subjects
}

fn write(out: &PathBuf, data: &Data, table: &str) {
    fs::create_dir_all(out).unwrap();
    let json = serde_json::to_string_pretty(data).unwrap();
    fs::write(out.join("results.json"), json + "\n").unwrap();
    let text = format!(
        "{}, commit {}, by `{}` in {:.1} minutes; load average before {} and after {}. Medians, with minimum and \
         maximum in brackets, and the ratio to the floor of the same run.\n\n{table}",
        data.machine, data.commit, data.command, data.minutes, data.load[0], data.load[1]
    );
    fs::write(out.join("results.md"), text).unwrap();
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |text| {
            text.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = first_line("uname", &["-sr"]);
    format!("{model}, {cores} cores, {kernel}")
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}
