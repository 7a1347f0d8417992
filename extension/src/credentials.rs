//! The configured Langfuse keys: in the setting itself, in an SSM parameter or in a Secrets Manager secret.
//!
//! ```text
//! setting ─▶ Source::parse ─┬─ Value ─────────────────────────────┬─▶ checked ─▶ Keys
//!                           ├─ SsmParameter ── GetParameter ──────┤
//!                           └─ SecretsManager ─ GetSecretValue ───┘
//!              AwsEnvironment ─▶ credentials ─▶ signature ─┘
//! ```
//!
//! Two keys are fetched at once; two members of one secret cost one call. Each parameter is asked for with
//! `ssm:GetParameter` and never in one `GetParameters`, which would be another permission in the function's policy.
//! No call outlives the time it is given, no text that is printed holds a key, a credential or a body.

mod aws;
mod call;
mod container;
mod environment;
pub mod keyring;
mod partition;
mod reason;
mod refusal;
mod secret;
mod source;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use aws::Document;
use call::Caller;
use environment::Holder;

pub use environment::{AwsEnvironment, ContainerToken, CredentialSupply};
pub use reason::Reason;
pub use secret::Secret;
pub use source::{Source, SourceError};

/// The longest key, in bytes; Langfuse's own have 42.
const KEY_LENGTH_LIMIT_BYTES: usize = 1_024;

/// The pair that Langfuse knows a project by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Names the project; no secret.
    pub public: String,
    /// Proves it.
    pub secret: Secret,
    /// The keys that had white space around them, which was taken off: worth a line in the log, for the next reader may not trim.
    pub trimmed: Vec<KeyKind>,
}

impl Keys {
    /// `Basic base64(public:secret)`, marked sensitive so that no `Debug` prints it.
    pub fn basic_authorization(&self) -> HeaderValue {
        let pair = Zeroizing::new(format!("{}:{}", self.public, self.secret.expose()));
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        // Base64 is always a valid header value; should that ever fail, Langfuse answers 401 and nothing panics.
        let mut value =
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Basic"));
        value.set_sensitive(true);
        value
    }
}

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// `LANGFUSE_EXTENSION_PUBLIC_KEY`, or `LANGFUSE_PUBLIC_KEY`.
    Public,
    /// `LANGFUSE_EXTENSION_SECRET_KEY`, or `LANGFUSE_SECRET_KEY`.
    Secret,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Public => "public key",
            Self::Secret => "secret key",
        })
    }
}

/// Why there are no keys, and which of them it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {key} from {place}: {reason}")]
pub struct CredentialsError {
    /// The key that failed first.
    pub key: KeyKind,
    /// The parameter or secret, or "its own setting".
    pub place: String,
    /// What stood in the way, and how to mend it.
    pub reason: Reason,
}

impl CredentialsError {
    /// Whether trying again later may help without anyone mending anything.
    pub fn is_passing(&self) -> bool {
        self.reason.is_passing()
    }
}

/// What a client for these calls needs besides its TLS: a connection of its own for each call, since a freeze may lie between two;
/// and no redirects, which would carry the session token to wherever they point.
pub fn client_settings(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
}

/// Gets both keys. `http` is built with [`client_settings`] and sends plain http to no proxy.
///
/// Sources that are values cost no call and need nothing of `aws`.
///
/// # Errors
/// When a key cannot be had `within` the time, or what was found can be no Langfuse key.
pub async fn resolve(
    public: &Source,
    secret: &Source,
    aws: &AwsEnvironment,
    http: &reqwest::Client,
    within: Duration,
) -> Result<Keys, CredentialsError> {
    let (public_text, secret_text) = fetch_both(public, secret, aws, http, within).await?;
    let public_key = checked(KeyKind::Public, public, &public_text)?;
    let secret_key = checked(KeyKind::Secret, secret, &secret_text)?;
    let mut trimmed = Vec::new();
    for (kind, key) in [
        (KeyKind::Public, &public_key),
        (KeyKind::Secret, &secret_key),
    ] {
        if key.trimmed {
            trimmed.push(kind);
        }
    }
    Ok(Keys {
        public: public_key.text.expose().to_owned(),
        secret: secret_key.text,
        trimmed,
    })
}

async fn fetch_both(
    public: &Source,
    secret: &Source,
    aws: &AwsEnvironment,
    http: &reqwest::Client,
    within: Duration,
) -> Result<(Secret, Secret), CredentialsError> {
    let caller = Caller::new(http, within);
    let (public_document, secret_document) = (document(public), document(secret));
    let (kind, source) = match (public_document, secret_document) {
        (None, None) => (KeyKind::Secret, None),
        (Some(_), None) => (KeyKind::Public, Some(public)),
        (_, Some(_)) => (KeyKind::Secret, Some(secret)),
    };
    // Asked for once, and only if a call needs them.
    let credentials = match source {
        None => None,
        Some(source) => Some(
            container::credentials(aws, &caller)
                .await
                .map_err(|reason| error(kind, source, reason))?,
        ),
    };
    let fetch = async |kind, source: &Source, document| {
        let text = match (source, document, &credentials) {
            (Source::Value(text), ..) => Ok(text.clone()),
            (_, Some(document), Some(known)) => aws::fetch(document, aws, known, &caller).await,
            _ => Err(Reason::NoAwsCredentials),
        };
        text.map_err(|reason| error(kind, source, reason))
    };
    if public_document.is_some() && public_document == secret_document {
        let text = fetch(KeyKind::Secret, secret, secret_document).await?;
        return Ok((text.clone(), text));
    }
    tokio::try_join!(
        fetch(KeyKind::Public, public, public_document),
        fetch(KeyKind::Secret, secret, secret_document),
    )
}

fn document(source: &Source) -> Option<Document<'_>> {
    match source {
        Source::Value(_) => None,
        Source::SsmParameter {
            name_or_arn,
            region,
        } => Some(Document {
            holder: Holder::Ssm,
            id: name_or_arn,
            region: region.as_deref(),
        }),
        Source::SecretsManager { arn, region, .. } => Some(Document {
            holder: Holder::SecretsManager,
            id: arn,
            region: Some(region),
        }),
    }
}

struct Checked {
    text: Secret,
    trimmed: bool,
}

/// Takes the key out of what was fetched, and refuses what can be none.
fn checked(kind: KeyKind, source: &Source, fetched: &Secret) -> Result<Checked, CredentialsError> {
    let judged = match source {
        Source::SecretsManager {
            json_key: Some(json_key),
            ..
        } => member(fetched, json_key).and_then(|text| judge(kind, &text)),
        _ => judge(kind, fetched),
    };
    judged.map_err(|reason| error(kind, source, reason))
}

fn member(object: &Secret, json_key: &str) -> Result<Secret, Reason> {
    let members: HashMap<String, &RawValue> =
        serde_json::from_str(object.expose()).map_err(|_| Reason::NotJson)?;
    let raw = members.get(json_key).ok_or(Reason::JsonKeyMissing {
        json_key: json_key.to_owned(),
        members: members.len(),
    })?;
    serde_json::from_str(raw.get()).map_err(|_| Reason::JsonNotText {
        json_key: json_key.to_owned(),
    })
}

fn judge(kind: KeyKind, text: &Secret) -> Result<Checked, Reason> {
    let whole = text.expose();
    let key = whole.trim();
    let other_kind = match kind {
        KeyKind::Public => "sk-lf-",
        KeyKind::Secret => "pk-lf-",
    };
    if key.is_empty() {
        return Err(Reason::Empty);
    }
    if key.starts_with('{') && key.ends_with('}') {
        return Err(Reason::JsonWithoutKey);
    }
    if key.len() > KEY_LENGTH_LIMIT_BYTES {
        let limit = KEY_LENGTH_LIMIT_BYTES;
        return Err(Reason::TooLong { limit });
    }
    if key.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Reason::NotAKey);
    }
    if key.starts_with(other_kind) {
        return Err(Reason::OtherKind);
    }
    if kind == KeyKind::Public && key.contains(':') {
        return Err(Reason::ColonInPublicKey);
    }
    Ok(Checked {
        text: Secret::new(key),
        trimmed: key.len() < whole.len(),
    })
}

fn error(key: KeyKind, source: &Source, reason: Reason) -> CredentialsError {
    CredentialsError {
        key,
        place: source.place().to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(kind: KeyKind, text: &str) -> Result<(String, bool), Reason> {
        judge(kind, &Secret::new(text)).map(|key| (key.text.expose().to_owned(), key.trimmed))
    }

    #[test]
    fn the_authorization_is_basic_and_does_not_print() {
        let keys = Keys {
            public: "pk-lf-1".into(),
            secret: Secret::new("hidden"),
            trimmed: vec![],
        };
        let value = keys.basic_authorization();
        assert_eq!(value, "Basic cGstbGYtMTpoaWRkZW4=");
        let printed = format!("{keys:?} {value:?}");
        assert!(
            !printed.contains("hidden") && !printed.contains("cGst"),
            "{printed}"
        );
    }

    #[test]
    fn white_space_around_a_key_is_taken_off_and_told() {
        let plain = judged(KeyKind::Secret, "sk-lf-1");
        assert_eq!(plain, Ok(("sk-lf-1".to_owned(), false)));
        let trimmed = judged(KeyKind::Secret, " sk-lf-1\r\n");
        assert_eq!(trimmed, Ok(("sk-lf-1".to_owned(), true)));
    }

    #[test]
    fn what_can_be_no_key_is_refused() {
        let limit = KEY_LENGTH_LIMIT_BYTES;
        for (text, reason) in [
            ("", Reason::Empty),
            (" \n", Reason::Empty),
            (r#"{"sk":"sk-lf-1"}"#, Reason::JsonWithoutKey),
            ("sk-lf-1 sk-lf-2", Reason::NotAKey),
            ("sk-lf\0-1", Reason::NotAKey),
            ("pk-lf-1", Reason::OtherKind),
            (&"k".repeat(limit + 1), Reason::TooLong { limit }),
        ] {
            assert_eq!(judged(KeyKind::Secret, text), Err(reason), "{text:?}");
        }
        assert!(judged(KeyKind::Secret, &"k".repeat(limit)).is_ok());
        assert!(judged(KeyKind::Secret, "a:b").is_ok());
        assert_eq!(
            judged(KeyKind::Public, "a:b"),
            Err(Reason::ColonInPublicKey)
        );
        assert_eq!(judged(KeyKind::Public, "sk-lf-1"), Err(Reason::OtherKind));
    }

    #[test]
    fn a_member_of_a_json_secret_is_found_or_its_absence_explained() {
        let object = Secret::new(r#"{"a":"one","hidden-name":2}"#);
        let found = |key: &str| member(&object, key).map(|text| text.expose().to_owned());
        assert_eq!(found("a"), Ok("one".to_owned()));
        let missing = found("b").unwrap_err();
        assert!(!missing.to_string().contains("hidden"), "{missing}");
        assert_eq!(
            missing,
            Reason::JsonKeyMissing {
                json_key: "b".into(),
                members: 2
            }
        );
        let not_text = found("hidden-name").unwrap_err();
        assert!(matches!(not_text, Reason::JsonNotText { .. }), "{not_text}");
        let not_json = member(&Secret::new("sk-lf-hidden"), "a").unwrap_err();
        assert_eq!(not_json, Reason::NotJson);
    }

    #[tokio::test]
    async fn keys_that_are_values_need_nothing_of_aws() {
        let http = client_settings(reqwest::Client::builder().tls_backend_preconfigured(tls()))
            .build()
            .unwrap();
        let public = Source::parse("pk-lf-1").unwrap();
        let secret = Source::parse("sk-lf-1\n").unwrap();
        let aws = AwsEnvironment::default();
        let keys = resolve(&public, &secret, &aws, &http, Duration::ZERO).await;
        let keys = keys.unwrap();
        assert_eq!(
            (keys.public.as_str(), keys.secret.expose()),
            ("pk-lf-1", "sk-lf-1")
        );
        assert_eq!(keys.trimmed, [KeyKind::Secret]);
    }

    fn tls() -> rustls::ClientConfig {
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
    }
}
