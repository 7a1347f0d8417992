//! The init phase: what is started in which order, and who is waited for.

use crate::config::{Config, EXTENSIONS_MAX};
use crate::environment;
use crate::invocation::FunctionError;
use crate::process::{Launch, RUNTIME, launch};
use crate::state::{Shared, Stage, Trouble};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// AWS's own undocumented switch: with this file in `/opt` no extension is started.
const DISABLE_FILE: &str = "disable-extensions-jwigqn8j";

/// A program that is started in the runtime's place, with the runtime's command as its arguments.
/// <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper>
const EXEC_WRAPPER: &str = "AWS_LAMBDA_EXEC_WRAPPER";

/// Extensions first, all of them; then the runtime; then until everybody asks for the first event.
pub(crate) async fn try_init(shared: &Arc<Shared>, phase: &str) -> Result<(), Trouble> {
    let files = extension_files(shared.config.opt_dir.as_deref());
    if files.len() > EXTENSIONS_MAX {
        let message = format!("{} extensions, at most {EXTENSIONS_MAX}", files.len());
        return Err(Trouble::Fault(FunctionError::new(
            "Extension.LimitExceeded",
            message,
        )));
    }
    let names: Vec<String> = files.iter().map(|file| file_name(file)).collect();
    shared.update(|state| state.renew(&names));
    for (name, file) in names.iter().zip(&files) {
        start_extension(shared, name, file)?;
    }
    shared
        .wait_for(|state| {
            state
                .agents
                .iter()
                .all(|agent| agent.events.is_some())
                .then_some(())
        })
        .await;
    shared.update(|state| state.stage = Stage::Initialising);
    start_runtime(shared)?;
    shared
        .wait_for(|state| state.runtime_idle.then_some(()))
        .await;
    shared.telemetry.platform(
        "platform.initRuntimeDone",
        &json!({ "initializationType": shared.config.initialization_type(), "phase": phase, "status": "success" }),
    );
    shared
        .wait_for(|state| state.everybody_initialised().then_some(()))
        .await;
    let agents: Vec<_> = shared
        .look()
        .agents
        .iter()
        .map(|agent| (agent.name.clone(), agent.events.clone()))
        .collect();
    for (name, events) in agents {
        let record = json!({ "name": name, "state": "Ready", "events": events });
        shared.telemetry.platform("platform.extension", &record);
    }
    Ok(())
}

fn start_extension(shared: &Arc<Shared>, name: &str, file: &Path) -> Result<(), Trouble> {
    let env = environment::of_extension(&shared.config, &shared.api, &shared.tmp_dir);
    launch(
        shared,
        &Launch {
            name,
            program: file,
            arguments: &[],
            env,
            directory: Path::new("/"),
        },
    )
    .map_err(|error| launch_error("Extension.LaunchError", file, &error))
}

fn start_runtime(shared: &Arc<Shared>) -> Result<(), Trouble> {
    let env = environment::of_runtime(&shared.config, &shared.api, &shared.tmp_dir);
    let wrapper = env
        .get(EXEC_WRAPPER)
        .map(|path| in_opt(&shared.config, path));
    let command: Vec<String> = wrapper
        .into_iter()
        .chain(shared.config.bootstrap.iter().cloned())
        .collect();
    let Some((program, arguments)) = command.split_first() else {
        return Err(Trouble::Fault(FunctionError::new(
            "Runtime.InvalidEntrypoint",
            "no bootstrap was given",
        )));
    };
    let program = Path::new(program);
    launch(
        shared,
        &Launch {
            name: RUNTIME,
            program,
            arguments,
            env,
            directory: &shared.config.task_root,
        },
    )
    .map_err(|error| launch_error("Runtime.InvalidEntrypoint", program, &error))
}

/// What plays `/opt` is elsewhere here.
fn in_opt(config: &Config, path: &str) -> String {
    match (&config.opt_dir, path.strip_prefix("/opt/")) {
        (Some(opt_dir), Some(rest)) => opt_dir.join(rest).to_string_lossy().into_owned(),
        _ => path.to_owned(),
    }
}

fn launch_error(error_type: &str, program: &Path, error: &std::io::Error) -> Trouble {
    Trouble::Fault(FunctionError::new(
        error_type,
        format!("{}: {error}", program.display()),
    ))
}

/// Every file, executable or not, in the order of their names.
fn extension_files(opt_dir: Option<&Path>) -> Vec<PathBuf> {
    let Some(opt_dir) = opt_dir.filter(|dir| !dir.join(DISABLE_FILE).exists()) else {
        return Vec::new();
    };
    let entries = fs::read_dir(opt_dir.join("extensions"))
        .into_iter()
        .flatten()
        .flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .map(|path| std::path::absolute(&path).unwrap_or(path))
        .collect();
    files.sort();
    files
}

fn file_name(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
