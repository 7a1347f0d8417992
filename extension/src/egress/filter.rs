//! Which spans leave, by the scope that made them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::plan::{Head, Standing};

/// How long ancestors of a span that left are waited for: as long as an invocation can last.
pub const TREE_WAIT: Duration = Duration::from_mins(15);
/// Ancestors that are waited for, and spans remembered that were kept here; the oldest give way.
pub const TREE_LIMIT_SPANS: usize = 8192;

/// Which spans leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spans {
    /// All of them.
    #[default]
    All,
    /// Those that the Langfuse SDKs send by default.
    Llm,
    /// Those, and their ancestors.
    LlmTree,
}

/// The filter of one destination.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Which spans leave.
    pub spans: Spans,
    /// Scopes whose spans leave as well, with those below them (`my.scope` has `my.scope.part` below it).
    pub include: Vec<String>,
    /// Scopes whose spans never leave, with those below them.
    pub exclude: Vec<String>,
}

impl Filter {
    pub(super) fn is_off(&self) -> bool {
        self.spans == Spans::All && self.exclude.is_empty()
    }

    /// How a span stands on its own. `javascript`: its resource names a JavaScript SDK.
    pub(super) fn standing(&self, scope: &str, javascript: bool, has_gen_ai: bool) -> Standing {
        let is_in = |list: &[String]| list.iter().any(|known| is_or_below(scope, known));
        if is_in(&self.exclude) {
            Standing::Excluded
        } else if self.spans == Spans::All
            || is_in(&self.include)
            || has_gen_ai
            || is_known(scope, javascript)
        {
            Standing::Kept
        } else {
            Standing::Passed
        }
    }
}

/// An attribute with such a key makes a span one of generative AI.
pub(super) fn is_gen_ai(key: &str) -> bool {
    key.starts_with("gen_ai.")
}

/// Values of `telemetry.sdk.language` for which the JavaScript SDK's list counts.
pub(super) fn is_javascript(language: &str) -> bool {
    matches!(language, "nodejs" | "webjs")
}

fn is_or_below(scope: &str, known: &str) -> bool {
    scope
        .strip_prefix(known)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether the SDK of that language knows the scope for one of LLMs. The two lists differ, and in JavaScript nothing
/// lies below `ai`: langfuse-python 5.0.4 (`langfuse/_client/span_filter.py`) and langfuse-js 5.11.1
/// (`packages/otel/src/span-filter.ts`).
fn is_known(scope: &str, javascript: bool) -> bool {
    if javascript {
        return scope == "ai" || of_both(scope) || below_any(scope, &OF_JAVASCRIPT);
    }
    is_or_below(scope, "ai") || of_both(scope) || below_any(scope, &OF_PYTHON)
}

fn of_both(scope: &str) -> bool {
    below_any(scope, &OF_BOTH)
}

fn below_any(scope: &str, list: &[&str]) -> bool {
    list.iter().any(|known| is_or_below(scope, known))
}

const OF_BOTH: [&str; 14] = [
    "langfuse-sdk",
    "agent_framework",
    "haystack",
    "langsmith",
    "litellm",
    "openinference",
    "opentelemetry.instrumentation.anthropic",
    "opentelemetry.instrumentation.bedrock",
    "opentelemetry.instrumentation.google_generativeai",
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.openai_v2",
    "opentelemetry.instrumentation.vertexai",
    "strands-agents",
    "vllm",
];

const OF_JAVASCRIPT: [&str; 4] = [
    "opentelemetry.instrumentation.aws_bedrock",
    "opentelemetry.instrumentation.gemini",
    "opentelemetry.instrumentation.google_genai",
    "opentelemetry.instrumentation.vertex_ai",
];

const OF_PYTHON: [&str; 20] = [
    "autogen-core",
    "opentelemetry.instrumentation.agno",
    "opentelemetry.instrumentation.alephalpha",
    "opentelemetry.instrumentation.cohere",
    "opentelemetry.instrumentation.crewai",
    "opentelemetry.instrumentation.groq",
    "opentelemetry.instrumentation.haystack",
    "opentelemetry.instrumentation.langchain",
    "opentelemetry.instrumentation.llamaindex",
    "opentelemetry.instrumentation.mistralai",
    "opentelemetry.instrumentation.ollama",
    "opentelemetry.instrumentation.openai_agents",
    "opentelemetry.instrumentation.replicate",
    "opentelemetry.instrumentation.sagemaker",
    "opentelemetry.instrumentation.together",
    "opentelemetry.instrumentation.transformers",
    "opentelemetry.instrumentation.voyageai",
    "opentelemetry.instrumentation.watsonx",
    "opentelemetry.instrumentation.writer",
    "pydantic-ai",
];

/// What `llm-tree` remembers between requests: children end before their parents, and may travel before them.
#[derive(Debug, Default)]
pub(super) struct Tree {
    wanted: Remembered,
    kept_here: Remembered,
}

impl Tree {
    /// Which spans leave, and how many were kept here before that should have left.
    pub(super) fn decide(&mut self, heads: &[Head], now: Duration) -> (Vec<bool>, u32) {
        let own: Vec<u64> = heads
            .iter()
            .map(|head| name(&head.trace, &head.span))
            .collect();
        let here: HashMap<u64, usize> = own
            .iter()
            .enumerate()
            .map(|(at, name)| (*name, at))
            .collect();
        let mut keep: Vec<bool> = heads
            .iter()
            .map(|head| head.standing == Standing::Kept)
            .collect();
        let mut ancestors: Vec<usize> = (0..heads.len())
            .filter(|at| keep[*at] || self.wanted.holds(own[*at], now))
            .collect();
        let (mut seen, mut late) = (vec![false; heads.len()], 0);
        while let Some(at) = ancestors.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            keep[at] |= heads[at].standing == Standing::Passed;
            if heads[at].parent.is_empty() {
                continue;
            }
            let parent = name(&heads[at].trace, &heads[at].parent);
            match here.get(&parent) {
                Some(parent) => ancestors.push(*parent),
                None if self.kept_here.forget(parent) => late += 1,
                None => self.wanted.remember(parent, now),
            }
        }
        for (at, head) in heads.iter().enumerate() {
            if !keep[at] && head.standing == Standing::Passed {
                self.kept_here.remember(own[at], now);
            }
        }
        (keep, late)
    }
}

fn name(trace: &str, span: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (trace, span).hash(&mut hasher);
    hasher.finish()
}

/// Spans remembered for [`TREE_WAIT`], at most [`TREE_LIMIT_SPANS`].
#[derive(Debug, Default)]
struct Remembered {
    all: HashSet<u64>,
    by_age: VecDeque<(u64, Duration)>,
}

impl Remembered {
    fn remember(&mut self, name: u64, now: Duration) {
        if self.all.insert(name) {
            self.by_age.push_back((name, now));
        }
        while self.by_age.len() > TREE_LIMIT_SPANS {
            self.drop_oldest();
        }
    }

    fn holds(&mut self, name: u64, now: Duration) -> bool {
        while self
            .by_age
            .front()
            .is_some_and(|(_, since)| now.saturating_sub(*since) > TREE_WAIT)
        {
            self.drop_oldest();
        }
        self.all.contains(&name)
    }

    fn forget(&mut self, name: u64) -> bool {
        self.all.remove(&name)
    }

    fn drop_oldest(&mut self) {
        if let Some((oldest, _)) = self.by_age.pop_front() {
            self.all.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_that_of_the_sdk_of_the_spans_language() {
        let filter = Filter {
            spans: Spans::Llm,
            ..Filter::default()
        };
        let kept = |scope, javascript| filter.standing(scope, javascript, false) == Standing::Kept;
        for scope in [
            "langfuse-sdk",
            "ai",
            "litellm.proxy",
            "openinference.instrumentation.openai",
            "vllm",
        ] {
            assert!(kept(scope, true) && kept(scope, false), "{scope}");
        }
        for scope in [
            "",
            "fastapi",
            "opentelemetry.instrumentation.requests",
            "ais",
            "openinferences",
            "LiteLLM",
        ] {
            assert!(!kept(scope, true) && !kept(scope, false), "{scope}");
        }
        for scope in [
            "ai.vercel",
            "pydantic-ai",
            "opentelemetry.instrumentation.langchain",
            "autogen-core",
        ] {
            assert!(!kept(scope, true) && kept(scope, false), "{scope}");
        }
        for scope in [
            "opentelemetry.instrumentation.gemini",
            "opentelemetry.instrumentation.vertex_ai",
        ] {
            assert!(kept(scope, true) && !kept(scope, false), "{scope}");
        }
        assert_eq!(filter.standing("fastapi", false, true), Standing::Kept);
    }

    #[test]
    fn lists_of_scopes_go_before_the_rule_and_excluding_goes_first() {
        let filter = Filter {
            spans: Spans::Llm,
            include: vec!["my.app".into(), "litellm".into()],
            exclude: vec!["litellm".into()],
        };
        assert_eq!(filter.standing("my.app.part", false, false), Standing::Kept);
        assert_eq!(
            filter.standing("my.apparel", false, false),
            Standing::Passed
        );
        assert_eq!(filter.standing("litellm", false, true), Standing::Excluded);
    }

    fn head(span: &str, parent: &str, standing: Standing) -> Head {
        Head {
            trace: "t".into(),
            span: span.into(),
            parent: parent.into(),
            standing,
        }
    }

    #[test]
    fn ancestors_of_what_left_leave_as_well_also_when_they_come_later() {
        let (mut tree, now) = (Tree::default(), Duration::ZERO);
        let first = [
            head("query", "llm", Standing::Passed),
            head("llm", "chain", Standing::Kept),
            head("chain", "handler", Standing::Passed),
            head("other", "", Standing::Passed),
        ];
        assert_eq!(
            tree.decide(&first, now),
            (vec![false, true, true, false], 0)
        );
        let second = [
            head("handler", "root", Standing::Passed),
            head("root", "", Standing::Passed),
        ];
        assert_eq!(tree.decide(&second, now + TREE_WAIT), (vec![true, true], 0));
    }

    #[test]
    fn an_ancestor_is_waited_for_no_longer_than_said() {
        let (mut tree, now) = (Tree::default(), Duration::ZERO);
        tree.decide(&[head("llm", "root", Standing::Kept)], now);
        let late = now + TREE_WAIT + Duration::from_secs(1);
        assert_eq!(
            tree.decide(&[head("root", "", Standing::Passed)], late),
            (vec![false], 0)
        );
    }

    #[test]
    fn a_descendant_that_comes_too_late_is_counted_once() {
        let (mut tree, now) = (Tree::default(), Duration::ZERO);
        assert_eq!(
            tree.decide(&[head("root", "", Standing::Passed)], now),
            (vec![false], 0)
        );
        assert_eq!(
            tree.decide(&[head("llm", "root", Standing::Kept)], now),
            (vec![true], 1)
        );
        assert_eq!(
            tree.decide(&[head("llm2", "root", Standing::Kept)], now),
            (vec![true], 0)
        );
    }

    #[test]
    fn what_is_excluded_does_not_leave_but_what_is_above_it_does() {
        let mut tree = Tree::default();
        let heads = [
            head("llm", "sql", Standing::Kept),
            head("sql", "root", Standing::Excluded),
            head("root", "", Standing::Passed),
        ];
        assert_eq!(tree.decide(&heads, Duration::ZERO).0, [true, false, true]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut tree = Tree::default();
        for at in 0..=TREE_LIMIT_SPANS {
            let parent = format!("parent{at}");
            tree.decide(&[head("llm", &parent, Standing::Kept)], Duration::ZERO);
        }
        assert_eq!(tree.wanted.all.len(), TREE_LIMIT_SPANS);
        let oldest = [
            head("parent0", "", Standing::Passed),
            head("parent1", "", Standing::Passed),
        ];
        assert_eq!(tree.decide(&oldest, Duration::ZERO).0, [false, true]);
    }
}
