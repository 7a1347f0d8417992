//! A value that no log line, error or panic message can print.

use std::fmt;

use zeroize::Zeroizing;

/// A secret text: `Debug` and `Display` print `***`, the memory is overwritten on drop, and [`Secret::expose`] is the only way out.
///
/// Equality is for telling a rotated key from the one already known, never for checking what a caller presents.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one place that has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A mismatched type must not be quoted in serde's message, which it is for scalars.
        String::deserialize(deserializer)
            .map(Self::new)
            .map_err(|_| serde::de::Error::custom("a text was expected"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_three_stars_however_it_is_printed() {
        let secret = Secret::new("sk-lf-hidden");
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "*** *** ***");
        assert_eq!(secret.expose(), "sk-lf-hidden");
    }

    #[test]
    fn a_panic_message_about_a_secret_does_not_hold_it() {
        let panic = std::panic::catch_unwind(|| {
            let refuse = |text: &str| Err::<(), _>(Secret::new(text));
            refuse("sk-lf-hidden").unwrap();
        })
        .unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("***"), "{message}");
        assert!(!message.contains("hidden"), "{message}");
    }

    #[test]
    fn a_value_of_the_wrong_json_type_is_not_quoted_in_the_error() {
        let error = serde_json::from_str::<Secret>("918273").unwrap_err();
        assert!(!error.to_string().contains("918273"), "{error}");
    }
}
