//! Which spans and scores were acknowledged, stored, lost and doubled: two counts can be equal by chance, two sets cannot.

use std::collections::BTreeSet;

use crate::World;

/// Spans or scores by their names, which `tests/apps/raw/app.py` gives out once each: `TAG-0`, `TAG-1`, …
pub type Ids = BTreeSet<String>;

/// `TAG-0` to `TAG-(count - 1)`.
pub fn ids(tag: &str, count: usize) -> Ids {
    (0..count).map(|number| format!("{tag}-{number}")).collect()
}

impl World {
    /// Spans that the function was answered 200 for, as it has told.
    pub fn acknowledged(&self) -> Ids {
        self.told("acknowledged spans ")
    }

    /// The same of scores.
    pub fn acknowledged_scores(&self) -> Ids {
        self.told("acknowledged scores ")
    }

    fn told(&self, what: &str) -> Ids {
        let lines = self.lambda.logs_of("runtime").into_iter();
        lines
            .filter_map(|line| line.text.strip_prefix(what).map(str::to_owned))
            .flat_map(|names| names.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// Spans that Langfuse has.
    pub fn stored(&self) -> Ids {
        self.langfuse.read(|recording| {
            let spans = recording.observations();
            spans.map(|span| span.name.clone()).collect()
        })
    }

    /// Scores that Langfuse has.
    pub fn stored_scores(&self) -> Ids {
        self.langfuse.read(|recording| {
            let names = recording.scores().map(|score| &score.body["name"]);
            names
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect()
        })
    }

    /// Spans that were acknowledged and that Langfuse does not have.
    pub fn lost(&self) -> Ids {
        &self.acknowledged() - &self.stored()
    }

    /// The same of scores.
    pub fn lost_scores(&self) -> Ids {
        &self.acknowledged_scores() - &self.stored_scores()
    }

    /// Spans beyond the first copy of each.
    pub fn doubled(&self) -> u64 {
        let doubled = self.langfuse.duplicates().observations;
        doubled.iter().map(|duplicate| duplicate.count - 1).sum()
    }

    /// Spans that Langfuse has more than once.
    pub fn doubled_ids(&self) -> Ids {
        let doubled = self.langfuse.duplicates().observations;
        let stored = self.langfuse.observations();
        stored
            .iter()
            .filter(|span| {
                let id = format!("{}/{}", span.trace_id, span.span_id);
                doubled.iter().any(|duplicate| duplicate.id == id)
            })
            .map(|span| span.name.clone())
            .collect()
    }
}
