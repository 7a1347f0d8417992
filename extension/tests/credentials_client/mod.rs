//! What the tests of the credentials share.

use std::sync::Arc;
use std::time::Duration;

use langfuse_extension::credentials::{
    AwsEnvironment, CredentialsError, Keys, Source, client_settings, resolve,
};

/// A client as the product builds it, with no certificate authorities: every server here speaks plain HTTP.
pub(crate) fn client() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let builder = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(tls);
    client_settings(builder).build().unwrap()
}

/// The environment that these variables make.
pub(crate) fn environment(variables: &[(&str, &str)]) -> AwsEnvironment {
    AwsEnvironment::read(|name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

/// Resolves a pair of settings.
pub(crate) async fn resolve_settings(
    public: &str,
    secret: &str,
    aws: &AwsEnvironment,
    within: Duration,
) -> Result<Keys, CredentialsError> {
    let public = Source::parse(public).unwrap();
    let secret = Source::parse(secret).unwrap();
    resolve(&public, &secret, aws, &client(), within).await
}
