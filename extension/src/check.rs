//! `langfuse-extension check`: is everything set so that data will arrive? Reads the same settings as the extension,
//! gets the keys from where it would, asks Langfuse for the project they belong to, and sends nothing else.

use std::fmt::Write as _;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use crate::credentials::keyring::{RESOLVE_TIMEOUT, aws_client};
use crate::credentials::{self, Source};
use crate::exporter::upstream::{ReadyKeys, Upstream};
use crate::settings::{self, Config, Environment, without_userinfo};

/// How long Langfuse's answer is waited for.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The most of an answer that is looked at.
const ANSWER_LIMIT_BYTES: usize = 64 << 10;

/// What was found, in plain words. `true`: data would arrive.
pub async fn check(environment: &impl Environment) -> (String, bool) {
    let mut findings = Findings::default();
    let config = Config::read(environment);
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
            ask_for_project(&upstream, &mut findings).await;
        }
    }
    findings.end()
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

async fn ask_for_project(upstream: &Upstream, findings: &mut Findings) {
    let (Some(client), Some(url), Some(keys)) = (
        upstream.client(),
        upstream.url("/api/public/projects"),
        upstream.keys(),
    ) else {
        return findings.wrong("The HTTPS client could not be set up.");
    };
    let mut headers = http::HeaderMap::new();
    keys.insert_into(&mut headers);
    let answer = tokio::time::timeout(CHECK_TIMEOUT, async {
        let response = client.get(url).headers(headers).send().await?;
        let status = response.status();
        Ok((status, response.bytes().await.unwrap_or_default()))
    });
    match answer.await {
        Ok(Ok((status, body))) => findings.judge(
            status,
            &body[..body.len().min(ANSWER_LIMIT_BYTES)],
            &keys.public,
        ),
        Ok(Err(error)) => findings.wrong(&explain(&error)),
        Err(_) => findings.wrong(NO_ANSWER),
    }
}

const NO_ANSWER: &str = "Langfuse did not answer in time. A function in a VPC needs a NAT gateway or a private endpoint \
                         to reach it, and its security group must let HTTPS out.";

fn explain(error: &reqwest::Error) -> String {
    let chain = crate::exporter::langfuse::chain(error).to_ascii_lowercase();
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

    fn judge(&mut self, status: StatusCode, body: &[u8], public_key: &str) {
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
                let _ = writeln!(self.text, "OK   {public_key} belongs to the project {}", names.join(", "));
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
    }

    fn end(self) -> (String, bool) {
        (self.text, !self.wrong)
    }
}
