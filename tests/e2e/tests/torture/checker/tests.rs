//! The checker can fail: one made-up log for each way to break a guarantee, next to a similar one that is correct.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Conditions, Deployed, Failover, Findings, Outage, check};
use crate::log::{Access, Answer, Exchange, Millis, Refresh, Request};

const GRACE: Millis = 8_000;
const TTL: Millis = 14_000;

fn conditions() -> Conditions {
    Conditions { grace: GRACE, longest_grace: GRACE, max_staleness: 30_000, ..Conditions::default() }
}

fn findings_of(log: &[Exchange]) -> Findings {
    check(log, &conditions())
}

/// The refresh token of session 1 with this generation.
fn refresh(generation: u32) -> Refresh {
    let bytes = [&[1, 1][..], &[1; 16], &generation.to_be_bytes(), &[7; 32], &[9; 16]].concat();
    Refresh::read(&URL_SAFE_NO_PAD.encode(bytes))
}

fn access(generation: u32, issued: Millis) -> Access {
    let text = format!("access {generation} {issued}").into();
    Access { text, session: refresh(0).session, generation, issued, expires: issued + TTL, clock: 0 }
}

fn at(start: Millis, node: usize, request: Request, answer: Option<Answer>) -> Exchange {
    Exchange { client: 0, node, start, end: start + 10, request, answer }
}

fn status(status: u16, code: &str) -> Option<Answer> {
    Some(Answer { status, code: code.to_owned(), ..Answer::default() })
}

fn tokens(access: Access, refresh: Option<Refresh>) -> Option<Answer> {
    Some(Answer { status: 200, access: Some(access), refresh, ..Answer::default() })
}

fn login(start: Millis) -> Exchange {
    at(start, 0, Request::Login, tokens(access(0, start), Some(refresh(0))))
}

fn presents(start: Millis, generation: u32, answer: Option<Answer>) -> Exchange {
    at(start, 0, Request::Refresh { token: refresh(generation), thief: false }, answer)
}

fn steals(start: Millis, generation: u32, answer: Option<Answer>) -> Exchange {
    at(start, 0, Request::Refresh { token: refresh(generation), thief: true }, answer)
}

/// A refresh that hands out `new`.
fn gets(start: Millis, generation: u32, new: u32) -> Exchange {
    presents(start, generation, tokens(access(new, start), Some(refresh(new))))
}

fn steals_and_gets(start: Millis, generation: u32, new: u32) -> Exchange {
    steals(start, generation, tokens(access(new, start), Some(refresh(new))))
}

fn uses(start: Millis, node: usize, access: Access, answer: Option<Answer>) -> Exchange {
    at(start, node, Request::Use(access), answer)
}

fn logs_out(start: Millis, generation: u32) -> Exchange {
    at(start, 0, Request::Logout(refresh(generation)), status(204, ""))
}

fn reused() -> Option<Answer> {
    status(401, "refresh_token_reused")
}

#[track_caller]
fn has_no_findings(findings: &Findings) {
    assert!(findings.violations().is_empty(), "{findings:#?}");
    assert!(findings.outside_the_assumptions.is_empty(), "{findings:#?}");
}

/// Asserts that this is the only finding.
#[track_caller]
fn found(findings: &Findings, what: &str) {
    let found: Vec<_> = findings.violations().into_iter().map(|(what, found)| (what, found.len())).collect();
    assert_eq!(found, [(what, 1)], "{findings:#?}");
}

#[test]
fn an_honest_log_has_no_findings() {
    let lost = presents(9_000, 1, None);
    let log = [
        login(0),
        gets(100, 0, 1),
        presents(200, 0, tokens(access(0, 200), None)),
        uses(300, 3, access(1, 100), status(200, "")),
        lost,
        presents(9_100, 1, status(503, "store_unavailable")),
        gets(18_000, 1, 3),
        uses(18_100, 3, access(1, 100), status(401, "access_token_expired")),
        logs_out(19_000, 3),
        presents(19_500, 3, status(401, "session_revoked")),
    ];
    let findings = findings_of(&log);
    has_no_findings(&findings);
    let counts = &findings.counts;
    assert_eq!((counts.rotations, counts.recovers, counts.touches_and_echoes), (1, 1, 1));
    assert_eq!((counts.broken, counts.unavailable, counts.revocations, counts.sessions), (1, 1, 1, 1));
}

#[test]
fn a_logout_of_an_honest_client_is_detected() {
    for code in ["refresh_token_reused", "session_revoked", "refresh_token_invalid"] {
        found(&findings_of(&[login(0), gets(100, 0, 1), presents(9_000, 1, status(401, code))]), "honest logouts");
    }
    // Also if it was slow, but not as slow as the grace period.
    let mut late = presents(105, 0, reused());
    late.end = 100 + GRACE;
    found(&findings_of(&[login(0), gets(100, 0, 1), late]), "honest logouts");
}

#[test]
fn a_request_that_took_longer_than_the_grace_period_is_not_a_violation() {
    let mut late = presents(105, 0, reused());
    late.end = 101 + GRACE;
    let findings = findings_of(&[login(0), gets(100, 0, 1), late]);
    assert_eq!(findings.outside_the_assumptions.len(), 1);
    assert!(findings.violations().is_empty());
}

#[test]
fn a_login_that_the_failover_lost_is_counted_separately() {
    let failover = Failover { from: 0, until: 3_000 };
    let conditions = Conditions { failovers: vec![failover], ..conditions() };
    let unknown = |login| check(&[login, presents(9_000, 0, status(401, "refresh_token_invalid"))], &conditions);
    let findings = unknown(login(500));
    has_no_findings(&findings);
    assert_eq!(findings.counts.lost_logins, 1);
    found(&unknown(login(3_500)), "honest logouts");
}

#[test]
fn a_refresh_token_that_is_handed_out_twice_is_detected() {
    let twice = gets(9_000, 0, 1);
    let log = [login(0), gets(100, 0, 1), twice];
    let findings = findings_of(&log);
    assert_eq!(findings.handed_out_twice.len(), 1);
    let failover = Failover { from: 5_000, until: 6_000 };
    let findings = check(&log, &Conditions { failovers: vec![failover], ..conditions() });
    has_no_findings(&findings);
    assert_eq!(findings.counts.handed_out_twice_after_failover, 1);
}

#[test]
fn revoked_tokens_are_accepted_for_a_second_by_other_nodes_and_no_longer() {
    let used = |at, node| [login(0), logs_out(1_000, 0), uses(at, node, access(0, 0), status(200, ""))];
    // The response of the logout arrives at 1010; a node is granted at least 100 ms for its own work, twice.
    has_no_findings(&findings_of(&used(2_210, 3)));
    found(&findings_of(&used(2_211, 3)), "accepted after revocation");
    // The node that revoked it knows at once.
    found(&findings_of(&used(1_011, 0)), "accepted after revocation");
    let findings = findings_of(&used(2_210, 3));
    assert_eq!((findings.counts.latest_acceptance, findings.counts.tries_after_revocation), (1_200, 1));
}

#[test]
fn a_node_that_was_measured_to_be_slow_has_more_time() {
    let mut slow = uses(1_500, 3, access(0, 0), status(200, ""));
    slow.end = 2_000;
    let used = |at| [login(0), logs_out(1_000, 0), slow.clone(), uses(at, 3, access(0, 0), status(200, ""))];
    has_no_findings(&findings_of(&used(3_010)));
    found(&findings_of(&used(3_011)), "accepted after revocation");
}

#[test]
fn a_single_revoked_access_token_is_refused_too() {
    let token = access(0, 0);
    let ends = at(1_000, 0, Request::RevokeToken { token: token.clone(), by: token.clone() }, status(204, ""));
    let used = |at, answer| [login(0), ends.clone(), uses(at, 3, token.clone(), answer)];
    has_no_findings(&findings_of(&used(2_000, status(200, ""))));
    has_no_findings(&findings_of(&used(9_000, status(401, "access_token_revoked"))));
    found(&findings_of(&used(9_000, status(200, ""))), "accepted after revocation");
    // Its session continues.
    found(&findings_of(&[login(0), ends, presents(9_000, 0, status(401, "session_revoked"))]), "honest logouts");
}

#[test]
fn a_revoked_session_is_not_refreshed_on_any_node() {
    found(&findings_of(&[login(0), logs_out(1_000, 0), gets(1_011, 0, 1)]), "accepted after revocation");
    // A refresh that was sent before the response of the logout may come first.
    has_no_findings(&findings_of(&[login(0), gets(1_005, 0, 1), logs_out(1_000, 0)]));
}

#[test]
fn a_detected_theft_revokes_access_tokens_too() {
    let log = [login(0), gets(100, 0, 1), steals(9_000, 0, reused()), uses(12_000, 3, access(1, 100), status(200, ""))];
    found(&findings_of(&log), "accepted after revocation");
}

#[test]
fn a_partitioned_node_trusts_its_revocations_until_they_are_stale() {
    let outage = Outage { node: Some(3), from: 900, until: 60_000 };
    let conditions = Conditions { outages: vec![outage], ..conditions() };
    let used = |at, node| {
        let access = Access { expires: 100_000, ..access(0, 0) };
        check(&[login(0), logs_out(1_000, 0), uses(at, node, access, status(200, ""))], &conditions)
    };
    has_no_findings(&used(30_000, 3));
    has_no_findings(&used(32_100, 3));
    found(&used(32_101, 3), "accepted after revocation");
    found(&used(10_000, 4), "accepted after revocation");
}

#[test]
fn a_node_that_reconnects_has_to_read_the_missed_revocations() {
    let outage = Outage { node: None, from: 900, until: 4_000 };
    let conditions = Conditions { outages: vec![outage], ..conditions() };
    let used = |at| {
        let log = [login(0), logs_out(1_000, 0), uses(at, 3, access(0, 0), status(200, ""))];
        check(&log, &conditions)
    };
    has_no_findings(&used(7_200));
    found(&used(7_201), "accepted after revocation");
}

#[test]
fn a_refused_valid_access_token_is_detected() {
    let refused = |code| findings_of(&[login(0), uses(5_000, 3, access(0, 0), status(401, code))]);
    found(&refused("access_token_revoked"), "wrong refusals");
    found(&refused("access_token_expired"), "wrong refusals");
    let findings = refused("access_token_invalid");
    assert_eq!(findings.unexpected.len(), 1);
    let end = |start| {
        let request = Request::End { session: refresh(0).session, by: access(0, 0) };
        at(start, 0, request, status(404, "session_not_found"))
    };
    found(&findings_of(&[login(0), end(100)]), "wrong refusals");
    has_no_findings(&findings_of(&[login(0), logs_out(50, 0), end(100)]));
}

#[test]
fn a_response_outside_of_the_contract_is_detected() {
    for (status_code, code) in [(500, ""), (429, ""), (401, "session_idle"), (409, "session_limit")] {
        let findings = findings_of(&[login(0), presents(100, 0, status(status_code, code))]);
        assert_eq!(findings.unexpected.len(), 1, "{status_code} {code}");
    }
    let without_tokens = findings_of(&[login(0), presents(100, 0, status(200, ""))]);
    assert_eq!(without_tokens.unexpected.len(), 1);
}

#[test]
fn a_thief_who_takes_turns_with_the_owner_is_detected_at_the_fourth() {
    let turns = |fourth| {
        [login(0), gets(100, 0, 1), steals_and_gets(9_000, 0, 2), gets(18_000, 1, 3), steals(27_000, 2, fourth)]
    };
    let findings = findings_of(&turns(reused()));
    has_no_findings(&findings);
    let counts = &findings.counts;
    assert_eq!((counts.thefts_played, counts.thefts_owed, counts.thefts_detected), (1, 1, 1));
    let findings = findings_of(&turns(tokens(access(4, 27_000), Some(refresh(4)))));
    assert_eq!(findings.thefts_missed.len(), 1);
    assert_eq!(findings.counts.thefts_detected, 0);
}

#[test]
fn fewer_turns_require_no_detection() {
    let third_is_lost = [
        login(0),
        gets(100, 0, 1),
        steals_and_gets(9_000, 0, 2),
        presents(18_000, 1, None),
        steals_and_gets(27_000, 2, 4),
    ];
    let findings = findings_of(&third_is_lost);
    assert_eq!((findings.counts.thefts_owed, findings.thefts_missed.len()), (0, 0));
    // Within the grace period it is a race.
    let too_soon = [login(0), gets(100, 0, 1), steals(200, 0, tokens(access(0, 200), None)), gets(9_000, 1, 2)];
    has_no_findings(&findings_of(&too_soon));
}

#[test]
fn every_broken_invariant_is_detected() {
    let mut other_secret = refresh(1);
    other_secret.secret = [8; 32].into();
    let mut moved = gets(9_000, 1, 2);
    let mut kept = gets(100, 0, 1);
    for (exchange, max_age) in [(&mut kept, 7_200), (&mut moved, 7_200)] {
        exchange.answer.as_mut().unwrap().max_age = Some(max_age);
    }
    let cases: [(&str, Vec<Exchange>); 9] = [
        ("within one grace", vec![login(0), gets(100, 0, 1), gets(8_000, 1, 2)]),
        ("of an earlier generation", vec![login(0), gets(100, 0, 5), gets(9_000, 1, 3)]),
        ("no successor", vec![login(0), gets(100, 1, 1)]),
        ("no successor", vec![login(0), presents(100, 0, tokens(access(1, 100), Some(other_secret)))]),
        ("of another generation", vec![login(0), presents(100, 0, tokens(access(1, 100), None))]),
        ("two behind", {
            let again = presents(9_100, 0, tokens(access(0, 9_100), None));
            vec![login(0), gets(100, 0, 1), gets(9_000, 1, 2), again]
        }),
        ("the end of a session has moved", vec![login(0), kept, moved]),
        ("accepted after its end", vec![login(0), uses(TTL + 1_100, 3, access(0, 0), status(200, ""))]),
        ("another generation than the first", {
            vec![at(0, 0, Request::Login, tokens(access(1, 0), Some(refresh(1))))]
        }),
    ];
    for (what, log) in cases {
        let findings = findings_of(&log);
        assert!(findings.broken_invariants.iter().any(|found| found.contains(what)), "{what}: {findings:#?}");
    }
}

#[test]
fn an_access_token_that_outlives_its_session_is_detected() {
    let mut last = gets(100, 0, 1);
    last.answer.as_mut().unwrap().max_age = Some(5);
    found(&findings_of(&[login(0), last]), "broken invariants");
}

#[test]
fn a_node_accepts_an_access_token_as_long_as_one_of_its_own() {
    let deployed = |node, from, access_ttl, leeway| Deployed { node, from, until: Millis::MAX, access_ttl, leeway };
    let settings = vec![deployed(3, 0, 5_000, 0), deployed(4, 0, TTL, 2_000)];
    let conditions = Conditions { deployed: settings, ..conditions() };
    let used = |at, node, answer| check(&[login(0), uses(at, node, access(0, 0), answer)], &conditions);
    let expired = || status(401, "access_token_expired");
    has_no_findings(&used(5_000, 3, expired()));
    found(&used(4_900, 3, expired()), "wrong refusals");
    has_no_findings(&used(6_000, 3, status(200, "")));
    found(&used(6_100, 3, status(200, "")), "broken invariants");
    found(&used(TTL + 100, 4, expired()), "wrong refusals");
    has_no_findings(&used(TTL + 2_900, 4, status(200, "")));
    found(&used(TTL + 3_100, 4, status(200, "")), "broken invariants");
}

#[test]
fn a_token_that_another_secret_signs_is_the_same_token() {
    let mut other_text = gets(9_000, 0, 1);
    other_text.answer.as_mut().unwrap().refresh.as_mut().unwrap().text = "signed with another secret".into();
    let findings = findings_of(&[login(0), gets(100, 0, 1), other_text]);
    assert_eq!(findings.handed_out_twice.len(), 1);
}

#[test]
fn a_wrong_clock_explains_only_what_is_documented() {
    // Node 1 is ahead, and node 2 is behind.
    let conditions = Conditions { clocks: vec![0, 1_000_000, -1_000_000], ..conditions() };
    let at_node = |node, mut exchange: Exchange| {
        exchange.node = node;
        exchange
    };
    let of_clock = |clock| Access { clock, ..access(0, 0) };
    let check = |log: &[Exchange]| check(log, &conditions);
    // Sessions from elsewhere have reached their end on the node that is ahead, and go on afterwards.
    let refused = at_node(1, presents(100, 0, status(401, "session_expired")));
    let findings = check(&[login(0), refused.clone(), gets(200, 0, 1)]);
    has_no_findings(&findings);
    assert_eq!((findings.counts.refused_by_clock, findings.counts.restored), (1, 1));
    let purged = presents(200, 0, status(401, "refresh_token_invalid"));
    found(&check(&[login(0), refused, purged]), "honest logouts");
    let own = [at_node(1, login(0)), at_node(1, presents(100, 0, status(401, "session_expired")))];
    found(&check(&own), "honest logouts");
    let behind = check(&[login(0), at_node(2, presents(100, 0, status(401, "session_expired")))]);
    assert_eq!((behind.honest_logouts.len(), behind.unexpected.len()), (1, 1));
    // Access tokens.
    let used = |clock, node, answer| check(&[login(0), uses(100, node, of_clock(clock), answer)]);
    has_no_findings(&used(1_000_000, 0, status(401, "access_token_invalid")));
    has_no_findings(&used(-1_000_000, 0, status(401, "access_token_expired")));
    has_no_findings(&used(0, 1, status(401, "access_token_expired")));
    has_no_findings(&used(0, 2, status(401, "access_token_invalid")));
    found(&used(0, 0, status(401, "access_token_invalid")), "unexpected responses");
    found(&used(1_000_000, 0, status(200, "")), "broken invariants");
}

#[test]
fn every_session_of_a_revoked_user_has_to_be_refused() {
    let request = Request::EndUser { client: 0, user: "crowd", by: access(9, 0) };
    let mut ends = at(1_000, 0, request, status(200, ""));
    ends.client = 1;
    let used = |at, node, answer| [login(0), ends.clone(), uses(at, node, access(0, 0), answer)];
    let findings = findings_of(&used(2_000, 3, status(401, "access_token_revoked")));
    has_no_findings(&findings);
    assert_eq!((findings.counts.crowd_refused, findings.counts.crowd_refused_by_access_token), (1, 1));
    let mut refresh = presents(2_000, 0, status(401, "session_revoked"));
    refresh.node = 4;
    let findings = findings_of(&[login(0), ends.clone(), refresh]);
    assert_eq!((findings.counts.crowd_refused, findings.counts.crowd_refused_by_access_token), (1, 0));
    found(&findings_of(&used(2_300, 3, status(200, ""))), "accepted after revocation");
    found(&findings_of(&used(1_011, 0, status(200, ""))), "accepted after revocation");
    let later = gets(1_011, 0, 1);
    found(&findings_of(&[login(0), ends.clone(), later]), "accepted after revocation");
    // A session that began afterwards is not concerned.
    let mut before = ends.clone();
    before.start = -100;
    found(&findings_of(&[before, login(0), presents(9_000, 0, status(401, "session_revoked"))]), "honest logouts");
}
