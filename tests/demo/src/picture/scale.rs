//! Where a time lies from left to right: 30 ms and 20 s on one axis, so that both can be seen.

use std::time::Duration;

use crate::plan::FUNCTION_TIMEOUT;

/// Where the event was delivered, in the units of the drawing.
pub(crate) const START_X: f64 = 92.0;
/// Where the function timeout is.
pub(crate) const END_X: f64 = 452.0;

/// The times with a line of their own, in milliseconds.
pub(crate) const MARKS_MS: [u64; 7] = [0, 100, 500, 2_000, 5_000, 10_000, 20_000];

/// A square root keeps short times visible; what is later than the timeout stays at the end.
pub(crate) fn x(time: Duration) -> f64 {
    let part = (time.as_secs_f64() / FUNCTION_TIMEOUT.as_secs_f64()).min(1.0);
    START_X + part.sqrt() * (END_X - START_X)
}

/// What is written at a mark.
pub(crate) fn label(mark_ms: u64) -> String {
    match mark_ms {
        0 => "0".to_owned(),
        below if below < 1_000 => format!("{}.{} s", below / 1_000, below % 1_000 / 100),
        seconds => format!("{} s", seconds / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_in_their_order_between_the_ends() {
        let xs = MARKS_MS.map(|mark| x(Duration::from_millis(mark)));
        assert!(xs.is_sorted());
        assert!((xs[0] - START_X).abs() < 0.01 && (xs[6] - END_X).abs() < 0.01);
        assert!((x(Duration::from_secs(60)) - END_X).abs() < 0.01);
    }

    #[test]
    fn marks_are_written_in_seconds() {
        assert_eq!(MARKS_MS.map(label), ["0", "0.1 s", "0.5 s", "2 s", "5 s", "10 s", "20 s"]);
    }
}
