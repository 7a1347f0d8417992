//! What Lambda's environment says about AWS: region, the role's credentials, endpoints.

use std::path::PathBuf;

use super::{partition, reason::Reason, secret::Secret};

/// The part of the environment that calls to AWS need.
#[derive(Debug, Clone, Default)]
pub struct AwsEnvironment {
    /// `AWS_REGION`, or `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// Where the role's credentials come from; `None` when the environment names no place.
    pub credentials: Option<CredentialSupply>,
    /// `AWS_ENDPOINT_URL_SSM`, or `AWS_ENDPOINT_URL`.
    pub ssm_endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_SECRETS_MANAGER`, or `AWS_ENDPOINT_URL`.
    pub secrets_manager_endpoint: Option<String>,
}

/// Where the credentials of the function's role come from.
#[derive(Debug, Clone)]
pub enum CredentialSupply {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`: every function without `SnapStart`.
    Static {
        /// Names the credentials; no secret by itself.
        access_key_id: String,
        /// Signs, and is never sent.
        secret_access_key: Secret,
        /// Sent with each request of a role's credentials.
        session_token: Option<Secret>,
    },
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI`: functions with `SnapStart`, whose snapshot must not hold credentials.
    Container {
        /// Asked with a GET at every resolving.
        full_uri: String,
        /// Where its authorization comes from.
        token: ContainerToken,
    },
}

/// What the container endpoint is shown.
#[derive(Debug, Clone)]
pub enum ContainerToken {
    /// No `Authorization`.
    None,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`, sent as it is.
    Value(Secret),
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`, read anew each time; it wins over the value, as in AWS's SDKs.
    File(PathBuf),
}

/// The two services that hold keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Ssm,
    SecretsManager,
}

impl Holder {
    /// The name in the host and in the signature.
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::Ssm => "ssm",
            Self::SecretsManager => "secretsmanager",
        }
    }
}

impl AwsEnvironment {
    /// Reads the environment through `lookup`; an empty variable counts as absent.
    ///
    /// Nothing is judged here: an environment that lacks something harms only a key that needs it.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let overridden = get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").as_deref() != Some("true");
        let endpoint = |name: &str| {
            get(name)
                .or_else(|| get("AWS_ENDPOINT_URL"))
                .filter(|_| overridden)
        };
        Self {
            region: get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")),
            credentials: static_credentials(&get).or_else(|| container(&get)),
            ssm_endpoint: endpoint("AWS_ENDPOINT_URL_SSM"),
            secrets_manager_endpoint: endpoint("AWS_ENDPOINT_URL_SECRETS_MANAGER"),
        }
    }

    /// The region of a source, which its ARN names or else the function's.
    pub(super) fn region_or<'a>(&'a self, of_arn: Option<&'a str>) -> Result<&'a str, Reason> {
        of_arn
            .or(self.region.as_deref())
            .map(str::trim)
            .filter(|region| partition::is_region(region))
            .ok_or(Reason::NoRegion)
    }

    /// The address that a service's requests go to.
    pub(super) fn endpoint(&self, holder: Holder, region: &str) -> Result<url::Url, Reason> {
        let overriding = match holder {
            Holder::Ssm => self.ssm_endpoint.as_deref(),
            Holder::SecretsManager => self.secrets_manager_endpoint.as_deref(),
        };
        let Some(text) = overriding else {
            let host = partition::host(holder.service(), region);
            return parse_endpoint(&format!("https://{host}/"));
        };
        parse_endpoint(text.trim())
    }
}

fn parse_endpoint(text: &str) -> Result<url::Url, Reason> {
    url::Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or(Reason::EndpointUrl)
}

fn static_credentials(get: &impl Fn(&str) -> Option<String>) -> Option<CredentialSupply> {
    Some(CredentialSupply::Static {
        access_key_id: get("AWS_ACCESS_KEY_ID")?,
        secret_access_key: Secret::new(get("AWS_SECRET_ACCESS_KEY")?),
        session_token: get("AWS_SESSION_TOKEN").map(Secret::new),
    })
}

fn container(get: &impl Fn(&str) -> Option<String>) -> Option<CredentialSupply> {
    let full_uri = get("AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
    let file = get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from);
    let value = get("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new);
    let token = match (file, value) {
        (Some(file), _) => ContainerToken::File(file),
        (None, Some(value)) => ContainerToken::Value(value),
        (None, None) => ContainerToken::None,
    };
    Some(CredentialSupply::Container { full_uri, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> AwsEnvironment {
        AwsEnvironment::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_of_an_ordinary_function_holds_its_credentials() {
        let aws = read(&[
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "ASIA1"),
            ("AWS_SECRET_ACCESS_KEY", "hidden-1"),
            ("AWS_SESSION_TOKEN", "hidden-2"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/"),
        ]);
        let printed = format!("{aws:?}");
        assert!(printed.contains("ASIA1"), "{printed}");
        assert!(!printed.contains("hidden"), "{printed}");
        let endpoint = aws.endpoint(Holder::SecretsManager, "eu-west-1").unwrap();
        assert_eq!(
            endpoint.as_str(),
            "https://secretsmanager.eu-west-1.amazonaws.com/"
        );
    }

    #[test]
    fn under_snapstart_the_credentials_come_from_the_container_endpoint() {
        let uri = (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "http://127.0.0.1:9001/creds",
        );
        let value = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hidden-1");
        let file = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/run/token");
        let token = |variables: &[(&str, &str)]| match read(variables).credentials {
            Some(CredentialSupply::Container { token, .. }) => format!("{token:?}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(token(&[uri]), "None");
        assert_eq!(token(&[uri, value]), "Value(***)");
        assert_eq!(token(&[uri, value, file]), r#"File("/run/token")"#);
    }

    #[test]
    fn half_a_pair_of_credentials_is_none() {
        assert!(
            read(&[("AWS_ACCESS_KEY_ID", "ASIA1")])
                .credentials
                .is_none()
        );
        let empty = [
            ("AWS_ACCESS_KEY_ID", "ASIA1"),
            ("AWS_SECRET_ACCESS_KEY", ""),
        ];
        assert!(read(&empty).credentials.is_none());
    }

    #[test]
    fn a_service_endpoint_wins_over_the_general_one_unless_both_are_ignored() {
        let general = ("AWS_ENDPOINT_URL", "http://localhost:1");
        let ssm = ("AWS_ENDPOINT_URL_SSM", "http://localhost:2/base");
        let ignore = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
        let address = |variables: &[(&str, &str)], holder| {
            let endpoint = read(variables).endpoint(holder, "cn-north-1");
            endpoint.unwrap().to_string()
        };
        assert_eq!(
            address(&[general, ssm], Holder::Ssm),
            "http://localhost:2/base"
        );
        assert_eq!(
            address(&[general, ssm], Holder::SecretsManager),
            "http://localhost:1/"
        );
        assert_eq!(
            address(&[general, ssm, ignore], Holder::Ssm),
            "https://ssm.cn-north-1.amazonaws.com.cn/"
        );
        let not_http = read(&[("AWS_ENDPOINT_URL", "ftp://localhost")]);
        assert_eq!(
            not_http.endpoint(Holder::Ssm, "eu-west-1"),
            Err(Reason::EndpointUrl)
        );
    }

    #[test]
    fn a_bare_name_needs_a_region_and_an_arn_brings_its_own() {
        let aws = read(&[("AWS_DEFAULT_REGION", "eu-west-1")]);
        assert_eq!(aws.region_or(None), Ok("eu-west-1"));
        assert_eq!(aws.region_or(Some("us-east-1")), Ok("us-east-1"));
        assert_eq!(read(&[]).region_or(None), Err(Reason::NoRegion));
        let odd = read(&[("AWS_REGION", "evil.example/")]);
        assert_eq!(odd.region_or(None), Err(Reason::NoRegion));
    }
}
