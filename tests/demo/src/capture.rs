//! The other half of the incident, which no extension can remove: `@observe` and an argument with a connection pool.

use std::time::Duration;

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse};

use crate::run::python;
use crate::setup::{Error, Setup, at};

/// A function that does not return within this time does not return.
pub(crate) const CAPTURE_TIMEOUT: Duration = Duration::from_secs(3);

/// One call of the function with one langfuse-python and one setting. Langfuse is healthy, and there is no extension.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    pub(crate) variant: Variant,
    pub(crate) response: Duration,
    /// Whether the function timeout ended it.
    pub(crate) killed: bool,
    /// How many requests reached Langfuse.
    pub(crate) request_count: usize,
}

/// With what the function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// langfuse-python 4.0.6 as it is.
    Plain,
    /// The same with `LANGFUSE_OBSERVE_DECORATOR_IO_CAPTURE_ENABLED=false`.
    CaptureOff,
    /// langfuse-python 4.7.0.
    Fixed,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::CaptureOff, Self::Fixed];

    /// A line's beginning.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Plain => "langfuse 4.0.6",
            Self::CaptureOff => "langfuse 4.0.6, LANGFUSE_OBSERVE_DECORATOR_IO_CAPTURE_ENABLED=false",
            Self::Fixed => "langfuse 4.7.0",
        }
    }
}

/// Calls the function once in an environment that is started before, so that no cold start is in the time.
pub(crate) async fn call(setup: &Setup, variant: Variant) -> Result<Capture, Error> {
    let langfuse =
        FakeLangfuse::start(Config::default()).map_err(at(std::path::Path::new("127.0.0.1")))?;
    let interpreter = match variant {
        Variant::Plain | Variant::CaptureOff => &setup.python,
        Variant::Fixed => &setup.python_fixed,
    };
    let mut builder = python(setup, interpreter, "capture.handler")
        .timeout(CAPTURE_TIMEOUT)
        .function_env("LANGFUSE_BASE_URL", langfuse.url());
    if variant == Variant::CaptureOff {
        builder = builder.function_env("LANGFUSE_OBSERVE_DECORATOR_IO_CAPTURE_ENABLED", "false");
    }
    let lambda = builder.start().await?;
    lambda.init().await;
    let invocation = lambda.invoke("{}").await;
    Ok(Capture {
        variant,
        response: invocation.handler_duration(),
        killed: invocation.error_type() == Some("Sandbox.Timedout"),
        request_count: langfuse.requests().len(),
    })
}
