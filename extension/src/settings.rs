//! Every setting, read once, through a trait so that tests pass a map and never touch the process environment.
//!
//! What there is to set stands in one [`table`]. Reading never fails: a setting that makes no sense is replaced by its
//! default and named in [`Config::problems`], because an extension that exits over a typing error takes the customer's
//! function with it.

mod address;
mod egress;
mod names;
mod reader;
pub mod table;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use langfuse_extension_core::Settings;
use langfuse_extension_core::strategy::Strategy;
use reqwest::Url;

use crate::credentials::{AwsEnvironment, Source};
use crate::egress::Rules;
use crate::exporter::upstream::PLACEHOLDER_PUBLIC_KEY;
use address::Address;
use reader::Reader;
use table::Setting;

#[cfg(test)]
pub(crate) use address::SDK_BASE_URLS;
pub use address::{DEFAULT_BASE_URL, NoAddress, without_userinfo};
pub(crate) use address::{OTLP_BASE_URLS, OTLP_PATH, langfuse_of_otlp, names_listener};
pub use reader::{Problem, shown};

/// Where settings come from.
pub trait Environment {
    /// The value of a variable, if it is set and not empty.
    fn get(&self, name: &str) -> Option<String>;

    /// The names of all variables.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn names(&self) -> Vec<String> {
        let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        names.collect()
    }
}

impl<S: BuildHasher> Environment for HashMap<&str, &str, S> {
    fn get(&self, name: &str) -> Option<String> {
        HashMap::get(self, name)
            .map(|value| (*value).to_owned())
            .filter(|value| !value.is_empty())
    }

    fn names(&self) -> Vec<String> {
        self.keys().map(|name| (*name).to_owned()).collect()
    }
}

/// Where the function's app finds the extension unless told otherwise: the default of every OTLP/HTTP exporter.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4318);

/// The largest default of the buffer; a small function gets a sixteenth of its memory.
pub const LARGEST_DEFAULT_BUFFER_BYTES: usize = 32 << 20;

/// Which requests other than spans and scores travel on to Langfuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passthrough {
    /// With the extension's own keys, what Langfuse's SDKs ask for at run time; with the client's, everything.
    Sdk,
    /// And with the extension's what experiments and deployments need: prompts and datasets may be written.
    Write,
    /// Everything under `/api/public/`, with any keys.
    All,
    /// Nothing.
    Off,
}

/// Whose spans are shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Those of every client.
    All,
    /// Those of clients that were set up for Langfuse: a header says so, or the path does. The port is the default of
    /// every OTLP exporter, so SDKs that were never told of Langfuse find it too.
    Langfuse,
}

/// How what comes to `/api/public/scores` is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// As `score-create` events, many in one request to `/api/public/ingestion`.
    Merge,
    /// Each request as it came, to the same endpoint.
    Verbatim,
}

/// The keys of a project, or where to find them.
#[derive(Clone, Debug)]
pub struct KeySources {
    /// `LANGFUSE_EXTENSION_PUBLIC_KEY`.
    pub public: Source,
    /// `LANGFUSE_EXTENSION_SECRET_KEY`.
    pub secret: Source,
}

/// Everything the process is configured with.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting that somebody turns on or off"
)]
pub struct Config {
    /// Where Lambda's API is: `host:port`.
    pub runtime_api: Option<String>,
    /// Where clients are listened to: always a loopback address.
    pub listen: SocketAddr,
    /// The same port of the other loopback address, for clients that resolve `localhost` to `::1`; where there is one.
    pub also_listen: Option<SocketAddr>,
    /// Langfuse, with its base path. `None` if nothing says where it is: then everything is held.
    pub upstream: Option<Url>,
    /// Nothing was said about where Langfuse is, so [`DEFAULT_BASE_URL`] stands in.
    pub upstream_is_default: bool,
    /// The extension's own keys.
    pub keys: Option<KeySources>,
    /// The app has no keys of its own, and says so with a placeholder.
    pub app_has_placeholder: bool,
    /// How to reach AWS for keys that are kept there.
    pub aws: AwsEnvironment,
    /// The function's memory, in bytes; without a function, as much as there is.
    pub function_bytes: usize,
    /// What the core decides by.
    pub core: Settings,
    /// Where the spool lies.
    pub spool_dir: PathBuf,
    /// What it may hold; zero if there is none.
    pub spool_bytes: u64,
    /// What passes through.
    pub passthrough: Passthrough,
    /// Whose spans are shipped.
    pub accept: Accept,
    /// How scores are sent.
    pub scores: Scores,
    /// Further headers that travel with data and keep it apart.
    pub route_headers: Vec<HeaderName>,
    /// Whether prompts are kept in memory.
    pub prompt_cache: bool,
    /// Certificates of a self-hosted Langfuse, in PEM, trusted beside the compiled-in roots.
    pub ca_file: Option<PathBuf>,
    /// Between SIGTERM and the end, where this process is no Lambda extension.
    pub shutdown: Duration,
    /// What may leave, and what is added.
    pub egress: Rules,
    /// Whether bodies that nobody masks pass through all the same.
    pub mask_passthrough: bool,
    /// What is logged.
    pub log_level: tracing::Level,
    /// Settings that made no sense, each with what to write instead.
    pub problems: Vec<Problem>,
}

impl Config {
    /// Reads every setting. Nothing is resolved or opened yet.
    pub fn read(environment: &impl Environment) -> Self {
        let mut reader = Reader {
            environment,
            problems: Vec::new(),
        };
        for unknown in names::unknown(environment.names()) {
            let name = unknown.split(' ').next().unwrap_or_default().to_owned();
            reader.problems.push(Problem::new(name, unknown));
        }
        let spool_bytes = reader.number(&table::SPOOL_BYTES, default_number(&table::SPOOL_BYTES));
        let (listen, also_listen) = reader.listen(&table::LISTEN);
        let (upstream, upstream_is_default) = reader.upstream(listen);
        Self {
            runtime_api: environment.get("AWS_LAMBDA_RUNTIME_API"),
            listen,
            also_listen,
            upstream,
            upstream_is_default,
            keys: reader.keys(),
            app_has_placeholder: environment.get("LANGFUSE_PUBLIC_KEY").as_deref()
                == Some(PLACEHOLDER_PUBLIC_KEY),
            aws: AwsEnvironment::read(|name| environment.get(name)),
            function_bytes: reader.function_bytes(),
            core: reader.core(spool_bytes > 0),
            spool_dir: reader
                .path(&table::SPOOL_DIR)
                .unwrap_or_else(|| table::SPOOL_DIR.default_value().into()),
            spool_bytes,
            passthrough: match reader.choice(&table::PASSTHROUGH) {
                "write" => Passthrough::Write,
                "all" => Passthrough::All,
                "off" => Passthrough::Off,
                _ => Passthrough::Sdk,
            },
            accept: match reader.choice(&table::ACCEPT) {
                "langfuse" => Accept::Langfuse,
                _ => Accept::All,
            },
            scores: match reader.choice(&table::SCORES) {
                "verbatim" => Scores::Verbatim,
                _ => Scores::Merge,
            },
            route_headers: reader.header_names(&table::ROUTE_HEADERS),
            prompt_cache: reader.switch(&table::PROMPT_CACHE),
            ca_file: reader
                .path(&table::CA_FILE)
                .or_else(|| environment.get("SSL_CERT_FILE").map(PathBuf::from)),
            shutdown: reader.millis(&table::SHUTDOWN_MS),
            egress: reader.egress(),
            mask_passthrough: reader.choice(&table::MASK_PASSTHROUGH) == "allow",
            log_level: reader
                .choice(&table::LOG_LEVEL)
                .parse()
                .unwrap_or(tracing::Level::INFO),
            problems: reader.problems,
        }
    }

    /// Whether any problem is about one of the keys.
    pub fn has_problem_with_keys(&self) -> bool {
        let about_keys = |problem: &Problem| problem.name.ends_with("_KEY");
        self.problems.iter().any(about_keys)
    }
}

fn default_number(setting: &Setting) -> u64 {
    setting.default_value().parse().unwrap_or_default()
}

impl<E: Environment> Reader<'_, E> {
    fn upstream(&mut self, listen: SocketAddr) -> (Option<Url>, bool) {
        let own = self.get(&table::BASE_URL);
        let own = own.map(|text| (table::BASE_URL.name, text));
        match address::find(own, &address::of_clients(self.environment), listen) {
            Address::Known(url) => (Some(url), false),
            Address::Default(url) => (Some(url), true),
            Address::Unknown(why) => {
                self.problems.push(Problem::new(table::BASE_URL.name, why));
                (None, false)
            }
        }
    }

    /// The app's own keys serve for requests that bring none, unless they are placeholders for the extension's.
    fn keys(&mut self) -> Option<KeySources> {
        let of_app = self.environment.get("LANGFUSE_PUBLIC_KEY");
        let app_has_own = of_app.as_deref() != Some(PLACEHOLDER_PUBLIC_KEY);
        let key = |setting: &'static Setting, of_app: &'static str| {
            let own = self.get(setting).map(|text| (setting.name, text));
            own.or_else(|| {
                let text = self.environment.get(of_app).filter(|_| app_has_own)?;
                Some((of_app, text))
            })
        };
        let public = key(&table::PUBLIC_KEY, "LANGFUSE_PUBLIC_KEY");
        let secret = key(&table::SECRET_KEY, "LANGFUSE_SECRET_KEY");
        match (public, secret) {
            (Some(public), Some(secret)) => {
                let public = self.source(&public);
                let secret = self.source(&secret);
                Some(KeySources {
                    public: public?,
                    secret: secret?,
                })
            }
            (None, None) => None,
            (public, _) => {
                let missing = match public {
                    Some(_) => table::SECRET_KEY.name,
                    None => table::PUBLIC_KEY.name,
                };
                let text = format!(
                    "{missing} is missing beside the other key, so the extension has no keys: set both"
                );
                self.problems.push(Problem::new(missing, text));
                None
            }
        }
    }

    fn source(&mut self, (name, text): &(&'static str, String)) -> Option<Source> {
        let source = Source::parse(text);
        source
            .map_err(|error| {
                self.problems
                    .push(Problem::new(*name, format!("{name} {error}")));
            })
            .ok()
    }

    /// Lambda says it in megabytes.
    fn function_bytes(&self) -> usize {
        let text = self.environment.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE");
        let megabytes: Option<usize> = text.and_then(|text| text.parse().ok());
        megabytes.map_or(usize::MAX, |megabytes| megabytes.saturating_mul(1 << 20))
    }

    fn core(&mut self, spool: bool) -> Settings {
        let buffer_bytes = LARGEST_DEFAULT_BUFFER_BYTES.min(self.function_bytes() / 16);
        let buffer_bytes = self.number(&table::BUFFER_BYTES, buffer_bytes as u64);
        Settings {
            enabled: self.switch(&table::TRACING_ENABLED),
            strategy: match self.choice(&table::FLUSH) {
                "end" => Strategy::End,
                "background" => Strategy::Background,
                _ => Strategy::Adaptive,
            },
            flush_budget: self.millis(&table::FLUSH_BUDGET_MS),
            max_data_age: self.millis(&table::MAX_DATA_AGE_MS),
            buffer_bytes: usize::try_from(buffer_bytes).unwrap_or(usize::MAX),
            resend_ambiguous: self.switch(&table::RESEND_AMBIGUOUS),
            spool,
            snapshot: self.environment.get(INITIALIZATION_TYPE).as_deref() == Some("snap-start"),
            ..Settings::default()
        }
    }
}

/// How Lambda starts the sandbox.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime>
const INITIALIZATION_TYPE: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";

#[cfg(test)]
mod tests;
