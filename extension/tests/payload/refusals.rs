//! What Langfuse would refuse is refused, with a reason; what it accepts never is.

use langfuse_extension::payload::{
    Kind, Limits, Refusal, accept_ingestion, accept_otlp, accept_scores, otlp_success,
};
use prost::Message;

use crate::support::{
    JSON, PROTOBUF, accept, accept_batch, accept_json, accept_protobuf, gzip, json, merged,
    request, span,
};

const TRACE: &str = "0102030405060708090a0b0c0d0e0f10";

fn with_span(span: &str) -> String {
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#)
}

fn flaw(body: &str) -> &'static str {
    match accept_json(body.to_owned()) {
        Err(Refusal::UnreadableSpans(flaw)) => flaw,
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn empty_requests_are_accepted_without_units() {
    assert_eq!(accept_protobuf("").unwrap().0.units(), 0);
    for body in [
        "{}",
        r#"{"resourceSpans":[]}"#,
        r#"{"resourceSpans":null}"#,
        r#"{"resourceSpans":0}"#,
        "[]",
        "5",
        r#"{"resourceSpans":""}"#,
        r#"{"resourceSpans":[null,3,{"scopeSpans":null},{"scopeSpans":[1,{"spans":[]}]}]}"#,
        r#"{"resource_spans":[{"scope_spans":[]}]}"#,
    ] {
        assert_eq!(accept_json(body).unwrap().0.units(), 0, "{body}");
    }
}

#[test]
fn a_span_without_ids_is_refused_as_langfuse_would() {
    assert_eq!(flaw(&with_span("{}")), "traceId:absent");
    assert_eq!(flaw(&with_span("null")), "traceId:absent");
    assert_eq!(
        flaw(&with_span(r#"{"traceId":"aa","spanId":null}"#)),
        "spanId:absent"
    );
    assert_eq!(
        flaw(&with_span(r#"{"traceId":5,"spanId":"bb"}"#)),
        "traceId:not_an_id"
    );
    assert_eq!(
        flaw(&with_span(r#"{"traceId":"aa","spanId":{"data":[1]}}"#)),
        "spanId:not_an_id"
    );
    assert_eq!(
        flaw(&with_span(
            r#"{"traceId":"aa","spanId":"bb","parentSpanId":true}"#
        )),
        "parentSpanId:not_an_id"
    );
    let mut bad = request(2, 1);
    bad.resource_spans[0].scope_spans[0].spans[1]
        .span_id
        .clear();
    assert_eq!(
        accept_protobuf(bad.encode_to_vec()).unwrap_err(),
        Refusal::UnreadableSpans("spanId:absent")
    );
}

#[test]
fn ids_that_langfuse_converts_are_accepted() {
    for id in [
        r#""""#,
        r#""not hex""#,
        "[1,2]",
        "[]",
        r#"{"type":"Buffer","data":[1]}"#,
        r#""\ud800""#,
    ] {
        let body = with_span(&format!(
            r#"{{"traceId":{id},"spanId":{id},"parentSpanId":{id}}}"#
        ));
        assert_eq!(accept_json(body).unwrap().0.units(), 1, "{id}");
    }
    for parent in ["0", "-0.0e5", "false", "null", r#""""#] {
        let body = with_span(&format!(
            r#"{{"traceId":"aa","spanId":"bb","parentSpanId":{parent}}}"#
        ));
        assert_eq!(accept_json(body).unwrap().0.units(), 1, "{parent}");
    }
    let mut odd = request(1, 1);
    odd.resource_spans[0].scope_spans[0].spans[0].trace_id = vec![1; 3];
    let (payload, facts) = accept_protobuf(odd.encode_to_vec()).unwrap();
    assert_eq!(
        (payload.units(), facts.spans.len(), facts.omitted),
        (1, 0, 1)
    );
}

#[test]
fn collections_must_be_arrays() {
    let ids = r#""traceId":"aa","spanId":"bb""#;
    for (body, expected) in [
        (
            r#"{"resourceSpans":{}}"#.to_owned(),
            "resourceSpans:not_an_array",
        ),
        (
            r#"{"resourceSpans":[{"scopeSpans":{}}]}"#.to_owned(),
            "scopeSpans:not_an_array",
        ),
        (
            r#"{"resourceSpans":[{"resource":{"attributes":{}}}]}"#.to_owned(),
            "resource.attributes:not_an_array",
        ),
        (
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":1}]}]}"#.to_owned(),
            "spans:not_an_array",
        ),
        (
            r#"{"resourceSpans":[{"scopeSpans":[{"scope":{"attributes":""}}]}]}"#.to_owned(),
            "scope.attributes:not_an_array",
        ),
        (
            with_span(&format!(r#"{{{ids},"attributes":{{"a":1}}}}"#)),
            "attributes:not_an_array",
        ),
        (
            with_span(&format!(r#"{{{ids},"events":{{}}}}"#)),
            "events:not_an_array",
        ),
        (
            with_span(&format!(r#"{{{ids},"events":[{{}},{{"attributes":1}}]}}"#)),
            "event.attributes:not_an_array",
        ),
    ] {
        assert_eq!(flaw(&body), expected, "{body}");
    }
}

#[test]
fn the_last_of_two_equal_keys_counts() {
    let good = r#"{"traceId":"00","traceId":"TRACE","span\u0049d":5,"spanId":"0102030405060708","flags":257}"#;
    let spans = format!(
        r#"[{{"spans":[{{}}],"spans":[{}]}}]"#,
        good.replace("TRACE", TRACE)
    );
    let body = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[7,[],{{"spans":{{}}}}],"scopeSpans":{spans}}}]}}"#
    );
    let (payload, facts) = accept_json(body).unwrap();
    assert_eq!((payload.units(), facts.spans.len()), (1, 1));
    assert_eq!(
        facts.spans[0].trace_id,
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    );
    assert_eq!(facts.spans[0].parent_is_remote, Some(false));
}

#[test]
fn a_body_cut_short_anywhere_is_never_taken_for_the_whole() {
    let whole = request(2, 3).encode_to_vec();
    for length in 1..whole.len() {
        assert!(
            accept_protobuf(whole[..length].to_vec()).is_err(),
            "cut at {length}"
        );
    }
    let whole = with_span(&format!(
        r#"{{"traceId":"{TRACE}","spanId":"0102030405060708"}}"#
    ));
    for length in 0..whole.len() {
        assert!(
            accept_json(whole[..length].to_owned()).is_err(),
            "cut at {length}"
        );
    }
}

#[test]
fn bytes_that_are_no_utf8_and_unknown_fields_are_none_of_our_business() {
    let mut body = request(1, 1).encode_to_vec();
    body.extend_from_slice(&[0xfa, 0x7f, 2, 0xff, 0xfe]);
    body.extend_from_slice(&[0xf3, 0x7f, 0xf8, 0x7f, 1, 0xf4, 0x7f]);
    assert_eq!(merged(vec![accept_protobuf(body.clone()).unwrap().0]), body);
    let mut text = br#"{"x":"?","resourceSpans":[]}"#.to_vec();
    text[6] = 0xff;
    assert!(accept_json(text).is_ok());
}

#[test]
fn content_encodings_are_read_as_clients_spell_them() {
    let body = request(1, 1).encode_to_vec();
    for spelling in ["gzip", "GZIP", "x-gzip", " gzip , gzip", "identity, gzip"] {
        assert_eq!(
            accept(Kind::OtlpProtobuf, spelling, gzip(&body))
                .unwrap()
                .units(),
            1,
            "{spelling}"
        );
    }
    for spelling in ["", "identity", "none", "utf-8", "aws-chunked"] {
        assert_eq!(
            accept(Kind::OtlpProtobuf, spelling, body.clone())
                .unwrap()
                .units(),
            1,
            "{spelling}"
        );
    }
    for spelling in ["zstd", "br", "gzip, zstd", "compress", "gzip, deflate"] {
        let refusal = accept(Kind::OtlpProtobuf, spelling, body.clone()).unwrap_err();
        assert_eq!(
            (
                refusal.status(),
                matches!(refusal, Refusal::UnsupportedEncoding(_))
            ),
            (415, true)
        );
    }
}

#[test]
fn gzip_that_langfuse_cannot_inflate_is_refused() {
    let whole = gzip(&request(3, 100).encode_to_vec());
    let mut damaged = whole.clone();
    let last = damaged.len() - 5;
    damaged[last] ^= 1;
    for body in [
        Vec::new(),
        whole[..whole.len() - 3].to_vec(),
        damaged,
        b"plain".to_vec(),
    ] {
        assert_eq!(
            accept(Kind::OtlpProtobuf, "gzip", body).unwrap_err(),
            Refusal::Compression("gzip")
        );
    }
}

#[test]
fn padding_behind_gzip_does_not_hide_what_is_merged_after_it() {
    let mut padded = gzip(&request(1, 1).encode_to_vec());
    padded.extend_from_slice(&[0; 9]);
    let padded = accept(Kind::OtlpProtobuf, "gzip", padded).unwrap();
    let other = accept(
        Kind::OtlpProtobuf,
        "gzip",
        gzip(&request(2, 1).encode_to_vec()),
    )
    .unwrap();
    let both = merged(vec![padded, other]);
    assert_eq!(accept_protobuf(both).unwrap().0.units(), 3);
}

#[test]
fn deflate_with_and_without_its_zlib_frame_becomes_gzip() {
    use flate2::{Compression, write};
    use std::io::Write;
    let body = request(20, 1000).encode_to_vec();
    let mut zlib = write::ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(&body).unwrap();
    let mut raw = write::DeflateEncoder::new(Vec::new(), Compression::fast());
    raw.write_all(&body).unwrap();
    for compressed in [zlib.finish().unwrap(), raw.finish().unwrap()] {
        let payload = accept(Kind::OtlpProtobuf, "deflate", compressed.clone()).unwrap();
        assert!(payload.stored_bytes() < compressed.len() + 20);
        assert_eq!(merged(vec![payload]), body);
        let cut = compressed[..compressed.len() / 2].to_vec();
        assert_eq!(
            accept(Kind::OtlpProtobuf, "deflate", cut).unwrap_err(),
            Refusal::Compression("deflate")
        );
    }
}

#[test]
fn content_types_are_judged_as_langfuse_judges_them() {
    let otlp = |content_type: &str, body: &'static str| {
        accept_otlp(content_type, "", body.into(), &Limits::default()).map(|it| it.0.kind())
    };
    assert_eq!(
        otlp("Application/JSON; charset=utf-8", "{}"),
        Ok(Kind::OtlpJson)
    );
    assert_eq!(
        otlp("application/x-protobuf;v=1", ""),
        Ok(Kind::OtlpProtobuf)
    );
    for unknown in ["", "text/plain", "application/grpc"] {
        assert_eq!(otlp(unknown, "{}").unwrap_err().status(), 415, "{unknown}");
    }
    let batch = |content_type: &str| {
        accept_ingestion(
            content_type,
            "",
            r#"{"batch":[]}"#.into(),
            &Limits::default(),
        )
        .is_ok()
    };
    assert!(batch("application/json; charset=utf-8") && batch("application/ld+json"));
    assert!(!batch("text/plain") && !batch(""));
}

#[test]
fn only_a_batch_that_is_no_array_is_refused_and_never_an_event() {
    for body in [
        "",
        "[]",
        "{}",
        r#"{"batch":{}}"#,
        r#"{"batch":[]"#,
        r#"{"batch":[],"batch":1}"#,
        r#"{"batch":[]}x"#,
    ] {
        assert!(accept_batch(body).is_err(), "{body}");
    }
    let body = r#"{"batch":[{"id":"a","body":{"id":"no"}},{"id":5},7,null,{"id":"x","id":"\u0062"},{}],"metadata":1}"#;
    let (payload, ids) = accept_batch(body).unwrap();
    assert_eq!(
        (payload.units(), ids.join(" ").as_str()),
        (6, "a unknown unknown unknown b unknown")
    );
}

#[test]
fn a_byte_order_mark_is_refused_or_removed_exactly_where_langfuse_does() {
    assert!(accept_json("\u{feff}{}").is_err());
    let (payload, _) = accept_batch("\u{feff}{\"batch\":[]}").unwrap();
    assert_eq!(merged(vec![payload]), br#"{"batch":[]}"#);
}

#[test]
fn one_score_without_an_id_is_stored_with_the_id_of_the_answer() {
    for body in [
        r#"{"name":"n","value":1}"#,
        r#" { "id" : null , "name":"n","value":"x"}"#,
        r#"{"name":"n","value":1,"id":""}"#,
    ] {
        let (payload, answer) = accept_scores(JSON, "", body.into(), &Limits::default()).unwrap();
        assert_eq!(
            (payload.kind(), payload.kind().merges(), answer.status),
            (Kind::Score, false, 200)
        );
        let (stored, answered) = (json(&merged(vec![payload])), json(&answer.body));
        assert_eq!(stored["id"].as_str().unwrap().len(), 36, "{body}");
        assert_eq!(
            (&stored["id"], &stored["name"]),
            (&answered["id"], &"n".into())
        );
    }
    let given = r#"{"id":"mine","name":"n","value":1}"#;
    let (payload, answer) = accept_scores(JSON, "", given.into(), &Limits::default()).unwrap();
    assert_eq!(
        (&payload.body()[..], &answer.body[..]),
        (given.as_bytes(), &br#"{"id":"mine"}"#[..])
    );
}

#[test]
fn one_score_that_langfuse_cannot_store_is_refused() {
    for body in [
        "{}",
        r#"{"name":"n"}"#,
        r#"{"name":1,"value":1}"#,
        r#"{"name":"n","value":true}"#,
        "7",
        "",
        r#"{"id":3,"name":"n","value":1}"#,
    ] {
        assert!(accept(Kind::Score, "", body).is_err(), "{body}");
    }
}

#[test]
fn a_refusal_speaks_the_language_of_the_request() {
    let refusal =
        accept_protobuf(span(1, "a log record, not a request").encode_to_vec()).unwrap_err();
    let answer = refusal.otlp_answer(PROTOBUF);
    assert_eq!(
        (answer.status, answer.content_type, answer.body[1]),
        (400, PROTOBUF, 3)
    );
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.ends_with(&refusal.to_string()), "{text}");
    let body = json(&refusal.otlp_answer(JSON).body);
    assert_eq!(
        (&body["code"], body["message"].as_str()),
        (&3.into(), Some(refusal.to_string().as_str()))
    );
    let body = json(&refusal.langfuse_answer().body);
    assert_eq!(body["error"], "InvalidRequestError");
    assert_eq!(
        (
            otlp_success(PROTOBUF).body.len(),
            &otlp_success(JSON).body[..]
        ),
        (0, &b"{}"[..])
    );
}
