//! Langfuse as seen from here: its address, the client that reaches it, and the keys put into requests that have none.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use tokio::sync::watch;

use super::roots::{self, Trusted};

/// How long a connection, TLS included, may take to come about.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an unused connection is kept. Langfuse's own server closes after 110 s, balancers before it may be sooner.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Says which project a request is for, in the clear; Langfuse uses it for debugging.
pub const PUBLIC_KEY_HEADER: HeaderName = HeaderName::from_static("x-langfuse-public-key");

/// Is on every request that we send, with a value of this process alone: one that comes to us with it is our own, through
/// whatever name or proxy.
pub const HOP_HEADER: HeaderName = HeaderName::from_static("langfuse-extension-hop");

/// What a request to Langfuse says who it is from, unless it says so itself; some firewalls refuse those that do not.
const USER_AGENT: &str = concat!("langfuse-lambda-extension/", env!("CARGO_PKG_VERSION"));

/// A function that has no key of its own gives this as its public key (and anything as its secret one), because SDKs
/// switch themselves off without keys. It stands for the keys of the extension.
pub const PLACEHOLDER_PUBLIC_KEY: &str = "pk-lf-extension";

/// The extension's own keys, ready to be put into a request.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadyKeys {
    /// Not a secret.
    pub public: String,
    authorization: HeaderValue,
}

impl ReadyKeys {
    /// `authorization`: `Basic` and the encoded pair. Marked so that no log prints it.
    pub fn new(public: String, mut authorization: HeaderValue) -> Self {
        authorization.set_sensitive(true);
        Self {
            public,
            authorization,
        }
    }

    /// Puts them in, in place of whatever was there.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.authorization.clone());
        if let Ok(public) = HeaderValue::from_str(&self.public) {
            headers.insert(PUBLIC_KEY_HEADER, public);
        }
    }
}

impl std::fmt::Debug for ReadyKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadyKeys")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// Shared by the exporter and the pass-through.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Option<Url>,
    /// What [`HOP_HEADER`] says on our own requests.
    hop: HeaderValue,
    tls: Option<rustls::ClientConfig>,
    /// `None` if no client could be made.
    client: Mutex<Option<reqwest::Client>>,
    keys: watch::Sender<Option<ReadyKeys>>,
}

impl Upstream {
    /// Reaches `base` and nothing else, trusting the compiled-in roots and the certificates in `ca_file`. `None`: there
    /// is nothing to reach. What is wrong is logged and done without.
    pub fn open(base: Option<Url>, ca_file: Option<&Path>) -> Self {
        let tls = tls_config(ca_file)
            .inspect_err(
                |error| tracing::error!(%error, "TLS cannot be set up, so nothing can be shipped"),
            )
            .ok();
        let hop = own_hop();
        let client = tls.as_ref().and_then(|tls| new_client(tls, &hop));
        Self(Arc::new(Inner {
            base,
            hop,
            tls,
            client: Mutex::new(client),
            keys: watch::Sender::new(None),
        }))
    }

    /// The address of `path` (which begins with a slash) at Langfuse, under its base path.
    pub fn url(&self, path: &str) -> Option<Url> {
        let base = self.0.base.as_ref()?;
        let text = format!("{}{path}", base.as_str().trim_end_matches('/'));
        Url::parse(&text).ok()
    }

    /// Whether a request that came to us is one that we have sent.
    pub fn is_own(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(HOP_HEADER)
            .iter()
            .any(|it| *it == self.0.hop)
    }

    /// The client of the moment. Requests under way keep the one they have. `None` if none could be made.
    pub fn client(&self) -> Option<reqwest::Client> {
        self.0
            .client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A client of its own with the same TLS, for other servers than Langfuse.
    pub fn client_with(
        &self,
        settings: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Option<reqwest::Client> {
        build(self.0.tls.as_ref()?, settings)
    }

    /// Forgets all pooled connections; TLS sessions are kept, so that new ones resume them.
    pub fn reset_connections(&self) {
        if let Some(client) = self
            .0
            .tls
            .as_ref()
            .and_then(|tls| new_client(tls, &self.0.hop))
        {
            *self.0.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        }
    }

    /// The extension's own keys, once they are there.
    pub fn keys(&self) -> Option<ReadyKeys> {
        self.0.keys.borrow().clone()
    }

    /// The extension's own keys, as soon as they are there.
    pub async fn wait_for_keys(&self) -> ReadyKeys {
        let mut keys = self.0.keys.subscribe();
        loop {
            if let Some(keys) = keys.borrow_and_update().clone() {
                return keys;
            }
            // The sender lives as long as we do.
            let _ = keys.changed().await;
        }
    }

    /// Whether an `Authorization` header names the project of the extension's own keys without holding its secret: a
    /// public key is no secret, and the function may run with it and any dummy secret.
    pub fn stands_for_our_keys(&self, authorization: &str) -> bool {
        let Some(public) = public_key_of(authorization) else {
            return false;
        };
        let named = |keys: ReadyKeys| keys.public == public && keys.authorization != authorization;
        public == PLACEHOLDER_PUBLIC_KEY || self.keys().is_some_and(named)
    }

    /// Takes keys in. Returns whether they differ from those before.
    pub fn set_keys(&self, keys: ReadyKeys) -> bool {
        self.0.keys.send_if_modified(|held| {
            let changed = held.as_ref() != Some(&keys);
            *held = Some(keys);
            changed
        })
    }
}

/// The scheme is case-sensitive, because it is for Langfuse.
fn public_key_of(authorization: &str) -> Option<String> {
    let pair = BASE64_STANDARD
        .decode(authorization.strip_prefix("Basic ")?.trim())
        .ok()?;
    let pair = String::from_utf8(pair).ok()?;
    pair.split_once(':').map(|(public, _)| public.to_owned())
}

fn own_hop() -> HeaderValue {
    let id = uuid::Uuid::new_v4().simple().to_string();
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("1"))
}

fn new_client(tls: &rustls::ClientConfig, hop: &HeaderValue) -> Option<reqwest::Client> {
    let hop = HeaderMap::from_iter([(HOP_HEADER, hop.clone())]);
    build(tls, |builder| {
        builder
            .default_headers(hop)
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
    })
}

fn build(
    tls: &rustls::ClientConfig,
    settings: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Option<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .http1_only();
    settings(builder)
        .build()
        .inspect_err(|error| tracing::error!(%error, "cannot set up the HTTPS client"))
        .ok()
}

/// What is wrong with the file of certificates is said, and done without.
fn tls_config(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, rustls::Error> {
    let mut roots = roots::compiled_in();
    if let Some(path) = ca_file {
        let file = path.display();
        match roots::trust(&mut roots, path) {
            Ok(Trusted { unreadable: 0, .. }) => {}
            Ok(trusted) => {
                tracing::warn!(%file, ?trusted, "going on without the unreadable certificates of this file");
            }
            Err(error) => {
                tracing::error!(%file, %error, "going on with the compiled-in certificates");
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
