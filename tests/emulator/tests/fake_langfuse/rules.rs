//! Whole requests that Langfuse takes or refuses.

use lambda_emulator::fake_langfuse::{
    FakeLangfuse, MAX_INFLATED_BYTES, MAX_INGESTION_BODY_BYTES, MAX_JSON_BODY_BYTES,
    MAX_READ_BODY_BYTES, Project,
};
use serde_json::json;

use crate::client::*;

async fn post_bytes(langfuse: &FakeLangfuse, headers: &[(&str, &str)], body: Vec<u8>) -> u16 {
    let mut request = client()
        .post(format!("{}{TRACES}", langfuse.url()))
        .header("authorization", BASIC);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn every_recorded_trace_request_is_stored_with_the_spans_it_carries() {
    for fixture in Fixture::of_kind("otlp-traces") {
        let langfuse = start();
        let status = fixture.send_to(&langfuse, TRACES).await.status();
        if fixture.manifest["content_encoding"] == "deflate" {
            assert_eq!(status, 400, "{}", fixture.id());
            continue;
        }
        assert_eq!(status, 200, "{}", fixture.id());
        let observations = langfuse.observations();
        assert_eq!(
            observations.len() as u64,
            fixture.manifest["spans"],
            "{}",
            fixture.id()
        );
        let listed = fixture.manifest["trace_ids"].as_array().unwrap();
        for trace_id in listed {
            let stored = observations.iter().any(|one| one.trace_id == *trace_id);
            assert!(stored, "{}: {trace_id}", fixture.id());
        }
    }
}

#[tokio::test]
async fn concatenated_protobuf_requests_and_gzip_members_are_one_request() {
    let langfuse = start();
    let plain = Fixture::named("061-").body;
    let doubled = [plain.clone(), plain.clone()].concat();
    assert_eq!(
        post_bytes(
            &langfuse,
            &[("content-type", "application/x-protobuf")],
            doubled
        )
        .await,
        200
    );
    assert_eq!(langfuse.observations().len(), 2);
    let members = [gzip(&plain), gzip(&plain)].concat();
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "gzip"),
    ];
    assert_eq!(post_bytes(&langfuse, &headers, members).await, 200);
    assert_eq!(langfuse.observations().len(), 4);
}

#[tokio::test]
async fn one_bad_span_refuses_the_whole_request() {
    let good = json!({"traceId": "a", "spanId": "b"});
    let bad_spans = [
        json!({"spanId": "b"}),
        json!({"traceId": null, "spanId": "b"}),
        json!({"traceId": 7, "spanId": "b"}),
        json!({"traceId": "a", "spanId": {"data": [1]}}),
        json!({"traceId": "a", "spanId": "b", "parentSpanId": true}),
        json!({"traceId": "a", "spanId": "b", "attributes": {"key": "value"}}),
        json!({"traceId": "a", "spanId": "b", "events": {}}),
        json!({"traceId": "a", "spanId": "b", "events": [{"attributes": "x"}]}),
    ];
    for bad in bad_spans {
        let langfuse = start();
        let response = post(&langfuse, TRACES, &spans(&json!([good, bad]))).await;
        assert_eq!(response.status(), 400, "{bad}");
        let error = json_of(response).await["error"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            error.contains("1 of 2 span(s)") && error.contains("Instrumentation scopes: test"),
            "{error}"
        );
        assert!(langfuse.observations().is_empty());
        assert_eq!(langfuse.refused_observations().len(), 2);
    }
}

#[tokio::test]
async fn lists_above_the_spans_must_be_lists() {
    let langfuse = start();
    let bodies = [
        json!({"resourceSpans": [{"resource": {"attributes": {}}}]}),
        json!({"resourceSpans": [{"scopeSpans": {}}]}),
        json!({"resourceSpans": [{"scopeSpans": [{"spans": 1}]}]}),
        json!({"resourceSpans": [{"scopeSpans": [{"scope": {"attributes": "x"}}]}]}),
    ];
    for body in bodies {
        assert_eq!(post_status(&langfuse, TRACES, &body).await, 400, "{body}");
    }
}

#[tokio::test]
async fn ids_may_be_any_text_bytes_or_a_node_buffer() {
    let langfuse = start();
    let ids = [
        json!("short"),
        json!(""),
        json!([1, 255]),
        json!({"type": "Buffer", "data": [1, 255]}),
    ];
    for id in &ids {
        assert_eq!(
            post_status(
                &langfuse,
                TRACES,
                &spans(&json!([{"traceId": id, "spanId": id}]))
            )
            .await,
            200,
            "{id}"
        );
    }
    let observations = langfuse.observations();
    let stored: Vec<&str> = observations
        .iter()
        .map(|one| one.trace_id.as_str())
        .collect();
    assert_eq!(stored, ["short", "", "01ff", "01ff"]);
}

#[tokio::test]
async fn an_empty_request_is_answered_200_and_stores_nothing() {
    let langfuse = start();
    for body in [json!({"resourceSpans": []}), json!({})] {
        let response = post(&langfuse, TRACES, &body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(json_of(response).await, json!({}));
    }
    assert_eq!(
        post_bytes(
            &langfuse,
            &[("content-type", "application/x-protobuf")],
            Vec::new()
        )
        .await,
        200
    );
    assert!(langfuse.observations().is_empty());
}

#[tokio::test]
async fn content_types_and_encodings_are_as_langfuse_knows_them() {
    let langfuse = start();
    let body = one_span("a", "b").to_string().into_bytes();
    let json_type = ("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(post_bytes(&langfuse, &[json_type], body.clone()).await, 200);
    assert_eq!(
        post_bytes(
            &langfuse,
            &[json_type, ("content-encoding", "gzip")],
            gzip(&body)
        )
        .await,
        200
    );
    assert_eq!(langfuse.observations().len(), 2);
    assert_eq!(post_bytes(&langfuse, &[], body.clone()).await, 400);
    assert_eq!(
        post_bytes(&langfuse, &[("content-type", "text/plain")], body.clone()).await,
        400
    );
    assert_eq!(
        post_bytes(
            &langfuse,
            &[json_type, ("content-encoding", "gzip")],
            body.clone()
        )
        .await,
        400
    );
    assert_eq!(
        post_bytes(
            &langfuse,
            &[json_type, ("content-encoding", "zstd")],
            gzip(&body)
        )
        .await,
        400
    );
    assert_eq!(
        post_bytes(&langfuse, &[json_type], b"{".to_vec()).await,
        400
    );
    assert_eq!(
        post_bytes(&langfuse, &[json_type], b"null".to_vec()).await,
        400
    );
    assert_eq!(
        post_bytes(
            &langfuse,
            &[("content-type", "application/x-protobuf")],
            body
        )
        .await,
        400
    );
    assert_eq!(langfuse.observations().len(), 2);
}

#[tokio::test]
async fn ingestion_versions_above_4_or_without_a_number_are_refused() {
    let langfuse = start();
    let body = one_span("a", "b").to_string().into_bytes();
    for (version, status) in [
        ("4", 200),
        ("3", 200),
        ("4abc", 200),
        ("-1", 200),
        ("5", 400),
        ("abc", 400),
        ("99999999999999999999", 400),
    ] {
        for name in [
            "x-langfuse-ingestion-version",
            "x_langfuse_ingestion_version",
        ] {
            let headers = [("content-type", "application/json"), (name, version)];
            assert_eq!(
                post_bytes(&langfuse, &headers, body.clone()).await,
                status,
                "{name}: {version}"
            );
        }
    }
}

#[tokio::test]
async fn keys_are_resolved_by_the_secret_alone() {
    let langfuse = start();
    let send = async |path: &str, authorization: Option<&str>| {
        let mut request = client()
            .post(format!("{}{path}", langfuse.url()))
            .json(&json!({"resourceSpans": [], "batch": []}));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (
            status,
            json_of(response).await["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let wrong_host =
        |reason: &str| format!("{reason}. Confirm that you've configured the correct host.");
    assert_eq!(send(TRACES, Some(BASIC)).await.0, 200);
    // pk-anything:sk-lf-test:ignored
    assert_eq!(
        send(
            TRACES,
            Some("Basic cGstYW55dGhpbmc6c2stbGYtdGVzdDppZ25vcmVk")
        )
        .await
        .0,
        200
    );
    assert_eq!(
        send(TRACES, None).await,
        (401, "No authorization header".into())
    );
    assert_eq!(
        send(TRACES, Some("basic abc")).await,
        (401, "Invalid authorization header".into())
    );
    assert_eq!(
        send(TRACES, Some("Basic abc")).await,
        (401, wrong_host("Invalid authorization header"))
    );
    // pk-lf-test:wrong
    assert_eq!(
        send(TRACES, Some("Basic cGstbGYtdGVzdDp3cm9uZw==")).await,
        (401, wrong_host("Invalid credentials"))
    );
    assert_eq!(
        send(TRACES, Some("Bearer pk-nobody")).await,
        (401, wrong_host("Invalid public key"))
    );
    assert_eq!(send(TRACES, Some("Bearer pk-lf-test")).await.0, 403);
    assert_eq!(send(INGESTION, Some("Bearer pk-lf-test")).await.0, 207);
    assert_eq!(send(INGESTION, None).await.0, 401);
}

#[tokio::test]
async fn suspended_projects_and_organisation_keys_can_write_nothing() {
    let langfuse = start();
    let suspended = Project {
        suspended: true,
        ..Project::default()
    };
    langfuse.set_projects(vec![suspended]);
    let media = json!({"contentType": "image/png", "contentLength": 1, "sha256Hash": "A".repeat(44), "traceId": "t", "field": "input"});
    let bodies = [
        (TRACES, one_span("a", "b")),
        (INGESTION, json!({"batch": [score_event("e")]})),
        (SCORES, score("s")),
        ("/api/public/media", media),
    ];
    for (path, body) in &bodies {
        let response = post(&langfuse, path, body).await;
        assert_eq!(response.status(), 403, "{path}");
        assert!(
            response
                .text()
                .await
                .unwrap()
                .contains("Ingestion suspended"),
            "{path}"
        );
    }
    langfuse.set_projects(vec![Project {
        organization_key: true,
        ..Project::default()
    }]);
    for (path, body) in &bodies {
        let expected = if *path == INGESTION { 401 } else { 403 };
        assert_eq!(post_status(&langfuse, path, body).await, expected, "{path}");
    }
    assert_eq!(
        (langfuse.observations().len(), langfuse.events().len()),
        (0, 0)
    );
    assert_eq!(
        (
            langfuse.refused_observations().len(),
            langfuse.refused_events().len()
        ),
        (2, 4)
    );
}

#[tokio::test]
async fn bodies_above_the_edge_s_limit_get_its_html_413() {
    let langfuse = start();
    let body = one_span("a", "b");
    langfuse.set_max_request_bytes(body.to_string().len());
    assert_eq!(post_status(&langfuse, TRACES, &body).await, 200);
    langfuse.set_max_request_bytes(body.to_string().len() - 1);
    let response = post(&langfuse, TRACES, &body).await;
    assert_eq!(response.status(), 413);
    assert!(response.text().await.unwrap().starts_with("<html>"));
    assert_eq!(langfuse.observations().len(), 1);
}

#[tokio::test]
async fn json_bodies_above_their_routes_limits_get_a_text_413_even_without_keys() {
    let langfuse = start();
    langfuse.set_max_request_bytes(usize::MAX);
    for (path, max_bytes, answer) in [
        (
            INGESTION,
            MAX_INGESTION_BODY_BYTES,
            "Body exceeded 4.5mb limit",
        ),
        (SCORES, MAX_JSON_BODY_BYTES, "Body exceeded 1mb limit"),
    ] {
        let send = async |bytes: usize| {
            let body = format!("{{\"batch\":[\"{}\"]}}", "x".repeat(bytes - 14));
            assert_eq!(body.len(), bytes);
            let request = client()
                .post(format!("{}{path}", langfuse.url()))
                .header("content-type", "application/json");
            request.body(body).send().await.unwrap()
        };
        assert_eq!(send(max_bytes).await.status(), 401);
        let refused = send(max_bytes + 1).await;
        assert_eq!(refused.status(), 413);
        assert_eq!(refused.text().await.unwrap(), answer);
    }
}

#[tokio::test]
async fn a_body_beyond_what_is_read_at_all_ends_its_connection() {
    let langfuse = start();
    let request = client().post(format!("{}{TRACES}", langfuse.url()));
    assert!(
        request
            .body(vec![0; MAX_READ_BODY_BYTES + 1])
            .send()
            .await
            .is_err()
    );
    assert!(langfuse.requests().is_empty());
}

#[tokio::test]
async fn a_body_that_inflates_beyond_the_limit_is_refused() {
    let langfuse = start();
    let member = gzip(&vec![b' '; 1 << 20]);
    let bomb = member.repeat((MAX_INFLATED_BYTES >> 20) + 1);
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    assert_eq!(post_bytes(&langfuse, &headers, bomb).await, 400);
}
