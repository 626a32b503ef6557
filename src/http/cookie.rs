//! Finding our cookies in a request.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// Whether the request has a cookie with this name.
pub(super) fn has(headers: &HeaderMap, name: &str) -> bool {
    values(headers, name).next().is_some()
}

/// The values of all cookies with this name, in all `Cookie` headers. There may be several with different paths or domains,
/// and other hosts of the site may have set some of them.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
    lines.flat_map(|line| line.split(|byte| *byte == b';')).filter_map(move |pair| {
        let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.trim_ascii_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_in_all_lines_and_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        for line in [b"a=1; x=2;x=3".as_slice(), b"xx=4; x =5;x==6; x", b"x=\xff ; x=", b""] {
            headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        let found: Vec<_> = values(&headers, "x").collect();
        assert_eq!(found, [b"2".as_slice(), b"3", b"=6", b"\xff", b""]);
    }
}
