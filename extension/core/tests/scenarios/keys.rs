//! Keys that Langfuse refuses, and keys that are not there yet.

use langfuse_extension_core::delivery::{CREDENTIAL_WAIT, MAX_REFUSED_CREDENTIALS};
use langfuse_extension_core::route::{Credential, Door};
use langfuse_extension_core::{Event, Settings};

use crate::driver::{Sandbox, UNAUTHORIZED, WELL, body, configured, route};

/// Its configured keys were just refused.
fn refused() -> Sandbox {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.invoke_for_ms("r1", 900_000);
    sandbox.post_to(&configured(), body("a"));
    sandbox.pass_ms(10_000);
    sandbox.answer(UNAUTHORIZED);
    sandbox
}

fn wait_ms() -> u64 {
    u64::try_from(CREDENTIAL_WAIT.as_millis()).expect("a time")
}

#[test]
fn nothing_is_sent_with_configured_keys_before_they_are_there() {
    let mut sandbox = Sandbox::unregistered(Settings::default());
    sandbox.tell(Event::Registered { invoke: false });
    sandbox.post_to(&configured(), body("a"));
    sandbox.pass_ms(5_000);
    assert_eq!(sandbox.count("Export"), 0);
    sandbox.tell(Event::KeysReady);
    assert_eq!(sandbox.sending(), ["a"]);
}

#[test]
fn refused_keys_are_read_again_and_probed_before_data_goes() {
    let mut sandbox = refused();
    assert_eq!(sandbox.count("RereadKeys"), 1);
    assert!(!sandbox.probing);
    sandbox.tell(Event::KeysReady);
    assert!(sandbox.probing);
    assert_eq!(sandbox.exports.len(), 0);
    sandbox.answer_probe(WELL);
    assert_eq!(sandbox.sending(), ["a"]);
}

#[test]
fn keys_that_stay_bad_are_neither_read_nor_tried_in_a_loop() {
    let mut sandbox = refused();
    let minutes = 10;
    for _ in 0..minutes * 60 {
        if sandbox.count("RereadKeys") > 0 {
            sandbox.done.retain(|done| *done != "RereadKeys");
            sandbox.done.push("reread");
            sandbox.tell(Event::KeysReady);
        }
        if sandbox.probing {
            sandbox.answer_probe(UNAUTHORIZED);
        }
        sandbox.pass_ms(1_000);
    }
    assert!(sandbox.count("reread") <= minutes + 1);
    assert!(sandbox.count("Probe") <= 2 * minutes + 1);
    assert_eq!(sandbox.count("Export"), 1);
}

#[test]
fn refused_keys_are_probed_after_a_minute_even_if_nothing_is_read() {
    let mut sandbox = refused();
    sandbox.pass_ms(wait_ms() - 1);
    assert_eq!(sandbox.count("Probe"), 0);
    sandbox.pass_ms(1);
    assert!(sandbox.probing);
}

#[test]
fn other_keys_go_on_and_nobody_is_held() {
    let mut sandbox = refused();
    let other = route(Door::TracesProtobuf, "others");
    sandbox.post_to(&other, body("b"));
    sandbox.runtime_done("r1");
    assert_eq!(sandbox.sending(), ["b"]);
    sandbox.answer(WELL);
    assert!(sandbox.held_ms().is_some_and(|held| held <= 300));
    assert_eq!(sandbox.core.held_units(), 1);
}

#[test]
fn a_clients_own_refused_keys_are_not_ours_to_read_again() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.invoke("r1");
    sandbox.post("a");
    sandbox.runtime_done("r1");
    sandbox.answer(UNAUTHORIZED);
    assert_eq!(sandbox.count("RereadKeys"), 0);
}

fn client(n: usize) -> Credential {
    Credential::Client(n.to_string())
}

#[test]
fn the_oldest_of_too_many_refused_keys_is_asked_again() {
    let mut sandbox = Sandbox::new(Settings::default());
    sandbox.tell(Event::TelemetrySpeaks);
    sandbox.invoke_for_ms("r1", 900_000);
    for n in 0..=MAX_REFUSED_CREDENTIALS {
        sandbox.post_to(&route(Door::TracesJson, &n.to_string()), body("a"));
    }
    sandbox.pass_ms(10_000);
    let all: Vec<_> = (0..=MAX_REFUSED_CREDENTIALS).map(client).collect();
    let mut refused = Vec::new();
    for _ in &all {
        let (_, batch) = sandbox.exports.front().expect("a request under way");
        refused.push(batch.route.credential.clone());
        sandbox.answer(UNAUTHORIZED);
    }
    assert_eq!(refused, all);
    assert_eq!(sandbox.count("Probe"), 0);
    // It is not known any more, and no other one is asked.
    let sending = sandbox.exports.iter();
    let sending: Vec<_> = sending.map(|(_, batch)| &batch.route.credential).collect();
    assert_eq!(sending, [&client(0)]);
}
