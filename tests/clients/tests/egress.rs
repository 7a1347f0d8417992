//! What real SDKs trace leaves masked: both encodings, spans and scores.

use clients::client::{Client, JS, PYTHON_4_0_6, PYTHON_5};
use clients::normal::Stored;
use clients::trial::Trial;

const SETTINGS: &[(&str, &str)] = &[
    (
        "LANGFUSE_EXTENSION_MASK_PATTERN_WORDS",
        "(?i)servus|gr\u{fc}\u{df}e|fine|verdict",
    ),
    ("LANGFUSE_EXTENSION_MASK_KEYS", "deep,n,temperature"),
];

fn texts(stored: &Stored) -> String {
    [stored.spans.concat(), stored.scores.concat()].concat()
}

async fn assert_masked(client: Client) {
    let (straight, through) = Trial::with_settings(client, &["flush"], SETTINGS).await;
    for word in ["Servus", "fine", "verdict"] {
        assert!(
            texts(&straight).contains(word),
            "{word} is not traced at all"
        );
        assert!(!texts(&through).contains(word), "{word} is in {through:#?}");
    }
    for greeting in [
        "Gr\u{fc}\u{df}e",
        "Gr\\u00fc\\u00dfe",
        "Gr\\\\u00fc\\\\u00dfe",
    ] {
        assert!(!texts(&through).contains(greeting), "{through:#?}");
    }
    assert!(texts(&through).contains("[masked:words]"), "{through:#?}");
    assert!(texts(&through).contains("[masked]"), "{through:#?}");
    assert_eq!(through.spans.len(), straight.spans.len());
    assert_eq!(through.scores.len(), straight.scores.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_langfuse_python_4_0_6_traces_leaves_masked() {
    assert_masked(PYTHON_4_0_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_langfuse_python_5_traces_leaves_masked() {
    assert_masked(PYTHON_5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_js_sdk_traces_leaves_masked() {
    assert_masked(JS).await;
}
