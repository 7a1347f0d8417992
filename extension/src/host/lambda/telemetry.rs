//! The listener that Lambda's Telemetry API posts to, for the records that matter: those that end an invocation.
//! <https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html>
//!
//! It answers 200 whatever comes, because Lambda sends again what is not, and reads each record by itself, because a
//! record of a kind yet unknown must not hide its neighbours. That is why it does not use the closed record type of the
//! crate `lambda-extension`.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use langfuse_extension_core::Event;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

use crate::inputs::Inputs;

/// The longest delivery that is read: Lambda's may reach twice the 262,144 bytes subscribed for.
pub const DELIVERY_LIMIT_BYTES: usize = 1 << 20;

/// The name under which Lambda reaches the sandbox.
const SANDBOX_HOST: &str = "sandbox.localdomain";

/// Where records arrive.
#[derive(Debug)]
pub struct Telemetry {
    listener: TcpListener,
    port: u16,
}

impl Telemetry {
    /// Binds any free port of the address that Lambda reaches the sandbox under.
    ///
    /// # Errors
    /// When nothing can be bound.
    pub async fn bind() -> std::io::Result<Self> {
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let address = sandbox_address(&hosts).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let listener = match TcpListener::bind(SocketAddr::new(address, 0)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// What to subscribe with.
    pub fn destination(&self) -> String {
        format!("http://{SANDBOX_HOST}:{}/", self.port)
    }

    /// Takes deliveries for as long as the process lives.
    pub async fn serve(self, inputs: Inputs) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of file descriptors, most likely; others will be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let inputs = inputs.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| take_delivery(request, &inputs));
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }
}

async fn take_delivery(
    request: Request<Incoming>,
    inputs: &Inputs,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    if let Ok(body) = Limited::new(request.into_body(), DELIVERY_LIMIT_BYTES)
        .collect()
        .await
    {
        for record in read_delivery(&body.to_bytes()) {
            inputs.event(match record {
                Record::RuntimeDone { request_id, at } => Event::RuntimeDone { request_id, at },
                Record::Reported { request_id, at } => Event::Reported { request_id, at },
                Record::Restored => Event::Restored {
                    seed: crate::agent::random_seed(),
                },
                Record::Other => Event::TelemetrySpeaks,
            });
        }
    }
    Ok(Response::new(Empty::new()))
}

/// What a record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The runtime has asked for its next invocation.
    RuntimeDone {
        /// The invocation that is over.
        request_id: String,
        /// When, since the Unix epoch, as far as the record says.
        at: Option<Duration>,
    },
    /// `platform.report`, which comes when an invocation is over for everybody.
    Reported {
        /// The invocation that is over.
        request_id: String,
        /// When, since the Unix epoch, as far as the record says.
        at: Option<Duration>,
    },
    /// The sandbox was restored from a snapshot.
    Restored,
    /// Something else, by which at least telemetry is known to come.
    Other,
}

/// Reads each record of a delivery by itself; what cannot be read is passed over.
pub fn read_delivery(delivery: &[u8]) -> Vec<Record> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(borrow, default)]
        time: Option<&'a RawValue>,
        #[serde(borrow, default)]
        record: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct OfInvocation {
        request_id: String,
    }
    let read = |raw: &RawValue| {
        let typed: Typed = serde_json::from_str(raw.get()).ok()?;
        match typed.kind {
            kind @ ("platform.runtimeDone" | "platform.report") => {
                let OfInvocation { request_id } = serde_json::from_str(typed.record?.get()).ok()?;
                let at = typed.time.and_then(|time| moment(time.get()));
                Some(if kind == "platform.report" {
                    Record::Reported { request_id, at }
                } else {
                    Record::RuntimeDone { request_id, at }
                })
            }
            "platform.restoreStart" => Some(Record::Restored),
            _ => Some(Record::Other),
        }
    };
    let records: Vec<&RawValue> = serde_json::from_slice(delivery).unwrap_or_default();
    records.into_iter().filter_map(read).collect()
}

/// A record's `time`, a JSON string in RFC 3339: since the Unix epoch.
fn moment(time: &str) -> Option<Duration> {
    let time = humantime::parse_rfc3339(time.trim_matches('"')).ok()?;
    time.duration_since(UNIX_EPOCH).ok()
}

/// The address of [`SANDBOX_HOST`] in the text of `/etc/hosts`, without a resolver's thread and time-outs.
fn sandbox_address(hosts: &str) -> Option<IpAddr> {
    let lines = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    lines
        .map(str::split_whitespace)
        .find_map(|mut words| {
            let address = words.next()?;
            words.any(|name| name == SANDBOX_HOST).then_some(address)
        })?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_read_by_itself() {
        let delivery = br#"[
            {"time":"t","type":"platform.start","record":{"requestId":"a"}},
            1,
            {"type":"platform.runtimeDone"},
            {"time":"t","type":"platform.newlyInvented","record":7},
            {"time":"t","type":"platform.restoreStart","record":{}},
            {"time":"t","type":"platform.runtimeDone","record":{"requestId":"b","status":"success"}},
            {"time":"2022-10-12T00:00:15.064Z","type":"platform.report","record":{"requestId":"c"}}
        ]"#;
        let done = Record::RuntimeDone {
            request_id: "b".into(),
            at: None,
        };
        let reported = Record::Reported {
            request_id: "c".into(),
            at: Some(Duration::from_millis(1_665_532_815_064)),
        };
        assert_eq!(
            read_delivery(delivery),
            [
                Record::Other,
                Record::Other,
                Record::Restored,
                done,
                reported
            ]
        );
    }

    #[test]
    fn a_time_that_cannot_be_read_hides_no_end() {
        for time in ["1", "null", "{}", "\"\"", "\"1969-12-31T23:59:59.999Z\""] {
            let delivery = format!(
                r#"[{{"time":{time},"type":"platform.runtimeDone","record":{{"requestId":"a"}}}}]"#
            );
            let done = Record::RuntimeDone {
                request_id: "a".into(),
                at: None,
            };
            assert_eq!(read_delivery(delivery.as_bytes()), [done]);
        }
    }

    #[test]
    fn what_is_no_delivery_tells_nothing() {
        for body in [&b"not json"[..], b"{}", b"[", b""] {
            assert!(read_delivery(body).is_empty());
        }
    }

    #[test]
    fn the_sandbox_is_found_among_the_hosts() {
        let hosts = "127.0.0.1 localhost # sandbox.localdomain\n169.254.100.2\tsandbox.localdomain sandbox\n";
        assert_eq!(
            sandbox_address(hosts),
            Some(IpAddr::V4(Ipv4Addr::new(169, 254, 100, 2)))
        );
        assert_eq!(sandbox_address("127.0.0.1 localhost"), None);
    }
}
