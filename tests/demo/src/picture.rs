//! The results as one page that needs nothing else: SVG drawn here, light and dark by the reader's setting.

mod animation;
mod panel;
mod scale;

use std::fmt::Write;
use std::time::Duration;

use crate::capture::Capture;
use crate::plan::{FUNCTION_TIMEOUT, Health, Way};
use crate::run::Run;
use crate::table::readable;
use crate::verdict::{Verdict, median};

pub(crate) use animation::animation;

const STYLE: &str = include_str!("picture/style.css");

/// The whole page.
pub(crate) fn page(runs: &[Run], captures: &[Capture], verdict: &Verdict) -> String {
    let mut body = String::new();
    body.push_str(&headline(runs, verdict));
    body.push_str(LEGEND);
    for health in Health::ALL {
        body.push_str(&section(runs, health));
    }
    body.push_str(&capture_section(captures));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width\"/>\
         <title>Langfuse on Lambda, straight and through the extension</title>\
         <style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
}

/// The three facts to take home.
fn headline(runs: &[Run], verdict: &Verdict) -> String {
    let during = |way, health| handler_in_outage(runs, way, health);
    let (lost_direct, _) = lost_and_doubled(runs, |way| !way.has_extension());
    let (lost, doubled) = lost_and_doubled(runs, Way::has_extension);
    let cards = [
        card(
            "bad",
            "Langfuse hung, direct",
            &during(Way::Direct, Health::Hung),
            direct_note(runs),
        ),
        card(
            "good",
            "Langfuse hung, through the extension",
            &during(Way::Extension, Health::Hung),
            &format!(
                "median handler time; {} when healthy",
                during(Way::Extension, Health::Healthy)
            ),
        ),
        card(
            "bad",
            "Lost, direct",
            &lost_direct.to_string(),
            "spans and scores, over all three runs",
        ),
        card(
            if lost + doubled == 0 { "good" } else { "bad" },
            "Lost or doubled, through the extension",
            &(lost + doubled).to_string(),
            "spans and scores, over all six runs",
        ),
    ];
    let (class, outcome) = if verdict.problems.is_empty() {
        ("good", "Every promise held in this run.")
    } else {
        (
            "bad",
            "A promise was broken in this run; the text says which.",
        )
    };
    format!(
        "<header><h1>Nothing Langfuse does reaches the handler</h1><p>The same Lambda function, traced with \
         langfuse-python 4.0.6, straight against Langfuse and through the extension. \
         <span class=\"{class}\">{outcome}</span></p></header><div class=\"cards\">{}</div>",
        cards.concat()
    )
}

fn card(class: &str, title: &str, value: &str, note: &str) -> String {
    format!(
        "<div class=\"card\"><h3>{title}</h3><div class=\"value {class}\">{value}</div><p>{note}</p></div>"
    )
}

fn direct_note(runs: &[Run]) -> &'static str {
    let timed_out = runs
        .iter()
        .filter(|run| run.way == Way::Direct && run.health == Health::Hung)
        .flat_map(|run| &run.turns)
        .any(|turn| turn.failure.is_some());
    if timed_out {
        "median handler time, ended by the function timeout"
    } else {
        "median handler time"
    }
}

/// The median over the invocations before the recovery, cold start included, since a timeout makes each one cold.
fn handler_in_outage(runs: &[Run], way: Way, health: Health) -> String {
    median_in_outage(runs, way, health).map_or_else(|| "–".to_owned(), readable)
}

fn median_in_outage(runs: &[Run], way: Way, health: Health) -> Option<Duration> {
    let mut times: Vec<Duration> = runs
        .iter()
        .filter(|run| run.way == way && run.health == health)
        .flat_map(|run| &run.turns)
        .filter(|turn| !turn.step.recovered)
        .map(|turn| turn.response)
        .collect();
    times.sort_unstable();
    median(&times)
}

fn lost_and_doubled(runs: &[Run], wanted: impl Fn(Way) -> bool) -> (usize, usize) {
    let wanted = runs.iter().filter(|run| wanted(run.way));
    wanted.fold((0, 0), |(lost, doubled), run| {
        (
            lost + run.spans.lost + run.scores.lost,
            doubled + run.spans.doubled + run.scores.doubled,
        )
    })
}

/// Named as the marks of a panel are styled.
const LEGEND: &str = "<ul class=\"legend\">\
    <li><i class=\"handler\"></i>handler, until the response</li>\
    <li><i class=\"killed\"></i>killed by the function timeout</li>\
    <li><i class=\"held\"></i>sandbox held for the export</li>\
    <li><i class=\"frozen\"></i>frozen</li>\
    <li><b class=\"stored\">▼</b>export stored by Langfuse</li>\
    <li><b class=\"unanswered\">▼</b>export not answered</li>\
    <li><b class=\"probe\">▽</b>probe, without data</li></ul>";

fn section(runs: &[Run], health: Health) -> String {
    let panels: String = Way::ALL
        .iter()
        .filter_map(|way| {
            runs.iter()
                .find(|run| run.way == *way && run.health == health)
        })
        .map(figure)
        .collect();
    let (title, note) = match health {
        Health::Healthy => ("Langfuse is healthy", "It answers at once."),
        Health::Hung => (
            "Langfuse hangs",
            "It takes requests, stores nothing and never answers, until it recovers after the fourth invocation.",
        ),
        Health::Refusing => (
            "Langfuse is down",
            "Connections are refused, so nothing arrives, until it recovers after the fourth invocation.",
        ),
    };
    format!("<section><h2>{title}</h2><p>{note}</p><div class=\"panels\">{panels}</div></section>")
}

fn figure(run: &Run) -> String {
    let title = match run.way {
        Way::Direct => "Direct, flush()",
        Way::Extension => "Extension, flush()",
        Way::ExtensionUnflushed => "Extension, LANGFUSE_FLUSH_AT=1, no flush()",
    };
    let fates = [("spans", run.spans), ("scores", run.scores)].map(|(what, tally)| {
        let class = if tally.lost + tally.doubled == 0 {
            "good"
        } else {
            "bad"
        };
        format!(
            "{what} <span class=\"{class}\">{}/{} delivered, {} doubled</span>",
            tally.delivered, tally.sent, tally.doubled
        )
    });
    format!(
        "<figure><figcaption><strong>{title}</strong><br/>{}</figcaption>{}</figure>",
        fates.join(" · "),
        panel::draw(run)
    )
}

/// The half of the incident that the extension has no part in.
fn capture_section(captures: &[Capture]) -> String {
    let mut rows = String::new();
    for capture in captures {
        let (class, end) = if capture.killed {
            ("bad", "never returns: killed after")
        } else {
            ("good", "returns after")
        };
        // Writing to a String cannot fail.
        let _ = write!(
            rows,
            "<tr><th>{}</th><td class=\"{class}\">{end} {}</td><td>{} requests sent</td></tr>",
            capture.variant.label(),
            readable(capture.response),
            capture.request_count
        );
    }
    format!(
        "<section><h2>The half that no extension can remove</h2><p>@observe around a function whose argument holds an \
         asyncpg pool of 2; Langfuse is healthy. Before 4.7.0 capturing that argument takes exponential time.</p>\
         <table>{rows}</table></section><footer>All times on one square-root scale from the event's delivery to the function \
         timeout of {} s. Made by make demo.</footer>",
        FUNCTION_TIMEOUT.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::verdict::judge;

    fn sample_page() -> String {
        let (runs, captures) = (sample::runs(), sample::captures());
        page(&runs, &captures, &judge(&runs, &captures))
    }

    #[test]
    fn the_page_is_well_formed_and_has_a_panel_for_each_run() {
        let page = sample_page();
        let xml = page.trim_start_matches("<!DOCTYPE html>");
        let document = roxmltree::Document::parse(xml).unwrap();
        let panels = document
            .descendants()
            .filter(|node| node.has_tag_name("svg"));
        assert_eq!(panels.count(), Health::ALL.len() * Way::ALL.len());
    }

    #[test]
    fn the_page_fetches_nothing() {
        let page = sample_page();
        for link in [
            "href", "src=", "url(", "@import", "http:", "https:", "<script",
        ] {
            assert!(!page.contains(link), "{link}");
        }
    }

    #[test]
    fn a_broken_promise_is_on_the_page() {
        let mut runs = sample::runs();
        let hung = runs.iter_mut().find(|run| run.way.has_extension()).unwrap();
        hung.spans.lost = 2;
        let page = page(&runs, &[], &judge(&runs, &[]));
        assert!(page.contains("A promise was broken"));
        assert!(page.contains("<div class=\"value bad\">2</div>"));
    }
}
