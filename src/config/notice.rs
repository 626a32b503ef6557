//! Wrong setups that are reported once, not with every request.

use std::sync::atomic::{AtomicU32, Ordering};

/// Something that is set up wrongly, as a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The login page is behind a layer that refuses anonymous requests.
    LoginPageRefused,
    /// The page where a user authenticates again requires that it was done.
    StepUpPageRefused,
    /// A request was marked as passive after its activity was recorded.
    PassiveTooLate,
    /// The router is mounted where the browser does not send the refresh cookie.
    CookiePath,
    /// A browser that has our other cookies did not send the refresh cookie.
    CookieMissing,
    /// A page of another site logged in, and will not send the refresh cookie.
    CrossSiteLogin,
    /// The claims hook has returned more than the access cookie can hold.
    LargeCookie,
    /// A login was not told who logs in.
    LoginWithoutClient,
    /// The tokens of the issuer live for longer than a verifier accepts them.
    #[cfg(feature = "verifier")]
    LongTokens,
    /// A stream waits for a revocation at a verifier that follows none.
    #[cfg(feature = "verifier")]
    NothingRevoked,
    /// The server does not know its peers.
    NoPeer,
    /// The proxy in front of a socket without addresses sends no forwarding header.
    NoForwardedHeader,
    /// A trusted proxy names no address.
    UnreadableForwardedHeader,
    /// A trusted proxy sends no forwarding header.
    MissingForwardedHeader,
    /// What looks like a proxy is not trusted.
    UntrustedProxy,
}

/// What has been reported.
#[derive(Debug, Default)]
pub(crate) struct Notices(AtomicU32);

impl Notices {
    /// Whether all of these were reported.
    pub(crate) fn have_all(&self, notices: &[Notice]) -> bool {
        let bits = notices.iter().fold(0, |bits, notice| bits | 1 << (*notice as u32));
        self.0.load(Ordering::Relaxed) & bits == bits
    }

    /// Returns whether this is the first time. Marks it as reported.
    pub(crate) fn is_first(&self, notice: Notice) -> bool {
        let bit = 1 << (notice as u32);
        // Nearly always it was reported already, and a load is cheaper than a write.
        self.0.load(Ordering::Relaxed) & bit == 0 && self.0.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notice_is_given_once() {
        let notices = Notices::default();
        assert!(notices.is_first(Notice::CookiePath));
        assert!(!notices.is_first(Notice::CookiePath));
        assert!(!notices.have_all(&[Notice::CookiePath, Notice::LoginPageRefused]));
        assert!(notices.is_first(Notice::LoginPageRefused));
        assert!(notices.have_all(&[Notice::CookiePath, Notice::LoginPageRefused]));
    }
}
