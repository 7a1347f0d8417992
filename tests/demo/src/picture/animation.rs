//! One invocation while Langfuse hangs, straight and through the extension, as a moving picture for the README: an SVG that needs
//! nothing else, light and dark by the reader's setting. What does not move it, shows its end.

use std::fmt::Write;
use std::time::Duration;

use super::median_in_outage;
use crate::plan::{Health, Way};
use crate::run::Run;
use crate::table::readable;

/// How many times faster than the run it is played.
const SPEED: f64 = 4.0;

/// How long its end is shown before it begins again, in seconds.
const REST_S: f64 = 4.0;

/// Where bars begin, and how long the longest is, in the picture's own units.
const LEFT: f64 = 20.0;
const WIDTH: f64 = 680.0;

const STYLE: &str = "text{font:14px system-ui,sans-serif;fill:#1b1f2a}.soft{fill:#626a7c;font-size:12px}.back{fill:#fbfbfd}\
    .lane{fill:#e3e6ee}.bad{fill:#d9353f}.good{fill:#3b6cf6}.time{font-weight:650;font-size:20px}\
    @media(prefers-color-scheme:dark){text{fill:#e9ecf4}.soft{fill:#98a1b5}.back{fill:#10131a}.lane{fill:#2a303e}\
    .bad{fill:#f2636b}.good{fill:#6f97ff}}";

/// The picture, or nothing if a run is missing.
pub(crate) fn animation(runs: &[Run]) -> Option<String> {
    let straight = median_in_outage(runs, Way::Direct, Health::Hung)?;
    let through = median_in_outage(runs, Way::Extension, Health::Hung)?;
    let longest = straight.max(through);
    let cycle = longest.as_secs_f64() / SPEED + REST_S;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 210\" role=\"img\"><title>Langfuse hangs: the user waits {} \
         straight, {} through the extension</title><style>{STYLE}</style><rect class=\"back\" width=\"720\" height=\"210\" rx=\"12\"/>\
         <text x=\"{LEFT}\" y=\"32\">Langfuse hangs. How long does the user wait?</text>",
        readable(straight),
        readable(through)
    );
    let lanes = [
        ("bad", "Straight, with flush()", straight, 64.0),
        ("good", "Through the extension", through, 128.0),
    ];
    for (class, label, waited, top) in lanes {
        svg.push_str(&lane(class, label, waited, longest, top, cycle));
    }
    let _ = writeln!(
        svg,
        "<text class=\"soft\" x=\"{LEFT}\" y=\"198\">Median of a run of make demo, played {SPEED} times as fast.</text></svg>"
    );
    Some(svg)
}

/// A bar that grows for as long as was waited, and then says how long that was.
fn lane(
    class: &str,
    label: &str,
    waited: Duration,
    longest: Duration,
    top: f64,
    cycle: f64,
) -> String {
    // Something can be seen of the shortest wait, too.
    let width = (WIDTH * waited.as_secs_f64() / longest.as_secs_f64()).max(2.0);
    let end = (waited.as_secs_f64() / SPEED / cycle).max(0.001);
    let (bar, text) = (top + 8.0, top + 30.0);
    format!(
        "<text class=\"soft\" x=\"{LEFT}\" y=\"{top}\">{label}</text>\
         <rect class=\"lane\" x=\"{LEFT}\" y=\"{bar}\" width=\"{WIDTH}\" height=\"32\" rx=\"4\"/>\
         <rect class=\"{class}\" x=\"{LEFT}\" y=\"{bar}\" width=\"{width:.1}\" height=\"32\" rx=\"4\"><animate attributeName=\"width\" \
         values=\"0;{width:.1};{width:.1}\" keyTimes=\"0;{end:.4};1\" dur=\"{cycle:.2}s\" repeatCount=\"indefinite\"/></rect>\
         <text class=\"time\" x=\"{x}\" y=\"{text}\">{time}<animate attributeName=\"opacity\" calcMode=\"discrete\" values=\"0;1\" \
         keyTimes=\"0;{end:.4}\" dur=\"{cycle:.2}s\" repeatCount=\"indefinite\"/></text>",
        x = LEFT + 12.0,
        time = readable(waited)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_picture_is_well_formed_fetches_nothing_and_shows_both_waits() {
        let mut runs = sample::runs();
        for run in &mut runs {
            if run.way == Way::Direct && run.health == Health::Hung {
                for turn in &mut run.turns {
                    turn.response = Duration::from_secs(20);
                }
            }
        }
        let svg = animation(&runs).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let moving = document
            .descendants()
            .filter(|node| node.has_tag_name("animate"));
        assert_eq!(moving.count(), 4);
        for wait in [Duration::from_secs(20), Duration::from_millis(60)] {
            assert!(svg.contains(&readable(wait)), "{svg}");
        }
        assert!(!svg.contains("href") && !svg.contains("url("));
    }

    #[test]
    fn without_both_runs_there_is_none() {
        assert_eq!(animation(&[]), None);
    }
}
