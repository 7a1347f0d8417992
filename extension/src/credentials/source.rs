//! Where a key comes from: the setting itself, an SSM parameter or a Secrets Manager secret.

use super::{partition, secret::Secret};

/// What one of the two key settings says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The setting is the key.
    Value(Secret),
    /// An SSM parameter, named `NAME` or by its ARN, either with an optional `:version` or `:label`.
    SsmParameter {
        /// What `GetParameter` is asked for; AWS takes a name and an ARN alike.
        name_or_arn: String,
        /// The ARN's region; a bare name lives in the function's own region.
        region: Option<String>,
    },
    /// A Secrets Manager secret.
    SecretsManager {
        /// The ARN, with or without the six random characters at its end.
        arn: String,
        /// The top-level member of the secret's JSON object that holds the key; `None` when the secret is the bare key.
        json_key: Option<String>,
        /// The ARN's region.
        region: String,
    },
}

/// Why a key setting cannot mean anything; the text continues a sentence that begins with the setting's name. No variant quotes the setting, which might be a key after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nothing, or only white space.
    #[error(
        "is empty; write the key, ssm:NAME, or the ARN of an SSM parameter or Secrets Manager secret"
    )]
    Empty,
    /// `ssm:` with nothing, or with something that SSM takes as no name.
    #[error(
        "is not the name of an SSM parameter; write ssm:/path/to/name, of letters, digits and _ . - only, with :VERSION or :LABEL after it if wanted"
    )]
    ParameterName,
    /// A hierarchical name without its first slash, which SSM refuses.
    #[error("is an SSM parameter with a path but no slash in front; write ssm:/path/to/name")]
    ParameterNotFullyQualified,
    /// Two slashes in a row, as from joining `parameter/` and `/path`.
    #[error(
        "has two slashes in a row; write ssm:/path/to/name or arn:aws:ssm:REGION:ACCOUNT:parameter/path/to/name"
    )]
    DoubleSlash,
    /// An ARN with missing or impossible parts.
    #[error(
        "is not a whole ARN; write arn:aws:ssm:REGION:ACCOUNT:parameter/NAME or arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME"
    )]
    MalformedArn,
    /// An ARN of something that holds no key.
    #[error(
        "is the ARN of neither an SSM parameter nor a Secrets Manager secret; write arn:aws:ssm:REGION:ACCOUNT:parameter/NAME or arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME"
    )]
    OtherArn,
    /// A secret's ARN with further colons, the way ECS writes a JSON key.
    #[error(
        "has more colons than a secret's ARN; write the JSON key after a #, as in arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME#JSON-KEY"
    )]
    SecretWithColons,
    /// A `#` with nothing after it.
    #[error(
        "ends with #; write the JSON key after it, or leave the # out if the secret is the bare key"
    )]
    EmptyJsonKey,
    /// A `#` behind an SSM parameter.
    #[error(
        "asks for a JSON key of an SSM parameter; keep each key in a parameter of its own, or in a Secrets Manager secret, where #JSON-KEY works"
    )]
    JsonKeyOfParameter,
    /// `secretsmanager:NAME`.
    #[error(
        "names a secret without its ARN; write arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME"
    )]
    SecretWithoutArn,
    /// A `CloudFormation` reference that nobody has resolved.
    #[error(
        "is a CloudFormation reference that was not resolved; write ssm:NAME or the ARN, the extension reads it itself"
    )]
    UnresolvedReference,
    /// `/path/to/name`: no key begins like that.
    #[error("begins with a slash, as names of SSM parameters do; write ssm:/path/to/name")]
    ParameterWithoutPrefix,
    /// Quotation marks that a shell or a file of settings has left there.
    #[error("is in quotation marks; write the key alone")]
    Quoted,
    /// The dots of an example.
    #[error("is an example's key; write the one from Langfuse's project settings")]
    Example,
    /// The placeholders that make SDKs run without keys of their own.
    #[error(
        "is the placeholder that stands for the extension's own keys in the app; write the project's key"
    )]
    Placeholder,
}

impl Source {
    /// Reads a key setting. What is neither `ssm:…` nor an ARN is the key itself, if it can be one.
    ///
    /// # Errors
    /// When the setting is meant as a reference but cannot be one; the message says what to write instead.
    pub fn parse(setting: &str) -> Result<Self, SourceError> {
        let text = setting.trim();
        if text.is_empty() {
            return Err(SourceError::Empty);
        }
        if let Some(name) = strip_prefix_ignoring_case(text, "ssm:") {
            return parameter_by_name(name);
        }
        if let Some(arn) = strip_prefix_ignoring_case(text, "arn:") {
            return from_arn(arn);
        }
        if strip_prefix_ignoring_case(text, "secretsmanager:").is_some() {
            return Err(SourceError::SecretWithoutArn);
        }
        if text.starts_with("{{resolve:") {
            return Err(SourceError::UnresolvedReference);
        }
        check_key(text)?;
        // Untrimmed, so that resolving can say that it trimmed.
        Ok(Self::Value(Secret::new(setting)))
    }

    /// Where to look for what is wrong, never the value.
    pub(super) fn place(&self) -> &str {
        match self {
            Self::Value(_) => "its own setting",
            Self::SsmParameter { name_or_arn, .. } => name_or_arn,
            Self::SecretsManager { arn, .. } => arn,
        }
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix)
        .then(|| &text[prefix.len()..])
}

/// Refuses what can be no key. A Langfuse of one's own may be set up with keys of any form.
fn check_key(text: &str) -> Result<(), SourceError> {
    if text.starts_with('/') {
        Err(SourceError::ParameterWithoutPrefix)
    } else if text.starts_with(['"', '\'', '`']) {
        Err(SourceError::Quoted)
    } else if text.ends_with('…') || text.ends_with("...") {
        Err(SourceError::Example)
    } else if matches!(text, "pk-lf-extension" | "sk-lf-extension") {
        Err(SourceError::Placeholder)
    } else {
        Ok(())
    }
}

fn parameter_by_name(name: &str) -> Result<Source, SourceError> {
    let path = check_parameter(name)?;
    if path.contains('/') && !path.starts_with('/') {
        return Err(SourceError::ParameterNotFullyQualified);
    }
    Ok(Source::SsmParameter {
        name_or_arn: name.to_owned(),
        region: None,
    })
}

/// Checks `NAME[:selector]` against the characters that SSM allows and returns the name.
///
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html>
fn check_parameter(text: &str) -> Result<&str, SourceError> {
    if text.contains('#') {
        return Err(SourceError::JsonKeyOfParameter);
    }
    let (name, selector) = text.split_once(':').unwrap_or((text, "latest"));
    if name.contains("//") {
        return Err(SourceError::DoubleSlash);
    }
    let plain = |text: &str, also: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    if !plain(name, "_.-/") || name.ends_with('/') || !plain(selector, "_.-") {
        return Err(SourceError::ParameterName);
    }
    Ok(name)
}

/// Reads what follows `arn:`.
fn from_arn(rest: &str) -> Result<Source, SourceError> {
    let mut parts = rest.splitn(5, ':');
    let (Some(partition), Some(service), Some(region), Some(account), Some(resource)) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return Err(SourceError::MalformedArn);
    };
    let arn = |resource: &str| format!("arn:{partition}:{service}:{region}:{account}:{resource}");
    let well_formed = partition.starts_with("aws")
        && partition::is_region(region)
        && !account.is_empty()
        && account.bytes().all(|digit| digit.is_ascii_digit());
    match service {
        "ssm" if resource.starts_with("parameter") => {
            let name = resource
                .strip_prefix("parameter/")
                .filter(|_| well_formed)
                .ok_or(SourceError::MalformedArn)?;
            check_parameter(name)?;
            if name.starts_with('/') {
                return Err(SourceError::DoubleSlash);
            }
            Ok(Source::SsmParameter {
                name_or_arn: arn(resource),
                region: Some(region.to_owned()),
            })
        }
        "secretsmanager" => {
            let name = resource
                .strip_prefix("secret:")
                .filter(|_| well_formed)
                .ok_or(SourceError::MalformedArn)?;
            let (name, json_key) = split_json_key(name)?;
            check_secret_name(name)?;
            Ok(Source::SecretsManager {
                arn: arn(&format!("secret:{name}")),
                json_key: json_key.map(str::to_owned),
                region: region.to_owned(),
            })
        }
        _ => Err(SourceError::OtherArn),
    }
}

fn split_json_key(name: &str) -> Result<(&str, Option<&str>), SourceError> {
    match name.split_once('#') {
        None => Ok((name, None)),
        Some((_, "")) => Err(SourceError::EmptyJsonKey),
        Some((name, key)) => Ok((name, Some(key))),
    }
}

/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html>
fn check_secret_name(name: &str) -> Result<(), SourceError> {
    if name.contains(':') {
        return Err(SourceError::SecretWithColons);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-!".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(SourceError::MalformedArn);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name_or_arn: &str, region: Option<&str>) -> Source {
        Source::SsmParameter {
            name_or_arn: name_or_arn.to_owned(),
            region: region.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_no_reference_is_the_key_itself() {
        for key in ["sk-lf-1", "anything at all", "x", "ssmith", "arnold", "é:ü"] {
            assert_eq!(Source::parse(key), Ok(Source::Value(Secret::new(key))));
        }
    }

    #[test]
    fn a_parameter_is_known_by_name_path_version_and_label() {
        for name in ["key", "/langfuse/secret-key", "key:3", "/a/b.c_d:prod"] {
            let expected = Ok(parameter(name, None));
            assert_eq!(Source::parse(&format!("ssm:{name}")), expected);
            assert_eq!(Source::parse(&format!(" SSM:{name}\n")), expected);
        }
    }

    #[test]
    fn a_parameter_is_known_by_its_arn_in_every_partition() {
        for (arn, region) in [
            (
                "arn:aws:ssm:eu-west-1:123456789012:parameter/key",
                "eu-west-1",
            ),
            (
                "arn:aws:ssm:eu-west-1:123456789012:parameter/a/b",
                "eu-west-1",
            ),
            (
                "arn:aws:ssm:eu-west-1:123456789012:parameter/a/b:12",
                "eu-west-1",
            ),
            (
                "arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/a",
                "us-gov-west-1",
            ),
            (
                "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/a",
                "cn-north-1",
            ),
        ] {
            assert_eq!(Source::parse(arn), Ok(parameter(arn, Some(region))));
        }
    }

    #[test]
    fn a_secret_is_known_by_its_arn_with_and_without_a_json_key() {
        let arn =
            "arn:aws-us-gov:secretsmanager:us-gov-east-1:123456789012:secret:prod/langfuse-AbCdEf";
        let secret = |json_key: Option<&str>| Source::SecretsManager {
            arn: arn.to_owned(),
            json_key: json_key.map(str::to_owned),
            region: "us-gov-east-1".to_owned(),
        };
        assert_eq!(Source::parse(arn), Ok(secret(None)));
        let keyed = Source::parse(&format!("{arn}#secret key"));
        assert_eq!(keyed, Ok(secret(Some("secret key"))));
    }

    #[test]
    fn each_bad_form_is_told_apart() {
        use SourceError as E;
        for (setting, error) in [
            ("", E::Empty),
            (" \n", E::Empty),
            ("ssm:", E::ParameterName),
            ("ssm:a b", E::ParameterName),
            ("ssm:/a/", E::ParameterName),
            ("ssm:a:", E::ParameterName),
            ("ssm:a:1:2", E::ParameterName),
            ("ssm:a/b", E::ParameterNotFullyQualified),
            ("ssm://a/b", E::DoubleSlash),
            ("ssm:/a#b", E::JsonKeyOfParameter),
            ("arn:aws:ssm:eu-west-1:1:parameter//a", E::DoubleSlash),
            ("arn:aws:ssm:eu-west-1:1:parameter/", E::ParameterName),
            ("arn:aws:ssm:eu-west-1:1:parameter", E::MalformedArn),
            ("arn:aws:ssm::1:parameter/a", E::MalformedArn),
            ("arn:aws:ssm:evil.example/:1:parameter/a", E::MalformedArn),
            ("arn:aws:ssm:eu-west-1:me:parameter/a", E::MalformedArn),
            ("arn:aws:ssm", E::MalformedArn),
            ("arn:aws:ssm:eu-west-1:1:document/a", E::OtherArn),
            ("arn:aws:s3:::bucket", E::OtherArn),
            (
                "arn:aws:secretsmanager:eu-west-1:1:secret:",
                E::MalformedArn,
            ),
            (
                "arn:aws:secretsmanager:eu-west-1:1:secret:a:key::",
                E::SecretWithColons,
            ),
            (
                "arn:aws:secretsmanager:eu-west-1:1:secret:a#",
                E::EmptyJsonKey,
            ),
            ("secretsmanager:a", E::SecretWithoutArn),
            ("{{resolve:ssm-secure:/a}}", E::UnresolvedReference),
            ("/langfuse/secret", E::ParameterWithoutPrefix),
            (r#""sk-lf-1""#, E::Quoted),
            ("'sk-lf-1'", E::Quoted),
            ("sk-lf-…", E::Example),
            ("pk-lf-...", E::Example),
            ("pk-lf-extension", E::Placeholder),
            (" sk-lf-extension\n", E::Placeholder),
        ] {
            assert_eq!(Source::parse(setting), Err(error), "{setting}");
        }
    }

    #[test]
    fn a_source_that_holds_a_key_does_not_print_it() {
        let source = Source::parse("sk-lf-hidden").unwrap();
        assert_eq!(format!("{source:?}"), "Value(***)");
        assert!(!source.place().contains("hidden"));
    }
}
