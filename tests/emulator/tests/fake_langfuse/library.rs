//! Everything that SDKs read, and paths that lead nowhere.

use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, LANGFUSE_VERSION};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::*;

async fn get_json(langfuse: &FakeLangfuse, path: &str) -> (u16, Value) {
    let response = get(langfuse, path).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn prompts_are_found_by_label_version_and_encoded_name() {
    let langfuse = start();
    let base = "/api/public/v2/prompts";
    let (status, prompt) = get_json(&langfuse, &format!("{base}/greeting")).await;
    assert_eq!((status, &prompt["version"]), (200, &json!(3)));
    assert_eq!(prompt["labels"], json!(["production", "latest"]));
    assert_eq!(
        get_json(&langfuse, &format!("{base}/greeting?version=1"))
            .await
            .1["version"],
        1
    );
    assert_eq!(
        get_json(&langfuse, &format!("{base}/greeting?label=latest"))
            .await
            .1["version"],
        3
    );
    let name = "movie%20critic%2Fv2%20%C3%A4";
    assert_eq!(
        get_json(&langfuse, &format!("{base}/{name}?label=staging"))
            .await
            .1["name"],
        "movie critic/v2 ä"
    );
    let (status, error) = get_json(&langfuse, &format!("{base}/missing")).await;
    assert_eq!(
        (status, &error["error"]),
        (404, &json!("LangfuseNotFoundError"))
    );
    assert_eq!(
        error["message"],
        "Prompt not found: 'missing' with label 'production'"
    );
    assert_eq!(
        get_json(&langfuse, &format!("{base}/greeting?version=9"))
            .await
            .0,
        404
    );
    assert_eq!(
        get_json(&langfuse, &format!("{base}/greeting?version=x"))
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn a_created_prompt_is_the_next_version() {
    let langfuse = start();
    let body = json!({"name": "greeting", "prompt": "Hi", "labels": ["production"]});
    let created = post(&langfuse, "/api/public/v2/prompts", &body).await;
    assert_eq!(created.status(), 201);
    assert_eq!(
        get_json(&langfuse, "/api/public/v2/prompts/greeting")
            .await
            .1["prompt"],
        "Hi"
    );
    assert_eq!(
        get_json(&langfuse, "/api/public/v2/prompts/greeting?version=3")
            .await
            .1["isActive"],
        false
    );
}

#[tokio::test]
async fn media_is_announced_uploaded_reported_and_not_wanted_twice() {
    let langfuse = start();
    let [announce, upload, report] = ["031-", "032-", "034-"].map(Fixture::named);
    let announced: Value = announce.send(&langfuse).await.json().await.unwrap();
    let id = announced["mediaId"].as_str().unwrap();
    assert_eq!(id, "a3-kNPkqi4CqsC2b8aEuSf");
    let upload_url = announced["uploadUrl"]
        .as_str()
        .unwrap()
        .strip_prefix(&langfuse.url())
        .unwrap();
    assert_eq!(
        get_json(&langfuse, &format!("/api/public/media/{id}"))
            .await
            .0,
        404
    );

    let mut cut = Fixture::named("032-");
    cut.body.pop();
    assert_eq!(cut.send_to(&langfuse, upload_url).await.status(), 403);
    assert_eq!(
        upload
            .send_to(&langfuse, "/fake-s3/project-test/other?X-Amz-Signature=x")
            .await
            .status(),
        403
    );
    assert_eq!(upload.send_to(&langfuse, upload_url).await.status(), 200);
    assert_eq!(langfuse.media()[0].uploaded_bytes, Some(upload.body.len()));

    assert_eq!(
        report
            .send_to(&langfuse, "/api/public/media/unknown")
            .await
            .status(),
        404
    );
    assert_eq!(report.send(&langfuse).await.status(), 200);
    assert_eq!(
        get_json(&langfuse, &format!("/api/public/media/{id}"))
            .await
            .0,
        200
    );
    let response = announce.send(&langfuse).await;
    assert_eq!(response.status(), 201);
    assert_eq!(
        response.json::<Value>().await.unwrap(),
        json!({"mediaId": id, "uploadUrl": null})
    );
}

#[tokio::test]
async fn projects_names_the_project_of_the_keys() {
    let langfuse = start();
    let (status, projects) = get_json(&langfuse, "/api/public/projects").await;
    assert_eq!(
        (status, &projects["data"][0]["id"]),
        (200, &json!("project-test"))
    );
    let response = client()
        .get(format!("{}/api/public/projects", langfuse.url()))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn datasets_can_be_created_listed_and_read() {
    let langfuse = start();
    let created = post(
        &langfuse,
        "/api/public/v2/datasets",
        &json!({"name": "my ds"}),
    )
    .await;
    assert_eq!(created.status(), 200);
    let id = created.json::<Value>().await.unwrap()["id"].clone();
    assert_eq!(
        get_json(&langfuse, "/api/public/v2/datasets/my%20ds")
            .await
            .1["id"],
        id
    );
    post(
        &langfuse,
        "/api/public/dataset-items",
        &json!({"datasetName": "my ds", "input": 1}),
    )
    .await;
    let (_, items) = get_json(
        &langfuse,
        "/api/public/dataset-items?limit=50&page=1&datasetName=my+ds",
    )
    .await;
    assert_eq!(items["meta"]["totalItems"], 1);
    let (_, others) = get_json(&langfuse, "/api/public/dataset-items?datasetName=other").await;
    assert_eq!(others["data"], json!([]));
    assert_eq!(
        get_json(&langfuse, "/api/public/traces/unknown").await.0,
        404
    );
}

#[tokio::test]
async fn health_needs_no_keys_and_metrics_are_taken_and_discarded() {
    let langfuse = start();
    let response = client()
        .get(format!("{}/api/public/health", langfuse.url()))
        .send()
        .await
        .unwrap();
    let health = response.json::<Value>().await.unwrap();
    assert_eq!(health, json!({"status": "OK", "version": LANGFUSE_VERSION}));
    let response = post(&langfuse, "/api/public/otel/v1/metrics", &json!({})).await;
    assert_eq!(
        response.json::<Value>().await.unwrap(),
        json!({"message": "OK"})
    );
}

#[tokio::test]
async fn unknown_paths_get_a_page_and_wrong_methods_405() {
    let langfuse = start();
    for path in [
        "/",
        "/v1/traces",
        "/api/public/otel",
        "/api/public/otel/v1/logs",
        "/api/public/nothing",
    ] {
        let response = get(&langfuse, path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert!(
            response
                .text()
                .await
                .unwrap()
                .starts_with("<!DOCTYPE html>"),
            "{path}"
        );
    }
    for (method, path) in [
        (Method::GET, TRACES),
        (Method::GET, INGESTION),
        (Method::PUT, SCORES),
        (Method::HEAD, TRACES),
    ] {
        let request = client().request(method.clone(), format!("{}{path}", langfuse.url()));
        assert_eq!(
            request.send().await.unwrap().status(),
            405,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn doubled_and_trailing_slashes_are_redirected_with_308_and_store_nothing() {
    let langfuse = start();
    for path in [
        "//api/public/otel/v1/traces?a=b",
        "/api//public/otel/v1/traces?a=b",
        "/api/public/otel/v1/traces/?a=b",
    ] {
        let response = post(&langfuse, path, &one_span("a", "b")).await;
        assert_eq!(response.status(), 308, "{path}");
        assert_eq!(
            response.headers()["location"],
            "/api/public/otel/v1/traces?a=b"
        );
    }
    assert!(langfuse.observations().is_empty());
}

#[tokio::test]
async fn a_base_path_stands_before_everything() {
    let langfuse = FakeLangfuse::start(Config {
        base_path: "/langfuse".into(),
        ..Config::default()
    })
    .unwrap();
    assert!(langfuse.url().ends_with("/langfuse"));
    assert_eq!(
        post_status(&langfuse, TRACES, &one_span("a", "b")).await,
        200
    );
    let outside = client()
        .post(format!("{}{TRACES}", langfuse.origin()))
        .header("authorization", BASIC);
    assert_eq!(
        outside
            .json(&one_span("a", "b"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
}
