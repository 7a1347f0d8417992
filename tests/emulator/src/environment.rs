//! The environment variables of the processes, as Lambda gives them.

use crate::config::{Config, Mode};
use std::collections::BTreeMap;
use std::path::Path;

/// What both kinds of process see.
fn shared(config: &Config, api: &str, tmp_dir: &Path) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("AWS_LAMBDA_RUNTIME_API", api),
        ("AWS_LAMBDA_FUNCTION_NAME", &config.function_name),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        (
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            &config.memory_mb.to_string(),
        ),
        (
            "AWS_LAMBDA_INITIALIZATION_TYPE",
            config.initialization_type(),
        ),
        ("AWS_REGION", &config.region),
        ("AWS_DEFAULT_REGION", &config.region),
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin"),
        ("LANG", "en_US.UTF-8"),
        ("TZ", ":UTC"),
        ("TMPDIR", &tmp_dir.to_string_lossy()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    if config.mode == Mode::ManagedInstances {
        env.insert("AWS_LAMBDA_MAX_CONCURRENCY".to_owned(), "1".to_owned());
    }
    env
}

/// What an extension sees: nothing of the handler, the task root, logs or tracing.
pub(crate) fn of_extension(config: &Config, api: &str, tmp_dir: &Path) -> BTreeMap<String, String> {
    let mut env = shared(config, api, tmp_dir);
    env.extend(config.env.clone());
    env.extend(config.extension_env.clone());
    env
}

/// What the runtime sees.
pub(crate) fn of_runtime(config: &Config, api: &str, tmp_dir: &Path) -> BTreeMap<String, String> {
    let mut env = shared(config, api, tmp_dir);
    let handler = config
        .handler
        .as_ref()
        .or(config.bootstrap.last())
        .cloned()
        .unwrap_or_default();
    for (name, value) in [
        ("_HANDLER", handler),
        (
            "LAMBDA_TASK_ROOT",
            config.task_root.to_string_lossy().into_owned(),
        ),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_Image".to_owned()),
        (
            "AWS_LAMBDA_LOG_GROUP_NAME",
            format!("/aws/lambda/{}", config.function_name),
        ),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "$LATEST".to_owned()),
    ] {
        env.insert(name.to_owned(), value);
    }
    env.extend(config.env.clone());
    env.extend(config.function_env.clone());
    env
}
