//! The one table of settings. The reader, the check of names, `langfuse-extension check`, docs/settings.md and the
//! Terraform module's variables come from it or are compared with it.

use std::fmt::Write as _;

/// A variable of the environment that the extension reads.
#[derive(Debug)]
pub struct Setting {
    /// In full. One that ends in `<NAME>` stands for every variable that begins like it.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What holds where it is not set, or makes no sense.
    pub unset: Unset,
    /// Whether its value may be seen.
    pub secret: bool,
    /// What it is for: a cell of a Markdown table.
    pub what: &'static str,
    /// Who sets it where the Terraform module is used.
    pub terraform: Terraform,
}

/// What a setting may be. Letter case counts in addresses, keys and paths only; white space around it never does.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`; `1`, `yes`, `on` and their opposites are understood.
    Switch,
    /// Milliseconds.
    Millis {
        /// More is refused.
        most: u64,
    },
    /// Bytes.
    Bytes {
        /// Less is refused.
        least: u64,
        /// Whether 0 turns off what this is the size of.
        zero_is_off: bool,
    },
    /// A loopback address and a port.
    Listen,
    /// An address that begins with `https://` or `http://`.
    Address,
    /// A key, or where it is kept.
    Key,
    /// A file or a directory, by its absolute path, and not the root.
    Path,
    /// Names of headers, with commas between.
    Headers,
    /// A number from 0 to 1.
    Ratio,
    /// Words with commas between.
    Words,
    /// A regular expression (<https://docs.rs/regex/latest/regex/#syntax>).
    Pattern,
    /// Read by the HTTP client itself.
    Proxy,
}

/// What holds where a setting is not set.
#[derive(Clone, Copy, Debug)]
pub enum Unset {
    /// This, as if it had been written.
    Value(&'static str),
    /// Something that depends, in words.
    Depends(&'static str),
}

/// Who sets a setting where the Terraform module is used.
#[derive(Clone, Copy, Debug)]
pub enum Terraform {
    /// A variable of the module.
    Variable(&'static str),
    /// The module's map `settings`.
    Settings,
    /// The function's own environment, beside the module.
    Function,
}

impl Setting {
    /// The default as it would be written, if it is one value.
    pub fn default_value(&self) -> &'static str {
        match self.unset {
            Unset::Value(value) => value,
            Unset::Depends(_) => "",
        }
    }

    /// Whether a variable of this name is this setting.
    pub fn is_named(&self, name: &str) -> bool {
        match self.name.strip_suffix("<NAME>") {
            Some(start) => name.len() > start.len() && name.starts_with(start),
            None => self.name == name,
        }
    }
}

/// docs/settings.md's table of them.
pub fn markdown() -> String {
    let mut table = String::from("| Variable | Default | What |\n|---|---|---|\n");
    for setting in TABLE {
        let default = match setting.unset {
            Unset::Value(value) => format!("`{value}`"),
            Unset::Depends(words) => words.to_owned(),
        };
        let _ = writeln!(
            table,
            "| `{}` | {default} | {} |",
            setting.name, setting.what
        );
    }
    table
}

macro_rules! table {
    ($($setting:ident = $row:expr;)*) => {
        $(#[doc = concat!("The row of `", stringify!($setting), "`.")] pub static $setting: Setting = $row;)*

        /// Every setting, in the order of the documentation.
        pub static TABLE: &[&Setting] = &[$(&$setting),*];
    };
}

table! {
    BASE_URL = Setting {
        name: "LANGFUSE_EXTENSION_BASE_URL",
        kind: Kind::Address,
        unset: Unset::Depends("what the app's own `LANGFUSE_BASE_URL`, `LANGFUSE_HOST`, `LANGFUSE_BASEURL`, `LANGFUSE_OTEL_HOST` say, or `TRACELOOP_BASE_URL`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT` where they name Langfuse (`…/api/public/otel`); `https://cloud.langfuse.com` (EU) if none does"),
        secret: false,
        what: "where Langfuse is, base path included; no query, no user name. Where those name only the extension itself, everything is held until this says where to",
        terraform: Terraform::Variable("base_url"),
    };
    SHUTDOWN_MS = Setting {
        name: "LANGFUSE_EXTENSION_SHUTDOWN_MS",
        kind: Kind::Millis { most: 3_600_000 },
        unset: Unset::Value("8000"),
        secret: false,
        what: "`run` and `serve`: the time between SIGTERM and the end; three quarters are the app's, one is for sending",
        terraform: Terraform::Settings,
    };
    THEN_EXEC = Setting {
        name: "LANGFUSE_EXTENSION_THEN_EXEC",
        kind: Kind::Path,
        unset: Unset::Depends("–"),
        secret: false,
        what: "the wrapper that `/opt/langfuse` goes on to, such as the Web Adapter's `/opt/bootstrap`",
        terraform: Terraform::Settings,
    };
    PUBLIC_KEY = Setting {
        name: "LANGFUSE_EXTENSION_PUBLIC_KEY",
        kind: Kind::Key,
        unset: Unset::Depends("`LANGFUSE_PUBLIC_KEY`"),
        secret: false,
        what: "key for requests that bring none: a value, an SSM parameter (`ssm:NAME` or its ARN) or a Secrets Manager secret (its ARN, `#json-key`)",
        terraform: Terraform::Variable("public_key"),
    };
    SECRET_KEY = Setting {
        name: "LANGFUSE_EXTENSION_SECRET_KEY",
        kind: Kind::Key,
        unset: Unset::Depends("`LANGFUSE_SECRET_KEY`"),
        secret: true,
        what: "its other half, given in the same ways",
        terraform: Terraform::Variable("secret_key"),
    };
    LISTEN = Setting {
        name: "LANGFUSE_EXTENSION_LISTEN",
        kind: Kind::Listen,
        unset: Unset::Value("localhost:4318"),
        secret: false,
        what: "loopback address and port; `localhost:PORT` for both families",
        terraform: Terraform::Variable("listen"),
    };
    ACCEPT = Setting {
        name: "LANGFUSE_EXTENSION_ACCEPT",
        kind: Kind::Choice(&["all", "langfuse"]),
        unset: Unset::Value("all"),
        secret: false,
        what: "`langfuse` discards spans of foreign OpenTelemetry SDKs: those without `Authorization`, an `x-langfuse-*` header or a path under `/api/public/`",
        terraform: Terraform::Variable("accept"),
    };
    SCORES = Setting {
        name: "LANGFUSE_EXTENSION_SCORES",
        kind: Kind::Choice(&["merge", "verbatim"]),
        unset: Unset::Value("merge"),
        secret: false,
        what: "`merge` sends what comes to `/api/public/scores` as the events that Langfuse makes of it, many in one request; `verbatim` forwards each request as it came, although Langfuse 4.16 refuses the arrays of Python's SDK 5",
        terraform: Terraform::Settings,
    };
    FLUSH = Setting {
        name: "LANGFUSE_EXTENSION_FLUSH",
        kind: Kind::Choice(&["adaptive", "end", "background"]),
        unset: Unset::Value("adaptive"),
        secret: false,
        what: "`adaptive`: hold until sent in sparse traffic, overlap in dense; `end`: always hold; `background`: never",
        terraform: Terraform::Variable("flush"),
    };
    FLUSH_BUDGET_MS = Setting {
        name: "LANGFUSE_EXTENSION_FLUSH_BUDGET_MS",
        kind: Kind::Millis { most: 900_000 },
        unset: Unset::Value("2000"),
        secret: false,
        what: "the longest hold after the end of work",
        terraform: Terraform::Variable("flush_budget_ms"),
    };
    MAX_DATA_AGE_MS = Setting {
        name: "LANGFUSE_EXTENSION_MAX_DATA_AGE_MS",
        kind: Kind::Millis { most: 86_400_000 },
        unset: Unset::Value("10000"),
        secret: false,
        what: "how old data may get before it is sent, while the sandbox is awake",
        terraform: Terraform::Variable("max_data_age_ms"),
    };
    BUFFER_BYTES = Setting {
        name: "LANGFUSE_EXTENSION_BUFFER_BYTES",
        kind: Kind::Bytes { least: 65_536, zero_is_off: false },
        unset: Unset::Depends("32 MiB, or 1/16 of the function's memory"),
        secret: false,
        what: "memory for what is not yet delivered; when full, the oldest goes",
        terraform: Terraform::Variable("buffer_bytes"),
    };
    SPOOL_BYTES = Setting {
        name: "LANGFUSE_EXTENSION_SPOOL_BYTES",
        kind: Kind::Bytes { least: 262_144, zero_is_off: true },
        unset: Unset::Value("67108864"),
        secret: false,
        what: "disk for the same, so that it survives a timeout or a kill; `0` turns it off",
        terraform: Terraform::Variable("spool_bytes"),
    };
    SPOOL_DIR = Setting {
        name: "LANGFUSE_EXTENSION_SPOOL_DIR",
        kind: Kind::Path,
        unset: Unset::Value("/tmp/langfuse-extension"),
        secret: false,
        what: "where, as an absolute path",
        terraform: Terraform::Variable("spool_dir"),
    };
    RESEND_AMBIGUOUS = Setting {
        name: "LANGFUSE_EXTENSION_RESEND_AMBIGUOUS",
        kind: Kind::Switch,
        unset: Unset::Value("true"),
        secret: false,
        what: "send spans again whose first send got no answer; Langfuse may then count them twice. `false` may lose them",
        terraform: Terraform::Variable("resend_ambiguous"),
    };
    PASSTHROUGH = Setting {
        name: "LANGFUSE_EXTENSION_PASSTHROUGH",
        kind: Kind::Choice(&["sdk", "write", "all", "off"]),
        unset: Unset::Value("sdk"),
        secret: false,
        what: "what else travels to Langfuse. `sdk`: everything with the client's keys; with the extension's a prompt by its name, the project, media uploads, health. `write`: prompts and datasets may be written with them too; `all`: everything; `off`: nothing",
        terraform: Terraform::Variable("passthrough"),
    };
    ROUTE_HEADERS = Setting {
        name: "LANGFUSE_EXTENSION_ROUTE_HEADERS",
        kind: Kind::Headers,
        unset: Unset::Depends("–"),
        secret: false,
        what: "headers of clients, as in `x-tenant,x-region`, that travel on with spans and scores and keep them apart, beside `x-langfuse-*`; for masking callbacks of a Langfuse of your own",
        terraform: Terraform::Variable("route_headers"),
    };
    PROMPT_CACHE = Setting {
        name: "LANGFUSE_EXTENSION_PROMPT_CACHE",
        kind: Kind::Switch,
        unset: Unset::Value("true"),
        secret: false,
        what: "keep prompts in memory: fresh for 60 s, then renewed beside the answer, and served up to 24 h old while Langfuse is down",
        terraform: Terraform::Variable("prompt_cache"),
    };
    SPANS = Setting {
        name: "LANGFUSE_EXTENSION_SPANS",
        kind: Kind::Choice(&["all", "llm", "llm-tree"]),
        unset: Unset::Value("all"),
        secret: false,
        what: "which spans leave. `llm`: those that Langfuse's SDKs send by default; `llm-tree`: their ancestors as well; see [egress](egress.md)",
        terraform: Terraform::Settings,
    };
    SPANS_INCLUDE = Setting {
        name: "LANGFUSE_EXTENSION_SPANS_INCLUDE",
        kind: Kind::Words,
        unset: Unset::Depends("–"),
        secret: false,
        what: "instrumentation scopes whose spans leave as well, with commas between; what is below one (`my.scope.part`) counts as in it",
        terraform: Terraform::Settings,
    };
    SPANS_EXCLUDE = Setting {
        name: "LANGFUSE_EXTENSION_SPANS_EXCLUDE",
        kind: Kind::Words,
        unset: Unset::Depends("–"),
        secret: false,
        what: "instrumentation scopes whose spans never leave",
        terraform: Terraform::Settings,
    };
    SAMPLE = Setting {
        name: "LANGFUSE_EXTENSION_SAMPLE",
        kind: Kind::Ratio,
        unset: Unset::Value("1"),
        secret: false,
        what: "the share of traces that leaves, by trace id, as Python's `TraceIdRatioBased` decides; scores go with their trace",
        terraform: Terraform::Settings,
    };
    MASK = Setting {
        name: "LANGFUSE_EXTENSION_MASK",
        kind: Kind::Words,
        unset: Unset::Depends("–"),
        secret: false,
        what: "what becomes a mark in every text: `email`, `card`, `iban`, `phone`, `api-key`, `jwt`, with commas between",
        terraform: Terraform::Settings,
    };
    MASK_KEYS = Setting {
        name: "LANGFUSE_EXTENSION_MASK_KEYS",
        kind: Kind::Words,
        unset: Unset::Depends("–"),
        secret: false,
        what: "keys of attributes, and in JSON, whose values become a mark, in any case, with commas between",
        terraform: Terraform::Settings,
    };
    MASK_PATTERN = Setting {
        name: "LANGFUSE_EXTENSION_MASK_PATTERN_<NAME>",
        kind: Kind::Pattern,
        unset: Unset::Depends("–"),
        secret: false,
        what: "a regular expression; what it matches becomes `[masked:name]`. One that does not compile strips **all values** until it is mended",
        terraform: Terraform::Settings,
    };
    MASK_PASSTHROUGH = Setting {
        name: "LANGFUSE_EXTENSION_MASK_PASSTHROUGH",
        kind: Kind::Choice(&["refuse", "allow"]),
        unset: Unset::Value("refuse"),
        secret: false,
        what: "whether, while anything is masked, requests with a body that nobody masks (media, prompts to be made) pass through",
        terraform: Terraform::Settings,
    };
    MAX_ATTRIBUTE_BYTES = Setting {
        name: "LANGFUSE_EXTENSION_MAX_ATTRIBUTE_BYTES",
        kind: Kind::Bytes { least: 128, zero_is_off: true },
        unset: Unset::Value("0"),
        secret: false,
        what: "the longest a value may be; a longer one loses media in data URIs, and is then cut with a mark; `0`: any length",
        terraform: Terraform::Settings,
    };
    ENRICH = Setting {
        name: "LANGFUSE_EXTENSION_ENRICH",
        kind: Kind::Choice(&["off", "resource", "trace"]),
        unset: Unset::Value("off"),
        secret: false,
        what: "`resource` adds what Lambda says of the function where it is missing; `trace` also the request id and whether the start was cold, to each span",
        terraform: Terraform::Settings,
    };
    CA_FILE = Setting {
        name: "LANGFUSE_EXTENSION_CA_FILE",
        kind: Kind::Path,
        unset: Unset::Depends("`SSL_CERT_FILE`"),
        secret: false,
        what: "PEM certificates trusted beside the compiled-in roots",
        terraform: Terraform::Variable("ca_file"),
    };
    LOG_LEVEL = Setting {
        name: "LANGFUSE_EXTENSION_LOG_LEVEL",
        kind: Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        unset: Unset::Value("info"),
        secret: false,
        what: "`error`, `warn`, `info` (one line per sandbox), `debug`, `trace`",
        terraform: Terraform::Variable("log_level"),
    };
    TRACING_ENABLED = Setting {
        name: "LANGFUSE_TRACING_ENABLED",
        kind: Kind::Switch,
        unset: Unset::Value("true"),
        secret: false,
        what: "`false` is the kill switch: everything is acknowledged, nothing shipped",
        terraform: Terraform::Variable("tracing_enabled"),
    };
    HTTPS_PROXY = Setting {
        name: "HTTPS_PROXY",
        kind: Kind::Proxy,
        unset: Unset::Depends("–"),
        secret: true,
        what: "for Langfuse and AWS at `https://` addresses, never for Lambda's own APIs; `https_proxy` as well",
        terraform: Terraform::Function,
    };
    HTTP_PROXY = Setting {
        name: "HTTP_PROXY",
        kind: Kind::Proxy,
        unset: Unset::Depends("–"),
        secret: true,
        what: "the same for a Langfuse of your own at an `http://` address",
        terraform: Terraform::Function,
    };
    NO_PROXY = Setting {
        name: "NO_PROXY",
        kind: Kind::Proxy,
        unset: Unset::Depends("–"),
        secret: false,
        what: "hosts that are reached without either",
        terraform: Terraform::Function,
    };
}
