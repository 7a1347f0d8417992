//! A fake Langfuse as a command, for tests and people that are not written in Rust.

use std::io::{self, Read};

use clap::Parser;
use lambda_emulator::fake_langfuse::{Config, FakeLangfuse, Project};
use serde_json::json;

/// Serves a fake Langfuse on 127.0.0.1 until its standard input ends.
///
/// Prints one line of JSON: `url` (of Langfuse), `control` (URL of the control endpoint), `ca` (PEM file, or null),
/// `public_key` and `secret_key`. Control: GET|POST|PUT|DELETE /faults; GET /observations, /scores, /events, /requests,
/// /duplicates, /media, /summary; DELETE /recordings, /connections.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Serve HTTPS, with a certificate by an authority of its own.
    #[arg(long)]
    tls: bool,
    /// Path in front of /api/public, such as /langfuse.
    #[arg(long, default_value = "")]
    base_path: String,
    /// Keys as `PROJECT:PUBLIC_KEY:SECRET_KEY`; may be repeated.
    #[arg(long = "project", value_parser = parse_project)]
    projects: Vec<Project>,
    /// Body bytes on the wire above which requests are answered 413.
    #[arg(long)]
    max_request_bytes: Option<usize>,
    /// Serve until killed, whatever becomes of the standard input.
    #[arg(long)]
    ignore_stdin: bool,
}

fn parse_project(text: &str) -> Result<Project, String> {
    match text.split(':').collect::<Vec<_>>()[..] {
        [id, public_key, secret_key] => Ok(Project::new(id, public_key, secret_key)),
        _ => Err("expected PROJECT:PUBLIC_KEY:SECRET_KEY".into()),
    }
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let mut config = Config {
        port: arguments.port,
        tls: arguments.tls,
        base_path: arguments.base_path.trim_end_matches('/').to_owned(),
        ..Config::default()
    };
    if !arguments.projects.is_empty() {
        config.projects = arguments.projects;
    }
    if let Some(max_request_bytes) = arguments.max_request_bytes {
        config.max_request_bytes = max_request_bytes;
    }
    let (public_key, secret_key) = config
        .projects
        .first()
        .map(|project| (project.public_key.clone(), project.secret_key.clone()))
        .unwrap_or_default();
    let langfuse = FakeLangfuse::start(config)?;
    let line = json!({
        "url": langfuse.url(),
        "control": langfuse.open_control()?,
        "ca": langfuse.ca_file(),
        "public_key": public_key,
        "secret_key": secret_key,
    });
    println!("{line}");
    if arguments.ignore_stdin {
        loop {
            std::thread::park();
        }
    }
    io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink())?;
    Ok(())
}
