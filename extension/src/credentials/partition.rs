//! AWS's partitions: which names a region's ARNs and hosts carry.

/// By prefix of the region: the partition of its ARNs and the suffix of its hosts. Whatever is not here is the commercial partition.
///
/// <https://docs.aws.amazon.com/general/latest/gr/rande.html>, and the partitions that AWS's SDKs publish.
const PARTITIONS: [(&str, &str, &str); 7] = [
    ("cn-", "aws-cn", "amazonaws.com.cn"),
    ("us-gov-", "aws-us-gov", "amazonaws.com"),
    ("us-iso-", "aws-iso", "c2s.ic.gov"),
    ("us-isob-", "aws-iso-b", "sc2s.sgov.gov"),
    ("us-isof-", "aws-iso-f", "csp.hci.ic.gov"),
    ("eu-isoe-", "aws-iso-e", "cloud.adc-e.uk"),
    ("eusc-", "aws-eusc", "amazonaws.eu"),
];
const REGION_LENGTH_LIMIT_BYTES: usize = 32;

/// The `aws` of `arn:aws:…` in this region.
pub(super) fn name(region: &str) -> &'static str {
    find(region).0
}

/// The host of a service's regional endpoint.
pub(super) fn host(service: &str, region: &str) -> String {
    format!("{service}.{region}.{}", find(region).1)
}

/// Whether this can be a region, and so can stand in a host name.
pub(super) fn is_region(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.contains('-') && text.len() <= REGION_LENGTH_LIMIT_BYTES && text.bytes().all(allowed)
}

fn find(region: &str) -> (&'static str, &'static str) {
    PARTITIONS
        .iter()
        .find(|(prefix, ..)| region.starts_with(prefix))
        .map_or(("aws", "amazonaws.com"), |&(_, name, suffix)| {
            (name, suffix)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_its_own_host_suffix() {
        for (region, expected) in [
            ("eu-west-1", "ssm.eu-west-1.amazonaws.com"),
            ("cn-north-1", "ssm.cn-north-1.amazonaws.com.cn"),
            ("us-gov-west-1", "ssm.us-gov-west-1.amazonaws.com"),
            ("eusc-de-east-1", "ssm.eusc-de-east-1.amazonaws.eu"),
            ("us-isob-east-1", "ssm.us-isob-east-1.sc2s.sgov.gov"),
        ] {
            assert_eq!(host("ssm", region), expected);
        }
        assert_eq!(name("us-gov-east-1"), "aws-us-gov");
        assert_eq!(name("ap-southeast-2"), "aws");
    }

    #[test]
    fn nothing_but_a_region_gets_into_a_host_name() {
        assert!(is_region("us-gov-west-1"));
        assert!(is_region(&format!(
            "a-{}",
            "b".repeat(REGION_LENGTH_LIMIT_BYTES - 2)
        )));
        for bad in ["", "eu", "eu-west-1/", "evil.example", "EU-WEST-1", "a-b@c"] {
            assert!(!is_region(bad), "{bad}");
        }
        assert!(!is_region(&format!(
            "a-{}",
            "b".repeat(REGION_LENGTH_LIMIT_BYTES - 1)
        )));
    }
}
