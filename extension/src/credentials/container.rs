//! The role's credentials: from the environment, or from the container endpoint under `SnapStart`.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use aws_credential_types::Credentials;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Request};
use serde::Deserialize;
use url::{Host, Url};

use super::call::{Answer, Caller};
use super::environment::{AwsEnvironment, ContainerToken, CredentialSupply};
use super::reason::Reason;
use super::secret::Secret;

const TOKEN_FILE_LIMIT_BYTES: u64 = 16 * 1024;
/// The addresses, besides loopback, that AWS's SDKs trust over plain http: ECS, EKS over IPv4, EKS over IPv6.
const TRUSTED_PLAIN: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

/// The credentials to sign with.
pub(super) async fn credentials(
    aws: &AwsEnvironment,
    caller: &Caller<'_>,
) -> Result<Credentials, Reason> {
    match &aws.credentials {
        None => Err(Reason::NoAwsCredentials),
        Some(CredentialSupply::Static {
            access_key_id,
            secret_access_key,
            session_token,
        }) => Ok(Credentials::new(
            access_key_id.trim(),
            secret_access_key.expose().trim(),
            session_token.as_ref().map(|t| t.expose().trim().to_owned()),
            None,
            "environment",
        )),
        Some(CredentialSupply::Container { full_uri, token }) => {
            let uri = trusted(full_uri.trim())?;
            let authorization = authorization(token)?;
            caller
                .call(&uri, || request(&uri, authorization.as_ref()), read)
                .await
        }
    }
}

fn trusted(full_uri: &str) -> Result<Url, Reason> {
    let uri = Url::parse(full_uri).map_err(|_| Reason::ContainerAddress)?;
    let plain_is_safe = match uri.host() {
        Some(Host::Ipv4(address)) => is_trusted_plain(address.into()),
        Some(Host::Ipv6(address)) => is_trusted_plain(address.into()),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    };
    match uri.scheme() {
        "https" if uri.has_host() => Ok(uri),
        "http" if plain_is_safe => Ok(uri),
        _ => Err(Reason::ContainerAddress),
    }
}

fn is_trusted_plain(address: IpAddr) -> bool {
    address.is_loopback() || TRUSTED_PLAIN.contains(&address)
}

fn authorization(token: &ContainerToken) -> Result<Option<HeaderValue>, Reason> {
    let text = match token {
        ContainerToken::None => return Ok(None),
        ContainerToken::Value(token) => token.clone(),
        ContainerToken::File(path) => read_token(path)?,
    };
    let mut value = HeaderValue::from_str(text.expose()).map_err(|_| Reason::ContainerToken)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn read_token(path: &Path) -> Result<Secret, Reason> {
    let unreadable = |_| Reason::ContainerTokenFile;
    // Anything but a regular file could block the one thread.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > TOKEN_FILE_LIMIT_BYTES {
        return Err(Reason::ContainerTokenFile);
    }
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TOKEN_FILE_LIMIT_BYTES).read_to_string(&mut text))
        .map_err(unreadable)?;
    Ok(Secret::new(text.trim_end()))
}

fn request(uri: &Url, authorization: Option<&HeaderValue>) -> Result<Request<String>, Reason> {
    let mut request = Request::get(uri.as_str()).header(ACCEPT, "application/json");
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    request
        .body(String::new())
        .map_err(|_| Reason::ContainerAddress)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    access_key_id: String,
    secret_access_key: Secret,
    token: Option<Secret>,
}

fn read(answer: &Answer) -> Result<Credentials, Reason> {
    if answer.status != 200 {
        return Err(Reason::ContainerRefused {
            status: answer.status,
        });
    }
    let body: Body = serde_json::from_slice(&answer.body).map_err(|_| answer.garbage())?;
    Ok(Credentials::new(
        body.access_key_id,
        body.secret_access_key.expose(),
        body.token.as_ref().map(|token| token.expose().to_owned()),
        None,
        "container",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_loopback_and_the_known_link_local_addresses_only() {
        for uri in [
            "http://127.0.0.1:9001/2021-04-23/credentials",
            "http://[::1]/x",
            "http://localhost:1/x",
            "http://169.254.170.2/x",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "https://credentials.example/x",
        ] {
            assert!(trusted(uri).is_ok(), "{uri}");
        }
        for uri in [
            "http://169.254.169.254/latest/meta-data/",
            "http://credentials.example/x",
            "http://localhost.example/x",
            "http://127.0.0.1.example/x",
            "http://0.0.0.0/x",
            "file:///etc/passwd",
            "/x",
        ] {
            assert_eq!(trusted(uri), Err(Reason::ContainerAddress), "{uri}");
        }
    }

    #[test]
    fn a_token_file_is_read_and_its_limit_is_kept() {
        let path = std::env::temp_dir().join(format!("container-token-{}", std::process::id()));
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            authorization(&ContainerToken::File(path.clone()))
        };
        let value = read(b"Basic hidden").unwrap().unwrap();
        assert_eq!(
            (value.as_bytes(), value.is_sensitive()),
            (&b"Basic hidden"[..], true)
        );
        let limit = usize::try_from(TOKEN_FILE_LIMIT_BYTES).unwrap();
        assert!(read(&vec![b'a'; limit]).is_ok());
        assert_eq!(
            read(&vec![b'a'; limit + 1]),
            Err(Reason::ContainerTokenFile)
        );
        assert_eq!(read(b"a\r\nx-smuggled: b"), Err(Reason::ContainerToken));
        std::fs::remove_file(&path).unwrap();
        let gone = authorization(&ContainerToken::File(path.clone()));
        assert_eq!(gone, Err(Reason::ContainerTokenFile));
        let directory = authorization(&ContainerToken::File(std::env::temp_dir()));
        assert_eq!(directory, Err(Reason::ContainerTokenFile));
    }

    #[test]
    fn credentials_never_print_their_secret_parts() {
        let body = br#"{"AccessKeyId":"ASIA1","SecretAccessKey":"hidden-1","Token":"hidden-2","Expiration":"2026-01-01T00:00:00Z"}"#;
        let answer = Answer::new(200, body.to_vec(), "127.0.0.1");
        let printed = format!("{:?} {answer:?}", read(&answer).unwrap());
        assert!(printed.contains("ASIA1"), "{printed}");
        assert!(!printed.contains("hidden"), "{printed}");
    }

    #[test]
    fn an_answer_without_credentials_is_told_from_a_refusal() {
        let answer = |status, body: &[u8]| read(&Answer::new(status, body.to_vec(), "h"));
        let garbage = Reason::Garbage { host: "h".into() };
        assert_eq!(answer(200, b"<html>").unwrap_err(), garbage);
        assert_eq!(answer(200, br#"{"AccessKeyId":"a"}"#).unwrap_err(), garbage);
        let refused = answer(403, b"").unwrap_err();
        assert_eq!(refused, Reason::ContainerRefused { status: 403 });
        assert!(!refused.is_passing());
        assert!(answer(503, b"").unwrap_err().is_passing());
    }
}
