//! What SDKs read and write besides traces and scores: prompts, media, datasets.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::config::Prompt;
use super::reply::Reply;
use super::request::Incoming;

/// Files of media known at a time.
pub const MAX_MEDIA: usize = 1_000;
/// Versions of prompts kept at a time.
pub const MAX_PROMPTS: usize = 1_000;
/// Datasets, dataset items and so on kept at a time, each kind by itself.
pub const MAX_ITEMS_PER_COLLECTION: usize = 1_000;
/// Bytes of a media file, as Langfuse's default has it.
pub const MAX_MEDIA_BYTES: u64 = 1_000_000_000;
/// Characters of a media id.
const MEDIA_ID_CHARS: usize = 22;

/// One file of media.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Media {
    /// The first 22 characters of the URL-safe hash.
    pub id: String,
    /// Base64 of the file's SHA-256.
    pub sha256: String,
    /// MIME type.
    pub content_type: String,
    /// Bytes announced.
    pub content_length: u64,
    /// Bytes that the bucket took; `None` before.
    pub uploaded_bytes: Option<usize>,
    /// The status that the client reported afterwards.
    pub reported_status: Option<u64>,
}

/// Everything that can be read back.
#[derive(Debug, Default)]
pub(super) struct Library {
    pub(super) prompts: Vec<Prompt>,
    media: BTreeMap<(String, String), Media>,
    collections: BTreeMap<(String, String), Vec<Value>>,
}

impl Library {
    pub(super) fn new(prompts: Vec<Prompt>) -> Self {
        Self {
            prompts,
            ..Self::default()
        }
    }

    pub(super) fn prompt(&self, name: &str, version: Option<&str>, label: Option<&str>) -> Reply {
        let wanted = match version.map(str::parse::<u32>) {
            Some(Err(_)) => return Reply::invalid("version: expected a number"),
            Some(Ok(version)) => Some(version),
            None => None,
        };
        let label = label.unwrap_or("production");
        let versions = || self.prompts.iter().filter(|prompt| prompt.name == name);
        let latest = versions().map(|prompt| prompt.version).max();
        let found = versions().filter(|prompt| match wanted {
            Some(version) => prompt.version == version,
            None if label == "latest" => Some(prompt.version) == latest,
            None => prompt.labels.iter().any(|one| one == label),
        });
        match found.max_by_key(|prompt| prompt.version) {
            Some(prompt) => Reply::json(200, &prompt_json(prompt, latest)),
            None => Reply::not_found(&match wanted {
                Some(version) => format!("Prompt not found: '{name}' with version {version}"),
                None => format!("Prompt not found: '{name}' with label '{label}'"),
            }),
        }
    }

    pub(super) fn create_prompt(&mut self, body: &Value) -> Reply {
        let (Some(name), Some(prompt)) =
            (body.get("name").and_then(Value::as_str), body.get("prompt"))
        else {
            return Reply::invalid("name and prompt are required");
        };
        if self.prompts.len() >= MAX_PROMPTS {
            return Reply::refusal(
                500,
                "Internal Server Error",
                "This fake keeps no more prompts",
            );
        }
        let of_name = self.prompts.iter().filter(|one| one.name == name);
        let version = of_name.map(|one| one.version).max().unwrap_or(0) + 1;
        let labels = body
            .get("labels")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let created = Prompt {
            name: name.into(),
            version,
            labels: labels.filter_map(Value::as_str).map(Into::into).collect(),
            kind: body
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or("text")
                .into(),
            prompt: prompt.clone(),
            config: body.get("config").cloned().unwrap_or_else(|| json!({})),
        };
        for earlier in self.prompts.iter_mut().filter(|one| one.name == name) {
            earlier
                .labels
                .retain(|label| !created.labels.contains(label));
        }
        let reply = Reply::json(201, &prompt_json(&created, Some(version)));
        self.prompts.push(created);
        reply
    }

    pub(super) fn media(&self) -> Vec<Media> {
        self.media.values().cloned().collect()
    }

    /// `POST /media`: where to upload, or nothing if the file is there already.
    pub(super) fn announce_media(
        &mut self,
        project: &str,
        body: &Value,
        bucket_url: &str,
    ) -> Reply {
        let media = match parse_media(body) {
            Ok(media) => media,
            Err(issue) => return Reply::invalid(issue),
        };
        let key = (project.to_owned(), media.id.clone());
        let known = self.media.get(&key);
        let uploaded = known.is_some_and(|one| {
            one.reported_status == Some(200) && one.content_type == media.content_type
        });
        let id = media.id.clone();
        if uploaded {
            return Reply::json(201, &json!({"mediaId": id, "uploadUrl": null}));
        }
        if known.is_none() && self.media.len() >= MAX_MEDIA {
            return Reply::refusal(500, "InternalServerError", "Failed to get media upload URL");
        }
        self.media.insert(key, media);
        let upload_url = format!(
            "{bucket_url}/{project}/{id}?X-Amz-Expires=3600&X-Amz-Signature={}",
            Uuid::new_v4().simple()
        );
        Reply::json(201, &json!({"mediaId": id, "uploadUrl": upload_url}))
    }

    /// The presigned PUT: the bucket takes exactly the bytes that were announced.
    pub(super) fn upload_media(&mut self, project: &str, id: &str, incoming: &Incoming) -> Reply {
        let refuse = |code: &str| {
            Reply::new(
                403,
                "application/xml",
                format!("<Error><Code>{code}</Code></Error>"),
            )
        };
        let Some(media) = self.media.get_mut(&(project.to_owned(), id.to_owned())) else {
            return refuse("AccessDenied");
        };
        if incoming.query("X-Amz-Signature").is_none() {
            return refuse("AccessDenied");
        }
        let same_type = incoming.header("content-type") == Some(media.content_type.as_str());
        if !same_type
            || incoming.body.len() as u64 != media.content_length
            || sha256(&incoming.body) != media.sha256
        {
            return refuse("SignatureDoesNotMatch");
        }
        media.uploaded_bytes = Some(incoming.body.len());
        Reply::empty(200).with_header("etag", format!("\"{id}\""))
    }

    pub(super) fn report_media(&mut self, project: &str, id: &str, body: &Value) -> Reply {
        let Some(status) = body
            .get("uploadHttpStatus")
            .and_then(Value::as_u64)
            .filter(|status| *status > 0)
        else {
            return Reply::invalid("uploadHttpStatus: expected a positive integer");
        };
        if body
            .get("uploadedAt")
            .is_none_or(|at| !at.is_string() && !at.is_number())
        {
            return Reply::invalid("uploadedAt: expected a date");
        }
        match self.media.get_mut(&(project.to_owned(), id.to_owned())) {
            Some(media) => {
                media.reported_status = Some(status);
                Reply::json(200, &json!({"message": "OK"}))
            }
            None => Reply::not_found(&format!("Media asset {id} not found in project {project}")),
        }
    }

    pub(super) fn media_details(&self, project: &str, id: &str, bucket_url: &str) -> Reply {
        let Some(media) = self.media.get(&(project.to_owned(), id.to_owned())) else {
            return Reply::not_found("Media asset not found");
        };
        match media.reported_status {
            None => Reply::not_found("Media not yet uploaded"),
            Some(200 | 201) => Reply::json(
                200,
                &json!({"mediaId": id, "contentType": media.content_type, "contentLength": media.content_length,
                    "url": format!("{bucket_url}/{project}/{id}"), "urlExpiry": "2099-01-01T00:00:00.000Z"}),
            ),
            Some(status) => Reply::not_found(&format!("Media upload failed with status {status}")),
        }
    }

    pub(super) fn list(&self, project: &str, collection: &str, dataset: Option<&str>) -> Reply {
        let of_dataset = |item: &&Value| dataset.is_none_or(|name| item["datasetName"] == name);
        let items: Vec<&Value> = self
            .items(project, collection)
            .iter()
            .filter(of_dataset)
            .collect();
        let meta = json!({"page": 1, "limit": 50, "totalItems": items.len(), "totalPages": items.len().div_ceil(50)});
        Reply::json(200, &json!({"data": items, "meta": meta}))
    }

    pub(super) fn item(&self, project: &str, collection: &str, name: &str) -> Reply {
        let found = self
            .items(project, collection)
            .iter()
            .find(|item| item["id"] == name || item["name"] == name);
        found.map_or_else(
            || Reply::not_found(&format!("No {name} in {collection}")),
            |item| Reply::json(200, item),
        )
    }

    /// Echoes the body with an id and dates, and can list it from then on.
    pub(super) fn create(&mut self, project: &str, collection: &str, body: &Value) -> Reply {
        if !body.is_object() {
            return Reply::invalid("expected an object");
        }
        let now = "2026-01-01T00:00:00.000Z";
        let mut item = body.clone();
        let defaults = json!({"id": Uuid::new_v4().to_string(), "projectId": project, "createdAt": now, "updatedAt": now,
            "description": null, "metadata": {}, "status": "ACTIVE"});
        for (key, value) in defaults.as_object().into_iter().flatten() {
            if item[key].is_null() {
                item[key] = value.clone();
            }
        }
        let items = self
            .collections
            .entry((project.into(), collection.into()))
            .or_default();
        if items.len() >= MAX_ITEMS_PER_COLLECTION {
            return Reply::refusal(
                500,
                "Internal Server Error",
                "This fake keeps no more items",
            );
        }
        if !items.contains(&item) {
            items.push(item.clone());
        }
        Reply::json(200, &item)
    }

    fn items(&self, project: &str, collection: &str) -> &[Value] {
        let key = (project.to_owned(), collection.to_owned());
        self.collections.get(&key).map_or(&[], Vec::as_slice)
    }
}

fn prompt_json(prompt: &Prompt, latest: Option<u32>) -> Value {
    let mut labels = prompt.labels.clone();
    if latest == Some(prompt.version) {
        labels.push("latest".into());
    }
    json!({
        "id": format!("{}-{}", prompt.name, prompt.version),
        "name": prompt.name,
        "version": prompt.version,
        "type": prompt.kind,
        "prompt": prompt.prompt,
        "config": prompt.config,
        "isActive": labels.iter().any(|label| label == "production"),
        "labels": labels,
        "tags": [],
        "commitMessage": null,
        "resolutionGraph": null,
    })
}

fn parse_media(body: &Value) -> Result<Media, &'static str> {
    let text = |field: &str| body.get(field).and_then(Value::as_str);
    let sha256 = text("sha256Hash").unwrap_or_default();
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if sha256.len() != 44 || !sha256.bytes().all(in_alphabet) {
        return Err("sha256Hash: must be a 44 character base64 encoded SHA-256 hash");
    }
    let content_type = text("contentType")
        .filter(|one| one.contains('/'))
        .ok_or("contentType: invalid")?;
    let content_length = body.get("contentLength").and_then(Value::as_u64);
    let content_length = content_length
        .filter(|length| (1..=MAX_MEDIA_BYTES).contains(length))
        .ok_or("contentLength: expected a positive integer within the limit")?;
    let of_trace =
        text("traceId").is_some() && matches!(text("field"), Some("input" | "output" | "metadata"));
    let of_item = text("datasetId").is_some() && text("datasetItemId").is_some();
    if of_trace == of_item {
        return Err("provide either traceId with field, or datasetId and datasetItemId with field");
    }
    let id = sha256.replace('+', "-").replace('/', "_")[..MEDIA_ID_CHARS].to_owned();
    Ok(Media {
        id,
        sha256: sha256.into(),
        content_type: content_type.into(),
        content_length,
        ..Media::default()
    })
}

fn sha256(bytes: &Bytes) -> String {
    STANDARD.encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(number: usize) -> Value {
        json!({"contentType": "image/png", "contentLength": 1, "sha256Hash": format!("{number:022}{:A<22}", ""),
            "traceId": "t", "field": "input"})
    }

    #[test]
    fn no_more_media_is_known_than_the_limit() {
        let mut library = Library::default();
        for number in 0..MAX_MEDIA {
            assert_eq!(
                library
                    .announce_media("p", &announcement(number), "")
                    .status,
                201
            );
        }
        assert_eq!(
            library
                .announce_media("p", &announcement(MAX_MEDIA), "")
                .status,
            500
        );
        assert_eq!(library.media().len(), MAX_MEDIA);
    }

    #[test]
    fn media_larger_than_the_limit_is_refused() {
        let mut library = Library::default();
        let mut body = announcement(1);
        body["contentLength"] = (MAX_MEDIA_BYTES + 1).into();
        assert_eq!(library.announce_media("p", &body, "").status, 400);
        body["contentLength"] = MAX_MEDIA_BYTES.into();
        assert_eq!(library.announce_media("p", &body, "").status, 201);
    }

    #[test]
    fn no_more_prompts_are_kept_than_the_limit() {
        let mut library = Library::default();
        let body = json!({"name": "p", "prompt": "text"});
        for _ in 0..MAX_PROMPTS {
            assert_eq!(library.create_prompt(&body).status, 201);
        }
        assert_eq!(library.create_prompt(&body).status, 500);
    }

    #[test]
    fn no_more_items_are_kept_in_a_collection_than_the_limit() {
        let mut library = Library::default();
        for number in 0..MAX_ITEMS_PER_COLLECTION {
            let item = json!({"id": number.to_string()});
            assert_eq!(library.create("p", "datasets", &item).status, 200);
        }
        assert_eq!(
            library
                .create("p", "datasets", &json!({"id": "one more"}))
                .status,
            500
        );
    }
}
