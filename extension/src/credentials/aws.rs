//! `GetParameter` and `GetSecretValue`, signed with AWS's own crate.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, HeaderName, Request};
use serde::Deserialize;
use serde_json::json;
use std::time::SystemTime;
use url::Url;

use super::call::{Answer, Caller};
use super::environment::{AwsEnvironment, Holder};
use super::reason::Reason;
use super::refusal;
use super::secret::Secret;

const JSON: &str = "application/x-amz-json-1.1";
const TARGET: &str = "x-amz-target";

/// What one call fetches. Two keys in one secret are one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Document<'a> {
    pub(super) holder: Holder,
    /// A parameter's name or ARN, a secret's ARN.
    pub(super) id: &'a str,
    /// The ARN's region, if there is an ARN.
    pub(super) region: Option<&'a str>,
}

impl Document<'_> {
    fn target(&self) -> &'static str {
        match self.holder {
            Holder::Ssm => "AmazonSSM.GetParameter",
            Holder::SecretsManager => "secretsmanager.GetSecretValue",
        }
    }

    fn body(&self) -> String {
        match self.holder {
            Holder::Ssm => json!({ "Name": self.id, "WithDecryption": true }).to_string(),
            Holder::SecretsManager => json!({ "SecretId": self.id }).to_string(),
        }
    }
}

/// Fetches the text of a document.
pub(super) async fn fetch(
    document: Document<'_>,
    aws: &AwsEnvironment,
    credentials: &Credentials,
    caller: &Caller<'_>,
) -> Result<Secret, Reason> {
    let region = aws.region_or(document.region)?;
    let endpoint = aws.endpoint(document.holder, region)?;
    let build = || signed(&endpoint, region, document, credentials);
    let read = |answer: &Answer| {
        if answer.status == 200 {
            text(document.holder, answer)
        } else {
            Err(refusal::reason(answer, document, region))
        }
    };
    caller.call(&endpoint, build, read).await
}

fn signed(
    endpoint: &Url,
    region: &str,
    document: Document<'_>,
    credentials: &Credentials,
) -> Result<Request<String>, Reason> {
    let body = document.body();
    let mut request = Request::post(endpoint.as_str())
        .header(CONTENT_TYPE, JSON)
        .header(TARGET, document.target())
        .body(body)
        .map_err(|_| Reason::EndpointUrl)?;
    let signature =
        signature(&request, document, region, credentials).ok_or(Reason::UnusableAwsCredentials)?;
    request.headers_mut().extend(signature);
    Ok(request)
}

/// The headers that sign the request as it is now.
fn signature(
    request: &Request<String>,
    document: Document<'_>,
    region: &str,
    credentials: &Credentials,
) -> Option<HeaderMap> {
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(document.holder.service())
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .ok()?
        .into();
    let headers = [(CONTENT_TYPE.as_str(), JSON), (TARGET, document.target())];
    let signable = SignableRequest::new(
        "POST",
        request.uri().to_string(),
        headers.into_iter(),
        SignableBody::Bytes(request.body().as_bytes()),
    );
    let (instructions, _) = sign(signable.ok()?, &params).ok()?.into_parts();
    // The crate's own way of applying these unwraps, and a session token with a line break would panic there.
    let (headers, _) = instructions.into_parts();
    let headers = headers.iter().map(|header| {
        let mut value = HeaderValue::from_str(header.value()).ok()?;
        value.set_sensitive(header.sensitive());
        Some((HeaderName::from_static(header.name()), value))
    });
    headers.collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ParameterAnswer {
    parameter: Parameter,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    value: Secret,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SecretAnswer {
    secret_string: Option<Secret>,
    secret_binary: Option<Secret>,
}

fn text(holder: Holder, answer: &Answer) -> Result<Secret, Reason> {
    let garbage = |_| answer.garbage();
    if holder == Holder::Ssm {
        let read: ParameterAnswer = serde_json::from_slice(&answer.body).map_err(garbage)?;
        return Ok(read.parameter.value);
    }
    let read: SecretAnswer = serde_json::from_slice(&answer.body).map_err(garbage)?;
    match (read.secret_string, read.secret_binary) {
        (Some(text), _) => Ok(text),
        (None, Some(_)) => Err(Reason::Binary),
        (None, None) => Err(answer.garbage()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Document<'_> = Document {
        holder: Holder::SecretsManager,
        id: "arn:aws:secretsmanager:eu-west-1:1:secret:a",
        region: Some("eu-west-1"),
    };

    #[test]
    fn a_request_carries_its_signature_and_never_prints_the_session_token() {
        let credentials = Credentials::new("ASIA1", "hidden-1", Some("hidden-2".into()), None, "t");
        let endpoint = Url::parse("https://secretsmanager.eu-west-1.amazonaws.com/").unwrap();
        let request = signed(&endpoint, "eu-west-1", SECRET, &credentials).unwrap();
        assert_eq!(request.headers()["x-amz-security-token"], "hidden-2");
        let authorization = request.headers()["authorization"].to_str().unwrap();
        assert!(authorization.contains("/eu-west-1/secretsmanager/aws4_request"));
        assert!(
            authorization
                .contains("content-type;host;x-amz-date;x-amz-security-token;x-amz-target")
        );
        assert!(!format!("{request:?}").contains("hidden"));
    }

    #[test]
    fn a_session_token_with_a_line_break_is_an_error_and_no_panic() {
        let credentials = Credentials::new("ASIA1", "k", Some("a\nb".into()), None, "t");
        let endpoint = Url::parse("https://localhost/").unwrap();
        let error = signed(&endpoint, "eu-west-1", SECRET, &credentials).unwrap_err();
        assert_eq!(error, Reason::UnusableAwsCredentials);
    }

    #[test]
    fn a_binary_secret_is_told_from_garbage() {
        let read = |body: &str| {
            let answer = Answer::new(200, body.as_bytes().to_vec(), "h");
            text(Holder::SecretsManager, &answer).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(read(r#"{"SecretString":"a"}"#), Ok("a".to_owned()));
        assert_eq!(read(r#"{"SecretBinary":"YQ=="}"#), Err(Reason::Binary));
        let garbage = Err(Reason::Garbage { host: "h".into() });
        assert_eq!(read("{}"), garbage);
        assert_eq!(read(r#"{"SecretString":17}"#), garbage);
        assert_eq!(read("<html>"), garbage);
    }
}
