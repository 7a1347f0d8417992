use super::*;

fn all() -> Vec<Detector> {
    Detector::NAMES.iter().map(|(_, it)| *it).collect()
}

fn masked(text: &str) -> String {
    under("", text)
}

fn under(key: &str, text: &str) -> String {
    let mask = Mask::new(
        &all(),
        &["password".to_owned(), "user.secret".to_owned()],
        &[],
    );
    let traits = mask.traits(key);
    mask.text(traits, text).unwrap_or_else(|| text.to_owned())
}

#[test]
fn addresses_are_found_wherever_they_stand() {
    for (text, expected) in [
        ("a@b.de", "[masked:email]"),
        (
            "Write to <Anna.Müller+x@sub.example.co.uk>.",
            "Write to <[masked:email]>.",
        ),
        (
            "https://x/?mail=anna%40example.org&b=1",
            "https://x/?mail=[masked:email]&b=1",
        ),
        (
            "anna@example.org,bob@example.org",
            "[masked:email],[masked:email]",
        ),
        ("jörg@straße.de!", "[masked:email]!"),
        (
            "anna@example.org-0 a@b.de.5",
            "[masked:email]-0 [masked:email].5",
        ),
    ] {
        assert_eq!(masked(text), expected);
    }
    for text in [
        "@langfuse/otel",
        "a@b",
        "x@1.2.3",
        "100%4",
        "@",
        "a@.de",
        "50%40",
    ] {
        assert_eq!(masked(text), text);
    }
}

#[test]
fn a_card_needs_its_check_digit_and_groups_or_a_word() {
    for card in [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "3782 822463 10005",
        "5500\u{a0}0000\u{a0}0000\u{a0}0004",
    ] {
        assert_eq!(
            masked(&format!("it is {card} 12/29")),
            "it is [masked:card] 12/29"
        );
    }
    assert_eq!(
        masked("my card: 4111111111111111."),
        "my card: [masked:card]."
    );
    assert_eq!(
        under("payment.card_number", "4111111111111111"),
        "[masked:card]"
    );
    assert_eq!(under("cc", "41 11111111 111111"), "[masked:card]");
    for text in [
        "4111111111111111",
        "4111 1111 1111 1112",
        "1764025000000000000",
        "2026-11-24 10 30",
        "a4111 1111 1111 1111",
    ] {
        assert_eq!(masked(text), text);
    }
    assert_eq!(under("card", "1764025000000000000"), "1764025000000000000");
}

#[test]
fn an_account_needs_its_check_digits() {
    for iban in [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "gb29 nwbk 6016 1331 9268 19",
        "NO9386011117947",
    ] {
        assert_eq!(
            masked(&format!("to {iban}, please")),
            "to [masked:iban], please"
        );
    }
    for text in [
        "DE88370400440532013000",
        "XX89370400440532013000",
        "de12",
        "BE12345678901234",
    ] {
        assert_eq!(masked(text), text);
    }
}

#[test]
fn a_phone_number_needs_a_plus_or_a_key() {
    for phone in ["+49 171 1234567", "+1 (555) 123-4567", "+491711234567"] {
        assert_eq!(masked(&format!("call {phone}!")), "call [masked:phone]!");
    }
    assert_eq!(under("customer.phone", "0171/1234567"), "[masked:phone]");
    assert_eq!(
        under("user.mobileNumber", "(0171) 1234567"),
        "[masked:phone]"
    );
    for text in [
        "0171 1234567",
        "2026-11-24T10:00:00+01:00",
        "1764025000000000000",
        "x+1234567890",
        "+1",
    ] {
        assert_eq!(masked(text), text);
    }
}

#[test]
fn keys_and_tokens_are_found_by_how_they_begin() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    assert_eq!(masked(&format!("token={jwt};")), "token=[masked:jwt];");
    for key in [
        "sk-proj-abcdefghijklmnopqrst",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijABCDEFGHIJ",
        "Bearer abcdefghijklmnopqrst",
    ] {
        assert_eq!(
            masked(&format!("use {key} now")),
            "use [masked:api-key] now"
        );
    }
    for text in [
        "sk-",
        "risk-abcdefghijklmnopqrstuvw",
        "eyJ",
        "bearer of news",
        "pk-lf-1234567890",
    ] {
        assert_eq!(masked(text), text);
    }
}

#[test]
fn the_secret_keys_of_langfuse_are_masked_whenever_there_is_a_stage() {
    let mask = Mask::new(&[], &[], &[]);
    assert_eq!(
        mask.text(Traits::default(), "xsk-lf-1234567890-abcx"),
        Some("x[masked:api-key]".to_owned())
    );
    assert!(!mask.is_configured());
}

#[test]
fn keys_match_in_any_case_as_a_whole_or_between_dots() {
    for key in [
        "password",
        "PassWord",
        "langfuse.trace.metadata.password",
        "password.0",
        "a[password]",
        "User.Secret",
    ] {
        assert_eq!(under(key, "x"), MASKED, "{key}");
    }
    for key in ["passwords", "nopassword", "secret", "password_hint"] {
        assert_eq!(under(key, "x"), "x", "{key}");
    }
}

#[test]
fn what_a_replacement_brings_together_is_found_as_well() {
    let patterns = [
        ("gap".to_owned(), "a.*b".to_owned()),
        ("x".to_owned(), "x+".to_owned()),
    ];
    let mask = Mask::new(&[], &[], &patterns);
    assert_eq!(
        mask.text(Traits::default(), "a xx b"),
        Some("[masked:gap]".to_owned())
    );
    let patterns = [("end".to_owned(), "^y|x$".to_owned())];
    let mask = Mask::new(&[], &[], &patterns);
    assert_eq!(
        mask.text(Traits::default(), "yzx"),
        Some("[masked:end]z[masked:end]".to_owned())
    );
}

#[test]
fn a_pattern_that_always_matches_leaves_nothing() {
    let mask = Mask::new(&[], &[], &[("all".to_owned(), "(?s).".to_owned())]);
    let all = mask.text(Traits::default(), "some text").unwrap();
    assert_eq!(all, "[masked:all]".repeat(9));
    let long = "x".repeat(MATCHES_LIMIT + 1);
    assert_eq!(mask.text(Traits::default(), &long), Some(MASKED.to_owned()));
}

#[test]
fn a_pattern_that_does_not_compile_strips_every_value() {
    for pattern in ["(", "(?<=a)b", r"\w{1000}{1000}"] {
        let mask = Mask::new(&[], &[], &[("BAD".to_owned(), pattern.to_owned())]);
        assert_eq!(mask.broken(), ["bad"]);
        assert_eq!(
            mask.text(Traits::default(), "anything"),
            Some(STRIPPED.to_owned())
        );
    }
}
