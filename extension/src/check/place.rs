//! What of this machine the extension needs: a port, a directory, a file of certificates.

use std::net::TcpListener;

use rustls::RootCertStore;

use super::Findings;
use crate::exporter::roots;
use crate::host::exec;
use crate::settings::Config;

/// A port that another program holds is the end of tracing; the extension itself may hold it.
pub(super) fn look_at_port(config: &Config, findings: &mut Findings) {
    let address = config.listen;
    match TcpListener::bind(address) {
        Ok(_) => findings.note(&format!("Nobody holds {address}, where the extension listens")),
        Err(_) if exec::is_extension(address, exec::PATIENCE) => {
            findings.note(&format!("The extension is running at {address}"));
        }
        Err(error) => findings.wrong(&format!(
            "The extension cannot listen on {address} ({error}): another collector may hold it. Set \
             LANGFUSE_EXTENSION_LISTEN and the app's LANGFUSE_BASE_URL to another port."
        )),
    }
}

/// Without a spool nothing survives a timeout or a kill.
pub(super) fn look_at_spool(config: &Config, findings: &mut Findings) {
    if config.spool_bytes == 0 {
        return findings
            .note("The spool is off: what is not delivered is lost with a timeout or a kill");
    }
    let dir = &config.spool_dir;
    let was_there = dir.exists();
    let probe = dir.join(format!("check-{}", std::process::id()));
    let tried = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&probe, "x"));
    let _ = std::fs::remove_file(&probe);
    if !was_there {
        let _ = std::fs::remove_dir(dir);
    }
    if let Err(error) = tried {
        findings.wrong(&format!(
            "The spool's directory {} cannot be written ({error}): set LANGFUSE_EXTENSION_SPOOL_DIR to one under /tmp.",
            dir.display()
        ));
    }
}

/// Certificates of a Langfuse of one's own.
pub(super) fn look_at_certificates(config: &Config, findings: &mut Findings) {
    let Some(path) = &config.ca_file else {
        return;
    };
    let file = path.display();
    match roots::trust(&mut RootCertStore::empty(), path) {
        Ok(trusted) => findings.note(&format!(
            "{} certificates of {file} are trusted as well, {} in it are unreadable",
            trusted.certificates, trusted.unreadable
        )),
        Err(error) => findings.wrong(&format!(
            "The file of certificates {file} is no use: {error}."
        )),
    }
}
