//! The clients: which app each is, how it is installed and what it is told.

/// How a client learns where Langfuse is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// `LANGFUSE_BASE_URL`, `LANGFUSE_PUBLIC_KEY`, `LANGFUSE_SECRET_KEY`.
    Langfuse,
    /// `LANGFUSE_OTEL_HOST` (LiteLLM reads no `LANGFUSE_BASE_URL`) and the same keys.
    LiteLlm,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`; straight to Langfuse with `OTEL_EXPORTER_OTLP_HEADERS`, through the extension with
    /// none, because the extension has the keys.
    OpenTelemetry,
}

/// How an app's packages are installed.
#[derive(Clone, Copy, Debug)]
pub enum Packages {
    /// From this file in the app's directory.
    Python(&'static str),
    /// From `package-lock.json`.
    Node,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// As the table has it; the installation is called so, too.
    pub name: &'static str,
    /// The app's directory in `tests/apps`.
    pub app: &'static str,
    /// What it needs.
    pub packages: Packages,
    /// How it is told where Langfuse is.
    pub address: Address,
    /// What the app can do, in the order in which it is asked to.
    pub features: &'static [&'static str],
    /// Variables that make the app this client.
    pub variables: &'static [(&'static str, &'static str)],
    /// Variables that make the client hand over at once.
    pub at_once: &'static [(&'static str, &'static str)],
    /// The same in words.
    pub mend: &'static str,
}

const ALL: &[&str] = &[
    "trace", "flush", "media", "prompt", "fallback", "auth", "shutdown",
];
const TRACES: &[&str] = &["trace", "flush", "shutdown"];
const FLUSH_AT: &[(&str, &str)] = &[("LANGFUSE_FLUSH_AT", "1")];
const FLUSH_AT_AND_SCORES: &[(&str, &str)] =
    &[("LANGFUSE_FLUSH_AT", "1"), ("APP_SCORES_AT_ONCE", "1")];
const BATCH_OF_ONE: &[(&str, &str)] = &[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")];
const BATCH_OF_ONE_MEND: &str = "`OTEL_BSP_MAX_EXPORT_BATCH_SIZE=1`";

const fn python(name: &'static str, requirements: &'static str) -> Client {
    Client {
        name,
        app: "langfuse-python",
        packages: Packages::Python(requirements),
        address: Address::Langfuse,
        features: ALL,
        variables: &[],
        at_once: FLUSH_AT_AND_SCORES,
        mend: "`LANGFUSE_FLUSH_AT=1`, and `Langfuse(flush_at=1)` for scores",
    }
}

const fn otel(name: &'static str, app: &'static str, packages: Packages) -> Client {
    Client {
        name,
        app,
        packages,
        address: Address::OpenTelemetry,
        features: TRACES,
        variables: &[],
        at_once: BATCH_OF_ONE,
        mend: BATCH_OF_ONE_MEND,
    }
}

/// Langfuse's Python SDK 4.0.6.
pub const PYTHON_4_0_6: Client = python("langfuse-python-4.0.6", "requirements-4.0.6.txt");

/// Langfuse's Python SDK 5.0.4.
pub const PYTHON_5: Client = Client {
    at_once: FLUSH_AT,
    mend: "`LANGFUSE_FLUSH_AT=1`",
    ..python("langfuse-python-5.0.4", "requirements-5.0.4.txt")
};

/// Langfuse's JS SDK.
pub const JS: Client = Client {
    name: "langfuse-js-5.11.1",
    app: "langfuse-js",
    packages: Packages::Node,
    ..PYTHON_5
};

/// Every row.
pub const CLIENTS: &[Client] = &[
    python("langfuse-python-3.15.0", "requirements-3.15.0.txt"),
    PYTHON_4_0_6,
    python("langfuse-python-4.18.0", "requirements-4.18.0.txt"),
    PYTHON_5,
    JS,
    Client {
        name: "langchain-core-1.7.2",
        app: "langchain",
        packages: Packages::Python("requirements.txt"),
        features: TRACES,
        ..PYTHON_5
    },
    Client {
        name: "vercel-ai-6.0.326",
        app: "vercel-ai",
        features: TRACES,
        ..JS
    },
    Client {
        name: "litellm-1.106.2",
        address: Address::LiteLlm,
        features: &["trace"],
        ..otel("", "litellm", Packages::Python("requirements.txt"))
    },
    otel(
        "openinference-openai-0.1.66",
        "openinference",
        Packages::Python("requirements.txt"),
    ),
    otel(
        "otel-python-1.45.2",
        "otel-python",
        Packages::Python("requirements.txt"),
    ),
    Client {
        variables: &[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")],
        ..otel(
            "otel-python-1.45.2-gzip",
            "otel-python",
            Packages::Python("requirements.txt"),
        )
    },
    Client {
        variables: &[("APP_ENCODING", "json")],
        ..otel("otel-js-0.223.1-json", "otel-js", Packages::Node)
    },
    Client {
        variables: &[("APP_ENCODING", "protobuf")],
        ..otel("otel-js-0.223.1-protobuf", "otel-js", Packages::Node)
    },
];
