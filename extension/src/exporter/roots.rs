//! The certificates that Langfuse's is checked against.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The most of a file that is read; a whole system's bundle has a quarter of a megabyte.
pub const CA_FILE_LIMIT_BYTES: u64 = 16 << 20;

/// What a file of certificates was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// Certificates that are trusted now.
    pub certificates: usize,
    /// Those that could not be read, and are done without.
    pub unreadable: usize,
}

/// Why a file gave no certificate at all.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// It cannot be opened or read.
    #[error("it cannot be read ({0})")]
    Unreadable(#[from] std::io::Error),
    /// It has no PEM section of a certificate, or none that is one.
    #[error("it holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----")]
    Nothing,
}

/// The compiled-in roots.
pub(super) fn compiled_in() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

/// Adds the certificates of a file. One that is unreadable, as old ones in a system's bundle may be, spoils no other.
///
/// # Errors
/// When nothing could be added.
pub fn trust(roots: &mut RootCertStore, path: &Path) -> Result<Trusted, CaFileError> {
    let mut pem = Vec::new();
    File::open(path)?
        .take(CA_FILE_LIMIT_BYTES)
        .read_to_end(&mut pem)?;
    let (mut found, mut broken) = (Vec::new(), 0);
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        match certificate {
            Ok(certificate) => found.push(certificate),
            Err(_) => broken += 1,
        }
    }
    let (certificates, unusable) = roots.add_parsable_certificates(found);
    if certificates == 0 {
        return Err(CaFileError::Nothing);
    }
    Ok(Trusted {
        certificates,
        unreadable: broken + unusable,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// Self-signed, for a P-256 key that nobody has any more.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUbhi3mc+OTJ5Yb2/Lp8G66IS9848wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjQyMzM2NTNaGA8yMTI2MTAzMTIzMzY1
M1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDQy
4HKwk6PyVXc0fad37OHQgy5l5YhLJcXpwyYO6a2GB4odC41hrFhHqA7EM+fShR+V
rjq0h5VjrEH6ab5HUZejUzBRMB0GA1UdDgQWBBQDFWPSTjkTZPxEc7Vb2kzE6WfA
0DAfBgNVHSMEGDAWgBQDFWPSTjkTZPxEc7Vb2kzE6WfA0DAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCICxlNu+kSIXDR59K+pVEaIZQRlpROU4gV926
Q2As17PMAiEAr72RluyeBsJvgq5AvU+q+x12jdVoGSYFws9fRFS9uRk=
-----END CERTIFICATE-----
";

    fn tried(pem: &str) -> Result<Trusted, CaFileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, pem).unwrap();
        trust(&mut RootCertStore::empty(), &path)
    }

    #[test]
    fn one_unreadable_certificate_spoils_no_other() {
        let no_certificate = BASE64_STANDARD.encode("no certificate");
        let bundle = format!(
            "{CERTIFICATE}-----BEGIN CERTIFICATE-----\n{no_certificate}\n-----END CERTIFICATE-----\n\
             -----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n{CERTIFICATE}"
        );
        let trusted = tried(&bundle).unwrap();
        assert_eq!((trusted.certificates, trusted.unreadable), (2, 2));
    }

    #[test]
    fn a_file_without_any_is_an_error() {
        for pem in [
            "",
            "no PEM",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(matches!(tried(pem), Err(CaFileError::Nothing)), "{pem}");
        }
        let nowhere = trust(&mut RootCertStore::empty(), Path::new("/"));
        assert!(matches!(nowhere, Err(CaFileError::Unreadable(_))));
    }
}
