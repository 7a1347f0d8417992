//! The function's clients: what they post, when, and what their spans say of their traces.

use std::sync::Arc;
use std::time::Duration;

use langfuse_extension_core::Event;
use langfuse_extension_core::delivery::fact::Fact;
use langfuse_extension_core::traces::{Parent, SpanFact};

use crate::lambda::Lambda;
use crate::langfuse::Mode;
use crate::load::Load;
use crate::nature::Style;
use crate::world::{Unit, What};

impl Lambda {
    pub(crate) fn plan_posts(&mut self, handler: Duration) {
        let rng = &mut self.world.rng;
        let posts = rng.pick(&[0, 1, 1, 2, 3, 8]);
        let burst = rng.one_in(60);
        let posts = if burst { 90 } else { posts };
        for _ in 0..posts {
            let rng = &mut self.world.rng;
            let ended = Duration::from_micros(rng.between(0, handler.as_micros() as u64 + 1));
            let late = match self.world.nature.style {
                Style::Flushed => Duration::ZERO,
                Style::Batched => rng.ms(0, 100),
                Style::Background => rng.ms(0, 900),
                Style::Anything => rng.ms(0, 6_000),
            };
            let route = rng.between(0, self.world.nature.routes.len() as u64);
            let route = usize::try_from(route).expect("an index");
            let load = self.new_load(route);
            let post = What::Post(route, load);
            self.world.after_running(ended + late, post);
        }
        if self.world.rng.one_in(10) {
            let soon = self.world.rng.ms(0, 500);
            let fact = match self.world.langfuse.mode {
                Mode::Refusing => Fact::NotConnected,
                Mode::HangBefore | Mode::HangAfter => Fact::NoAnswer,
                _ => Fact::status(200),
            };
            let event = Event::PassedThrough { fact };
            self.world.after_running(soon, What::Tell(event));
        }
    }

    pub(crate) fn new_load(&mut self, route: usize) -> Load {
        let rng = &mut self.world.rng;
        let count = if rng.one_in(30) {
            rng.between(100, 700)
        } else {
            rng.between(1, 8)
        };
        let bytes = if self.world.nature.large_bodies && rng.one_in(4) {
            rng.between(100_000, 40_000_000)
        } else if rng.one_in(20) {
            rng.between(1, 100_000)
        } else {
            rng.between(1, 2_000)
        };
        let bytes = usize::try_from(bytes).expect("a size");
        let first = u32::try_from(self.world.units.len()).expect("a count");
        let end = first + u32::try_from(count).expect("a count");
        self.world.units.resize(end as usize, Unit::default());
        let rng = &mut self.world.rng;
        let flawed = rng.one_in(30).then_some(first);
        let refused = rng.one_in(2);
        Load {
            units: first..end,
            bytes,
            route,
            refused: flawed.filter(|_| refused),
            poison: flawed.filter(|_| !refused),
        }
    }

    pub(crate) fn post(&mut self, route: usize, load: Load) {
        let facts = self.facts();
        let accepted = Event::Accepted {
            route: Arc::clone(&self.world.nature.routes[route]),
            payload: load,
            facts,
        };
        let slow = self.world.rng.one_in(20);
        let reading = self.world.rng.ms(0, if slow { 3_000 } else { 3 });
        let answering = reading + self.world.rng.ms(0, 2);
        self.world.tell(Event::RequestOpened);
        if self.world.rng.one_in(60) {
            // Its connection stalls in the body, and dies in the end.
            let dies = self.world.rng.ms(10, 30_000);
            let closed = What::Tell(Event::RequestClosed);
            return self.world.after_running(dies, closed);
        }
        self.world.after_running(reading, What::Tell(accepted));
        let closed = What::Tell(Event::RequestClosed);
        self.world.after_running(answering, closed);
    }

    fn facts(&mut self) -> Vec<SpanFact> {
        let rng = &mut self.world.rng;
        let trace_id = u128::from(self.invocation).to_be_bytes();
        let root = [1; 8];
        let span_id = if rng.one_in(2) {
            root
        } else {
            rng.next().to_be_bytes()
        };
        let parent = match rng.between(0, 6) {
            _ if span_id == root => Parent::None,
            0 => Parent::Unknown(root),
            1 => Parent::Remote,
            2 => Parent::Local([2; 8]),
            _ => Parent::Local(root),
        };
        let start = self.world.now().wall - self.world.rng.ms(0, 50);
        let start_unix_nano = u64::try_from(start.as_nanos()).expect("a time");
        let says = self.world.rng.between(0, 8) > 0;
        let time = |nanos| if says { nanos } else { 0 };
        vec![SpanFact {
            trace_id,
            span_id,
            parent,
            start_unix_nano: time(start_unix_nano),
            end_unix_nano: time(start_unix_nano + 1_000_000),
        }]
    }
}
