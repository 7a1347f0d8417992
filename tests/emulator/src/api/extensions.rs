//! The Extensions API, 2020-01-01.

use super::{Reply, body, error as refusal, header, reply, reply_json};
use crate::Event;
use crate::config::{ACCOUNT_ID, Fault, Mode};
use crate::invocation::FunctionError;
use crate::state::{Agent, AgentEvent, Shared, Stage, State};
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const NAME: &str = "Lambda-Extension-Name";
const IDENTIFIER: &str = "Lambda-Extension-Identifier";
const ACCEPT_FEATURE: &str = "Lambda-Extension-Accept-Feature";
const ERROR_TYPE: &str = "Lambda-Extension-Function-Error-Type";

type Refusal = (u16, String, String);

pub(super) async fn register(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let name = header(&request, NAME).unwrap_or_default().to_owned();
    let with_account =
        header(&request, ACCEPT_FEATURE).is_some_and(|features| features.contains("accountId"));
    if let Some(slow) = shared.fault(&name, |fault| {
        if let Fault::RegisterSlow(slow) = fault {
            Some(*slow)
        } else {
            None
        }
    }) {
        tokio::time::sleep(slow).await;
    }
    let body = body(request).await.unwrap_or_default();
    match try_register(shared, &name, &body) {
        Ok((id, events)) => {
            shared.timeline.add(Event::Registered {
                process: name,
                events,
            });
            registered(shared, &id, with_account)
        }
        Err((status, error_type, message)) => {
            let answer = refusal(status, &error_type, &message);
            shared.timeline.add(Event::RegisterRefused {
                process: name,
                status,
                error_type,
            });
            answer
        }
    }
}

fn registered(shared: &Shared, id: &str, with_account: bool) -> Reply {
    let handler = shared
        .config
        .handler
        .as_ref()
        .or(shared.config.bootstrap.last());
    let mut answer = json!({
        "functionName": shared.config.function_name,
        "functionVersion": "$LATEST",
        "handler": handler,
    });
    if with_account {
        answer["accountId"] = Value::from(ACCOUNT_ID);
    }
    let mut response = reply_json(200, &answer);
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(IDENTIFIER, id);
    }
    response
}

fn try_register(
    shared: &Shared,
    name: &str,
    body: &[u8],
) -> Result<(String, Vec<String>), Refusal> {
    let fault = shared.fault(name, |fault| match fault {
        Fault::RegisterFails {
            status, error_type, ..
        } => Some((*status, error_type.clone())),
        _ => None,
    });
    if let Some((status, error_type)) = fault {
        return Err((status, error_type, "injected".to_owned()));
    }
    let events = wanted_events(body)
        .ok_or_else(|| refuse(400, "InvalidRequestFormat", "not a register request"))?;
    check_events(&events, shared.config.mode)?;
    shared.update(|state| {
        // A name that is no file's is an internal extension's, even while no runtime is there to bring one.
        let internal = !name.is_empty() && !state.agents.iter().any(|agent| agent.name == name);
        if internal && events.iter().any(|event| event == "SHUTDOWN") {
            return Err(no_shutdown());
        }
        let agent = registrant(state, name)?;
        if agent.events.is_some() {
            return Err(refuse(
                403,
                "Extension.InvalidExtensionState",
                "registered already",
            ));
        }
        if !agent.external && events.iter().any(|event| event == "SHUTDOWN") {
            return Err(no_shutdown());
        }
        agent.events = Some(events.clone());
        Ok((agent.id.clone(), events))
    })
}

/// The extension of this name: a file's, or a new internal one once the runtime runs and has not asked for work.
fn registrant<'a>(state: &'a mut State, name: &str) -> Result<&'a mut Agent, Refusal> {
    if !state.agents.iter().any(|agent| agent.name == name) {
        if name.is_empty() || state.stage != Stage::Initialising || state.runtime_idle {
            return Err(refuse(
                403,
                "Extension.InvalidExtensionName",
                "the name is not that of a file in /opt/extensions",
            ));
        }
        state.agents.push(Agent::new(name.to_owned(), false));
    }
    state
        .agents
        .iter_mut()
        .find(|agent| agent.name == name)
        .ok_or_else(|| refuse(403, "Extension.InvalidExtensionName", "no such extension"))
}

fn wanted_events(body: &[u8]) -> Option<Vec<String>> {
    let request: Value = serde_json::from_slice(body).ok()?;
    match request.get("events") {
        None => Some(Vec::new()),
        Some(events) => serde_json::from_value(events.clone()).ok(),
    }
}

fn check_events(events: &[String], mode: Mode) -> Result<(), Refusal> {
    for event in events {
        let known = event == "SHUTDOWN" || (event == "INVOKE" && mode == Mode::OnDemand);
        if !known {
            return Err(refuse(
                403,
                "Extension.InvalidEventType",
                &format!("{event} is not available"),
            ));
        }
    }
    Ok(())
}

fn no_shutdown() -> Refusal {
    refuse(
        403,
        "Extension.InvalidEventType",
        "internal extensions get no SHUTDOWN",
    )
}

fn refuse(status: u16, error_type: &str, message: &str) -> Refusal {
    (status, error_type.to_owned(), message.to_owned())
}

pub(super) async fn next(shared: &Arc<Shared>, request: &Request<Incoming>) -> Reply {
    let name = match identify(shared, request) {
        Ok(name) => name,
        Err(answer) => return *answer,
    };
    let fault = shared.fault(&name, |fault| {
        if let Fault::NextFails { status, .. } = fault {
            Some(*status)
        } else {
            None
        }
    });
    if let Some(status) = fault {
        shared.timeline.add(Event::NextRefused {
            process: name,
            status,
        });
        return refusal(status, "Extension.Injected", "injected");
    }
    shared.timeline.add(Event::NextCalled {
        process: name.clone(),
    });
    let id = header(request, IDENTIFIER).unwrap_or_default();
    let Some(event) = shared.update(|state| state.agent(id).map(Agent::next)) else {
        return refusal(
            403,
            "Extension.UnknownExtensionIdentifier",
            "no such extension",
        );
    };
    let Ok(event) = event.await else {
        return refusal(410, "Gone", "the environment is gone");
    };
    if matches!(event, AgentEvent::Shutdown { .. }) {
        shared.update(|state| {
            if let Some(agent) = state.agent(id) {
                agent.notified_at.get_or_insert(Instant::now());
            }
        });
    }
    deliver(shared, name, &event)
}

fn deliver(shared: &Shared, name: String, event: &AgentEvent) -> Reply {
    let mut text = event_json(shared, &name, event).to_string();
    let malformed = shared
        .fault(&name, |fault| {
            if let Fault::MalformedEvent { .. } = fault {
                Some(())
            } else {
                None
            }
        })
        .is_some();
    if malformed {
        text.truncate(text.len() / 2);
    }
    shared.timeline.add(match event {
        AgentEvent::Invoke { request_id, .. } => Event::InvokeDelivered {
            process: name,
            request_id: request_id.clone(),
        },
        AgentEvent::Shutdown {
            reason, deadline, ..
        } => Event::ShutdownDelivered {
            process: name,
            reason: (*reason).to_owned(),
            budget_ms: u64::try_from(
                deadline
                    .saturating_duration_since(Instant::now())
                    .as_millis(),
            )
            .unwrap_or(0),
        },
    });
    let mut response = reply(200, text);
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        response
            .headers_mut()
            .insert("Lambda-Extension-Event-Identifier", id);
    }
    response
}

fn event_json(shared: &Shared, name: &str, event: &AgentEvent) -> Value {
    match event {
        AgentEvent::Invoke {
            request_id,
            deadline_unix_ms,
            trace,
        } => {
            let mut json = json!({
                "eventType": "INVOKE",
                "deadlineMs": deadline_unix_ms,
                "requestId": request_id,
                "invokedFunctionArn": shared.config.function_arn(),
                "tracing": { "type": "X-Amzn-Trace-Id", "value": trace },
            });
            let absurd = shared.fault(name, |fault| match fault {
                Fault::InvokeDeadline(deadline) => Some(deadline.clone()),
                _ => None,
            });
            match (absurd, json.as_object_mut()) {
                (Some(Value::Null), Some(fields)) => {
                    fields.remove("deadlineMs");
                }
                (Some(deadline), Some(fields)) => {
                    fields.insert("deadlineMs".to_owned(), deadline);
                }
                _ => {}
            }
            json
        }
        AgentEvent::Shutdown {
            reason,
            deadline_unix_ms,
            ..
        } => {
            json!({ "eventType": "SHUTDOWN", "shutdownReason": reason, "deadlineMs": deadline_unix_ms })
        }
    }
}

/// `/init/error` and `/exit/error`: the environment is unusable, the process is expected to exit.
pub(super) fn error(shared: &Shared, phase: &str, request: &Request<Incoming>) -> Reply {
    let name = match identify(shared, request) {
        Ok(name) => name,
        Err(answer) => return *answer,
    };
    let Some(reported) = header(request, ERROR_TYPE) else {
        return refusal(
            403,
            "Extension.MissingHeader",
            "the error type header is missing",
        );
    };
    shared.timeline.add(Event::ErrorReported {
        process: name.clone(),
        error_type: reported.to_owned(),
    });
    let error_type = if phase == "init" {
        "Extension.InitError"
    } else {
        "Extension.ExitError"
    };
    let error = FunctionError::new(error_type, format!("Extension {name} reported {reported}"));
    shared.update(|state| {
        if state.stage != Stage::TearingDown {
            state.fault.get_or_insert(error);
        }
    });
    reply_json(202, &json!({ "status": "OK" }))
}

/// The extension that asks, by the identifier it got when it registered.
pub(super) fn identify(shared: &Shared, request: &Request<Incoming>) -> Result<String, Box<Reply>> {
    let Some(id) = header(request, IDENTIFIER) else {
        return Err(Box::new(refusal(
            403,
            "Extension.MissingExtensionIdentifier",
            "the identifier header is missing",
        )));
    };
    let name = shared
        .look()
        .agents
        .iter()
        .find(|agent| agent.events.is_some() && agent.id == id)
        .map(|agent| agent.name.clone());
    name.ok_or_else(|| {
        let error_type = if uuid::Uuid::try_parse(id).is_ok() {
            "Extension.UnknownExtensionIdentifier"
        } else {
            "Extension.InvalidExtensionIdentifier"
        };
        Box::new(refusal(403, error_type, "no such extension"))
    })
}
