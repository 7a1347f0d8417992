//! `lambda-emulator`: one function and one directory of extensions, invoked from the command line or over HTTP.

use clap::{Parser, ValueEnum};
use lambda_emulator::{Error, Freeze, Front, Lambda, Mode, Telemetry};
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A local AWS Lambda: runs a bootstrap and the extensions of an /opt-like directory.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Directory laid out like /opt; every file in its extensions/ is started.
    #[arg(long)]
    opt: Option<PathBuf>,
    /// The function's code: working directory and task root of the runtime.
    #[arg(long, default_value = ".")]
    task_root: PathBuf,
    /// Function timeout in seconds.
    #[arg(long, default_value_t = 3.0)]
    timeout: f64,
    /// Memory in MB, as told to the processes.
    #[arg(long, default_value_t = 512)]
    memory: u32,
    /// `NAME=VALUE` for all processes; `PATH` is worth giving where the runtime is not in /usr/bin.
    #[arg(long, value_parser = pair)]
    env: Vec<(String, String)>,
    /// `NAME=VALUE` for extensions alone.
    #[arg(long, value_parser = pair)]
    extension_env: Vec<(String, String)>,
    /// How everything is frozen between invocations.
    #[arg(long, value_enum, default_value_t = FreezeBy::Auto)]
    freeze: FreezeBy,
    /// Answer telemetry subscriptions as AWS's Runtime Interface Emulator does: not supported.
    #[arg(long)]
    no_telemetry: bool,
    /// Play Lambda Managed Instances.
    #[arg(long)]
    managed_instances: bool,
    /// A payload to invoke with, as often as wanted; `-` reads one from standard input.
    #[arg(long)]
    payload: Vec<String>,
    /// Seconds between two payloads, frozen.
    #[arg(long, default_value_t = 0.0)]
    pause: f64,
    /// Serve invocations over HTTP here, until Ctrl-C: Lambda's invoke path, and a function URL for everything else.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Write the timeline as JSON to this file at the end.
    #[arg(long)]
    timeline: Option<PathBuf>,
    /// The runtime's command.
    #[arg(required = true, trailing_var_arg = true)]
    bootstrap: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FreezeBy {
    Auto,
    CgroupV2,
    CgroupV1,
    Signals,
    Off,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lambda-emulator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool, Error> {
    let lambda = Arc::new(start(&arguments).await?);
    eprintln!(
        "Lambda APIs on {}, freezing by {}",
        lambda.runtime_api(),
        lambda.freezer()
    );
    let mut well = true;
    for (index, payload) in arguments.payload.iter().enumerate() {
        if index > 0 {
            lambda.pause(Duration::from_secs_f64(arguments.pause)).await;
        }
        well &= invoke(&lambda, payload).await?;
    }
    if let Some(address) = &arguments.listen {
        let front = Front::bind(Arc::clone(&lambda), address).await?;
        eprintln!(
            "function URL http://{0}/ and http://{0}/2015-03-31/functions/function/invocations",
            front.address()?
        );
        tokio::select! {
            () = front.serve() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    let report = lambda.shutdown().await;
    for end in report.runtime.iter().chain(&report.extensions) {
        eprintln!(
            "{}: {:?} after {:?}{}",
            end.name,
            end.exit,
            end.took,
            if end.killed { ", killed" } else { "" }
        );
    }
    if let Some(file) = &arguments.timeline {
        std::fs::write(
            file,
            serde_json::to_vec_pretty(&lambda.timeline()).unwrap_or_default(),
        )?;
    }
    Ok(well)
}

async fn start(arguments: &Arguments) -> Result<Lambda, Error> {
    let mut builder = Lambda::builder()
        .bootstrap(arguments.bootstrap.clone())
        .task_root(&arguments.task_root)
        .timeout(Duration::from_secs_f64(arguments.timeout))
        .memory_mb(arguments.memory)
        .telemetry(if arguments.no_telemetry {
            Telemetry::NotSupported
        } else {
            Telemetry::Delivered
        })
        .mode(if arguments.managed_instances {
            Mode::ManagedInstances
        } else {
            Mode::OnDemand
        })
        .freeze(match arguments.freeze {
            FreezeBy::Auto => Freeze::Auto,
            FreezeBy::CgroupV2 => Freeze::CgroupV2,
            FreezeBy::CgroupV1 => Freeze::CgroupV1,
            FreezeBy::Signals => Freeze::Signals,
            FreezeBy::Off => Freeze::Off,
        })
        .echo_logs(true);
    if let Some(opt) = &arguments.opt {
        builder = builder.opt_dir(opt);
    }
    for (name, value) in &arguments.env {
        builder = builder.env(name, value);
    }
    for (name, value) in &arguments.extension_env {
        builder = builder.extension_env(name, value);
    }
    builder.start().await
}

/// Invokes once, prints the payload or error, and says whether it went well.
async fn invoke(lambda: &Lambda, payload: &str) -> Result<bool, Error> {
    let mut text = payload.to_owned();
    if payload == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text)?;
    }
    let invocation = lambda.invoke(text).await;
    let answer = match &invocation.result {
        Ok(payload) => payload,
        Err(error) => &error.payload,
    };
    println!("{}", String::from_utf8_lossy(answer));
    eprintln!(
        "responded after {:?}, held {:?}, over after {:?}{}",
        invocation.responded_after,
        invocation.held.unwrap_or_default(),
        invocation.over_after,
        invocation
            .init_duration
            .map(|init| format!(", init {init:?}"))
            .unwrap_or_default(),
    );
    Ok(invocation.succeeded())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not of the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
