//! Every setting, read once, through a trait so that tests pass a map and never touch the process environment.
//!
//! Reading never fails. A setting that makes no sense is replaced by its default and named in [`Config::problems`],
//! because an extension that exits over a typing error takes the customer's function with it.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use langfuse_extension_core::Settings;
use langfuse_extension_core::strategy::Strategy;
use reqwest::Url;

use crate::credentials::{AwsEnvironment, Source};
use crate::exporter::upstream::PLACEHOLDER_PUBLIC_KEY;

/// Where settings come from.
pub trait Environment {
    /// The value of a variable, if it is set and not empty.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of this process.
#[derive(Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }
}

impl<S: BuildHasher> Environment for HashMap<&str, &str, S> {
    fn get(&self, name: &str) -> Option<String> {
        HashMap::get(self, name)
            .map(|value| (*value).to_owned())
            .filter(|value| !value.is_empty())
    }
}

/// Where the function's app finds the extension unless told otherwise: the default of every OTLP/HTTP exporter.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4318);

/// Langfuse's EU cloud.
pub const DEFAULT_BASE_URL: &str = "https://cloud.langfuse.com";

/// By which of their own variables Langfuse's SDKs and LiteLLM find Langfuse.
pub(crate) const SDK_BASE_URLS: [&str; 4] = [
    "LANGFUSE_BASE_URL",
    "LANGFUSE_HOST",
    "LANGFUSE_BASEURL",
    "LANGFUSE_OTEL_HOST",
];

/// By which variables OTLP exporters find anything, Langfuse too.
pub(crate) const OTLP_BASE_URLS: [&str; 3] = [
    "TRACELOOP_BASE_URL",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Below Langfuse's base URL, what OTLP exporters are given.
pub(crate) const OTLP_PATH: &str = "/api/public/otel";

/// The largest default of the buffer; a small function gets a sixteenth of its memory.
pub const LARGEST_DEFAULT_BUFFER_BYTES: usize = 32 << 20;

/// The default of `LANGFUSE_EXTENSION_SPOOL_BYTES`.
pub const DEFAULT_SPOOL_BYTES: u64 = 64 << 20;

/// The default of `LANGFUSE_EXTENSION_SPOOL_DIR`.
pub const DEFAULT_SPOOL_DIR: &str = "/tmp/langfuse-extension";

/// Which requests other than spans and scores travel on to Langfuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passthrough {
    /// With the extension's own keys, what Langfuse's SDKs ask for at run time; with the client's, everything.
    Sdk,
    /// Everything under `/api/public/`.
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
pub struct Config {
    /// Where Lambda's API is: `host:port`.
    pub runtime_api: Option<String>,
    /// Where clients are listened to: always a loopback address.
    pub listen: SocketAddr,
    /// The same port of the other loopback address, for clients that resolve `localhost` to `::1`; where there is one.
    pub also_listen: Option<SocketAddr>,
    /// Langfuse, with its base path. `None` if what was given is no address: then nothing can be shipped.
    pub upstream: Option<Url>,
    /// The extension's own keys.
    pub keys: Option<KeySources>,
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
    /// Whether prompts are kept in memory.
    pub prompt_cache: bool,
    /// Certificates of a self-hosted Langfuse, in PEM, trusted beside the compiled-in roots.
    pub ca_file: Option<PathBuf>,
    /// What is logged.
    pub log_level: tracing::Level,
    /// Settings that made no sense, each with what to write instead.
    pub problems: Vec<String>,
}

impl Config {
    /// Reads every setting. Nothing is resolved or opened yet.
    pub fn read(environment: &impl Environment) -> Self {
        let mut reader = Reader {
            environment,
            problems: Vec::new(),
        };
        let spool_bytes = reader.number("SPOOL_BYTES", DEFAULT_SPOOL_BYTES);
        let (listen, also_listen) = reader.listen();
        Self {
            runtime_api: environment.get("AWS_LAMBDA_RUNTIME_API"),
            listen,
            also_listen,
            upstream: reader.upstream(listen),
            keys: reader.keys(),
            aws: AwsEnvironment::read(|name| environment.get(name)),
            function_bytes: reader.function_bytes(),
            core: reader.core(spool_bytes > 0),
            spool_dir: reader
                .get("SPOOL_DIR")
                .unwrap_or_else(|| DEFAULT_SPOOL_DIR.into())
                .into(),
            spool_bytes,
            passthrough: reader.passthrough(),
            accept: reader.accept(),
            prompt_cache: reader.switch("PROMPT_CACHE", true),
            ca_file: reader
                .get("CA_FILE")
                .or_else(|| environment.get("SSL_CERT_FILE"))
                .map(PathBuf::from),
            log_level: reader.log_level(),
            problems: reader.problems,
        }
    }
}

struct Reader<'a, E> {
    environment: &'a E,
    problems: Vec<String>,
}

impl<E: Environment> Reader<'_, E> {
    fn get(&self, name: &str) -> Option<String> {
        self.environment.get(&format!("LANGFUSE_EXTENSION_{name}"))
    }

    fn problem(&mut self, name: &str, value: &str, instead: &str) {
        self.problems.push(format!(
            "LANGFUSE_EXTENSION_{name}={value:?} is not used: {instead}"
        ));
    }

    fn number<T: FromStr + Copy + std::fmt::Display>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.get(name) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.problem(
                name,
                &text,
                &format!("it must be a whole number; {default} stands in for it"),
            );
            default
        })
    }

    fn millis(&mut self, name: &str, default: Duration) -> Duration {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.number(name, default))
    }

    fn switch(&mut self, name: &str, default: bool) -> bool {
        match self.get(name).map(|text| (parse_bool(&text), text)) {
            None => default,
            Some((Some(value), _)) => value,
            Some((None, text)) => {
                self.problem(
                    name,
                    &text,
                    &format!("it must be true or false; {default} stands in for it"),
                );
                default
            }
        }
    }

    /// An address that names neither family stands for both.
    fn listen(&mut self) -> (SocketAddr, Option<SocketAddr>) {
        let Some(text) = self.get("LISTEN") else {
            return both(DEFAULT_LISTEN);
        };
        if let Some(port) = text
            .strip_prefix("localhost:")
            .and_then(|port| port.parse().ok())
        {
            return both(SocketAddr::new(DEFAULT_LISTEN.ip(), port));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => (address, None),
            _ => {
                let instead = "it must be a loopback address and a port, such as 127.0.0.1:4318, which stands in for it";
                self.problem("LISTEN", &text, instead);
                both(DEFAULT_LISTEN)
            }
        }
    }

    fn upstream(&mut self, listen: SocketAddr) -> Option<Url> {
        let (name, text) = match self.get("BASE_URL") {
            Some(text) => ("LANGFUSE_EXTENSION_BASE_URL", text),
            None => self.sdk_base_url(listen),
        };
        match Url::parse(&text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
            _ => {
                self.problems.push(format!(
                    "{name}={text:?} is no address of Langfuse, so nothing can be shipped: \
                     it must begin with https://, as in {DEFAULT_BASE_URL}"
                ));
                None
            }
        }
    }

    /// The clients' own settings name Langfuse, unless they name the extension.
    fn sdk_base_url(&self, listen: SocketAddr) -> (&'static str, String) {
        let named = SDK_BASE_URLS
            .into_iter()
            .filter_map(|name| Some((name, self.environment.get(name)?)));
        let exporters = OTLP_BASE_URLS.into_iter().filter_map(|name| {
            let url = self.environment.get(name)?;
            Some((name, langfuse_of_otlp(&url)?.to_owned()))
        });
        named
            .chain(exporters)
            .filter(|(_, text)| !names_listener(text, listen))
            .chain([("the default", DEFAULT_BASE_URL.to_owned())])
            .next()
            .unwrap_or_default()
    }

    /// The app's own keys serve for requests that bring none, unless they are placeholders for the extension's.
    fn keys(&mut self) -> Option<KeySources> {
        let app_has_own =
            self.environment.get("LANGFUSE_PUBLIC_KEY").as_deref() != Some(PLACEHOLDER_PUBLIC_KEY);
        let setting = |name: &str| {
            let of_app = || {
                self.environment
                    .get(&format!("LANGFUSE_{name}"))
                    .filter(|_| app_has_own)
            };
            self.get(name).or_else(of_app)
        };
        match (setting("PUBLIC_KEY"), setting("SECRET_KEY")) {
            (Some(public), Some(secret)) => {
                let public = self.source("PUBLIC_KEY", &public);
                let secret = self.source("SECRET_KEY", &secret);
                Some(KeySources {
                    public: public?,
                    secret: secret?,
                })
            }
            (None, None) => None,
            _ => {
                let problem = "one of LANGFUSE_EXTENSION_PUBLIC_KEY and LANGFUSE_EXTENSION_SECRET_KEY is missing, so \
                               the extension has no keys: set both";
                self.problems.push(problem.into());
                None
            }
        }
    }

    fn source(&mut self, name: &str, text: &str) -> Option<Source> {
        let source = Source::parse(text);
        source
            .map_err(|error| {
                self.problems
                    .push(format!("LANGFUSE_EXTENSION_{name} {error}"));
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
        let default = Settings::default();
        Settings {
            enabled: self.enabled(),
            strategy: self.strategy(),
            flush_budget: self.millis("FLUSH_BUDGET_MS", default.flush_budget),
            max_data_age: self.millis("MAX_DATA_AGE_MS", default.max_data_age),
            buffer_bytes: self.number(
                "BUFFER_BYTES",
                LARGEST_DEFAULT_BUFFER_BYTES.min(self.function_bytes() / 16),
            ),
            resend_ambiguous: self.switch("RESEND_AMBIGUOUS", default.resend_ambiguous),
            spool,
            ..default
        }
    }

    /// Langfuse's own switch. Only `false` is off for the Python SDK; whoever writes `0` means it too.
    fn enabled(&self) -> bool {
        let text = self.environment.get("LANGFUSE_TRACING_ENABLED");
        text.and_then(|text| parse_bool(&text)).unwrap_or(true)
    }

    fn strategy(&mut self) -> Strategy {
        match self.get("FLUSH").as_deref() {
            None | Some("adaptive") => Strategy::Adaptive,
            Some("end") => Strategy::End,
            Some("background") => Strategy::Background,
            Some(other) => {
                self.problem(
                    "FLUSH",
                    other,
                    "it must be adaptive, end or background; adaptive stands in for it",
                );
                Strategy::Adaptive
            }
        }
    }

    fn passthrough(&mut self) -> Passthrough {
        match self.get("PASSTHROUGH").as_deref() {
            None | Some("sdk") => Passthrough::Sdk,
            Some("all") => Passthrough::All,
            Some("off") => Passthrough::Off,
            Some(other) => {
                self.problem(
                    "PASSTHROUGH",
                    other,
                    "it must be sdk, all or off; sdk stands in for it",
                );
                Passthrough::Sdk
            }
        }
    }

    fn accept(&mut self) -> Accept {
        match self.get("ACCEPT").as_deref() {
            None | Some("all") => Accept::All,
            Some("langfuse") => Accept::Langfuse,
            Some(other) => {
                let instead = "it must be all or langfuse; all stands in for it";
                self.problem("ACCEPT", other, instead);
                Accept::All
            }
        }
    }

    fn log_level(&mut self) -> tracing::Level {
        let Some(text) = self.get("LOG_LEVEL") else {
            return tracing::Level::INFO;
        };
        text.parse().unwrap_or_else(|_| {
            self.problem(
                "LOG_LEVEL",
                &text,
                "it must be error, warn, info, debug or trace; info stands in for it",
            );
            tracing::Level::INFO
        })
    }
}

fn both(address: SocketAddr) -> (SocketAddr, Option<SocketAddr>) {
    let other = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), address.port());
    (address, Some(other).filter(|other| other.port() != 0))
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Whether this address is the extension's own: then it says where the app finds it, and not where Langfuse is.
pub(crate) fn names_listener(url: &str, listen: SocketAddr) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    is_loopback && url.port_or_known_default() == Some(listen.port())
}

/// Langfuse's base URL, if an OTLP exporter's address is one of Langfuse's.
/// <https://langfuse.com/integrations/native/opentelemetry>
pub(crate) fn langfuse_of_otlp(url: &str) -> Option<&str> {
    url.find(OTLP_PATH).map(|at| &url[..at])
}

#[cfg(test)]
mod tests;
