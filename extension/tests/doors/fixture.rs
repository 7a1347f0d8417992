//! The recorded requests of real clients.

use std::path::{Path, PathBuf};

use reqwest::{Client, Method, Response};
use serde_json::Value;

use crate::support::{BASIC, TRACES};

pub(crate) struct Fixture {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Fixture {
    pub(crate) fn all() -> Vec<Self> {
        let manifest = read_json("manifest.json");
        let all: Vec<_> = manifest["requests"]
            .as_array()
            .unwrap()
            .iter()
            .map(Self::load)
            .collect();
        assert_eq!(all.len() as u64, manifest["count"].as_u64().unwrap());
        all
    }

    fn load(manifest: &Value) -> Self {
        let id = manifest["id"].as_str().unwrap();
        let head = read_json(&format!("{id}.json"));
        let framing = [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "authorization",
        ];
        let headers = head["headers"].as_array().unwrap().iter();
        let headers = headers.map(|pair| {
            (
                pair[0].as_str().unwrap().to_lowercase(),
                pair[1].as_str().unwrap().to_owned(),
            )
        });
        let authorization = headers.clone().find(|(name, _)| name == "authorization");
        // Some clients were recorded without keys, or with ones that no Langfuse knows.
        let authorization = authorization.map(|it| it.1).filter(|it| it != "Basic abc");
        let authorization = authorization.unwrap_or_else(|| BASIC.to_owned());
        let kept = headers.filter(|(name, _)| !framing.contains(&name.as_str()));
        Self {
            kind: manifest["kind"].as_str().unwrap().to_owned(),
            method: manifest["method"].as_str().unwrap().parse().unwrap(),
            path: manifest["path"].as_str().unwrap().to_owned(),
            headers: kept
                .chain([("authorization".to_owned(), authorization)])
                .collect(),
            body: manifest["body_file"]
                .as_str()
                .map(|name| std::fs::read(folder().join(name)).unwrap())
                .unwrap_or_default(),
            id: id.to_owned(),
        }
    }

    pub(crate) fn carries_data(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "otlp-traces" | "ingestion" | "scores-v5"
        )
    }

    /// The same request as Langfuse itself takes it: at its own path, and without deflate, which it cannot read.
    pub(crate) fn for_langfuse(mut self) -> Self {
        if self.kind == "otlp-traces" {
            TRACES.clone_into(&mut self.path);
        }
        let deflate = ("content-encoding".to_owned(), "deflate".to_owned());
        if self.headers.contains(&deflate) {
            let mut inflated = Vec::new();
            std::io::copy(
                &mut flate2::read::ZlibDecoder::new(&self.body[..]),
                &mut inflated,
            )
            .unwrap();
            self.headers.retain(|header| *header != deflate);
            self.body = inflated;
        }
        self
    }

    pub(crate) async fn send(&self, client: &Client, base_url: &str) -> Response {
        let mut request = client.request(self.method.clone(), format!("{base_url}{}", self.path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if !self.body.is_empty() {
            request = request.body(self.body.clone());
        }
        request.send().await.unwrap()
    }
}

fn read_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}
