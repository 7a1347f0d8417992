//! Names that look like the extension's settings and are none: a setting that is silently not there costs an evening.

use super::table::TABLE;

/// The first two words of every setting of the extension's own, and how many letters of one may be wrong.
const WORDS: [&str; 2] = ["LANGFUSE", "EXTENSION"];
const WRONG_LETTERS: usize = 2;

/// What to say of each variable that was meant for the extension and is not known to it.
pub(super) fn unknown(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.into_iter().filter(|name| is_meant(name)).collect();
    names.retain(|name| !TABLE.iter().any(|setting| setting.is_named(name)));
    names.sort();
    names
        .iter()
        .map(|name| format!("{name} is no setting{}", suggestion(name)))
        .collect()
}

/// Whether a name begins with [`WORDS`], or nearly.
fn is_meant(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let mut words = name.splitn(3, '_');
    WORDS.iter().all(|word| {
        words
            .next()
            .is_some_and(|it| strsim::levenshtein(word, it) <= WRONG_LETTERS)
    })
}

/// The nearest name, unless most of it would have to be written anew.
fn suggestion(name: &str) -> String {
    let of_setting = |name: &str| name.splitn(3, '_').nth(2).unwrap_or_default().to_owned();
    let meant = of_setting(&name.to_ascii_uppercase());
    let own = TABLE.iter().filter(|setting| is_meant(setting.name));
    let nearest = own
        .map(|setting| {
            (
                strsim::levenshtein(&meant, &of_setting(setting.name)),
                setting.name,
            )
        })
        .min();
    match nearest {
        Some((distance, nearest)) if distance * 2 <= meant.len() => {
            format!("; did you mean {nearest}?")
        }
        _ => "; see the list in docs/settings.md".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_a_setting_is_said_with_the_one_that_was_meant() {
        for (name, meant) in [
            (
                "LANGFUSE_EXTENSION_PASS_THROUGH",
                "LANGFUSE_EXTENSION_PASSTHROUGH",
            ),
            (
                "LANGFUSE_EXTENSION_FLUSH_BUDGET",
                "LANGFUSE_EXTENSION_FLUSH_BUDGET_MS",
            ),
            ("LANGFUSE_EXTENTION_FLUSH", "LANGFUSE_EXTENSION_FLUSH"),
            ("LANGFUSE_EXTENTION_FLASH", "LANGFUSE_EXTENSION_FLUSH"),
            ("langfuse_extension_flush", "LANGFUSE_EXTENSION_FLUSH"),
            ("LANFUSE_EXTENSION_BASE_URL", "LANGFUSE_EXTENSION_BASE_URL"),
        ] {
            let said = unknown([name.to_owned()]);
            assert_eq!(
                said,
                [format!("{name} is no setting; did you mean {meant}?")]
            );
        }
    }

    #[test]
    fn a_name_that_is_like_none_is_said_too() {
        let said = unknown(["LANGFUSE_EXTENSION_COLOUR_SCHEME".to_owned()]);
        assert!(
            said[0].ends_with("see the list in docs/settings.md"),
            "{said:?}"
        );
    }

    #[test]
    fn settings_and_what_belongs_to_the_sdks_is_not_said() {
        let sdks = [
            "LANGFUSE_BASEURL",
            "LANGFUSE_FLUSH_AT",
            "LANGFUSE_SAMPLE_RATE",
            "LANGFUSE_ENVIRONMENT",
            "LANGFUSE_DEBUG",
            "PATH",
        ];
        let own = TABLE
            .iter()
            .map(|setting| setting.name.replace("<NAME>", "X"));
        let names = own.chain(sdks.map(str::to_owned));
        assert_eq!(unknown(names), [] as [String; 0]);
    }
}
