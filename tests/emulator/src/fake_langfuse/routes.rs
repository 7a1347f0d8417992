//! From a path to the answer of a healthy Langfuse, and to what it stores of the request.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::auth::{self, Level, Scope};
use super::fault::{Bucket, Facts, RateLimited};
use super::ingestion::{self, Judged};
use super::otlp;
use super::recording::Door;
use super::reply::Reply;
use super::request::{Incoming, decode};
use super::state::State;
use super::surrogate;

/// The version that `health` answers, whose rules this fake follows.
pub const LANGFUSE_VERSION: &str = "4.16.0";
/// JSON bodies of `/ingestion`, in bytes.
pub const MAX_INGESTION_BODY_BYTES: usize = 4_718_592;
/// JSON bodies of every other route (Next's default), in bytes.
pub const MAX_JSON_BODY_BYTES: usize = 1 << 20;
/// Where the fake bucket begins; outside the base path, as a bucket is no part of Langfuse.
pub const BUCKET_PATH: &str = "/fake-s3";

const COLLECTIONS: [&str; 16] = [
    "annotation-queues",
    "comments",
    "dataset-items",
    "dataset-run-items",
    "datasets",
    "metrics",
    "models",
    "observations",
    "score-configs",
    "sessions",
    "traces",
    "v2/datasets",
    "v2/metrics",
    "v2/observations",
    "v2/scores",
    "v3/scores",
];
const WRITABLE: [&str; 6] = [
    "comments",
    "dataset-items",
    "dataset-run-items",
    "datasets",
    "score-configs",
    "v2/datasets",
];

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Redirect(String),
    OtlpTraces,
    OtlpMetrics,
    Events(Door),
    Projects,
    Health,
    Prompts,
    Prompt(String),
    MediaRoot,
    Media(String),
    Bucket(String, String),
    Collection(String),
    Item(String, String),
    Unknown,
}

impl Route {
    pub(super) fn of(target: &str, base_path: &str) -> Self {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        let with_query =
            |path: String| query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        // Next answers these itself, before any route: packages/next/src/server/lib/router-utils/resolve-routes.ts.
        if path.contains("//") || path.contains('\\') {
            return Self::Redirect(with_query(single_slashes(path)));
        }
        if path.len() > 1 && path.ends_with('/') {
            return Self::Redirect(with_query(path.trim_end_matches('/').to_owned()));
        }
        if let Some((project, id)) = path
            .strip_prefix(BUCKET_PATH)
            .and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
        {
            return Self::Bucket(decode(project), decode(id));
        }
        let public = path
            .strip_prefix(base_path)
            .and_then(|rest| rest.strip_prefix("/api/public/"));
        public.map_or(Self::Unknown, Self::of_public)
    }

    fn of_public(path: &str) -> Self {
        match path {
            "otel/v1/traces" => Self::OtlpTraces,
            "otel/v1/metrics" => Self::OtlpMetrics,
            "ingestion" => Self::Events(Door::Ingestion),
            "scores" => Self::Events(Door::Scores),
            "projects" => Self::Projects,
            "health" | "ready" => Self::Health,
            "v2/prompts" => Self::Prompts,
            "media" => Self::MediaRoot,
            _ if COLLECTIONS.contains(&path) => Self::Collection(path.into()),
            _ => match path.rsplit_once('/') {
                Some(("v2/prompts", name)) => Self::Prompt(decode(name)),
                Some(("media", id)) => Self::Media(decode(id)),
                Some((collection, id)) if COLLECTIONS.contains(&collection) => {
                    Self::Item(collection.into(), decode(id))
                }
                _ => Self::Unknown,
            },
        }
    }

    /// Prompts, projects, media and health have no limit, or one of their own.
    fn bucket(&self) -> Option<Bucket> {
        match self {
            Self::OtlpTraces | Self::OtlpMetrics | Self::Events(Door::Ingestion) => {
                Some(Bucket::Ingestion)
            }
            Self::Events(Door::Scores) | Self::Collection(_) | Self::Item(..) => {
                Some(Bucket::PublicApi)
            }
            _ => None,
        }
    }

    fn methods(&self) -> &'static [&'static str] {
        match self {
            Self::OtlpTraces
            | Self::OtlpMetrics
            | Self::Events(Door::Ingestion)
            | Self::MediaRoot => &["POST"],
            Self::Prompts | Self::Events(Door::Scores) => &["GET", "POST"],
            Self::Media(_) => &["GET", "PATCH"],
            Self::Bucket(..) => &["PUT"],
            Self::Collection(name) if WRITABLE.contains(&name.as_str()) => &["GET", "POST"],
            Self::Prompt(_) | Self::Projects | Self::Item(..) | Self::Collection(_) => &["GET"],
            Self::Health | Self::Redirect(_) | Self::Unknown => &[],
        }
    }
}

fn single_slashes(path: &str) -> String {
    let mut single = path.replace('\\', "/");
    while single.contains("//") {
        single = single.replace("//", "/");
    }
    single
}

/// What a body turned out to hold, read once for faults, judgement and recording alike.
pub(super) enum Contents {
    /// Not looked at.
    None,
    /// `resourceSpans`, or the answer to an undecodable body.
    Spans(Result<Value, Reply>),
    /// A JSON body, or the answer to one that is none.
    Json(Result<Value, Reply>),
}

impl Contents {
    pub(super) fn of(route: &Route, incoming: &Incoming) -> Self {
        match route {
            _ if !matches!(incoming.method.as_str(), "POST" | "PATCH" | "PUT") => Self::None,
            Route::OtlpTraces => Self::Spans(otlp::decode(incoming)),
            Route::Events(Door::Ingestion) => {
                Self::Json(parse_json(incoming, MAX_INGESTION_BODY_BYTES, "4.5mb"))
            }
            Route::Events(_)
            | Route::Prompts
            | Route::MediaRoot
            | Route::Media(_)
            | Route::Collection(_) => Self::Json(parse_json(incoming, MAX_JSON_BODY_BYTES, "1mb")),
            _ => Self::None,
        }
    }

    pub(super) fn span_count(&self) -> usize {
        match self {
            Self::Spans(Ok(spans)) => otlp::span_count(spans),
            _ => 0,
        }
    }

    /// What a fault's scope looks at.
    pub(super) fn facts<'a>(&self, route: &Route, incoming: &'a Incoming) -> Facts<'a> {
        Facts {
            method: &incoming.method,
            path: incoming.path(),
            data_bearing: self.span_count() + self.events(route).len() > 0,
            content: Box::new(|| otlp::plain(incoming)),
        }
    }

    pub(super) fn events(&self, route: &Route) -> &[Value] {
        match (route, self) {
            (Route::Events(door), Self::Json(Ok(body))) => ingestion::items(*door, body),
            _ => &[],
        }
    }
}

/// As Next's body parser does it: by content type, never inflated, text where no type is given.
fn parse_json(incoming: &Incoming, max_bytes: usize, max: &str) -> Result<Value, Reply> {
    if incoming.body.len() > max_bytes {
        return Err(Reply::text(413, &format!("Body exceeded {max} limit")));
    }
    let content_type = incoming.header("content-type").unwrap_or("text/plain");
    let mime = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase();
    if mime != "application/json" && mime != "application/ld+json" {
        return Ok(Value::String(
            String::from_utf8_lossy(&incoming.body).into_owned(),
        ));
    }
    if incoming.body.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(&surrogate::mended(&incoming.body))
        .map_err(|_| Reply::text(400, "Invalid JSON"))
}

/// The answer, and what is stored.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) project: Option<String>,
    /// Whether spans, or a request without data, were accepted.
    pub(super) accepted: bool,
    /// Events one by one, as they were judged.
    pub(super) events: Vec<(Value, bool)>,
    /// Spans that contain this are refused all the same.
    pub(super) refused_text: Option<String>,
}

impl Answer {
    fn new(reply: Reply, project: Option<String>) -> Self {
        let accepted = (200..300).contains(&reply.status);
        Self {
            reply,
            project,
            accepted,
            events: Vec::new(),
            refused_text: None,
        }
    }
}

/// Answers as a healthy Langfuse does.
pub(super) fn answer(
    state: &mut State,
    route: &Route,
    incoming: &Incoming,
    contents: &Contents,
    url: &str,
) -> Answer {
    if incoming.body.len() > state.max_request_bytes {
        return Answer::new(Reply::html(413, super::reply::edge_page(413)), None);
    }
    if let Some(reply) = answer_without_project(route, incoming, contents) {
        return Answer::new(reply, None);
    }
    if let Route::Bucket(project, id) = route {
        return Answer::new(state.library.upload_media(project, id, incoming), None);
    }
    let scope = match authorize(state, route, incoming) {
        Ok(scope) => scope,
        Err(reply) => return Answer::new(reply, None),
    };
    let project = Some(scope.project.id.clone());
    // `/ingestion` looks at the suspension before the limit, `/otel` after it.
    if scope.project.suspended && *route == Route::Events(Door::Ingestion) {
        return Answer::new(auth::suspended(), project);
    }
    if let Some(bucket) = route.bucket() {
        let account = (scope.project.organization.clone(), bucket);
        let facts = contents.facts(route, incoming);
        if let Some(limited) = state.faults.take_point(&facts, &account, Instant::now()) {
            return Answer::new(rate_limited(&limited), project);
        }
    }
    match route {
        Route::OtlpTraces | Route::OtlpMetrics | Route::Events(_) if incoming.method == "POST" => {
            ingest(state, route, incoming, contents, &scope)
        }
        _ => Answer::new(
            read_or_write(state, route, incoming, contents, &scope, url),
            project,
        ),
    }
}

/// What is answered before anyone asks for keys: redirects, wrong paths and methods, bodies that do not parse.
fn answer_without_project(
    route: &Route,
    incoming: &Incoming,
    contents: &Contents,
) -> Option<Reply> {
    match (route, contents) {
        (Route::Redirect(location), _) => {
            let reply = Reply::text(308, location).with_header("location", location.as_str());
            Some(reply.with_header("refresh", format!("0;url={location}")))
        }
        (Route::Unknown, _) => Some(Reply::unknown_page()),
        (Route::Health, _) => Some(Reply::json(
            200,
            &json!({"status": "OK", "version": LANGFUSE_VERSION}),
        )),
        (_, Contents::Json(Err(reply))) => Some(reply.clone()),
        _ if incoming.method == "OPTIONS" => {
            Some(Reply::empty(204).with_header("access-control-allow-origin", "*"))
        }
        _ if !route.methods().contains(&incoming.method.as_str()) => {
            Some(Reply::method_not_allowed())
        }
        _ => None,
    }
}

fn authorize(state: &State, route: &Route, incoming: &Incoming) -> Result<Scope, Reply> {
    let refuse = |reason: &str| match route {
        Route::Events(Door::Ingestion) | Route::Prompt(_) | Route::Prompts => {
            Reply::refusal(401, "UnauthorizedError", reason)
        }
        _ => auth::unauthorized(reason),
    };
    let scope = auth::scope(&state.projects, incoming.header("authorization"))
        .map_err(|reason| refuse(&reason))?;
    match (route, scope.level) {
        (_, Level::Project) | (Route::Events(_), Level::Scores) => Ok(scope),
        (Route::Events(Door::Ingestion), Level::Organization) => Err(refuse(
            "Missing projectId in scope. Are you using an organization key?",
        )),
        (Route::Projects, _) => {
            let message = "Invalid API key. Are you using an organization key?";
            Err(Reply::json(403, &json!({"message": message})))
        }
        _ => Err(auth::denied()),
    }
}

fn ingest(
    state: &mut State,
    route: &Route,
    incoming: &Incoming,
    contents: &Contents,
    scope: &Scope,
) -> Answer {
    let project = Some(scope.project.id.clone());
    if scope.project.suspended && *route != Route::OtlpMetrics {
        return Answer::new(auth::suspended(), project);
    }
    match (route, contents) {
        (Route::OtlpTraces, Contents::Spans(spans)) => {
            Answer::new(take_spans(spans, incoming), project)
        }
        (Route::Events(door), Contents::Json(Ok(body))) => {
            let Judged { reply, events } = match door {
                Door::Ingestion => ingestion::judge_batch(body, scope.level, state.events_only),
                Door::Scores => ingestion::judge_scores(body, state.score_lists),
            };
            Answer {
                events,
                ..Answer::new(reply, project)
            }
        }
        _ => Answer::new(Reply::json(200, &json!({"message": "OK"})), project),
    }
}

fn take_spans(spans: &Result<Value, Reply>, incoming: &Incoming) -> Reply {
    let spans = match spans {
        Ok(spans) if otlp::is_empty(spans) => return Reply::json(200, &json!({})),
        Ok(spans) => spans,
        Err(reply) => return reply.clone(),
    };
    let verdict = otlp::validate(spans).and_then(|()| otlp::validate_ingestion_version(incoming));
    match verdict {
        Ok(()) => Reply::json(200, &queued_job()),
        Err(reply) => reply,
    }
}

/// Langfuse answers with the job it has put into its queue; nobody may rely on what is in it.
fn queued_job() -> Value {
    let id = uuid::Uuid::new_v4().to_string();
    json!({
        "name": "otel-ingestion-job",
        "id": id,
        "data": {"id": id, "name": "otel-ingestion-job"},
        "opts": {"attempts": 6, "removeOnComplete": true},
        "progress": 0,
        "delay": 0,
        "attemptsMade": 0,
    })
}

fn read_or_write(
    state: &mut State,
    route: &Route,
    incoming: &Incoming,
    contents: &Contents,
    scope: &Scope,
    url: &str,
) -> Reply {
    let project = scope.project.id.as_str();
    let bucket_url = format!("{url}{BUCKET_PATH}");
    let body = match contents {
        Contents::Json(Ok(body)) => body,
        _ => &Value::Null,
    };
    let is_write = incoming.method != "GET";
    let library = &mut state.library;
    match route {
        Route::Projects => Reply::json(
            200,
            &json!({"data": [{"id": project, "name": project, "metadata": {},
            "organization": {"id": "org-test", "name": "org-test"}}]}),
        ),
        Route::Prompt(name) => library.prompt(
            name,
            incoming.query("version").as_deref(),
            incoming.query("label").as_deref(),
        ),
        Route::Prompts if is_write => library.create_prompt(body),
        Route::MediaRoot if scope.project.suspended => auth::suspended(),
        Route::MediaRoot => library.announce_media(project, body, &bucket_url),
        Route::Media(id) if is_write => library.report_media(project, id, body),
        Route::Media(id) => library.media_details(project, id, &bucket_url),
        Route::Collection(name) if is_write => library.create(project, name, body),
        Route::Collection(name) => {
            library.list(project, name, incoming.query("datasetName").as_deref())
        }
        Route::Item(collection, id) => library.item(project, collection, id),
        _ => library.list(project, "nothing", None),
    }
}

fn rate_limited(limited: &RateLimited) -> Reply {
    const JAVASCRIPT_DATE: &[BorrowedFormatItem<'_>] = format_description!(
        "[weekday repr:short] [month repr:short] [day] [year] [hour]:[minute]:[second] GMT+0000 (Coordinated Universal Time)"
    );
    let retry_after_s = limited.until_reset.as_millis().div_ceil(1000);
    let reset_at =
        OffsetDateTime::from(SystemTime::now() + limited.until_reset.max(Duration::from_millis(1)));
    let body = json!({
        "message": "Rate limit exceeded",
        "code": "rate_limited",
        "details": {"retryAfterSeconds": retry_after_s, "limit": limited.limit, "remaining": 0,
            "resetAt": reset_at.format(&Rfc3339).unwrap_or_default()},
    });
    Reply::json(429, &body)
        .with_header("retry-after", retry_after_s.to_string())
        .with_header("x-ratelimit-limit", limited.limit.to_string())
        .with_header("x-ratelimit-remaining", "0")
        .with_header(
            "x-ratelimit-reset",
            reset_at.format(JAVASCRIPT_DATE).unwrap_or_default(),
        )
}
