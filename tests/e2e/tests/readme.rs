//! The README's three ways in, run as they stand there: its code blocks are read, and only what is a placeholder in them, or
//! taken on this machine, is replaced.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "set-up of tests fails loudly"
)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use e2e::process::{Host, Running};
use e2e::{
    Builder, EXTENSION, FakeLangfuse, Freeze, Lambda, LangfuseConfig, PATIENCE, Project, json,
};
use e2e::{binary, free_address};

const REQUESTS: usize = 200;
const CLIENTS: usize = 8;

/// The fenced block of the section that begins so.
fn block(beginning: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once(beginning).expect(beginning);
    let (_, block) = section.split_once("```").unwrap();
    let (_, block) = block.split_once('\n').unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// The words of an instruction of a Dockerfile in its exec form.
fn words(block: &str, instruction: &str) -> Vec<String> {
    let line = block
        .lines()
        .find_map(|line| line.strip_prefix(instruction));
    serde_json::from_str(line.expect(instruction)).unwrap()
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

/// The directory of an interpreter with these packages.
fn python(name: &str, requirements: &str) -> String {
    let output = Command::new(root().join("tests/venv.sh"))
        .args([name, requirements])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let python = String::from_utf8(output.stdout).unwrap();
    let bin = Path::new(python.trim()).parent().unwrap();
    format!("{}:/usr/bin:/bin", bin.display())
}

/// A function that traces to Langfuse, and knows nothing of the extension.
fn function(langfuse: &FakeLangfuse) -> Builder {
    let path = python(
        "langfuse-python-5.0.4",
        "tests/apps/langfuse-python/requirements-5.0.4.txt",
    );
    Lambda::builder()
        .bootstrap(["python", "-m", "awslambdaric", "app.handler"])
        .task_root(root().join("tests/apps/langfuse-python"))
        .timeout(PATIENCE)
        .init_limit(PATIENCE)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LANGFUSE_BASE_URL", langfuse.url())
        .env("LANGFUSE_PUBLIC_KEY", Project::PUBLIC_KEY)
        .env("LANGFUSE_SECRET_KEY", Project::SECRET_KEY)
        .function_env("PATH", path)
        .function_env(
            "PYTHONPATH",
            root().join("tests/apps/lib").to_string_lossy(),
        )
}

/// The layer unpacked, and a port and a disk of this test's own.
fn with_layer(function: Builder, dir: &Path) -> Builder {
    let opt = dir.join("opt");
    std::fs::create_dir_all(opt.join("extensions")).unwrap();
    symlink(binary(), opt.join("extensions").join(EXTENSION)).unwrap();
    symlink(
        Path::new("extensions").join(EXTENSION),
        opt.join("langfuse"),
    )
    .unwrap();
    function
        .opt_dir(opt)
        .env("LANGFUSE_EXTENSION_LISTEN", free_address().to_string())
        .env(
            "LANGFUSE_EXTENSION_SPOOL_DIR",
            dir.join("spool").to_string_lossy(),
        )
}

/// One trace, and the end of the sandbox right after it. What Langfuse has then, by name.
async fn trace_and_end(function: Builder, langfuse: &FakeLangfuse) -> BTreeSet<String> {
    let lambda = function.start().await.unwrap();
    let ran = lambda
        .invoke(json!({ "feature": "trace" }).to_string())
        .await;
    assert!(ran.succeeded(), "{:?}\n{:?}", ran.result, lambda.logs());
    lambda.shutdown().await;
    names(langfuse)
}

fn names(langfuse: &FakeLangfuse) -> BTreeSet<String> {
    let observations = langfuse.observations();
    observations.iter().map(|one| one.name.clone()).collect()
}

fn langfuse() -> FakeLangfuse {
    FakeLangfuse::start(LangfuseConfig::default()).unwrap()
}

fn trace() -> BTreeSet<String> {
    ["trace", "trace-generation"].map(str::to_owned).into()
}

#[tokio::test]
async fn without_the_extension_the_trace_is_lost_with_the_sandbox() {
    let langfuse = langfuse();
    let function = function(&langfuse).freeze(Freeze::Signals);
    assert_eq!(trace_and_end(function, &langfuse).await, BTreeSet::new());
}

#[tokio::test]
async fn a_function_from_a_zip_adds_the_layer_and_one_variable() {
    let langfuse = langfuse();
    let dir = tempfile::tempdir().unwrap();
    let block = block("**A function from a zip**");
    let (_, variables) = block.split_once("Variables={").unwrap();
    let variables = variables.split_once('}').unwrap().0;
    let mut function = with_layer(function(&langfuse), dir.path());
    let mut said = BTreeSet::new();
    for variable in variables.split(',') {
        let (name, value) = variable.split_once('=').unwrap();
        said.insert(name);
        // The other values are the app's own already.
        if value != "…" {
            function = function.env(name, value);
        }
    }
    assert_eq!(
        said.into_iter().collect::<Vec<_>>(),
        [
            "AWS_LAMBDA_EXEC_WRAPPER",
            "LANGFUSE_BASE_URL",
            "LANGFUSE_PUBLIC_KEY",
            "LANGFUSE_SECRET_KEY"
        ]
    );
    assert_eq!(trace_and_end(function, &langfuse).await, trace());
}

#[tokio::test]
async fn a_function_from_an_image_has_the_wrapper_in_front_of_its_command() {
    let langfuse = langfuse();
    let dir = tempfile::tempdir().unwrap();
    let block = block("**A function from an image**");
    let mut command = words(&block, "ENTRYPOINT ");
    command.extend(words(&block, "CMD "));
    command[0] = command[0].replace("/opt", &dir.path().join("opt").to_string_lossy());
    let function = with_layer(function(&langfuse), dir.path()).bootstrap(command);
    assert_eq!(trace_and_end(function, &langfuse).await, trace());
}

#[tokio::test]
async fn another_wrapper_comes_after_this_one() {
    let langfuse = langfuse();
    let dir = tempfile::tempdir().unwrap();
    let then = dir.path().join("then");
    std::fs::write(
        &then,
        "#!/bin/sh\necho \"then $LANGFUSE_EXTENSION_THEN_EXEC\"\nexec \"$@\"\n",
    )
    .unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&then, readable).unwrap();
    for (next, is_there) in [(then.clone(), true), (dir.path().join("none"), false)] {
        langfuse.clear_recordings();
        let dir = tempfile::tempdir().unwrap();
        let function = with_layer(function(&langfuse), dir.path())
            .env("AWS_LAMBDA_EXEC_WRAPPER", "/opt/langfuse")
            .env("LANGFUSE_EXTENSION_THEN_EXEC", next.to_string_lossy());
        let lambda = function.start().await.unwrap();
        let ran = lambda
            .invoke(json!({ "feature": "trace" }).to_string())
            .await;
        assert!(ran.succeeded(), "{:?}\n{:?}", ran.result, lambda.logs());
        let lines = lambda.logs();
        assert_eq!(lines.iter().any(|line| line.text == "then "), is_there);
        lambda.shutdown().await;
        assert_eq!(names(&langfuse), trace());
    }
}

/// One request on a connection of its own.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_container_runs_its_command_and_under_load_no_span_is_lost() {
    let host = Host::new();
    let block = block("**Any other container**");
    let address = free_address();
    let mut command = words(&block, "ENTRYPOINT ");
    assert_eq!(command.remove(0), format!("/opt/extensions/{EXTENSION}"));
    command.extend(words(&block, "CMD "));
    for word in &mut command {
        match word.as_str() {
            "8080" => *word = address.port().to_string(),
            "0.0.0.0" => *word = address.ip().to_string(),
            _ => {}
        }
    }
    let path = python(
        "fastapi",
        "terraform/examples/container-fastapi/app/requirements.txt",
    );
    let mut process = host.command(&command.iter().map(String::as_str).collect::<Vec<_>>());
    process
        .current_dir(root().join("tests/apps/uvicorn"))
        .env("PATH", path);
    let mut running = Running::start(process);
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < until, "uvicorn does not listen");
        std::thread::yield_now();
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            std::thread::spawn(move || {
                let paths = (0..REQUESTS / CLIENTS).map(|number| format!("/{client}-{number}"));
                let answered = paths.filter(|path| {
                    get(address, path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
                });
                answered.collect::<Vec<_>>()
            })
        })
        .collect();
    let answered: BTreeSet<String> = clients
        .into_iter()
        .flat_map(|client| client.join().unwrap())
        .collect();
    assert_eq!(answered.len(), REQUESTS);
    running.signal("TERM");
    running.wait();
    let missing: Vec<_> = answered.difference(&host.delivered()).cloned().collect();
    assert_eq!(missing, Vec::<String>::new());
}
