//! What a fake Langfuse knows when it starts: projects and their keys, prompts, limits.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Wire size of a request above which Langfuse Cloud's edge answers 413, in bytes.
/// <https://langfuse.com/faq/all/api-limits>
pub const DEFAULT_MAX_REQUEST_BYTES: usize = 5 * 1_000 * 1_000;

/// How one fake Langfuse is set up. `Config::default()` is plain HTTP with the project of
/// [`Project::PUBLIC_KEY`] and [`Project::SECRET_KEY`], a second one (`pk-lf-second`), and the prompts `greeting` and `movie critic/v2 ä`.
#[derive(Clone, Debug)]
pub struct Config {
    /// TCP port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Serve HTTPS with a certificate for 127.0.0.1 and localhost, signed by a CA made for this instance.
    pub tls: bool,
    /// Path in front of `/api/public`, as with a self-hosted `NEXT_PUBLIC_BASE_PATH`: empty, or `/langfuse`.
    pub base_path: String,
    /// Whose keys are valid.
    pub projects: Vec<Project>,
    /// The prompts that can be fetched.
    pub prompts: Vec<Prompt>,
    /// Body bytes on the wire above which any request is answered with an edge's HTML 413.
    pub max_request_bytes: usize,
    /// Langfuse v4's write mode in which the ingestion door takes nothing but scores and SDK logs.
    pub events_only: bool,
    /// Take lists at `/api/public/scores`, as langfuse-python 5 sends them. Langfuse 4.16.0 answers them 400.
    pub score_lists: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 0,
            tls: false,
            base_path: String::new(),
            projects: vec![
                Project::default(),
                Project::new("project-second", "pk-lf-second", "sk-lf-second"),
            ],
            prompts: vec![
                Prompt::text("greeting", 1, "Hello {{name}}"),
                Prompt::text("greeting", 3, "Hello again {{name}}"),
                Prompt {
                    labels: vec!["production".into(), "staging".into()],
                    ..Prompt::text("movie critic/v2 ä", 1, "Review {{movie}}")
                },
            ],
            max_request_bytes: DEFAULT_MAX_REQUEST_BYTES,
            events_only: false,
            score_lists: false,
        }
    }
}

/// A project, or with [`Project::organization_key`] an organisation, and its one pair of keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Project {
    /// The project's id, by which recordings name it.
    pub id: String,
    /// Whose project it is: rate limits are an organisation's.
    #[serde(default = "organization")]
    pub organization: String,
    /// `pk-lf-…`.
    pub public_key: String,
    /// `sk-lf-…`. Requests are resolved to a project by this one alone, as Langfuse does.
    pub secret_key: String,
    /// Over the free plan's hard limit: every write is answered 403.
    #[serde(default)]
    pub suspended: bool,
    /// The keys belong to an organisation, which can write nothing.
    #[serde(default)]
    pub organization_key: bool,
}

impl Project {
    /// The default project's public key.
    pub const PUBLIC_KEY: &str = "pk-lf-test";
    /// The default project's secret key.
    pub const SECRET_KEY: &str = "sk-lf-test";

    /// A project in good standing, of the one organisation that all have unless it is changed.
    pub fn new(id: &str, public_key: &str, secret_key: &str) -> Self {
        Self {
            id: id.into(),
            organization: organization(),
            public_key: public_key.into(),
            secret_key: secret_key.into(),
            suspended: false,
            organization_key: false,
        }
    }
}

impl Default for Project {
    fn default() -> Self {
        Self::new("project-test", Self::PUBLIC_KEY, Self::SECRET_KEY)
    }
}

fn organization() -> String {
    "org-test".into()
}

/// One version of a prompt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prompt {
    /// May hold slashes and spaces.
    pub name: String,
    /// Counts from 1.
    pub version: u32,
    /// Without `latest`, which the highest version has by itself.
    pub labels: Vec<String>,
    /// `text` or `chat`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A string for `text`, a list of messages for `chat`.
    pub prompt: Value,
    /// Free-form settings of the model.
    pub config: Value,
}

impl Prompt {
    /// A text prompt labelled `production`.
    pub fn text(name: &str, version: u32, text: &str) -> Self {
        Self {
            name: name.into(),
            version,
            labels: vec!["production".into()],
            kind: "text".into(),
            prompt: text.into(),
            config: json!({}),
        }
    }
}
