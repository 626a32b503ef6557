//! Reading the feed of revocations: server-sent events (HTML Living Standard §9.2.6), line by line.

use super::{Announcement, REVOKED};

/// The longest line. A user id of 255 bytes, each escaped, is by far the longest part.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// The longest position, which is sent back in a header.
const MAX_ID_BYTES: usize = 128;

/// What the feed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Revoked(Announcement),
    /// Where to go on from, once all before it is in force.
    Position(String),
    /// All that was revoked up to so many milliseconds after the request was received.
    Complete(i64),
}

/// Why the feed cannot be followed any further. An announcement that cannot be read is not skipped: whatever it revokes would
/// stay valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a line of the feed has more than {MAX_LINE_BYTES} bytes")]
    TooLong,
    #[error("a line of the feed is not UTF-8")]
    NotUtf8,
    #[error("an announcement of the feed cannot be read; is the issuer of a newer version than this verifier?")]
    Unreadable,
}

/// Collects lines from pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The line so far.
    line: Vec<u8>,
    /// Whether the last line has ended with a carriage return, which a line feed may follow.
    after_return: bool,
    has_begun: bool,
    event: String,
    data: Option<String>,
    id: Option<String>,
}

impl Lines {
    /// Reads on. What was read is appended to `received`, also if an error follows it.
    pub(crate) fn read(&mut self, bytes: &[u8], received: &mut Vec<Received>) -> Result<(), LineError> {
        for byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    let line = std::str::from_utf8(&line).map_err(|_| LineError::NotUtf8)?;
                    let is_first = !std::mem::replace(&mut self.has_begun, true);
                    let line = if is_first { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
                    received.extend(self.end_line(line)?);
                    if line.is_empty() {
                        received.extend(self.id.take().map(Received::Position));
                    }
                }
                byte => {
                    self.after_return = false;
                    if self.line.len() == MAX_LINE_BYTES {
                        return Err(LineError::TooLong);
                    }
                    self.line.push(*byte);
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self, line: &str) -> Result<Option<Received>, LineError> {
        if line.is_empty() {
            let (event, data) = (std::mem::take(&mut self.event), self.data.take());
            return match data {
                Some(data) if event == REVOKED => {
                    let announcement = Announcement::read(&data).ok_or(LineError::Unreadable)?;
                    Ok(Some(Received::Revoked(announcement)))
                }
                // Of another kind, which says nothing about revocations.
                _ => Ok(None),
            };
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            // A proxy may add comments of its own.
            "" => return Ok(value.parse().ok().map(Received::Complete)),
            "event" => value.clone_into(&mut self.event),
            "data" => match &mut self.data {
                Some(data) if data.len() + value.len() >= MAX_LINE_BYTES => return Err(LineError::TooLong),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if value.len() <= MAX_ID_BYTES && value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                self.id = Some(value.to_owned());
            }
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

    fn read(text: &str) -> Result<Vec<Received>, LineError> {
        let mut received = Vec::new();
        Lines::default().read(text.as_bytes(), &mut received).map(|()| received)
    }

    fn revoked(sid: &str) -> Received {
        Received::Revoked(Announcement { sid: Some(sid.parse().unwrap()), until: 7, ..Announcement::default() })
    }

    fn event() -> String {
        format!("event: revoked\nid: 1-2\ndata: {{\"sid\":\"{SID}\",\"until\":7}}\n\n")
    }

    #[test]
    fn an_announcement_comes_before_the_position_after_it() {
        assert_eq!(read(&event()).unwrap(), [revoked(SID), Received::Position("1-2".to_owned())]);
    }

    #[test]
    fn lines_may_be_cut_anywhere_and_end_in_three_ways() {
        for text in
            [event(), event().replace('\n', "\r\n"), event().replace('\n', "\r"), format!("\u{feff}{}", event())]
        {
            let expected = read(&text).unwrap();
            assert_eq!(expected.len(), 2, "{text:?}");
            for cut in 0..text.len() {
                let (mut lines, mut received) = (Lines::default(), Vec::new());
                lines.read(&text.as_bytes()[..cut], &mut received).unwrap();
                lines.read(&text.as_bytes()[cut..], &mut received).unwrap();
                assert_eq!(received, expected, "{text:?} {cut}");
            }
        }
    }

    #[test]
    fn a_comment_with_a_number_says_as_of_when_all_is_announced() {
        let text = ": 15000\n\n: -3\n\n:7\n\n: keep-alive\n\n:\n\n";
        assert_eq!(read(text).unwrap(), [15_000, -3, 7].map(Received::Complete));
    }

    #[test]
    fn an_announcement_that_cannot_be_read_is_an_error_and_not_skipped() {
        for data in [
            "",
            "{}",
            "7",
            r#"{"until":7}"#,
            r#"{"sid":"AAAAAAAAAAAAAAAAAAAAAA"}"#,
            r#"{"sid":"short","until":7}"#,
            r#"{"device":"AAAA","until":7}"#,
            r#"{"jti":"short","until":7}"#,
            r#"{"sub":"alice","until":7}"#,
            r#"{"everyone":false,"mark":"1","until":7}"#,
            r#"{"sid":"AAAAAAAAAAAAAAAAAAAAAA","sub":"alice","mark":"1","until":7}"#,
        ] {
            assert_eq!(read(&format!("event: revoked\ndata: {data}\n\n")), Err(LineError::Unreadable), "{data}");
        }
    }

    #[test]
    fn events_of_other_kinds_are_no_announcements() {
        assert_eq!(read("event: hello\ndata: x\n\ndata: y\n\nevent: revoked\n\n\n").unwrap(), []);
    }

    #[test]
    fn a_line_without_an_end_is_not_read_forever() {
        let long = "x".repeat(MAX_LINE_BYTES + 1);
        assert_eq!(read(&long), Err(LineError::TooLong));
        let many = format!("data: {}\n", "x".repeat(100)).repeat(100);
        assert_eq!(read(&many), Err(LineError::TooLong));
    }

    #[test]
    fn an_id_that_no_header_can_have_is_ignored() {
        for id in ["a b", "é", "\u{0}", &"x".repeat(129)] {
            assert_eq!(read(&format!("id: {id}\n\n")).unwrap(), [], "{id}");
        }
    }
}
