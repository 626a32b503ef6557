//! The revocations as services without the store follow them: one announcement after another, and as of when they are complete.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Node;
use super::log::Subject;
use super::revocations::{EVERYONE, LiveRevocations};
use crate::feed::Announcement;
use crate::time::{Timestamp, jitter};

/// The shortest time between two messages that say as of when the announcements are complete.
const SAY_EVERY: Duration = Duration::from_millis(900);
/// The longest time for which one connection is served, shortened by up to a tenth. Then the other side connects again,
/// perhaps to another node.
const MAX_LIFE: Duration = Duration::from_secs(600);

/// What is sent to those who follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Revoked {
        id: String,
        announcement: Announcement,
    },
    /// Where to go on from.
    Position {
        id: String,
    },
    /// All that was revoked up to so many milliseconds after the request came is announced. By a clock that nobody sets, and
    /// however long the message takes.
    Complete {
        millis: i64,
    },
}

impl LiveRevocations {
    /// Lets others follow.
    pub(crate) fn announce(&self) {
        self.log.begin();
    }

    /// Whether others may follow.
    pub(crate) fn is_announced(&self) -> bool {
        self.log.is_on()
    }

    /// Ends all [`Follower`]s, and those that come.
    pub(crate) fn end_announcements(&self) {
        self.log.finish();
    }

    pub(crate) fn has_ended_announcements(&self) -> bool {
        self.log.is_finished()
    }

    fn announcement(&self, subject: Subject) -> Option<Announcement> {
        let seconds = |until: Timestamp| until.as_secs().saturating_add(1);
        match subject {
            Subject::Session(id) => {
                let until = seconds(self.session_until(id)?);
                Some(Announcement { sid: Some(id), until, ..Announcement::default() })
            }
            Subject::Token(id) => {
                let until = seconds(self.token_until(id)?);
                Some(Announcement { jti: Some(id.to_string().into()), until, ..Announcement::default() })
            }
            Subject::Users(scope) => {
                let (number, here, until) = self.users_mark(&scope)?;
                let mark = if here == 0 {
                    number.to_string()
                } else {
                    // A revocation of this node's own may have a number that another node has given before.
                    format!("{number}.{here}.{:016x}", self.log.epoch())
                };
                let everyone = *scope == *EVERYONE;
                let sub = (!everyone).then_some(scope);
                let mark = Some(mark.into());
                Some(Announcement { sub, everyone, mark, until: seconds(until), ..Announcement::default() })
            }
        }
    }
}

/// Follows the revocations of a node.
pub(crate) struct Follower {
    node: Arc<Node>,
    began: Instant,
    ends_at: Instant,
    /// Up to where the log was read. None if all that is in force has to be sent.
    position: Option<u64>,
    said: Option<Instant>,
    queue: VecDeque<Message>,
    changed: watch::Receiver<()>,
    stop: watch::Receiver<()>,
}

impl Follower {
    /// `resume` is the id of the last message that was received before. `began` is when the request came.
    pub(crate) fn new(node: Arc<Node>, resume: Option<&str>, began: Instant) -> Self {
        let log = &node.revoked.log;
        Self {
            began,
            ends_at: began + MAX_LIFE.mul_f64(1.0 - jitter() / 10.0),
            position: resume.and_then(|id| log.position(id)),
            said: None,
            queue: VecDeque::new(),
            changed: log.changed(),
            stop: node.stop.clone(),
            node,
        }
    }

    /// The next message. None at the end.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.queue.pop_front() {
                return Some(message);
            }
            let is_over = self.node.revoked.log.is_finished();
            if is_over || self.node.is_stopped() || Instant::now() >= self.ends_at {
                return None;
            }
            self.changed.mark_unchanged();
            // Before the log is read, so that it is complete as of then.
            let complete = self.node.revoked.freshness().read_as_of();
            self.read();
            if let Some(complete) = complete
                && self.said.is_none_or(|said| complete.saturating_duration_since(said) >= SAY_EVERY)
            {
                self.said = Some(complete);
                self.queue.push_back(Message::Complete { millis: difference(complete, self.began) });
            }
            if self.queue.is_empty() {
                tokio::select! {
                    _ = self.changed.changed() => {}
                    _ = self.stop.changed() => {}
                    () = sleep_until(self.ends_at) => {}
                }
            }
        }
    }

    /// Queues what was announced since.
    fn read(&mut self) {
        let revoked = &self.node.revoked;
        let log = &revoked.log;
        if let Some(new) = self.position.and_then(|position| log.since(position)) {
            for (position, subject) in new {
                self.position = Some(position);
                if let Some(announcement) = revoked.announcement(subject) {
                    self.queue.push_back(Message::Revoked { id: log.id(position, true), announcement });
                }
            }
            return;
        }
        // What is added meanwhile is in the log from here on.
        let position = log.end();
        for subject in revoked.subjects() {
            if let Some(announcement) = revoked.announcement(subject) {
                self.queue.push_back(Message::Revoked { id: log.id(position, false), announcement });
            }
        }
        self.position = Some(position);
        self.queue.push_back(Message::Position { id: log.id(position, true) });
    }
}

/// The milliseconds from `earlier` to `later`, rounded down.
fn difference(later: Instant, earlier: Instant) -> i64 {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match later.checked_duration_since(earlier) {
        Some(after) => millis(after),
        None => -millis(earlier.saturating_duration_since(later)) - 1,
    }
}
