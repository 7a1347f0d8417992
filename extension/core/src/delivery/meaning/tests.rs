use super::*;

const UNPROVEN: Asked = Asked::Data {
    keys_are_good: false,
};
const PROVEN: Asked = Asked::Data {
    keys_are_good: true,
};
const WAIT: Option<Duration> = Some(Duration::from_secs(7));
const BAD_FOR: Host = Host::Bad { retry_after: WAIT };
const NOT_SURELY: Items = Items::Refused { surely: false };
const SURELY: Items = Items::Refused { surely: true };
const ALL: Items = Items::Delivered { refused_units: 0 };

fn by_langfuse(status: u16) -> Fact {
    Fact::Answered(Answer {
        whose: Whose::Langfuse,
        ..Answer::status(status)
    })
}

fn later(status: u16) -> Fact {
    Fact::Answered(Answer {
        retry_after: WAIT,
        ..Answer::status(status)
    })
}

fn means(asked: Asked, fact: Fact) -> (Items, Host, Keys) {
    let Meaning { items, host, keys } = Meaning::of(asked, fact);
    (items, host, keys)
}

#[test]
fn without_an_answer_only_what_left_is_unknown() {
    for asked in [UNPROVEN, PROVEN, Asked::Probe, Asked::PassThrough] {
        for fact in [Fact::NotConnected, Fact::NothingLeft] {
            assert_eq!(means(asked, fact), (Items::Unsent, BAD, Keys::Unchanged));
        }
        assert_eq!(
            means(asked, Fact::NoAnswer),
            (Items::Unknown, BAD, Keys::Unchanged)
        );
    }
}

#[test]
fn what_langfuse_takes_is_delivered_but_for_what_it_names() {
    for status in [200, 202, 207] {
        let told = (ALL, Host::Well, Keys::Good);
        assert_eq!(means(UNPROVEN, Fact::status(status)), told);
    }
    let some = Fact::Answered(Answer {
        refused_units: 3,
        ..Answer::status(207)
    });
    let items = Items::Delivered { refused_units: 3 };
    assert_eq!(means(PROVEN, some), (items, Host::Well, Keys::Good));
}

#[test]
fn langfuses_own_401_is_the_keys_fault_whatever_a_probe_showed() {
    for asked in [UNPROVEN, PROVEN] {
        assert_eq!(
            means(asked, by_langfuse(401)),
            (Items::Unsent, Host::Answers, Keys::Refused)
        );
    }
}

#[test]
fn any_other_refusal_is_the_requests_fault_once_a_probe_with_its_keys_was_good() {
    for fact in [Fact::status(401), Fact::status(403), by_langfuse(403)] {
        let doubtful = (Items::Unsent, Host::Answers, Keys::Doubtful);
        assert_eq!(means(UNPROVEN, fact), doubtful);
        let refused = (NOT_SURELY, Host::Answers, Keys::Unchanged);
        assert_eq!(means(PROVEN, fact), refused);
    }
}

#[test]
fn a_suspended_organisation_is_the_keys_fault_whatever_a_probe_showed() {
    let suspended = Fact::Answered(Answer {
        suspended: true,
        whose: Whose::Langfuse,
        ..Answer::status(403)
    });
    for asked in [UNPROVEN, PROVEN] {
        assert_eq!(
            means(asked, suspended),
            (Items::Unsent, Host::Answers, Keys::Refused)
        );
    }
}

#[test]
fn a_request_that_will_never_be_taken_is_surely_so_where_langfuse_says_it() {
    for status in [400, 406, 411, 414, 415, 416, 417, 422, 431] {
        let refused = |items| (items, Host::Answers, Keys::Unchanged);
        assert_eq!(means(PROVEN, by_langfuse(status)), refused(SURELY));
        assert_eq!(means(PROVEN, Fact::status(status)), refused(NOT_SURELY));
    }
}

#[test]
fn a_413_is_about_size_alone() {
    assert_eq!(
        means(UNPROVEN, Fact::status(413)),
        (Items::TooLarge, Host::Answers, Keys::Unchanged)
    );
}

#[test]
fn a_429_asks_for_a_pause() {
    let host = Host::Throttles { retry_after: WAIT };
    for asked in [UNPROVEN, Asked::Probe] {
        assert_eq!(
            means(asked, later(429)),
            (Items::Unsent, host, Keys::Unchanged)
        );
    }
}

#[test]
fn what_was_surely_not_stored_may_be_sent_again_without_a_doubt() {
    for fact in [later(408), later(500), later(503)] {
        assert_eq!(
            means(UNPROVEN, fact),
            (Items::Unsent, BAD_FOR, Keys::Unchanged)
        );
    }
    assert_eq!(means(UNPROVEN, by_langfuse(503)).0, Items::Unsent);
}

#[test]
fn a_503_of_nobody_and_all_gateways_leave_it_open_whether_it_was_stored() {
    for status in [501, 502, 503, 504, 520, 522, 524, 599] {
        assert_eq!(
            means(PROVEN, Fact::status(status)),
            (Items::Unknown, BAD, Keys::Unchanged)
        );
    }
}

#[test]
fn what_an_ingress_says_during_a_roll_out_drops_nothing_and_is_no_health() {
    for status in [
        100, 301, 302, 307, 308, 402, 404, 405, 407, 409, 410, 421, 451,
    ] {
        for asked in [UNPROVEN, PROVEN, Asked::Probe] {
            for fact in [Fact::status(status), by_langfuse(status)] {
                assert_eq!(means(asked, fact), (Items::Unsent, BAD, Keys::Unchanged));
            }
        }
    }
}

#[test]
fn a_probe_is_good_only_where_langfuse_has_looked_at_the_keys() {
    for fact in [Fact::status(200), by_langfuse(400)] {
        let (_, host, keys) = means(Asked::Probe, fact);
        assert_eq!((host, keys), (Host::Well, Keys::Good));
    }
    for status in [401, 403] {
        let (_, host, keys) = means(Asked::Probe, Fact::status(status));
        assert_eq!((host, keys), (Host::Answers, Keys::Refused));
    }
    for status in [400, 408, 413, 422, 500, 502, 503, 504] {
        let (_, host, keys) = means(Asked::Probe, Fact::status(status));
        assert_eq!((host, keys), (BAD, Keys::Unchanged));
    }
}

#[test]
fn an_answer_to_the_pass_through_neither_ends_an_outage_nor_begins_one() {
    let (_, host, keys) = means(Asked::PassThrough, Fact::status(200));
    assert_eq!((host, keys), (Host::Lives, Keys::Unchanged));
    for status in [302, 401, 403, 404, 429, 500, 502, 503, 504] {
        let (_, host, keys) = means(Asked::PassThrough, later(status));
        assert_eq!((host, keys), (Host::Unchanged, Keys::Unchanged));
    }
}
