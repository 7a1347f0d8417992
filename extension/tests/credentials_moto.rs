//! Keys out of SSM and Secrets Manager as moto serves them, with signatures and IAM policies checked for real.
//!
//! Needs python3 with venv and pip, and flock; where one is missing the tests say so and pass.

#![expect(
    clippy::unwrap_used,
    reason = "A test stops where it cannot go on; clippy's leave for tests does not cover what they call."
)]

mod credentials_client;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use credentials_client::{environment, resolve_settings};
use langfuse_extension::credentials::{AwsEnvironment, CredentialsError, KeyKind, Keys, Reason};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const WITHIN: Duration = Duration::from_secs(30);
const MISSING_TOOL_STATUS: i32 = 3;

#[derive(Deserialize)]
struct Moto {
    endpoint: String,
    parameter: String,
    secrets: HashMap<String, String>,
    callers: HashMap<String, Caller>,
    /// Its standard input ends with the test process, and moto with it.
    #[serde(skip)]
    process: Option<Child>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "PascalCase")]
struct Caller {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
}

impl Moto {
    fn of(&self, caller: &Caller) -> AwsEnvironment {
        environment(&[
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", &caller.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", &caller.secret_access_key),
            ("AWS_SESSION_TOKEN", &caller.session_token),
        ])
    }

    async fn read(&self, public: &str, secret: &str) -> Result<Keys, CredentialsError> {
        let aws = self.of(&self.callers["reader"]);
        resolve_settings(public, secret, &aws, WITHIN).await
    }

    async fn secret_read(&self, secret: &str) -> Result<String, Reason> {
        let keys = self.read("pk-lf-1", secret).await;
        keys.map(|keys| keys.secret.expose().to_owned())
            .map_err(|error| error.reason)
    }
}

/// The one moto of all tests here, or nothing where it cannot run.
fn moto() -> Option<&'static Moto> {
    static MOTO: OnceLock<Option<Moto>> = OnceLock::new();
    MOTO.get_or_init(start).as_ref()
}

fn start() -> Option<Moto> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let made = Command::new(root.join("tests/venv.sh"))
        .arg("moto")
        .arg(root.join("tests/apps/moto/requirements.txt"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    if made.status.code() == Some(MISSING_TOOL_STATUS) {
        // Past the capture of the test harness: a skipped test must not look like a passed one.
        let line = format!("SKIPPED: the tests against moto: {}\n", said.trim());
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return None;
    }
    assert!(made.status.success(), "{said}");
    let mut process = Command::new(String::from_utf8(made.stdout).unwrap().trim())
        .arg(root.join("tests/apps/moto/serve.py"))
        .env("NO_PROXY", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let mut moto: Moto = serde_json::from_str(&line).unwrap();
    moto.process = Some(process);
    Some(moto)
}

#[tokio::test]
async fn an_encrypted_parameter_is_read_by_name_and_by_arn() {
    let Some(moto) = moto() else { return };
    let keys = moto.read("ssm:langfuse-public", &moto.parameter).await;
    let keys = keys.unwrap();
    assert_eq!(keys.public, "pk-lf-named");
    assert_eq!(keys.secret.expose(), "sk-lf-path");
    assert_eq!(keys.trimmed, []);
}

#[tokio::test]
async fn a_version_and_a_label_of_a_parameter_are_read() {
    let Some(moto) = moto() else { return };
    for (setting, expected) in [
        ("ssm:/langfuse/versions", "sk-lf-second"),
        ("ssm:/langfuse/versions:1", "sk-lf-first"),
        ("ssm:/langfuse/versions:old", "sk-lf-first"),
    ] {
        let read = moto.secret_read(setting).await;
        assert_eq!(read, Ok(expected.to_owned()), "{setting}");
    }
    let missing = moto.secret_read("ssm:/langfuse/versions:9").await;
    assert_eq!(missing, Err(Reason::VersionNotFound));
}

#[tokio::test]
async fn a_secret_is_read_bare_and_by_json_key() {
    let Some(moto) = moto() else { return };
    let pair = &moto.secrets["pair"];
    let keys = moto
        .read(&format!("{pair}#public"), &format!("{pair}#secret"))
        .await
        .unwrap();
    assert_eq!(keys.public, "pk-lf-json");
    assert_eq!(keys.secret.expose(), "sk-lf-json");
    let bare = moto.secret_read(&moto.secrets["bare"]).await;
    assert_eq!(bare, Ok("sk-lf-bare".to_owned()));
}

#[tokio::test]
async fn a_secret_of_another_form_is_explained() {
    let Some(moto) = moto() else { return };
    let pair = &moto.secrets["pair"];
    let whole = moto.secret_read(pair).await;
    assert_eq!(whole, Err(Reason::JsonWithoutKey));
    let missing = moto.secret_read(&format!("{pair}#absent")).await;
    let json_key = "absent".to_owned();
    assert_eq!(
        missing,
        Err(Reason::JsonKeyMissing {
            json_key,
            members: 3
        })
    );
    let number = moto.secret_read(&format!("{pair}#number")).await;
    let json_key = "number".to_owned();
    assert_eq!(number, Err(Reason::JsonNotText { json_key }));
    let bare = format!("{}#secret", moto.secrets["bare"]);
    assert_eq!(moto.secret_read(&bare).await, Err(Reason::NotJson));
    let binary = moto.secret_read(&moto.secrets["binary"]).await;
    assert_eq!(binary, Err(Reason::Binary));
}

#[tokio::test]
async fn a_line_break_after_the_key_is_taken_off_and_told() {
    let Some(moto) = moto() else { return };
    let keys = moto.read("pk-lf-1", "ssm:/langfuse/newline").await.unwrap();
    assert_eq!(keys.secret.expose(), "sk-lf-newline");
    assert_eq!(keys.trimmed, [KeyKind::Secret]);
}

#[tokio::test]
async fn what_does_not_exist_is_named_with_its_region() {
    let Some(moto) = moto() else { return };
    let secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:absent-AbCdEf";
    for setting in ["ssm:/langfuse/absent", secret] {
        let region = "eu-west-1".to_owned();
        let missing = moto.secret_read(setting).await;
        assert_eq!(missing, Err(Reason::NotFound { region }), "{setting}");
    }
}

#[tokio::test]
async fn a_role_without_the_policy_is_told_which_action_to_allow_on_what() {
    let Some(moto) = moto() else { return };
    let aws = moto.of(&moto.callers["stranger"]);
    for (setting, action, resource) in [
        (
            "ssm:/langfuse/secret",
            "ssm:GetParameter",
            "arn:aws:ssm:eu-west-1:*:parameter/langfuse/secret",
        ),
        (&moto.parameter, "ssm:GetParameter", &moto.parameter),
        (
            &moto.secrets["bare"],
            "secretsmanager:GetSecretValue",
            &moto.secrets["bare"],
        ),
    ] {
        let error = resolve_settings("pk-lf-1", setting, &aws, WITHIN).await;
        let reason = Reason::AccessDenied {
            action: action.to_owned(),
            resource: resource.to_owned(),
        };
        assert_eq!(error.unwrap_err().reason, reason);
    }
}

#[tokio::test]
async fn a_wrong_secret_access_key_is_a_bad_signature() {
    let Some(moto) = moto() else { return };
    let mut caller = moto.callers["reader"].clone();
    caller.secret_access_key = "wrong-and-hidden".into();
    let aws = moto.of(&caller);
    for setting in ["ssm:/langfuse/secret", &moto.secrets["bare"]] {
        let error = resolve_settings("pk-lf-1", setting, &aws, WITHIN).await;
        let error = error.unwrap_err();
        assert_eq!(error.reason, Reason::BadSignature);
        assert!(!format!("{error} {error:?}").contains("hidden"));
    }
}

#[tokio::test]
async fn an_access_key_that_aws_does_not_know_is_told_from_a_bad_signature() {
    let Some(moto) = moto() else { return };
    let mut caller = moto.callers["reader"].clone();
    caller.access_key_id = "ASIAUNKNOWN".into();
    let aws = moto.of(&caller);
    let error = resolve_settings("pk-lf-1", "ssm:/langfuse/secret", &aws, WITHIN).await;
    assert_eq!(error.unwrap_err().reason, Reason::UnknownAccessKey);
}

#[tokio::test]
async fn under_snapstart_the_credentials_of_the_container_endpoint_sign() {
    let Some(moto) = moto() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/credentials", listener.local_addr().unwrap());
    let caller = moto.callers["reader"].clone();
    let endpoint = tokio::spawn(async move { serve_credentials(&listener, &caller).await });
    let aws = environment(&[
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL", &moto.endpoint),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic token"),
    ]);
    let keys = resolve_settings("pk-lf-1", "ssm:/langfuse/secret", &aws, WITHIN).await;
    assert_eq!(keys.unwrap().secret.expose(), "sk-lf-path");
    let request = endpoint.await.unwrap().to_lowercase();
    assert!(
        request.starts_with("get /credentials http/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains("authorization: basic token\r\n"),
        "{request}"
    );
}

async fn serve_credentials(listener: &TcpListener, caller: &Caller) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
    }
    let body = serde_json::json!({
        "AccessKeyId": caller.access_key_id,
        "SecretAccessKey": caller.secret_access_key,
        "Token": caller.session_token,
        "Expiration": "2099-01-01T00:00:00Z",
    })
    .to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}
