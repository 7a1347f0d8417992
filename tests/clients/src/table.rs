//! The table of `docs/clients.md`.

use std::fmt::Write;
use std::process::Command;

use crate::run::Way;
use crate::trial::{Ended, Trial};

const THROUGH: [Way; 3] = [Way::Healthy, Way::Hung, Way::Refusing];

/// The whole document.
pub fn document(trials: &[Trial]) -> String {
    let mut text = format!(
        "# Clients\n\n\
         Made by `make clients` at commit {} on {}. Do not edit.\n\n\
         Each client is the real package in a function under `tests/emulator`; its app is in `tests/apps`, its versions are \
         locked there. It runs straight to a fake Langfuse, and then through the extension. The one change between the two is \
         the address.\n\n\
         A cell says what arrived in comparison with the run straight to Langfuse, span by span and attribute by attribute, \
         without ids and times (`=` identical, `≠` not), and how many milliseconds the handler waited: \
         straight → through the extension with Langfuse healthy / hung / refusing connections. `–` means that the client has no such \
         feature. What was recorded while Langfuse was hung or refused must have arrived, once, after it was well again, and did \
         wherever the cell says `=`. The client hands over at once (the last table says by which setting).\n\n",
        commit(),
        machine()
    );
    text.push_str(
        "| client | spans, generations, scores | flush | shutdown | process exit | placeholder keys |\n|---|---|---|---|---|---|\n",
    );
    for trial in trials {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            trial.client.name,
            data(trial, "trace"),
            data(trial, "flush"),
            data(trial, "shutdown"),
            trial.ended.as_ref().map_or("–".into(), exit),
            placeholders(trial)
        );
    }
    text.push_str(
        "\nPrompts, media and `auth_check` pass through to Langfuse, and wait for it, boundedly. A cell says what came with Langfuse \
         healthy / hung / refusing, and the milliseconds waited. The prompt has not been fetched before, and has no fallback; the fallback's \
         prompt does not exist.\n\n\
         | client | get_prompt | get_prompt with fallback | media, with flush | auth_check |\n|---|---|---|---|---|\n",
    );
    let passing = trials
        .iter()
        .filter(|trial| trial.client.features.contains(&"auth"));
    for trial in passing {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            trial.client.name,
            passed(trial, "prompt", |_, result| {
                if result == "Review Metropolis" {
                    "text"
                } else {
                    "error"
                }
            }),
            passed(trial, "fallback", |_, result| if result == "Use this." {
                "fallback"
            } else {
                "error"
            }),
            passed(trial, "media", |way, _| {
                let arrived =
                    trial.ways[&way].stored.media == trial.ways[&Way::Direct].stored.media;
                if arrived { "uploaded" } else { "lost" }
            }),
            passed(trial, "auth", |_, result| {
                match result.to_lowercase().as_str() {
                    "true" => "true",
                    "false" => "false",
                    _ => "error",
                }
            })
        );
    }
    text.push_str(
        "\nWho hands over late keeps spans in the function's own process when the handler returns; there they are frozen, and lost if \
         the sandbox ends before the next invocation. The sandbox was ended directly after one trace without a flush; it was also the \
         first invocation, when clients are slowest. Whatever the client had handed over arrived (that is checked). A flush at the \
         end of the handler hands over everything for certain, for the milliseconds of the column above.\n\n\
         | client | arrived at the defaults | hands over late? | what mends it | arrived with that | behind `/opt/langfuse`, no other setting |\n|---|---|---|---|---|---|\n",
    );
    for trial in trials {
        let Some(ended) = &trial.ended else { continue };
        let late = lateness(ended);
        let mend = if late == "no" {
            "–"
        } else {
            trial.client.mend
        };
        let _ = writeln!(
            text,
            "| {} | {} | {late} | {mend} | {} | {} |",
            trial.client.name,
            share(&ended.defaults, &ended.expected),
            share(&ended.at_once, &ended.expected),
            share(&ended.attached, &ended.expected)
        );
    }
    text
}

fn data(trial: &Trial, feature: &str) -> String {
    let straight = &trial.ways[&Way::Direct];
    let Some(answer) = straight.answers.get(feature) else {
        return "–".into();
    };
    let waits = THROUGH.map(|way| {
        let outcome = &trial.ways[&way];
        let same = outcome.doubled == 0
            && outcome.stored.spans == straight.stored.spans
            && outcome.stored.scores == straight.stored.scores;
        let sign = if same { "=" } else { "≠" };
        format!("{sign} {:.0}", outcome.answers[feature].waited_ms)
    });
    format!("{:.0} → {}", answer.waited_ms, waits.join(" / "))
}

fn passed(trial: &Trial, feature: &str, say: impl Fn(Way, &str) -> &'static str) -> String {
    let cells = THROUGH.map(|way| {
        let answer = &trial.ways[&way].answers[feature];
        format!("{} {:.0}", say(way, &answer.result), answer.waited_ms)
    });
    cells.join(" / ")
}

fn placeholders(trial: &Trial) -> String {
    let sign = trial.placeholder_keys.as_ref().map(|outcome| {
        let same = outcome.stored == trial.ways[&Way::Direct].stored && outcome.doubled == 0;
        if same { "=" } else { "≠" }
    });
    sign.unwrap_or("has none").into()
}

fn exit(ended: &Ended) -> String {
    if ended.at_once == ended.expected {
        "=".into()
    } else {
        share(&ended.at_once, &ended.expected)
    }
}

fn lateness(ended: &Ended) -> &'static str {
    let spans = ended.defaults.spans.len() < ended.expected.spans.len();
    let scores = ended.defaults.scores.len() < ended.expected.scores.len();
    match (spans, scores) {
        (true, true) => "spans and scores",
        (true, false) => "spans",
        (false, true) => "scores",
        (false, false) => "no",
    }
}

fn share(arrived: &crate::normal::Stored, expected: &crate::normal::Stored) -> String {
    let mut text = format!("{} of {} spans", arrived.spans.len(), expected.spans.len());
    if !expected.scores.is_empty() {
        let _ = write!(
            text,
            ", {} of {} scores",
            arrived.scores.len(),
            expected.scores.len()
        );
    }
    text
}

fn commit() -> String {
    said("git", &["describe", "--always", "--dirty"])
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = said("uname", &["-sm"]);
    let python = said("python3", &["--version"]);
    format!(
        "{kernel} with {cores} cores, {python}, Node {}",
        said("node", &["--version"])
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map_or_else(|_| b"unknown".into(), |output| output.stdout);
    String::from_utf8_lossy(&text).trim().to_owned()
}
