//! Prompts that this sandbox has seen, so that fetching one again waits for nobody and a bad Langfuse costs no handler a
//! prompt.
//!
//! ```text
//!   age   0 ───────── 60 s ─────────────── 10 min ────────────────────▶
//!         as it is     as it is, and asked   Langfuse is asked first; as it is if
//!                      for in the background Langfuse does not answer (or is known to be bad)
//! ```
//!
//! Ages are read from the wall clock: a frozen sandbox ages too.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, Method};

/// Until this age a prompt is answered without asking Langfuse. The SDKs' own caches keep prompts as long.
pub const PROMPT_FRESH: Duration = Duration::from_mins(1);

/// Until this age a prompt is answered at once, and asked for again in the background.
pub const PROMPT_REVALIDATED: Duration = Duration::from_mins(10);

/// Until this age a prompt is better than none.
pub const PROMPT_KEPT: Duration = Duration::from_hours(24);

/// Prompts kept, versions and labels of the same one counted apart; then the one unused for longest goes.
pub const PROMPTS_LIMIT: usize = 256;

/// Bytes of all prompts kept, with their keys and headers.
pub const PROMPTS_LIMIT_BYTES: usize = 4 << 20;

/// A larger answer is passed through, but not kept.
pub const PROMPT_LIMIT_BYTES: usize = 1 << 20;

const PROMPTS: &str = "/api/public/v2/prompts/";

/// What makes two requests the same: never across credentials.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Path and query as the client wrote them.
    pub(super) target: String,
    /// The `Authorization` sent to Langfuse.
    pub(super) authorization: HeaderValue,
}

impl Key {
    fn bytes(&self) -> usize {
        self.target.len() + self.authorization.len()
    }
}

/// What Langfuse answered with 200.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What is known of a prompt.
#[derive(Debug)]
pub(super) enum Found {
    /// To be answered at once.
    Fresh(Prompt),
    /// To be answered at once, and asked for again by whoever is told `true`.
    Stale(Prompt, bool),
    /// Only for when Langfuse does not answer.
    Fallback(Prompt),
    Nothing,
}

/// Prompts within bounds.
#[derive(Debug)]
pub(super) struct Prompts {
    fresh: Duration,
    revalidated: Duration,
    kept: HashMap<Key, Kept>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    prompt: Prompt,
    bytes: usize,
    since: SystemTime,
    last_use: u64,
    asked_again: Option<SystemTime>,
}

impl Prompts {
    /// Empty. See [`PROMPT_FRESH`] and [`PROMPT_REVALIDATED`].
    pub(super) fn new(fresh: Duration, revalidated: Duration) -> Self {
        Self {
            fresh,
            revalidated,
            kept: HashMap::new(),
            bytes: 0,
            uses: 0,
        }
    }

    /// Looks one up.
    pub(super) fn find(&mut self, key: &Key, now: SystemTime) -> Found {
        self.uses += 1;
        let Some(kept) = self.kept.get_mut(key) else {
            return Found::Nothing;
        };
        kept.last_use = self.uses;
        let prompt = kept.prompt.clone();
        // A clock that was set back says nothing about the age.
        let age = now.duration_since(kept.since).unwrap_or(self.fresh);
        if age < self.fresh {
            Found::Fresh(prompt)
        } else if age < self.revalidated {
            let pause = self.fresh / 2;
            let again = kept
                .asked_again
                .is_none_or(|asked| now.duration_since(asked).is_ok_and(|since| since > pause));
            if again {
                kept.asked_again = Some(now);
            }
            Found::Stale(prompt, again)
        } else if age < PROMPT_KEPT {
            Found::Fallback(prompt)
        } else {
            self.remove(key);
            Found::Nothing
        }
    }

    /// Keeps what Langfuse answered, in place of what was kept before.
    pub(super) fn keep(&mut self, key: Key, prompt: Prompt, now: SystemTime) {
        self.remove(&key);
        let headers = prompt.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let bytes = key.bytes() + headers + prompt.body.len();
        if bytes > PROMPT_LIMIT_BYTES {
            return;
        }
        while self.kept.len() >= PROMPTS_LIMIT || self.bytes + bytes > PROMPTS_LIMIT_BYTES {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.last_use);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.remove(&oldest);
        }
        self.uses += 1;
        self.bytes += bytes;
        let kept = Kept {
            prompt,
            bytes,
            since: now,
            last_use: self.uses,
            asked_again: None,
        };
        self.kept.insert(key, kept);
    }

    /// Langfuse says that it is not there, or not for these keys.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= kept.bytes;
        }
    }

    /// Prompts have been changed through us.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// Whether a request asks for one prompt and nothing unusual.
pub(super) fn asks_for_prompt(method: &Method, target: &str, headers: &HeaderMap) -> bool {
    let unusual = [
        RANGE,
        IF_RANGE,
        IF_MATCH,
        IF_NONE_MATCH,
        IF_MODIFIED_SINCE,
        CACHE_CONTROL,
    ];
    let name = target.strip_prefix(PROMPTS).unwrap_or_default();
    *method == Method::GET
        && !name.is_empty()
        && !name.starts_with('?')
        && !unusual.iter().any(|header| headers.contains_key(header))
}

/// Whether a request may change prompts.
pub(super) fn changes_prompts(method: &Method, target: &str) -> bool {
    !method.is_safe() && target.starts_with(PROMPTS.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn key(target: &str) -> Key {
        Key {
            target: target.into(),
            authorization: HeaderValue::from_static("Basic eDp5"),
        }
    }

    fn prompt(bytes: usize) -> Prompt {
        Prompt {
            headers: HeaderMap::new(),
            body: vec![b'x'; bytes].into(),
        }
    }

    #[test]
    fn a_prompt_ages_by_the_wall_clock() {
        let mut prompts = Prompts::new(PROMPT_FRESH, PROMPT_REVALIDATED);
        prompts.keep(key("a"), prompt(1), START);
        let mut at = |age| prompts.find(&key("a"), START + age);
        assert!(matches!(
            at(PROMPT_FRESH.saturating_sub(Duration::from_secs(1))),
            Found::Fresh(_)
        ));
        assert!(matches!(at(PROMPT_FRESH), Found::Stale(_, true)));
        assert!(matches!(
            at(PROMPT_FRESH + Duration::from_secs(1)),
            Found::Stale(_, false)
        ));
        assert!(matches!(at(PROMPT_FRESH * 2), Found::Stale(_, true)));
        assert!(matches!(at(PROMPT_REVALIDATED), Found::Fallback(_)));
        assert!(matches!(at(PROMPT_KEPT), Found::Nothing));
        assert_eq!(prompts.bytes, 0);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_a_prompt_stale() {
        let mut prompts = Prompts::new(PROMPT_FRESH, PROMPT_REVALIDATED);
        prompts.keep(key("a"), prompt(1), START + PROMPT_KEPT);
        assert!(matches!(
            prompts.find(&key("a"), START),
            Found::Stale(_, true)
        ));
    }

    #[test]
    fn another_credential_finds_nothing() {
        let mut prompts = Prompts::new(PROMPT_FRESH, PROMPT_REVALIDATED);
        prompts.keep(key("a"), prompt(1), START);
        let other = Key {
            authorization: HeaderValue::from_static("Basic eDp6"),
            ..key("a")
        };
        assert!(matches!(prompts.find(&other, START), Found::Nothing));
    }

    #[test]
    fn the_prompt_unused_for_longest_makes_room() {
        let mut prompts = Prompts::new(PROMPT_FRESH, PROMPT_REVALIDATED);
        for index in 0..PROMPTS_LIMIT {
            prompts.keep(key(&index.to_string()), prompt(1), START);
        }
        prompts.find(&key("0"), START);
        prompts.keep(key("new"), prompt(1), START);
        assert_eq!(prompts.kept.len(), PROMPTS_LIMIT);
        assert!(matches!(prompts.find(&key("0"), START), Found::Fresh(_)));
        assert!(matches!(prompts.find(&key("1"), START), Found::Nothing));
    }

    #[test]
    fn the_bytes_of_all_prompts_are_bounded() {
        let mut prompts = Prompts::new(PROMPT_FRESH, PROMPT_REVALIDATED);
        for index in 0..10 {
            prompts.keep(
                key(&index.to_string()),
                prompt(PROMPT_LIMIT_BYTES - 100),
                START,
            );
            assert!(prompts.bytes <= PROMPTS_LIMIT_BYTES);
        }
        assert_eq!(prompts.kept.len(), 4);
        prompts.keep(key("large"), prompt(PROMPT_LIMIT_BYTES), START);
        assert!(matches!(prompts.find(&key("large"), START), Found::Nothing));
        prompts.clear();
        assert_eq!(prompts.bytes, 0);
    }

    #[test]
    fn only_a_plain_get_of_one_prompt_is_kept() {
        let none = HeaderMap::new();
        assert!(asks_for_prompt(
            &Method::GET,
            "/api/public/v2/prompts/a%2Fb?label=x",
            &none
        ));
        assert!(!asks_for_prompt(
            &Method::GET,
            "/api/public/v2/prompts",
            &none
        ));
        assert!(!asks_for_prompt(
            &Method::GET,
            "/api/public/v2/prompts/?page=2",
            &none
        ));
        assert!(!asks_for_prompt(
            &Method::POST,
            "/api/public/v2/prompts/a",
            &none
        ));
        let no_cache = [(CACHE_CONTROL, "no-cache".parse().unwrap())]
            .into_iter()
            .collect();
        assert!(!asks_for_prompt(
            &Method::GET,
            "/api/public/v2/prompts/a",
            &no_cache
        ));
        assert!(changes_prompts(&Method::POST, "/api/public/v2/prompts"));
        assert!(changes_prompts(
            &Method::PATCH,
            "/api/public/v2/prompts/a/versions/1"
        ));
    }
}
