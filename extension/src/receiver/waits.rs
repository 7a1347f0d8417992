//! How long one prompt may be waited for, however often it is asked for.
//!
//! An SDK that got no prompt asks again at once, two or three times, and its handler waits for all of these together. So
//! waits in vain add up, until for as long as the whole patience nobody has waited in vain.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::prompts::Key;

/// Prompts whose waits are counted; then the one that was waited for longest ago is counted anew.
const WAITS_LIMIT: usize = 256;

/// Waits that came to nothing.
#[derive(Debug)]
pub(super) struct Waits {
    patience: Duration,
    hasher: RandomState,
    /// By the hash of [`Key`], which may be long.
    in_vain: HashMap<u64, InVain>,
}

#[derive(Debug)]
struct InVain {
    waited: Duration,
    until: Instant,
}

impl Waits {
    /// None yet. `patience`: for one prompt.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            hasher: RandomState::new(),
            in_vain: HashMap::new(),
        }
    }

    /// How long this one may be waited for from now on.
    pub(super) fn left(&self, key: &Key, now: Instant) -> Duration {
        let in_vain = self.in_vain.get(&self.hasher.hash_one(key));
        let in_vain = in_vain.filter(|it| self.counts(it, now));
        self.patience
            .saturating_sub(in_vain.map_or(Duration::ZERO, |it| it.waited))
    }

    /// It was waited for, and did not come. Time in which several waited counts once.
    pub(super) fn in_vain(&mut self, key: &Key, from: Instant, to: Instant) {
        let patience = self.patience;
        self.in_vain.retain(|_, it| from < it.until + patience);
        let hash = self.hasher.hash_one(key);
        if self.in_vain.len() >= WAITS_LIMIT && !self.in_vain.contains_key(&hash) {
            let oldest = self.in_vain.iter().min_by_key(|(_, it)| it.until);
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                self.in_vain.remove(&oldest);
            }
        }
        let it = self.in_vain.entry(hash).or_insert(InVain {
            waited: Duration::ZERO,
            until: from,
        });
        it.waited += to.saturating_duration_since(it.until.max(from));
        it.until = it.until.max(to);
    }

    /// It came.
    pub(super) fn answered(&mut self, key: &Key) {
        self.in_vain.remove(&self.hasher.hash_one(key));
    }

    fn counts(&self, it: &InVain, now: Instant) -> bool {
        now < it.until + self.patience
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);
    const SECOND: Duration = Duration::from_secs(1);

    fn key(target: &str) -> Key {
        Key {
            target: target.into(),
            authorization: HeaderValue::from_static("Basic eDp5"),
        }
    }

    #[test]
    fn waits_in_vain_add_up_until_nobody_waited_for_the_whole_patience() {
        let (mut waits, start) = (Waits::new(PATIENCE), Instant::now());
        let wanted = key("a");
        waits.in_vain(&wanted, start, start + SECOND);
        assert_eq!(waits.left(&wanted, start + SECOND), SECOND);
        waits.in_vain(&wanted, start + 2 * SECOND, start + 3 * SECOND);
        assert_eq!(waits.left(&wanted, start + 4 * SECOND), Duration::ZERO);
        assert_eq!(waits.left(&key("b"), start + 4 * SECOND), PATIENCE);
        assert_eq!(waits.left(&wanted, start + 5 * SECOND), PATIENCE);
    }

    #[test]
    fn time_in_which_several_wait_counts_once() {
        let (mut waits, start) = (Waits::new(PATIENCE), Instant::now());
        let wanted = key("a");
        for _ in 0..3 {
            waits.in_vain(&wanted, start, start + SECOND);
        }
        assert_eq!(waits.left(&wanted, start + SECOND), SECOND);
        waits.answered(&wanted);
        assert_eq!(waits.left(&wanted, start + SECOND), PATIENCE);
    }

    #[test]
    fn not_more_prompts_than_the_limit_are_counted() {
        let (mut waits, start) = (Waits::new(PATIENCE), Instant::now());
        for index in 0..=WAITS_LIMIT {
            waits.in_vain(&key(&index.to_string()), start, start + SECOND);
        }
        assert_eq!(waits.in_vain.len(), WAITS_LIMIT);
    }
}
