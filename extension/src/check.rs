//! `langfuse-extension check`: is everything set so that data will arrive? Reads the same settings as the extension,
//! gets the keys from where it would, looks at its port, its spool and its file of certificates, asks Langfuse for the
//! project that the keys belong to, and sends it one empty export.

mod place;

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Collected, Limited};
use serde::Deserialize;

use crate::credentials::keyring::{RESOLVE_TIMEOUT, aws_client};
use crate::credentials::{self, Source};
use crate::egress::{Rules, Stage};
use crate::exporter::upstream::{ReadyKeys, Upstream};
use crate::payload::Kind;
use crate::settings::{self, Config, Environment, without_userinfo};

/// How long Langfuse's answer is waited for.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The most of an answer that is looked at.
const ANSWER_LIMIT_BYTES: usize = 64 << 10;

/// What was found, in plain words. `true`: data would arrive.
pub async fn check(environment: &impl Environment) -> (String, bool) {
    let mut findings = Findings::default();
    let mut config = Config::read(environment);
    for (name, value) in settings::shown(environment) {
        findings.note(&format!("{name}={value}"));
    }
    for problem in &config.problems {
        findings.wrong(&problem.to_string());
    }
    if !config.core.enabled {
        findings.note(
            "LANGFUSE_TRACING_ENABLED is false: everything is acknowledged and nothing is shipped.",
        );
    }
    place::look_at_port(&config, &mut findings);
    place::look_at_spool(&config, &mut findings);
    place::look_at_certificates(&config, &mut findings);
    show_sample(std::mem::take(&mut config.egress), &mut findings);
    let upstream = Upstream::open(config.upstream.clone(), config.ca_file.as_deref());
    if let Some(base) = &config.upstream {
        findings.note(&format!("Langfuse is at {base}"));
        if let Some(proxy) = environment
            .get("HTTPS_PROXY")
            .or_else(|| environment.get("https_proxy"))
        {
            findings.note(&format!(
                "and is reached through the proxy in HTTPS_PROXY ({})",
                without_userinfo(&proxy)
            ));
        }
        if let Some(keys) = get_keys(&config, &upstream, &mut findings).await {
            upstream.set_keys(keys);
            if ask_for_project(&upstream, &mut findings).await {
                send_nothing(&upstream, &mut findings).await;
            }
        }
    }
    findings.end()
}

/// A span of a made-up application that holds one of everything.
const SAMPLE_SPAN: &str = r#"{"resourceSpans":[{"resource":{"attributes":[]},"scopeSpans":[{"scope":{"name":"langfuse-sdk"},"spans":[{"traceId":"0af7651916cd43dd0000000000000000","spanId":"b7ad6b7169203331","name":"answer anna@example.org","attributes":[{"key":"langfuse.observation.input","value":{"stringValue":"{\"card\": \"4111 1111 1111 1111\", \"iban\": \"DE89370400440532013000\", \"phone\": \"+49 171 1234567\", \"password\": \"hunter2\"}"}}]}]}]}]}"#;

/// Shows what the rules make of the sample.
fn show_sample(rules: Rules, findings: &mut Findings) {
    if rules.are_off() {
        return;
    }
    let left = Stage::new(rules).pass(Kind::OtlpJson, SAMPLE_SPAN.as_bytes(), Duration::ZERO);
    let body = left.body.unwrap_or_else(|| SAMPLE_SPAN.into());
    findings.note(&format!("This span:\n  {SAMPLE_SPAN}"));
    findings.note(&format!(
        "would leave as:\n  {}",
        String::from_utf8_lossy(&body)
    ));
}

async fn get_keys(
    config: &Config,
    upstream: &Upstream,
    findings: &mut Findings,
) -> Option<ReadyKeys> {
    let Some(sources) = &config.keys else {
        if config.has_problem_with_keys() {
            return None;
        }
        if config.app_has_placeholder {
            findings.wrong(
                "The app runs with the placeholder pk-lf-extension, which stands for the extension's own keys, and the \
                 extension has none: set LANGFUSE_EXTENSION_PUBLIC_KEY and LANGFUSE_EXTENSION_SECRET_KEY.",
            );
            return None;
        }
        findings.wrong(
            "The extension has no keys of its own, so there is nothing to check Langfuse with; requests must bring \
             theirs. To give it keys, set LANGFUSE_EXTENSION_PUBLIC_KEY and LANGFUSE_EXTENSION_SECRET_KEY.",
        );
        return None;
    };
    findings.note(&format!(
        "The public key comes from {}, the secret key from {}",
        place(&sources.public),
        place(&sources.secret)
    ));
    let client = aws_client(upstream)?;
    match credentials::resolve(
        &sources.public,
        &sources.secret,
        &config.aws,
        &client,
        RESOLVE_TIMEOUT,
    )
    .await
    {
        Ok(keys) => {
            let authorization = keys.basic_authorization();
            Some(ReadyKeys::new(keys.public, authorization))
        }
        Err(error) => {
            findings.wrong(&error.to_string());
            None
        }
    }
}

fn place(source: &Source) -> String {
    match source {
        Source::Value(_) => "the setting itself".into(),
        Source::SsmParameter { name_or_arn, .. } => format!("the SSM parameter {name_or_arn}"),
        Source::SecretsManager { arn, .. } => format!("the secret {arn}"),
    }
}

/// Whether these are keys of a project.
async fn ask_for_project(upstream: &Upstream, findings: &mut Findings) -> bool {
    let answer = ask(upstream, Method::GET, "/api/public/projects", "").await;
    let public = upstream.keys().map(|keys| keys.public).unwrap_or_default();
    match answer {
        Ok((status, body)) => findings.judge(status, &body, &public),
        Err(why) => {
            findings.wrong(&why);
            false
        }
    }
}

/// An export without spans: Langfuse authenticates it, and answers before it stores anything.
async fn send_nothing(upstream: &Upstream, findings: &mut Findings) {
    let path = "/api/public/otel/v1/traces";
    match ask(upstream, Method::POST, path, r#"{"resourceSpans":[]}"#).await {
        Ok((StatusCode::OK, body)) if body.starts_with(b"{") => findings.good(
            "Langfuse takes an export without spans. Whether it can store one with spans shows only when one is sent: \
             it answers an empty one before it touches its object store and its queue.",
        ),
        Ok((status, _)) if status.is_success() => findings.wrong(&format!(
            "An export without spans was answered {status} with something else than Langfuse's own answer: does \
             LANGFUSE_EXTENSION_BASE_URL name Langfuse itself, and not a page or a proxy before it?"
        )),
        Ok((status, _)) => findings.wrong(&format!(
            "Langfuse knows the keys and answers an export without spans with {status}, so spans would not be taken."
        )),
        Err(why) => findings.wrong(&why),
    }
}

/// The answer to one request with the extension's keys, or in words why there is none.
async fn ask(
    upstream: &Upstream,
    method: Method,
    path: &str,
    body: &'static str,
) -> Result<(StatusCode, Bytes), String> {
    let (Some(client), Some(url), Some(keys)) =
        (upstream.client(), upstream.url(path), upstream.keys())
    else {
        return Err("The HTTPS client could not be set up.".into());
    };
    let mut headers = http::HeaderMap::new();
    keys.insert_into(&mut headers);
    if !body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let request = client.request(method, url).headers(headers).body(body);
    let answer = tokio::time::timeout(CHECK_TIMEOUT, async {
        let response = request.send().await?;
        let status = response.status();
        let body = Limited::new(reqwest::Body::from(response), ANSWER_LIMIT_BYTES).collect();
        Ok((
            status,
            body.await.map(Collected::to_bytes).unwrap_or_default(),
        ))
    });
    match answer.await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(explain(error)),
        Err(_) => Err(NO_ANSWER.into()),
    }
}

const NO_ANSWER: &str = "Langfuse did not answer in time. A function in a VPC needs a NAT gateway or a private endpoint \
                         to reach it, and its security group must let HTTPS out.";

fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let chain = crate::exporter::langfuse::chain(&error).to_ascii_lowercase();
    if error.is_timeout() {
        NO_ANSWER.into()
    } else if chain.contains("certificate") || chain.contains("tls") || chain.contains("handshake")
    {
        format!(
            "The TLS connection to Langfuse failed: {chain}. For a certificate of your own authority, name its PEM \
             file in LANGFUSE_EXTENSION_CA_FILE."
        )
    } else if chain.contains("dns") || chain.contains("lookup") || chain.contains("resolve") {
        format!(
            "The host name of Langfuse is not known here: {chain}. Is LANGFUSE_EXTENSION_BASE_URL spelled right?"
        )
    } else {
        format!(
            "Langfuse cannot be reached: {chain}. Is LANGFUSE_EXTENSION_BASE_URL right, and any proxy in HTTPS_PROXY?"
        )
    }
}

#[derive(Default)]
struct Findings {
    text: String,
    wrong: bool,
}

impl Findings {
    fn note(&mut self, line: &str) {
        let _ = writeln!(self.text, "     {line}");
    }

    fn wrong(&mut self, line: &str) {
        let _ = writeln!(self.text, "BAD  {line}");
        self.wrong = true;
    }

    fn good(&mut self, line: &str) {
        let _ = writeln!(self.text, "OK   {line}");
    }

    fn judge(&mut self, status: StatusCode, body: &[u8], public_key: &str) -> bool {
        #[derive(Deserialize)]
        struct Projects {
            data: Vec<Project>,
        }
        #[derive(Deserialize)]
        struct Project {
            name: String,
        }
        match (status.as_u16(), serde_json::from_slice::<Projects>(body)) {
            (200, Ok(Projects { data })) if !data.is_empty() => {
                let names: Vec<_> = data.into_iter().map(|project| project.name).collect();
                self.good(&format!("{public_key} belongs to the project {}", names.join(", ")));
                return true;
            }
            (401, _) => self.wrong(&format!(
                "Langfuse does not know these keys ({public_key} and its secret). Is the secret key of the same pair? \
                 Keys belong to one region: EU https://cloud.langfuse.com, US https://us.cloud.langfuse.com, \
                 JP https://jp.cloud.langfuse.com, HIPAA https://hipaa.cloud.langfuse.com; \
                 set LANGFUSE_EXTENSION_BASE_URL to the right one."
            )),
            (403, _) => self.wrong(
                "Langfuse knows these keys and refuses them: an organisation's key instead of a project's, or a plan \
                 whose limit is reached.",
            ),
            (407, _) => self.wrong("The proxy in HTTPS_PROXY wants credentials."),
            (status, _) => self.wrong(&format!(
                "The answer ({status}) is not Langfuse's: does LANGFUSE_EXTENSION_BASE_URL name Langfuse itself, with \
                 its base path and without /api/public?"
            )),
        }
        false
    }

    fn end(self) -> (String, bool) {
        (self.text, !self.wrong)
    }
}
