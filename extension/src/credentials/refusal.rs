//! AWS's error answers, turned into reasons.

use serde::Deserialize;

use super::aws::Document;
use super::call::Answer;
use super::environment::Holder;
use super::partition;
use super::reason::Reason;

const CODE_LENGTH_LIMIT_BYTES: usize = 64;
const ARN_LENGTH_LIMIT_BYTES: usize = 2_048;

/// The error bodies of AWS's JSON protocols; the spelling differs between services, and one body may hold two of them.
#[derive(Deserialize, Default)]
struct Body {
    #[serde(rename = "__type")]
    kind: Option<String>,
    code: Option<String>,
    message: Option<String>,
    #[serde(rename = "Message")]
    capital_message: Option<String>,
}

/// Why AWS refused. Only names and ARNs are taken over from its message: the one for a bad signature quotes the session token.
pub(super) fn reason(answer: &Answer, document: Document<'_>, region: &str) -> Reason {
    let (code, message) = code_and_message(&answer.body);
    let status = answer.status;
    match code.as_str() {
        "AccessDeniedException" | "AccessDenied" | "KMSAccessDeniedException" => {
            denied(&message, document, region)
        }
        "DecryptionFailure"
        | "InvalidKeyId"
        | "KMSInvalidStateException"
        | "KMSNotFoundException"
        | "KMSDisabledException" => Reason::KmsUnusable,
        "ResourceNotFoundException" if message.contains("staging label") => Reason::NoReadableValue,
        "ParameterNotFound" | "ResourceNotFoundException" => Reason::NotFound {
            region: region.to_owned(),
        },
        "ParameterVersionNotFound" => Reason::VersionNotFound,
        "InvalidRequestException" => Reason::NoReadableValue,
        "ExpiredTokenException" | "ExpiredToken" => Reason::ExpiredToken,
        "UnrecognizedClientException" | "InvalidClientTokenId" => Reason::UnknownAccessKey,
        "RequestExpired" | "RequestTimeTooSkewed" => Reason::Clock,
        "InvalidSignatureException" | "SignatureDoesNotMatch"
            if message.contains("Signature expired") || message.contains("not yet current") =>
        {
            Reason::Clock
        }
        "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => Reason::BadSignature,
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded" => Reason::Throttled,
        _ if status == 429 => Reason::Throttled,
        _ if status >= 500 => Reason::AwsFault { status },
        _ => Reason::Refused { status, code },
    }
}

fn denied(message: &str, document: Document<'_>, region: &str) -> Reason {
    let quoted = arn_in(message);
    if message.contains("kms:") || message.contains("KMS") {
        let key = quoted.filter(|arn| arn.contains(":kms:"));
        return Reason::KmsDenied {
            key: key.unwrap_or_else(|| "the key that encrypts it".to_owned()),
        };
    }
    let partition = partition::name(region);
    let (action, own) = match document.holder {
        Holder::SecretsManager => ("secretsmanager:GetSecretValue", document.id.to_owned()),
        Holder::Ssm if document.id.starts_with("arn:") => {
            // Without the version or label, which no policy knows.
            let arn: Vec<&str> = document.id.split(':').take(6).collect();
            ("ssm:GetParameter", arn.join(":"))
        }
        Holder::Ssm => {
            let name = document.id.split(':').next().unwrap_or_default();
            let name = name.trim_start_matches('/');
            let arn = format!("arn:{partition}:ssm:{region}:*:parameter/{name}");
            ("ssm:GetParameter", arn)
        }
    };
    Reason::AccessDenied {
        action: action.to_owned(),
        resource: quoted.unwrap_or(own),
    }
}

/// The ARN after "on resource:", if it is nothing but an ARN.
fn arn_in(message: &str) -> Option<String> {
    let (_, after) = message.split_once("on resource: ")?;
    let arn = after
        .split_whitespace()
        .next()?
        .trim_end_matches(['.', ',']);
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":/_+=.@-*!".contains(c);
    let sound = arn.starts_with("arn:aws") && arn.len() <= ARN_LENGTH_LIMIT_BYTES;
    (sound && arn.chars().all(allowed)).then(|| arn.to_owned())
}

/// The error's name and message, from JSON or from the XML that gateways before a service answer with.
fn code_and_message(body: &[u8]) -> (String, String) {
    if let Ok(body) = serde_json::from_slice::<Body>(body) {
        let code = body.kind.or(body.code).unwrap_or_default();
        // `com.amazonaws.ssm#ParameterNotFound`, `ParameterNotFound:http://…`
        let bare = code.rsplit('#').next().unwrap_or_default();
        let bare = bare.split(':').next().unwrap_or_default();
        let message = body.message.or(body.capital_message);
        return (name(bare), message.unwrap_or_default());
    }
    let text = String::from_utf8_lossy(body);
    let element = |tag: &str| {
        let (_, after) = text.split_once(&format!("<{tag}>"))?;
        Some(after.split_once(&format!("</{tag}>"))?.0.to_owned())
    };
    let code = element("Code").unwrap_or_default();
    (name(&code), element("Message").unwrap_or_default())
}

/// A code as it may be printed: nothing but letters and digits.
fn name(code: &str) -> String {
    let sound = code.len() <= CODE_LENGTH_LIMIT_BYTES
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if sound {
        code.to_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETER: Document<'_> = Document {
        holder: Holder::Ssm,
        id: "/langfuse/secret:3",
        region: None,
    };

    fn of(document: Document<'_>, status: u16, body: &str) -> Reason {
        let answer = Answer::new(status, body.as_bytes().to_vec(), "h");
        reason(&answer, document, "us-gov-west-1")
    }

    fn named(code: &str, message: &str) -> Reason {
        let body = serde_json::json!({ "__type": code, "message": message });
        of(PARAMETER, 400, &body.to_string())
    }

    #[test]
    fn a_denied_parameter_names_the_action_and_the_arn_to_allow() {
        let expected = Reason::AccessDenied {
            action: "ssm:GetParameter".into(),
            resource: "arn:aws-us-gov:ssm:us-gov-west-1:*:parameter/langfuse/secret".into(),
        };
        assert_eq!(named("AccessDeniedException", "no"), expected);
        let by_arn = Document {
            id: "arn:aws:ssm:eu-west-1:1:parameter/a/b:prod",
            ..PARAMETER
        };
        let denied = of(by_arn, 400, r#"{"__type":"AccessDeniedException"}"#);
        assert!(
            denied
                .to_string()
                .contains("on arn:aws:ssm:eu-west-1:1:parameter/a/b in"),
            "{denied}"
        );
    }

    #[test]
    fn the_arn_in_awss_own_message_is_preferred_when_it_is_one() {
        let message = |resource: &str| {
            format!(
                "User: arn:aws:sts::1:assumed-role/r/f is not authorized to perform: ssm:GetParameter on resource: {resource} because no identity-based policy allows the action"
            )
        };
        let own = "arn:aws:ssm:eu-west-1:1:parameter/langfuse/secret";
        let denied = named("AccessDeniedException", &message(own));
        assert!(denied.to_string().contains(own), "{denied}");
        let odd = named("AccessDeniedException", &message("arn:aws:<b>hidden</b>"));
        assert!(!odd.to_string().contains("hidden"), "{odd}");
    }

    #[test]
    fn a_denied_decryption_is_told_from_a_denied_parameter() {
        let key = "arn:aws:kms:eu-west-1:1:key/2";
        let message =
            format!("User: x is not authorized to perform: kms:Decrypt on resource: {key} because");
        let expected = Reason::KmsDenied { key: key.into() };
        assert_eq!(named("AccessDeniedException", &message), expected);
        let denied = named("AccessDeniedException", "Access to KMS is not allowed");
        assert!(matches!(denied, Reason::KmsDenied { .. }), "{denied}");
    }

    #[test]
    fn each_code_of_aws_has_its_reason() {
        let region = "us-gov-west-1".to_owned();
        for (code, message, expected) in [
            (
                "com.amazonaws.ssm#ParameterNotFound",
                "",
                Reason::NotFound {
                    region: region.clone(),
                },
            ),
            (
                "ResourceNotFoundException",
                "can't find the specified secret.",
                Reason::NotFound { region },
            ),
            (
                "ResourceNotFoundException",
                "value for staging label: AWSCURRENT",
                Reason::NoReadableValue,
            ),
            ("ParameterVersionNotFound", "", Reason::VersionNotFound),
            (
                "InvalidRequestException",
                "marked for deletion",
                Reason::NoReadableValue,
            ),
            ("InvalidKeyId", "", Reason::KmsUnusable),
            ("ExpiredTokenException", "", Reason::ExpiredToken),
            (
                "UnrecognizedClientException:http://x/",
                "",
                Reason::UnknownAccessKey,
            ),
            (
                "InvalidSignatureException",
                "Signature expired: a is now earlier than b",
                Reason::Clock,
            ),
            (
                "InvalidSignatureException",
                "does not match",
                Reason::BadSignature,
            ),
            ("ThrottlingException", "Rate exceeded", Reason::Throttled),
        ] {
            assert_eq!(named(code, message), expected, "{code}");
        }
    }

    #[test]
    fn an_error_is_known_in_each_spelling_even_with_two_in_one_body() {
        for body in [
            r#"{"__type":"AccessDeniedException","Message":"Access to KMS is not allowed"}"#,
            r#"{"code":"AccessDeniedException","message":"Access to KMS is not allowed"}"#,
            r#"{"__type":"AccessDeniedException","code":"x","message":"Access to KMS","Message":null}"#,
        ] {
            let denied = of(PARAMETER, 400, body);
            assert!(matches!(denied, Reason::KmsDenied { .. }), "{denied}");
        }
    }

    #[test]
    fn the_message_of_a_bad_signature_which_quotes_the_session_token_is_not_taken_over() {
        let message = "The Canonical String should have been 'x-amz-security-token:hidden'";
        let reason = named("InvalidSignatureException", message);
        assert!(!format!("{reason} {reason:?}").contains("hidden"));
    }

    #[test]
    fn an_answer_that_is_not_awss_is_judged_by_its_status() {
        assert_eq!(
            of(PARAMETER, 502, "<html>"),
            Reason::AwsFault { status: 502 }
        );
        assert_eq!(of(PARAMETER, 429, "slow"), Reason::Throttled);
        let code = String::new();
        assert_eq!(
            of(PARAMETER, 418, "tea"),
            Reason::Refused {
                status: 418,
                code: code.clone()
            }
        );
        let long = "A".repeat(CODE_LENGTH_LIMIT_BYTES + 1);
        assert_eq!(named(&long, ""), Reason::Refused { status: 400, code });
        let longest = "A".repeat(CODE_LENGTH_LIMIT_BYTES);
        assert_eq!(
            named(&longest, ""),
            Reason::Refused {
                status: 400,
                code: longest.clone()
            }
        );
        let xml = "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>m</Message></Error></ErrorResponse>";
        assert_eq!(of(PARAMETER, 403, xml), Reason::BadSignature);
    }
}
