//! The access tokens that this node has verified, so that the next request with one of them needs no signature.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use quick_cache::Equivalent;
use quick_cache::sync::Cache;

use super::Verified;

/// How many bytes of a token are hashed.
const HASHED: usize = 16;

/// Bounded: the tokens used most stay. They are known by their whole text, because a part of it, even the signature, does not
/// identify a token.
pub(super) struct KnownTokens<C>(Cache<Text, Arc<Verified<C>>>);

impl<C> KnownTokens<C> {
    pub(super) fn new(capacity: usize) -> Self {
        Self(Cache::new(capacity))
    }

    pub(super) fn get(&self, token: &[u8]) -> Option<Arc<Verified<C>>> {
        self.0.get(&TextRef(token))
    }

    /// The token has been verified: with anything else in it, the cache could be filled with texts of the same hash.
    pub(super) fn insert(&self, token: &[u8], verified: Arc<Verified<C>>) {
        self.0.insert(Text(token.into()), verified);
    }
}

#[derive(PartialEq, Eq)]
struct Text(Box<[u8]>);

struct TextRef<'a>(&'a [u8]);

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        TextRef(&self.0).hash(state);
    }
}

/// The hash covers the end alone, which belongs to the signature and so is as good as random.
impl Hash for TextRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0.last_chunk::<HASHED>() {
            Some(end) => state.write_u128(u128::from_ne_bytes(*end)),
            None => state.write(self.0),
        }
    }
}

impl Equivalent<Text> for TextRef<'_> {
    fn equivalent(&self, text: &Text) -> bool {
        *self.0 == *text.0
    }
}
