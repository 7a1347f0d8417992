//! Why the keys are not to be had, in words that say how to mend it.

use std::time::Duration;

/// What stood in the way. None of the texts quotes a key, a credential or a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A bare parameter name outside of Lambda.
    #[error("no AWS region is known; set AWS_REGION, or write the parameter's ARN")]
    NoRegion,
    /// An override that is no address.
    #[error(
        "AWS_ENDPOINT_URL, or its variant for the service, is not an http or https address; correct or remove it"
    )]
    EndpointUrl,
    /// Outside of Lambda, or a handler that has cleaned its environment.
    #[error(
        "no AWS credentials are in the environment; Lambda sets AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_CONTAINER_CREDENTIALS_FULL_URI under SnapStart"
    )]
    NoAwsCredentials,
    /// Credentials that cannot stand in a request.
    #[error(
        "the AWS credentials cannot be signed with; they hold characters that no AWS credential has"
    )]
    UnusableAwsCredentials,
    /// An address that credentials must not be asked from.
    #[error(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI is refused; plain http is only safe to a loopback address, 169.254.170.2, 169.254.170.23 or [fd00:ec2::23], everything else needs https"
    )]
    ContainerAddress,
    /// The token's file is missing, too long or no file.
    #[error(
        "the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names cannot be read as a short text; check its path and rights"
    )]
    ContainerTokenFile,
    /// A token with a line break, which could smuggle a header in.
    #[error(
        "the authorization token for the container credentials holds a line break or another control character; correct it"
    )]
    ContainerToken,
    /// The endpoint said no.
    #[error(
        "the container credentials endpoint answered {status}; under SnapStart this passes, elsewhere check AWS_CONTAINER_CREDENTIALS_FULL_URI and its token"
    )]
    ContainerRefused {
        /// HTTP status.
        status: u16,
    },
    /// The policy is missing.
    #[error("access denied; allow {action} on {resource} in the policy of the function's role")]
    AccessDenied {
        /// The IAM action.
        action: String,
        /// The ARN, with `*` where it is not known.
        resource: String,
    },
    /// The value may be read but not decrypted.
    #[error(
        "AWS KMS refuses to decrypt it; allow kms:Decrypt on {key} in the policy of the function's role and in the key's policy"
    )]
    KmsDenied {
        /// The key's ARN, or words for it.
        key: String,
    },
    /// The key is disabled, deleted or being deleted.
    #[error(
        "AWS KMS cannot use the key that encrypts it; enable the key again, or store the value anew under another"
    )]
    KmsUnusable,
    /// No such parameter or secret.
    #[error("there is none of that name in {region}; check name, region and account")]
    NotFound {
        /// Where it was looked for.
        region: String,
    },
    /// The parameter is there, the version or label is not.
    #[error(
        "the parameter has no such version or label; correct what follows the colon, or leave it out for the latest"
    )]
    VersionNotFound,
    /// A secret in its recovery window, or one without a value.
    #[error(
        "the secret has no readable value; it is scheduled for deletion (restore it), or was never given one"
    )]
    NoReadableValue,
    /// Role credentials past their time.
    #[error(
        "the AWS credentials have expired; Lambda renews them with a new execution environment"
    )]
    ExpiredToken,
    /// The access key is unknown to AWS.
    #[error(
        "AWS does not know the access key or session token; check that nothing overwrites AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN"
    )]
    UnknownAccessKey,
    /// The signature does not match.
    #[error(
        "AWS refuses the signature; check that nothing overwrites AWS_SECRET_ACCESS_KEY, and that no proxy rewrites the request"
    )]
    BadSignature,
    /// Signed before a freeze, or with a wrong clock.
    #[error(
        "AWS says that the request was signed at another time than now; it passes after a freeze, else set the clock"
    )]
    Clock,
    /// The time was used up.
    #[error("{host} did not answer within {} ms; in a VPC it needs a NAT gateway or an interface endpoint for the service, and a security group that allows port 443", waited.as_millis())]
    TimedOut {
        /// Who was asked.
        host: String,
        /// All attempts together.
        waited: Duration,
    },
    /// No connection.
    #[error(
        "{host} cannot be reached ({cause}); check region, DNS, and in a VPC the NAT gateway or the service's interface endpoint"
    )]
    Unreachable {
        /// Who was asked.
        host: String,
        /// The innermost cause that is known.
        cause: String,
    },
    /// Too many requests.
    #[error("AWS throttles the account's requests; it is tried again")]
    Throttled,
    /// AWS's own fault.
    #[error("AWS failed with status {status}; it is tried again")]
    AwsFault {
        /// HTTP status.
        status: u16,
    },
    /// Any other answer that is an error.
    #[error("AWS refuses the request with status {status} {code}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// AWS's name for the error, or nothing.
        code: String,
    },
    /// 200 with something else in it.
    #[error(
        "{host} gave an answer that is none of AWS's; a proxy or AWS_ENDPOINT_URL may lead somewhere else"
    )]
    Garbage {
        /// Who was asked.
        host: String,
    },
    /// An answer past the limit.
    #[error("{host} gave an answer of more than {limit} bytes; it was not read to its end")]
    AnswerTooLarge {
        /// Who was asked.
        host: String,
        /// Bytes.
        limit: usize,
    },
    /// A secret stored as bytes.
    #[error("the secret is binary; store it as text, or as JSON with a #JSON-KEY in the setting")]
    Binary,
    /// `#json-key` on a secret that is no JSON object.
    #[error(
        "the secret is not a JSON object; leave the #JSON-KEY out of the setting, or store the secret as JSON"
    )]
    NotJson,
    /// A JSON object without that member.
    #[error(
        "the secret's JSON has no member \"{json_key}\" (it has {members}); correct what follows the # in the setting"
    )]
    JsonKeyMissing {
        /// As in the setting.
        json_key: String,
        /// How many members there are; their names stay unsaid.
        members: usize,
    },
    /// A number, an object, null.
    #[error(
        "the member \"{json_key}\" of the secret's JSON is not a text; put the key in quotation marks"
    )]
    JsonNotText {
        /// As in the setting.
        json_key: String,
    },
    /// A JSON object where a key should be, the console's default form.
    #[error(
        "the value is a JSON object; add #JSON-KEY to the ARN in the setting, or store the bare key"
    )]
    JsonWithoutKey,
    /// Nothing but white space.
    #[error("the value is empty; store the key from Langfuse's project settings there")]
    Empty,
    /// White space or control characters inside a key.
    #[error("the value has white space or control characters inside; store the key alone")]
    NotAKey,
    /// Longer than any key.
    #[error(
        "the value is longer than {limit} bytes, which no Langfuse key is; store the key alone"
    )]
    TooLong {
        /// Bytes.
        limit: usize,
    },
    /// `sk-lf-…` as the public key or the other way round.
    #[error(
        "the value is a Langfuse key of the other kind; the public key starts with pk-lf-, the secret one with sk-lf-"
    )]
    OtherKind,
    /// A colon, which ends the user name in HTTP Basic authorization.
    #[error(
        "the public key holds a colon, which HTTP Basic authorization cannot carry; store the public key alone"
    )]
    ColonInPublicKey,
}

impl Reason {
    /// Whether the same call may succeed a moment later without anyone mending anything.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Clock
            | Self::TimedOut { .. }
            | Self::Unreachable { .. }
            | Self::Throttled
            | Self::AwsFault { .. } => true,
            Self::ContainerRefused { status } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}
