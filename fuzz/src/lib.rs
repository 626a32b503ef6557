//! Shared by the targets: an allocator that counts, a reader for pieces of an input, and keys to sign with.

use std::alloc::{GlobalAlloc, Layout, System};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

pub const SECRET: &str = "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";
pub const OLD_SECRET: &str = "Qe8Lr2Vt6Yw0Zx4Ab9Cn3Dm7Fk1Gj5Hp";
pub const ISSUER: &str = "app";
pub const AUDIENCE: &str = "web";

/// Counts the bytes that are allocated and not freed. A target has one thread.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn allocated(bytes: usize) {
    let live = LIVE.load(Relaxed).wrapping_add(bytes);
    LIVE.store(live, Relaxed);
    if live > PEAK.load(Relaxed) {
        PEAK.store(live, Relaxed);
    }
}

fn freed(bytes: usize) {
    LIVE.store(LIVE.load(Relaxed).wrapping_sub(bytes), Relaxed);
}

// SAFETY: the system's allocator does all of the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        freed(layout.size());
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks exist while one is copied to the other.
        allocated(size);
        freed(layout.size());
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Runs `work`, which must never hold more than `most` bytes of the heap.
pub fn bounded<T>(most: usize, work: impl FnOnce() -> T) -> T {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    let held = PEAK.load(Relaxed).wrapping_sub(before);
    assert!(held <= most, "held {held} bytes of the heap, {most} are allowed");
    result
}

/// An input that is read from the front. Past its end it reads as zeros.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// At most this many bytes.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Up to the next line break, which is dropped.
    pub fn line(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.unwrap_or(self.0.len()));
        self.byte();
        line
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Changes a text in several places, as determined by the rest of the input.
pub fn change(text: &mut Vec<u8>, mut input: Input<'_>) {
    for _ in 0..16 {
        if input.is_empty() {
            return;
        }
        let operation = input.byte();
        let at = usize::from(u16::from_le_bytes(input.array()));
        let byte = input.byte();
        // The text may have become empty.
        let at = at % text.len().max(1);
        match operation % 8 {
            0 if at < text.len() => text[at] = byte,
            1 if at < text.len() => text[at] ^= 1 << (byte % 8),
            2 => text.insert(at, byte),
            3 if at < text.len() => {
                text.remove(at);
            }
            4 => text.truncate(at),
            5 => text.push(byte),
            6 if at < text.len() => {
                let other = usize::from(byte) % text.len();
                text.swap(at, other);
            }
            // Repeats its own end.
            7 if text.len() < 4096 => text.extend_from_within(at..),
            _ => {}
        }
    }
}

/// HMAC-SHA-256, independent of the crate's implementation.
pub fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC accepts keys of every length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signs header and payload with this key.
pub fn jws(header: &str, payload: &[u8], key: &[u8; 32]) -> String {
    let message = format!("{header}.{}", base64url(payload));
    let signature = base64url(hmac(key, message.as_bytes()));
    format!("{message}.{signature}")
}

/// Whether the text is signed with the key, whatever its content.
pub fn is_signed(token: &str, key: &[u8; 32]) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    signature == base64url(hmac(key, message.as_bytes()))
}

/// The result of a future that never has to wait.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the future waits"),
    }
}
