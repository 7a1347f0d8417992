//! `langfuse-extension replay FILE…`: sends what a spool file still holds, for data that was left behind and saved.
//!
//! Files are only read. What may have been sent before is sent again only with `LANGFUSE_EXTENSION_RESEND_AMBIGUOUS`
//! not `false`; spans that arrived twice are counted twice by Langfuse.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::route::Credential;

use crate::credentials;
use crate::credentials::keyring::{RESOLVE_TIMEOUT, aws_client};
use crate::egress::Stage;
use crate::exporter::langfuse;
use crate::exporter::upstream::{ReadyKeys, Upstream};
use crate::payload::{Encoding, Kind, Limits, Payload, merge};
use crate::settings::{Config, Environment};
use crate::spool::{Record, read_segment};

/// What came of a replay. Units are spans, events and scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Accepted by Langfuse.
    pub delivered: u64,
    /// Not accepted, or not sent; still in the file.
    pub left: u64,
}

/// Sends the records of `files`, one request each, and says what came of it. Settings are those of the extension.
///
/// # Errors
/// In plain words, when a file cannot be read or the keys cannot be had. What was sent by then stays sent.
pub async fn replay(
    environment: &impl Environment,
    files: &[impl AsRef<Path>],
) -> Result<Replayed, String> {
    let mut config = Config::read(environment);
    let rules = std::mem::take(&mut config.egress);
    let stage = (!rules.are_off()).then(|| Stage::new(rules));
    let upstream = Upstream::open(config.upstream.clone(), config.ca_file.as_deref());
    get_keys(&config, &upstream).await?;
    let mut replayed = Replayed::default();
    for file in files {
        let bytes =
            std::fs::read(file).map_err(|error| format!("{}: {error}", file.as_ref().display()))?;
        for record in read_segment(&bytes) {
            let units = u64::from(record.units);
            let may_send = record.unresolved_sends == 0 || config.core.resend_ambiguous;
            let sent = if may_send {
                send(&upstream, stage.as_ref(), record).await
            } else {
                None
            };
            match sent {
                Some((Fact::NothingToSend, _)) => {}
                Some((Fact::Answered(answer), units)) if (200..300).contains(&answer.status) => {
                    replayed.delivered += units.saturating_sub(answer.refused_units);
                }
                _ => replayed.left += units,
            }
        }
    }
    Ok(replayed)
}

async fn get_keys(config: &Config, upstream: &Upstream) -> Result<(), String> {
    let (Some(sources), Some(client)) = (&config.keys, aws_client(upstream)) else {
        return Ok(());
    };
    let keys = credentials::resolve(
        &sources.public,
        &sources.secret,
        &config.aws,
        &client,
        RESOLVE_TIMEOUT,
    )
    .await;
    let keys = keys.map_err(|error| error.to_string())?;
    let authorization = keys.basic_authorization();
    upstream.set_keys(ReadyKeys::new(keys.public, authorization));
    Ok(())
}

/// `None`: the record holds nothing that can be sent.
async fn send(upstream: &Upstream, stage: Option<&Stage>, record: Record) -> Option<(Fact, u64)> {
    let (kind, encoding) = (
        Kind::try_from(record.kind).ok()?,
        Encoding::try_from(record.encoding).ok()?,
    );
    if record.route.credential == Credential::Configured && upstream.keys().is_none() {
        eprintln!(
            "a record needs the extension's own keys: set LANGFUSE_EXTENSION_PUBLIC_KEY and _SECRET_KEY"
        );
        return None;
    }
    let payload = Payload::restore(kind, encoding, record.body, &Limits::default()).ok()?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    if let Some(stage) = stage {
        payload.clone().pass(stage, now).settle();
    }
    let units = u64::from(payload.units());
    if units == 0 {
        return Some((Fact::NothingToSend, 0));
    }
    let merged = merge(vec![payload]);
    let fact = langfuse::send(
        upstream,
        &record.route,
        merged.body,
        merged.content_encoding,
        std::future::pending::<()>(),
    )
    .await;
    Some((fact, units))
}
