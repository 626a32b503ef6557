//! One table for every store, and a failure if the checker found a violation.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use super::chaos::Tally;
use super::checker::Findings;

/// Prints the counts and the findings, past the test harness, which captures output.
pub(crate) fn print(store: &str, took: Duration, tally: &Tally, findings: &Findings) {
    let counts = &findings.counts;
    let rows: [(&str, String); 44] = [
        ("requests", counts.requests.to_string()),
        ("sessions", counts.sessions.to_string()),
        ("refreshes", counts.refreshes.to_string()),
        ("  rotations", counts.rotations.to_string()),
        ("  recovers", counts.recovers.to_string()),
        ("  touches and echoes", counts.touches_and_echoes.to_string()),
        ("  busy (409)", counts.busy.to_string()),
        ("responses 503", counts.unavailable.to_string()),
        ("broken or lost responses", counts.broken.to_string()),
        ("slowest response", format!("{} ms", counts.slowest_answer)),
        ("nodes killed", tally.kills.to_string()),
        ("store restarts", tally.restarts.to_string()),
        ("store pauses of 5 s", tally.pauses.to_string()),
        ("cuts", tally.cuts.to_string()),
        ("stalled and slow lines", tally.stalls.to_string()),
        ("failovers", tally.failovers.to_string()),
        ("nodes deployed anew", tally.deploys.to_string()),
        ("pooler restarts", tally.pooler_restarts.to_string()),
        ("store responses delayed by 3 ms", tally.delayed.to_string()),
        ("users with very many sessions revoked", tally.crowds.to_string()),
        ("  sessions", counts.crowd_sessions.to_string()),
        ("  sampled sessions times nodes", counts.crowd_refused.to_string()),
        ("  by an access token", counts.crowd_refused_by_access_token.to_string()),
        ("  median response then", format!("{} ms", counts.median_then)),
        ("  median response otherwise", format!("{} ms", counts.median_otherwise)),
        ("tokens used across clocks", counts.across_clocks.to_string()),
        ("  refused because of a clock", counts.refused_by_clock.to_string()),
        ("  accepted afterwards elsewhere", counts.restored.to_string()),
        ("revocations", counts.revocations.to_string()),
        ("  tries afterwards", counts.tries_after_revocation.to_string()),
        ("  latest acceptance allowed", format!("{} ms", counts.latest_acceptance)),
        ("thefts played", counts.thefts_played.to_string()),
        ("  with every turn taken", counts.thefts_owed.to_string()),
        ("  detected", counts.thefts_detected.to_string()),
        ("  missed", findings.thefts_missed.len().to_string()),
        ("honest logouts", findings.honest_logouts.len().to_string()),
        ("  outside the assumptions", findings.outside_the_assumptions.len().to_string()),
        ("handed out twice", findings.handed_out_twice.len().to_string()),
        ("accepted after revocation", findings.accepted_after_revocation.len().to_string()),
        ("wrong refusals", findings.wrong_refusals.len().to_string()),
        ("broken invariants", findings.broken_invariants.len().to_string()),
        ("unexpected responses", findings.unexpected.len().to_string()),
        ("after a failover: lost logins", counts.lost_logins.to_string()),
        (
            "  handed out twice, accepted late",
            format!("{}, {}", counts.handed_out_twice_after_failover, counts.accepted_after_failover),
        ),
    ];
    let mut table = format!("\n== torture of {store}, {:.0} s\n", took.as_secs_f64());
    for (name, value) in rows {
        writeln!(table, "{name:<40}{value:>10}").unwrap();
    }
    for (what, found) in findings.violations() {
        writeln!(table, "\n{what}:").unwrap();
        for one in found.iter().take(10) {
            writeln!(table, "    {one}").unwrap();
        }
        if found.len() > 10 {
            writeln!(table, "    and {} more", found.len() - 10).unwrap();
        }
    }
    for one in findings.outside_the_assumptions.iter().take(3) {
        writeln!(table, "\noutside the assumptions: {one}").unwrap();
    }
    std::io::stderr().write_all(table.as_bytes()).unwrap();
}
