//! Which keys are not to be trusted with data, because they were refused, and which a probe has just shown to be good.

use std::time::Duration;

use super::{CREDENTIAL_WAIT, FIRST_BACKOFF, MAX_REFUSED_CREDENTIALS, Permit};
use crate::route::Credential;
use crate::time::{Now, Timer};

/// For how long a good probe shows that a refusal is not the keys' fault.
pub const PROBE_HOLDS_GOOD: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Keyring {
    refused: Vec<Refused>,
    good: Vec<(Credential, Timer)>,
    configured_are_there: bool,
    /// Keys that do not come were waited for in vain.
    waited_in_vain: bool,
    reread_at: Option<Now>,
}

#[derive(Debug)]
struct Refused {
    credential: Credential,
    until: Timer,
    probing: bool,
    /// A probe with them was refused as well.
    surely: bool,
}

impl Keyring {
    /// Whether they may be used where the host permits data to be sent. `None`: they may.
    pub(super) fn permit(&self, credential: &Credential, now: Now) -> Option<Permit> {
        let refused = self.refused.iter().find(|r| r.credential == *credential)?;
        Some(if refused.probing {
            Permit::Answer
        } else if refused.until.is_over(now) {
            Permit::Probe
        } else {
            Permit::Wait(refused.until.left(now))
        })
    }

    pub(super) fn are_missing(&self, credential: &Credential) -> bool {
        *credential == Credential::Configured && !self.configured_are_there
    }

    /// Whether holding the sandbox for them may pay: not again for keys that did not come, nor for such as a probe has
    /// shown to be refused.
    pub(super) fn are_worth_a_hold(&self, credential: &Credential) -> bool {
        if self.are_missing(credential) {
            return !self.waited_in_vain;
        }
        let refused = self.refused.iter().find(|r| r.credential == *credential);
        refused.is_none_or(|refused| !refused.surely)
    }

    pub(super) fn waited_in_vain(&mut self) {
        self.waited_in_vain = !self.configured_are_there;
    }

    pub(super) fn are_good(&self, credential: &Credential, now: Now) -> bool {
        let good = self.good.iter().find(|(good, _)| good == credential);
        good.is_some_and(|(_, until)| !until.is_over(now))
    }

    pub(super) fn probing(&mut self, credential: &Credential) {
        if let Some(refused) = self.refused_mut(credential) {
            refused.probing = true;
        }
    }

    /// A probe with them has ended, whatever it showed.
    pub(super) fn probed(&mut self, credential: &Credential) {
        if let Some(refused) = self.refused_mut(credential) {
            refused.probing = false;
        }
    }

    /// Data with them was taken.
    pub(super) fn took_data(&mut self, credential: &Credential) {
        self.refused.retain(|r| r.credential != *credential);
    }

    pub(super) fn a_probe_was_good(&mut self, credential: &Credential, now: Now) {
        self.refused.retain(|r| r.credential != *credential);
        self.good.retain(|(good, _)| good != credential);
        if self.good.len() == MAX_REFUSED_CREDENTIALS {
            self.good.remove(0);
        }
        let until = Timer::new(now, PROBE_HOLDS_GOOD);
        self.good.push((credential.clone(), until));
    }

    pub(super) fn a_probe_was_refused(&mut self, credential: &Credential, now: Now) {
        self.refuse(credential, Timer::new(now, CREDENTIAL_WAIT), true);
    }

    pub(super) fn data_was_refused(&mut self, credential: &Credential, now: Now) {
        self.refuse(credential, Timer::new(now, CREDENTIAL_WAIT), false);
    }

    /// A probe tells whether it was they that were refused.
    pub(super) fn are_doubtful(&mut self, credential: &Credential, now: Now) {
        self.refuse(credential, Timer::new(now, FIRST_BACKOFF), false);
    }

    fn refuse(&mut self, credential: &Credential, until: Timer, by_probe: bool) {
        self.good.retain(|(good, _)| good != credential);
        let before = self.refused.iter().find(|r| r.credential == *credential);
        let surely = by_probe || before.is_some_and(|r| r.surely);
        self.refused.retain(|r| r.credential != *credential);
        if self.refused.len() == MAX_REFUSED_CREDENTIALS {
            self.refused.remove(0);
        }
        self.refused.push(Refused {
            credential: credential.clone(),
            until,
            probing: false,
            surely,
        });
    }

    /// The configured ones are there, for the first time or anew. Refused ones are not trusted with data, but a probe
    /// may find out at once.
    pub(super) fn configured_are_there(&mut self, now: Now) {
        self.configured_are_there = true;
        self.waited_in_vain = false;
        if let Some(refused) = self.refused_mut(&Credential::Configured) {
            refused.until = Timer::new(now, Duration::ZERO);
        }
    }

    /// Whether to read refused ones again: not more often than once in [`CREDENTIAL_WAIT`], or keys that stay bad would
    /// be read and tried in a loop.
    pub(super) fn reread(&mut self, credential: &Credential, now: Now) -> bool {
        let lately = self
            .reread_at
            .is_some_and(|at| now.since(at) < CREDENTIAL_WAIT);
        let again = *credential == Credential::Configured && !lately;
        if again {
            self.reread_at = Some(now);
        }
        again
    }

    /// All of them may be asked at once.
    pub(super) fn may_be_asked(&mut self, now: Now) {
        for refused in &mut self.refused {
            refused.until = Timer::new(now, Duration::ZERO);
            refused.surely = false;
        }
    }

    fn refused_mut(&mut self, credential: &Credential) -> Option<&mut Refused> {
        self.refused
            .iter_mut()
            .find(|r| r.credential == *credential)
    }
}
