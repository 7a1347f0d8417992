//! Nothing secret and nothing of a payload is ever logged, also where everything else is.

use e2e::{Fault, LogLine, Setup, World, json};

const SECRET_OF_APP: &str = "sk-lf-second";
const MARKER: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

fn assert_silent(world: &World) {
    let encoded = [
        "cGstbGYtdGVzdDpzay1sZi10ZXN0",
        "cGstbGYtc2Vjb25kOnNrLWxmLXNlY29uZA",
    ];
    let of_extension = |line: &&LogLine| line.source == e2e::EXTENSION;
    let lines = world.lambda.logs();
    assert!(
        lines.iter().filter(of_extension).count() > 3,
        "it does log\n{}",
        world.story()
    );
    for line in lines.iter().filter(of_extension) {
        for secret in ["sk-lf-test", SECRET_OF_APP, MARKER, encoded[0], encoded[1]] {
            assert!(!line.text.contains(secret), "{secret} in {}", line.text);
        }
    }
}

#[tokio::test]
async fn at_the_most_talkative_level_and_through_faults() {
    for fault in [
        Fault::Healthy,
        Fault::status(401),
        Fault::status(400),
        Fault::status(500),
        Fault::Refuse,
    ] {
        let world = Setup::new()
            .setting("LOG_LEVEL", "trace")
            .lambda(|lambda| {
                lambda.function_env("COLLECTOR_KEYS", format!("pk-lf-second:{SECRET_OF_APP}"))
            })
            .start()
            .await;
        world.langfuse.set_fault(fault);
        for path in [
            "/status",
            "/api/public/v2/prompts/greeting",
            "/api/public/projects",
        ] {
            let ran = world
                .invoke(json!({ "tag": "t", "scores": 1, "bytes": 200, "get": path }))
                .await;
            assert!(ran.succeeded(), "{}", world.story());
            assert!(!ran.got().answer.contains("sk-lf"), "{:?}", ran.got());
        }
        world.shutdown().await;
        assert_silent(&world);
    }
}

#[tokio::test]
async fn nor_are_its_own_keys() {
    let world = Setup::new().setting("LOG_LEVEL", "trace").start().await;
    world
        .invoke(json!({ "tag": "t", "bytes": 200 }))
        .await
        .assert_acknowledged();
    let wrong = world.invoke(json!({ "get": "/api/public/nowhere" })).await;
    assert!(wrong.succeeded());
    world.langfuse.set_projects(Vec::new());
    world
        .invoke(json!({ "tag": "u", "bytes": 200 }))
        .await
        .assert_acknowledged();
    world.shutdown().await;
    assert_silent(&world);
}
