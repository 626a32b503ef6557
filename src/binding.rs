//! Does this client still look like the one that logged in?

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::client::family;
use crate::policy::{Binding, BindingMode};
use crate::ratchet::BindingVerdict;
use crate::session::Client;

/// Compares the client that logged in with the one that is here now. The firmer of the two answers counts.
pub(crate) fn judge(binding: &Binding, then: &Client, now: &Client) -> BindingVerdict {
    let ip = verdict(binding.ip, || same_network(binding, then.ip, now.ip));
    let user_agent = verdict(binding.user_agent, || same_family(then.user_agent.as_deref(), now.user_agent.as_deref()));
    ip.max(user_agent)
}

fn verdict(mode: BindingMode, holds: impl FnOnce() -> bool) -> BindingVerdict {
    match mode {
        BindingMode::Off => BindingVerdict::Holds,
        _ if holds() => BindingVerdict::Holds,
        BindingMode::Observe => BindingVerdict::Observed,
        BindingMode::Reject => BindingVerdict::Rejected,
        BindingMode::Revoke => BindingVerdict::Revoked,
    }
}

/// An address that is not known is a difference, also from another one that is not.
fn same_network(binding: &Binding, then: Option<IpAddr>, now: Option<IpAddr>) -> bool {
    match (then, now) {
        (Some(IpAddr::V4(then)), Some(IpAddr::V4(now))) => {
            Ipv4Net::new(then, binding.ipv4_prefix).is_ok_and(|net| net.contains(&now))
        }
        (Some(IpAddr::V6(then)), Some(IpAddr::V6(now))) => {
            Ipv6Net::new(then, binding.ipv6_prefix).is_ok_and(|net| net.contains(&now))
        }
        _ => false,
    }
}

/// A header that is gone, or that turns up later, is a difference. A client that never sent one has not changed.
fn same_family(then: Option<&str>, now: Option<&str>) -> bool {
    match (then, now) {
        (Some(then), Some(now)) => then == now || family(then) == family(now),
        (then, now) => then == now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(ip: &str, user_agent: &str) -> Client {
        Client {
            ip: ip.parse().ok(),
            user_agent: Some(user_agent).filter(|text| !text.is_empty()).map(Into::into),
            label: None,
        }
    }

    fn ip_holds(then: &str, now: &str) -> bool {
        let binding = Binding { ip: BindingMode::Reject, ..Binding::default() };
        judge(&binding, &client(then, ""), &client(now, "")) == BindingVerdict::Holds
    }

    fn agent_holds(then: &str, now: &str) -> bool {
        let binding = Binding { user_agent: BindingMode::Reject, ..Binding::default() };
        judge(&binding, &client("", then), &client("", now)) == BindingVerdict::Holds
    }

    #[test]
    fn an_address_may_move_within_its_prefix_and_no_further() {
        assert!(ip_holds("203.0.113.7", "203.0.113.250"));
        assert!(!ip_holds("203.0.113.7", "203.0.114.7"));
        assert!(ip_holds("2001:db8:1:22::1", "2001:db8:1:33::9"));
        assert!(!ip_holds("2001:db8:1:22::1", "2001:db8:1:122::1"));
    }

    #[test]
    fn the_prefix_is_a_setting() {
        let holds = |ipv4_prefix, now| {
            let binding = Binding { ip: BindingMode::Reject, ipv4_prefix, ..Binding::default() };
            judge(&binding, &client("203.0.113.7", ""), &client(now, "")) == BindingVerdict::Holds
        };
        assert!(holds(32, "203.0.113.7") && !holds(32, "203.0.113.6"));
        assert!(holds(16, "203.0.1.1") && !holds(16, "203.1.1.1"));
    }

    #[test]
    fn the_other_address_family_is_a_difference() {
        assert!(!ip_holds("203.0.113.7", "2001:db8::1"));
        assert!(!ip_holds("2001:db8::1", "203.0.113.7"));
    }

    #[test]
    fn hole_22_an_absent_value_is_a_difference() {
        for (then, now) in [("", ""), ("203.0.113.7", ""), ("", "203.0.113.7")] {
            assert!(!ip_holds(then, now));
        }
        for (then, now) in [("curl/8", ""), ("", "curl/8")] {
            assert!(!agent_holds(then, now));
        }
    }

    #[test]
    fn a_client_that_never_sent_a_user_agent_has_not_changed() {
        assert!(agent_holds("", ""));
    }

    #[test]
    fn a_user_agent_is_compared_by_family() {
        assert!(agent_holds("curl/7.0", "curl/8.1"));
        assert!(!agent_holds("curl/7.0", "wget/1.0"));
    }

    #[test]
    fn every_mode_answers_as_it_is_named_and_the_firmer_one_counts() {
        use BindingVerdict::{Holds, Observed, Rejected, Revoked};
        let modes = [
            (BindingMode::Off, Holds),
            (BindingMode::Observe, Observed),
            (BindingMode::Reject, Rejected),
            (BindingMode::Revoke, Revoked),
        ];
        let (then, now) = (client("203.0.113.7", "curl/8"), client("198.51.100.1", "wget/1"));
        for (ip, ip_says) in modes {
            for (user_agent, agent_says) in modes {
                let binding = Binding { ip, user_agent, ..Binding::default() };
                assert_eq!(judge(&binding, &then, &now), ip_says.max(agent_says));
                assert_eq!(judge(&binding, &then, &then), Holds);
            }
        }
    }
}
