//! The clients that every change is tested with; `make clients` runs them all, and more of each.

use clients::client::{CLIENTS, Client, JS, PYTHON_4_0_6, PYTHON_5};
use clients::trial::Trial;

async fn assert_unharmed(client: Client) {
    let trial = Trial::quick(client).await;
    assert!(trial.failures.is_empty(), "{}", trial.failures.join("\n"));
}

async fn assert_attached(client: Client) {
    let trial = Trial::attached(client).await;
    assert!(trial.failures.is_empty(), "{}", trial.failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_wrapper_every_client_hands_over_every_span_of_a_finished_trace() {
    for client in CLIENTS {
        assert_attached(*client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn langfuse_python_4_0_6_loses_nothing_and_waits_for_nothing() {
    assert_unharmed(PYTHON_4_0_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn langfuse_python_5_loses_nothing_and_waits_for_nothing() {
    assert_unharmed(PYTHON_5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_js_sdk_loses_nothing_and_waits_for_nothing() {
    assert_unharmed(JS).await;
}
