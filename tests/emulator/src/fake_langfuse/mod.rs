//! A Langfuse on loopback: its public API by the real one's rules, everything recorded, and faults on demand.
//!
//! ```
//! use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Fault, FaultRule};
//!
//! # fn main() -> std::io::Result<()> {
//! let langfuse = FakeLangfuse::start(Config::default())?;
//! langfuse.set_fault(FaultRule::from(Fault::status(503)).on_path("/api/public/otel").first(2));
//! // … something sends to langfuse.url() …
//! assert!(langfuse.observations().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! A request goes through these modules: `server` (listener) → `connection` and `tls` (bytes) → `exchange` (one request,
//! its fault) → `routes` (which endpoint; with `auth`, `otlp`, `ingestion`, `library`) → `recording`,
//! which `worker` then takes from what the real one would lose after its answer. `control` offers the
//! same to tests in other languages.
//!
//! The server runs on a thread of its own, so tests may block, and may drop it whenever they like.

mod auth;
mod config;
mod connection;
mod control;
mod exchange;
mod fault;
mod ingestion;
mod library;
mod otlp;
mod otlp_protobuf;
mod recording;
mod refused_items;
mod reply;
mod request;
mod routes;
mod server;
mod state;
mod surrogate;
mod tls;
mod worker;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

pub use config::{Config, DEFAULT_MAX_REQUEST_BYTES, Project, Prompt};
pub use control::MAX_CONTROL_BODY_BYTES;
pub use fault::{Fault, FaultRule, FaultScope, Plan, RATE_LIMIT_WINDOW_MS, TlsFailure};
pub use library::{MAX_ITEMS_PER_COLLECTION, MAX_MEDIA, MAX_MEDIA_BYTES, MAX_PROMPTS, Media};
pub use otlp::MAX_INFLATED_BYTES;
pub use otlp_protobuf::MAX_NESTING;
pub use recording::{
    Door, Duplicate, Duplicates, Event, MAX_RECORDED_BODY_BYTES, MAX_RECORDED_DATA_BYTES,
    MAX_RECORDED_EVENTS, MAX_RECORDED_OBSERVATIONS, MAX_RECORDED_REQUESTS, Observation,
    RecordedRequest, Recording, canonical,
};
pub use request::MAX_READ_BODY_BYTES;
pub use routes::{BUCKET_PATH, LANGFUSE_VERSION, MAX_INGESTION_BODY_BYTES, MAX_JSON_BODY_BYTES};
pub use server::MAX_CONNECTIONS;
pub use worker::INSERT_WINDOW;

use control::Handle;
use server::{Command, Server};
use state::Shared;
use tls::Certificates;

/// A running fake. Dropping it closes every connection and the port.
pub struct FakeLangfuse {
    handle: Handle,
    shared: Arc<Shared>,
    address: SocketAddr,
    certificates: Option<Arc<Certificates>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeLangfuse {
    /// Listens when this returns.
    pub fn start(config: Config) -> io::Result<Self> {
        let certificates = if config.tls {
            Some(Arc::new(Certificates::make()?))
        } else {
            None
        };
        let port = config.port;
        let shared = Arc::new(Shared::new(config));
        let (sender, commands) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let server = {
            let _inside = runtime.enter();
            Server::open(
                Arc::clone(&shared),
                certificates.clone(),
                server::bind(port)?,
            )?
        };
        let address = server.address;
        let thread = std::thread::Builder::new().name("fake-langfuse".into());
        let thread = thread.spawn(move || runtime.block_on(server.run(commands)))?;
        Ok(Self {
            handle: Handle {
                shared: Arc::clone(&shared),
                commands: sender,
            },
            shared,
            address,
            certificates,
            thread: Some(thread),
        })
    }

    /// The base URL for a client, base path included and without a slash at its end.
    pub fn url(&self) -> String {
        format!("{}{}", self.origin(), self.shared.base_path)
    }

    /// Scheme, address and port.
    pub fn origin(&self) -> String {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// Where it listens, also while a fault keeps it from listening.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The PEM file of the authority to trust, if it serves TLS. It goes with the fake.
    pub fn ca_file(&self) -> Option<&Path> {
        self.certificates.as_deref().map(Certificates::ca_file)
    }

    /// Opens the control endpoint (see the table in `control.rs`) on a free port of 127.0.0.1, and returns its URL.
    pub fn open_control(&self) -> io::Result<String> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let (done, finished) = std::sync::mpsc::sync_channel(1);
        let command = Command::Control {
            listener,
            handle: self.handle.clone(),
            done,
        };
        let _server_gone = self.handle.commands.send(command);
        let _server_gone = finished.recv();
        Ok(url)
    }

    /// Puts this rule in the place of all others. In force when this returns.
    pub fn set_fault(&self, rule: impl Into<FaultRule>) {
        self.change_faults(true, vec![rule.into()]);
    }

    /// Adds this rule behind the others: of several that match a request, the first is taken. In force when this returns.
    pub fn add_fault(&self, rule: impl Into<FaultRule>) {
        self.change_faults(false, vec![rule.into()]);
    }

    /// Back to health when this returns. Requests already hanging stay so until their client goes.
    pub fn clear_faults(&self) {
        self.change_faults(true, Vec::new());
    }

    /// Closes every connection, as a server or a load balancer that restarts. Done when this returns.
    pub fn close_connections(&self) {
        self.settle(true);
    }

    /// Replaces all projects, as in a rotation of keys.
    pub fn set_projects(&self, projects: Vec<Project>) {
        self.shared.lock().projects = projects;
    }

    /// Replaces all prompts.
    pub fn set_prompts(&self, prompts: Vec<Prompt>) {
        self.shared.lock().library.prompts = prompts;
    }

    /// See [`Config::max_request_bytes`].
    pub fn set_max_request_bytes(&self, max_request_bytes: usize) {
        self.shared.lock().max_request_bytes = max_request_bytes;
    }

    /// Looks at everything recorded at one moment. Requests wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Recording) -> T) -> T {
        look(&self.shared.lock().recording)
    }

    /// See [`Recording::requests`].
    pub fn requests(&self) -> Vec<Arc<RecordedRequest>> {
        self.read(|recording| recording.requests().to_vec())
    }

    /// See [`Recording::observations`].
    pub fn observations(&self) -> Vec<Arc<Observation>> {
        self.read(|recording| recording.observations().cloned().collect())
    }

    /// See [`Recording::refused_observations`].
    pub fn refused_observations(&self) -> Vec<Arc<Observation>> {
        self.read(|recording| recording.refused_observations().cloned().collect())
    }

    /// See [`Recording::lost_observations`].
    pub fn lost_observations(&self) -> Vec<Arc<Observation>> {
        self.read(|recording| recording.lost_observations().cloned().collect())
    }

    /// See [`Recording::events`].
    pub fn events(&self) -> Vec<Arc<Event>> {
        self.read(|recording| recording.events().cloned().collect())
    }

    /// See [`Recording::refused_events`].
    pub fn refused_events(&self) -> Vec<Arc<Event>> {
        self.read(|recording| recording.refused_events().cloned().collect())
    }

    /// See [`Recording::scores`].
    pub fn scores(&self) -> Vec<Arc<Event>> {
        self.read(|recording| recording.scores().cloned().collect())
    }

    /// See [`Recording::duplicates`].
    pub fn duplicates(&self) -> Duplicates {
        self.read(Recording::duplicates)
    }

    /// The media files that clients have announced.
    pub fn media(&self) -> Vec<Media> {
        self.shared.lock().library.media()
    }

    /// Forgets all requests, observations and events. Faults, prompts and media stay.
    pub fn clear_recordings(&self) {
        self.handle.forget();
    }

    /// Waits until `holds`, which is asked after each request, or until the time is up. Returns whether it held.
    /// Needs a tokio runtime with its timer.
    pub async fn wait_until(
        &self,
        timeout: Duration,
        holds: impl FnMut(&Recording) -> bool,
    ) -> bool {
        self.shared.wait_until(timeout, holds).await
    }

    /// The same for tests without a runtime: blocks the calling thread.
    pub fn block_until(&self, timeout: Duration, holds: impl FnMut(&Recording) -> bool) -> bool {
        self.shared.block_until(timeout, holds)
    }

    fn change_faults(&self, replace: bool, rules: Vec<FaultRule>) {
        let must_close = self.handle.change_faults(replace, rules);
        self.settle(must_close);
    }

    fn settle(&self, close_connections: bool) {
        let _server_gone = self.handle.reconcile(close_connections).recv();
    }
}

impl Drop for FakeLangfuse {
    fn drop(&mut self) {
        let _already_stopped = self.handle.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _already_stopped = thread.join();
        }
    }
}
