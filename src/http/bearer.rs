//! Bearer tokens in the header `Authorization`.

use http::HeaderValue;

/// The credentials of `Authorization: Bearer` (RFC 6750 §2.1). The scheme is compared without regard to case (RFC 9110
/// §11.1).
pub(crate) fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked(7)?;
    // Nearly all clients write it like this.
    (scheme == b"Bearer " || scheme.eq_ignore_ascii_case(b"bearer ")).then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        let read = |header: &'static str| bearer(&HeaderValue::from_static(header)).map(|token| token.to_vec());
        for header in ["Bearer x.y", "bearer x.y", "BEARER  x.y "] {
            assert_eq!(read(header).as_deref(), Some(b"x.y".as_slice()), "{header}");
        }
        for header in ["", "Bearer", "Basic x.y", "Bearerx.y", "x.y"] {
            assert_eq!(read(header), None, "{header}");
        }
        assert_eq!(read("Bearer ").as_deref(), Some(b"".as_slice()));
    }
}
