//! Whose keys these are, and what they may do.
//!
//! After Langfuse 4.16.0,
//! <https://github.com/langfuse/langfuse/blob/62751446149b702b419a9292ddfc2280cdf74b8c/web/src/features/public-api/server/apiAuth.ts>

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::config::Project;
use super::reply::Reply;

/// What a suspended project is told.
pub(super) const SUSPENDED: &str =
    "Ingestion suspended: Usage threshold exceeded. Please upgrade your plan.";

const WRONG_HOST: &str = ". Confirm that you've configured the correct host.";

/// What a valid `Authorization` is good for.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) project: Project,
    pub(super) level: Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Both keys of a project.
    Project,
    /// The public key alone: scores and nothing else.
    Scores,
    /// Both keys of an organisation.
    Organization,
}

/// The scope of an `Authorization` header, or the reason why there is none.
pub(super) fn scope(projects: &[Project], authorization: Option<&str>) -> Result<Scope, String> {
    let Some(authorization) = authorization.filter(|header| !header.is_empty()) else {
        return Err("No authorization header".into());
    };
    if let Some(encoded) = authorization.strip_prefix("Basic ") {
        return basic(projects, encoded).map_err(|reason| format!("{reason}{WRONG_HOST}"));
    }
    if let Some(public_key) = authorization.strip_prefix("Bearer ") {
        return bearer(projects, public_key).map_err(|reason| format!("{reason}{WRONG_HOST}"));
    }
    Err("Invalid authorization header".into())
}

fn basic(projects: &[Project], encoded: &str) -> Result<Scope, &'static str> {
    let invalid_header = "Invalid authorization header";
    let encoded = encoded.split(' ').next().unwrap_or_default();
    let decoded = STANDARD.decode(encoded).map_err(|_| invalid_header)?;
    let decoded = String::from_utf8_lossy(&decoded).into_owned();
    // Whatever follows a second colon is not looked at.
    let mut parts = decoded.split(':');
    let public_key = parts.next().filter(|key| !key.is_empty());
    let secret_key = parts.next().filter(|key| !key.is_empty());
    let (Some(_), Some(secret_key)) = (public_key, secret_key) else {
        return Err(invalid_header);
    };
    let project = projects
        .iter()
        .find(|project| project.secret_key == secret_key);
    let project = project.cloned().ok_or("Invalid credentials")?;
    let level = if project.organization_key {
        Level::Organization
    } else {
        Level::Project
    };
    Ok(Scope { project, level })
}

fn bearer(projects: &[Project], public_key: &str) -> Result<Scope, &'static str> {
    let project = projects
        .iter()
        .find(|project| project.public_key == public_key);
    let project = project.cloned().ok_or("Invalid public key")?;
    if project.organization_key {
        return Err("Unauthorized: Cannot use organization key with bearer auth");
    }
    Ok(Scope {
        project,
        level: Level::Scores,
    })
}

/// The answer of an ordinary route to a request without a valid scope.
pub(super) fn unauthorized(reason: &str) -> Reply {
    Reply::json(401, &json!({"message": reason}))
}

/// The answer of an ordinary route to a scope that does not suffice.
pub(super) fn denied() -> Reply {
    let message = "Access denied - insufficient permissions for this endpoint";
    Reply::json(403, &json!({"message": message}))
}

pub(super) fn suspended() -> Reply {
    Reply::refusal(403, "ForbiddenError", SUSPENDED)
}
