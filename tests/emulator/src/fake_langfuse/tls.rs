//! A certificate authority of one's own, and certificates by it that are right or wrong in one way each.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::fault::TlsFailure;

/// The authority's certificate as a file, and a TLS acceptor for health and for each failure that needs one.
pub(super) struct Certificates {
    ca_file: PathBuf,
    healthy: TlsAcceptor,
    expired: TlsAcceptor,
    wrong_name: TlsAcceptor,
    unknown_authority: TlsAcceptor,
    _directory: TempDir,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

impl Certificates {
    pub(super) fn make() -> io::Result<Self> {
        let authority = authority("fake Langfuse CA").map_err(io::Error::other)?;
        let stranger = authority_unknown().map_err(io::Error::other)?;
        let directory = tempfile::Builder::new()
            .prefix("fake-langfuse-")
            .tempdir()?;
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem())?;
        Ok(Self {
            ca_file,
            healthy: acceptor(&authority, &["127.0.0.1", "localhost"], false)?,
            expired: acceptor(&authority, &["127.0.0.1", "localhost"], true)?,
            wrong_name: acceptor(&authority, &["wrong.invalid"], false)?,
            unknown_authority: acceptor(&stranger, &["127.0.0.1", "localhost"], false)?,
            _directory: directory,
        })
    }

    pub(super) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    pub(super) fn acceptor(&self, failure: Option<TlsFailure>) -> TlsAcceptor {
        match failure {
            Some(TlsFailure::Expired) => self.expired.clone(),
            Some(TlsFailure::WrongName) => self.wrong_name.clone(),
            Some(TlsFailure::UnknownAuthority) => self.unknown_authority.clone(),
            Some(TlsFailure::Garbage | TlsFailure::Hang) | None => self.healthy.clone(),
        }
    }
}

fn authority_unknown() -> Result<Authority, rcgen::Error> {
    authority("fake Langfuse CA that nobody trusts")
}

fn authority(name: &str) -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn acceptor(authority: &Authority, names: &[&str], expired: bool) -> io::Result<TlsAcceptor> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    if expired {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    }
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = params
        .signed_by(&key, authority)
        .map_err(io::Error::other)?;
    let private_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // Without ALPN, so that clients that offer HTTP/2 first are served as well.
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private_key)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
