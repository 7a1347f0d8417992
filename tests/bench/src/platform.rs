//! Lambda's Extensions and Telemetry API for one extension, on blocking sockets: it notes when it was asked what to
//! within microseconds, and says what happens when it is told to.

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http::{self, Request};

/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// How long an extension has from SHUTDOWN on.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(crate) struct Platform {
    pub(crate) address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    registered: Option<Instant>,
    nexts: Vec<Instant>,
    telemetry: Option<SocketAddr>,
    events: VecDeque<String>,
}

impl Platform {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let platform = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::default(),
        };
        let shared = Arc::clone(&platform.shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        platform
    }

    /// When the extension registered.
    pub(crate) fn registered(&self) -> Instant {
        self.wait(|state| state.registered)
    }

    /// When it asked for its next event for the `count`th time, from 1.
    pub(crate) fn asked_next(&self, count: usize) -> Instant {
        self.wait(|state| state.nexts.get(count - 1).copied())
    }

    /// Begins an invocation.
    pub(crate) fn invoke(&self) {
        self.deliver(format!(
            r#"{{"eventType":"INVOKE","deadlineMs":{},"requestId":"bench","invokedFunctionArn":"arn:aws:lambda:eu-central-1:123456789012:function:bench","tracing":{{"type":"X-Amzn-Trace-Id","value":"Root=1-00000000-000000000000000000000000"}}}}"#,
            epoch_ms() + 900_000
        ));
    }

    pub(crate) fn shut_down(&self) {
        self.deliver(format!(
            r#"{{"eventType":"SHUTDOWN","shutdownReason":"spindown","deadlineMs":{}}}"#,
            epoch_ms() + SHUTDOWN.as_millis()
        ));
    }

    /// Tells the extension, if it wanted to be told, that the handler is done.
    pub(crate) fn runtime_done(&self) {
        let Some(address) = self.shared.0.lock().unwrap().telemetry else {
            return;
        };
        let body = r#"[{"time":"2026-01-01T00:00:00.000Z","type":"platform.runtimeDone","record":{"requestId":"bench","status":"success","metrics":{"durationMs":1.0,"producedBytes":2}}}]"#;
        let request = format!(
            "POST / HTTP/1.1\r\nhost: sandbox\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if let Ok(mut client) = http::Client::connect(address) {
            client.exchange(request.as_bytes());
        }
    }

    fn deliver(&self, event: String) {
        self.shared.0.lock().unwrap().events.push_back(event);
        self.shared.1.notify_all();
    }

    fn wait<T>(&self, wanted: impl Fn(&State) -> Option<T>) -> T {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        loop {
            if let Some(found) = wanted(&state) {
                return found;
            }
            let (guard, timeout) = changed.wait_timeout(state, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "the extension does not go on");
            state = guard;
        }
    }
}

fn serve(stream: TcpStream, shared: &(Mutex<State>, Condvar)) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut stream = BufReader::new(stream);
    loop {
        let request = http::read_request(&mut stream)?;
        let now = Instant::now();
        let (state, changed) = shared;
        if request.line.contains("/extension/register") {
            state.lock().unwrap().registered = Some(now);
            changed.notify_all();
            let answer =
                r#"{"functionName":"bench","functionVersion":"$LATEST","handler":"bench"}"#;
            http::respond(
                stream.get_mut(),
                "Lambda-Extension-Identifier: bench\r\n",
                answer,
            )?;
        } else if request.line.contains("/event/next") {
            let mut state = state.lock().unwrap();
            state.nexts.push(now);
            changed.notify_all();
            let event = loop {
                match state.events.pop_front() {
                    Some(event) => break event,
                    None => state = changed.wait(state).unwrap(),
                }
            };
            drop(state);
            let id = "Lambda-Extension-Event-Identifier: bench\r\n";
            http::respond(stream.get_mut(), id, &event)?;
        } else {
            if let Some(address) = destination(&request) {
                state.lock().unwrap().telemetry = Some(address);
            }
            http::respond(stream.get_mut(), "", "\"OK\"")?;
        }
        stream.get_mut().flush().ok()?;
    }
}

/// Where a subscription to telemetry wants it; the sandbox's own name is this machine's loopback.
fn destination(request: &Request) -> Option<SocketAddr> {
    let body: serde_json::Value = serde_json::from_slice(&request.body).ok()?;
    let uri = body["destination"]["URI"].as_str()?;
    let port = uri.rsplit(':').next()?.trim_end_matches('/').parse::<u16>();
    Some(([127, 0, 0, 1], port.ok()?).into())
}

fn epoch_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
}
