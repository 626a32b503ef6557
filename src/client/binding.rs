//! Comparing a client with the one that logged in.

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::user_agent;
use crate::config::{Binding, BindingMode};
use crate::ratchet::BindingVerdict;
use crate::session::Client;

/// Compares the client of a request with the one that logged in, by address and by `User-Agent`. The stricter of the
/// two verdicts counts.
pub(crate) fn compare(binding: &Binding, at_login: &Client, now: &Client) -> BindingVerdict {
    let ip = verdict(binding.ip, || is_same_network(binding, at_login.ip, now.ip));
    let user_agent =
        verdict(binding.user_agent, || is_same_family(at_login.user_agent.as_deref(), now.user_agent.as_deref()));
    ip.max(user_agent)
}

/// Whether two clients may be the same device, by `User-Agent`.
pub(crate) fn is_same_device(one: &Client, other: &Client) -> bool {
    is_same_family(one.user_agent.as_deref(), other.user_agent.as_deref())
}

fn verdict(mode: BindingMode, holds: impl FnOnce() -> bool) -> BindingVerdict {
    if mode == BindingMode::Off || holds() { BindingVerdict::Holds } else { of_difference(mode) }
}

/// What follows from a difference.
pub(crate) const fn of_difference(mode: BindingMode) -> BindingVerdict {
    match mode {
        BindingMode::Off => BindingVerdict::Holds,
        BindingMode::Observe => BindingVerdict::Observed,
        BindingMode::StepUp => BindingVerdict::StepUp,
        BindingMode::Reject => BindingVerdict::Rejected,
        BindingMode::Revoke => BindingVerdict::Revoked,
    }
}

/// An unknown address is a difference, even if both addresses are unknown.
fn is_same_network(binding: &Binding, at_login: Option<IpAddr>, now: Option<IpAddr>) -> bool {
    match (at_login, now) {
        (Some(IpAddr::V4(at_login)), Some(IpAddr::V4(now))) => {
            Ipv4Net::new(at_login, binding.ipv4_prefix).is_ok_and(|net| net.contains(&now))
        }
        (Some(IpAddr::V6(at_login)), Some(IpAddr::V6(now))) => {
            Ipv6Net::new(at_login, binding.ipv6_prefix).is_ok_and(|net| net.contains(&now))
        }
        _ => false,
    }
}

/// A header that is missing on one side only is a difference. A client that never sent one has not changed.
fn is_same_family(at_login: Option<&str>, now: Option<&str>) -> bool {
    match (at_login, now) {
        (Some(at_login), Some(now)) => user_agent::is_same_family(at_login, now),
        (at_login, now) => at_login == now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(ip: &str, user_agent: &str) -> Client {
        Client {
            ip: ip.parse().ok(),
            user_agent: Some(user_agent).filter(|text| !text.is_empty()).map(Into::into),
            ..Client::default()
        }
    }

    fn ip_holds(at_login: &str, now: &str) -> bool {
        let binding = Binding { ip: BindingMode::Reject, ..Binding::default() };
        compare(&binding, &client(at_login, ""), &client(now, "")) == BindingVerdict::Holds
    }

    fn user_agent_holds(at_login: &str, now: &str) -> bool {
        let binding = Binding { user_agent: BindingMode::Reject, ..Binding::default() };
        compare(&binding, &client("", at_login), &client("", now)) == BindingVerdict::Holds
    }

    #[test]
    fn an_address_may_move_within_its_prefix_and_no_further() {
        assert!(ip_holds("203.0.113.7", "203.0.113.250"));
        assert!(!ip_holds("203.0.113.7", "203.0.114.7"));
        assert!(ip_holds("2001:db8:1:22::1", "2001:db8:1:33::9"));
        assert!(!ip_holds("2001:db8:1:22::1", "2001:db8:1:122::1"));
    }

    #[test]
    fn the_prefix_length_is_a_setting() {
        let holds = |ipv4_prefix, now| {
            let binding = Binding { ip: BindingMode::Reject, ipv4_prefix, ..Binding::default() };
            compare(&binding, &client("203.0.113.7", ""), &client(now, "")) == BindingVerdict::Holds
        };
        assert!(holds(32, "203.0.113.7") && !holds(32, "203.0.113.6"));
        assert!(holds(16, "203.0.1.1") && !holds(16, "203.1.1.1"));
    }

    #[test]
    fn another_address_family_is_a_difference() {
        assert!(!ip_holds("203.0.113.7", "2001:db8::1"));
        assert!(!ip_holds("2001:db8::1", "203.0.113.7"));
    }

    #[test]
    fn hole_22_an_absent_value_is_a_difference() {
        for (at_login, now) in [("", ""), ("203.0.113.7", ""), ("", "203.0.113.7")] {
            assert!(!ip_holds(at_login, now));
        }
        for (at_login, now) in [("curl/8", ""), ("", "curl/8")] {
            assert!(!user_agent_holds(at_login, now));
        }
    }

    #[test]
    fn a_client_that_never_sent_a_user_agent_has_not_changed() {
        assert!(user_agent_holds("", ""));
    }

    #[test]
    fn a_user_agent_is_compared_by_family() {
        assert!(user_agent_holds("curl/7.0", "curl/8.1"));
        assert!(!user_agent_holds("curl/7.0", "wget/1.0"));
    }

    #[test]
    fn every_mode_has_its_verdict_and_the_stricter_one_counts() {
        use BindingVerdict::{Holds, Observed, Rejected, Revoked};
        let modes = [
            (BindingMode::Off, Holds),
            (BindingMode::Observe, Observed),
            (BindingMode::Reject, Rejected),
            (BindingMode::Revoke, Revoked),
        ];
        let (at_login, now) = (client("203.0.113.7", "curl/8"), client("198.51.100.1", "wget/1"));
        for (ip, ip_verdict) in modes {
            for (user_agent, user_agent_verdict) in modes {
                let binding = Binding { ip, user_agent, ..Binding::default() };
                assert_eq!(compare(&binding, &at_login, &now), ip_verdict.max(user_agent_verdict));
                assert_eq!(compare(&binding, &at_login, &at_login), Holds);
            }
        }
    }
}
