//! Which traces leave, by their id.

use ring::digest::{SHA256, digest};

/// Sampling by trace id.
///
/// It decides exactly as `opentelemetry.sdk.trace.sampling.TraceIdRatioBased` of OpenTelemetry's Python SDK does
/// (<https://github.com/open-telemetry/opentelemetry-python>): the lower eight bytes of the id are compared with the
/// ratio's share of their range. Other languages' SDKs differ: Java's compares only 63 of these bits, JavaScript's
/// folds all sixteen bytes into four.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    bound: u128,
}

/// The ratio is not between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a ratio is a number from 0 to 1")]
pub struct NoRatio;

impl Sample {
    /// Keeps `ratio` of all traces.
    pub fn new(ratio: f64) -> Result<Self, NoRatio> {
        const RANGE: f64 = 18_446_744_073_709_551_616.0;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(NoRatio);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 2^64, and whole"
        )]
        let bound = (ratio * RANGE).round_ties_even() as u128;
        Ok(Self { bound })
    }

    /// Whether the trace leaves. Ids that are not 32 hexadecimal digits, such as the UUIDs of old Langfuse SDKs, of which
    /// two bits are always the same, are seeds of such ids, as they are for the SDKs' `create_trace_id(seed=…)`:
    /// the first sixteen bytes of their SHA-256.
    pub fn keeps(self, trace: &str) -> bool {
        let id = Some(trace)
            .filter(|trace| trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|trace| u128::from_str_radix(trace, 16).ok())
            .unwrap_or_else(|| seeded(trace));
        id & u128::from(u64::MAX) < self.bound
    }
}

fn seeded(seed: &str) -> u128 {
    let hash = digest(&SHA256, seed.as_bytes());
    let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `TraceIdRatioBased(ratio).bound` is in Python, asked of opentelemetry-sdk 1.45.
    #[test]
    fn the_bound_is_that_of_the_python_sdk() {
        for (ratio, bound) in [
            (0.0, 0),
            (0.1, 1_844_674_407_370_955_264),
            (0.5, 9_223_372_036_854_775_808),
            (1.0 / 3.0, 6_148_914_691_236_516_864),
            (1e-9, 18_446_744_074),
            (1e-20, 0),
            (1.0, 18_446_744_073_709_551_616),
        ] {
            assert_eq!(Sample::new(ratio).unwrap().bound, bound, "{ratio}");
        }
        for ratio in [-0.1, 1.1, f64::NAN] {
            assert_eq!(Sample::new(ratio), Err(NoRatio));
        }
    }

    #[test]
    fn the_lower_eight_bytes_decide() {
        let half = Sample::new(0.5).unwrap();
        assert!(half.keeps("ffffffffffffffff7fffffffffffffff"));
        assert!(!half.keeps("00000000000000008000000000000000"));
        assert!(half.keeps("FFFFFFFFFFFFFFFF7FFFFFFFFFFFFFFF"));
        assert!(Sample::new(1.0).unwrap().keeps(&"f".repeat(32)));
        assert!(!Sample::new(0.0).unwrap().keeps(&"0".repeat(32)));
    }

    #[test]
    fn uuids_are_sampled_in_the_same_share() {
        let tenth = Sample::new(0.1).unwrap();
        let kept = (0..1000)
            .filter(|_| tenth.keeps(&uuid::Uuid::new_v4().to_string()))
            .count();
        assert!((50..170).contains(&kept), "{kept} of 1000");
    }

    /// `Langfuse.create_trace_id(seed="a-seed")`.
    #[test]
    fn other_ids_are_seeds_as_they_are_for_the_sdk() {
        assert_eq!(
            format!("{:032x}", seeded("abc")),
            "ba7816bf8f01cfea414140de5dae2223"
        );
    }
}
