//! A local AWS Lambda and a fake Langfuse.
//!
//! [`Lambda`] runs a real bootstrap and the real extensions of a directory laid out like `/opt` as child processes, and
//! serves them the Runtime, Extensions and Telemetry APIs on loopback, in the order and with the clocks of the service:
//! extensions register before the runtime starts, the caller is answered without waiting for extensions, everything is
//! frozen between invocations, and a timeout or crash resets the environment.
//!
//! ```no_run
//! # async fn example() -> Result<(), lambda_emulator::Error> {
//! use lambda_emulator::{Freeze, Lambda, Telemetry};
//! use std::time::Duration;
//!
//! let lambda = Lambda::builder()
//!     .opt_dir("dist/opt")
//!     .bootstrap(["python3", "-m", "awslambdaric", "app.handler"])
//!     .task_root("tests/apps/hello")
//!     .timeout(Duration::from_secs(5))
//!     .telemetry(Telemetry::Delivered)
//!     .freeze(Freeze::Auto)
//!     .start()
//!     .await?;
//! let invocation = lambda.invoke(r#"{"name":"Ada"}"#).await;
//! assert!(invocation.succeeded());
//! lambda.pause(Duration::from_secs(3)).await;
//! let report = lambda.shutdown().await;
//! assert!(report.extensions.iter().all(|extension| !extension.killed));
//! # Ok(())
//! # }
//! ```
//!
//! How the modules lie: [`Lambda`] (`lambda`) is a handle on a thread of its own, where `conductor` plays the service
//! (`init`, invoke, freeze, `teardown`) over the `state` that the `api` handlers change. `process`, `freezer` and
//! `environment` touch the operating system, `records` tells `telemetry` what to deliver, `timeline` and `logs` remember
//! what happened, `front` offers it all over HTTP.

mod api;
mod builder;
mod conductor;
mod config;
mod environment;
pub mod fake_langfuse;
mod freezer;
mod front;
mod init;
mod invocation;
mod lambda;
mod logs;
mod process;
mod records;
mod state;
mod teardown;
mod telemetry;
mod timeline;

pub use builder::Builder;
pub use config::{Fault, Freeze, InvokeDelivery, Mode, Reset, Telemetry};
pub use freezer::FreezerKind;
pub use front::Front;
pub use invocation::{Chunk, FunctionError, Invocation, InvocationHandle};
pub use lambda::{Error, InitReport, Lambda};
pub use logs::{LogLine, Stream};
pub use process::Exit;
pub use rustix::process::Signal;
pub use teardown::{ProcessEnd, ShutdownReport};
pub use timeline::{Entry, Event};
