//! Buffers of large frames, kept for the next ones.
//!
//! A buffer of hundreds of kilobytes that is freed goes back to the system after some milliseconds; the next one has to
//! be mapped again, page by page, which takes longer than all else that is done with the frame. So a few are kept, for
//! all connections.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Smaller buffers are left to the allocator.
const KEPT_BYTES_MIN: usize = 64 * 1024;
/// Larger ones are rare.
const KEPT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// New buffers are made a quarter larger than needed, but not larger than this.
const LARGER_UP_TO: usize = 1024 * 1024;
/// All buffers that are kept, together.
const TOTAL_BYTES_MAX: usize = 4 * 1024 * 1024;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An empty buffer for at least `bytes` bytes.
pub(super) fn take(bytes: usize) -> Vec<u8> {
    if !(KEPT_BYTES_MIN..=KEPT_BYTES_MAX).contains(&bytes) {
        return Vec::with_capacity(bytes);
    }
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    // A frame that is kept for long must not keep much more memory than it needs.
    let fits = |buffer: &Vec<u8>| (bytes..=2 * bytes).contains(&buffer.capacity());
    match kept.iter().position(fits) {
        Some(at) => kept.swap_remove(at),
        // Frames of the next prompts are a little smaller or larger.
        None => Vec::with_capacity(bytes.max((bytes + bytes / 4).min(LARGER_UP_TO))),
    }
}

/// The bytes of a complete frame. The buffer is kept when the last reader is done.
pub(super) fn share(buffer: Vec<u8>) -> Bytes {
    if (KEPT_BYTES_MIN..=KEPT_BYTES_MAX).contains(&buffer.capacity()) {
        Bytes::from_owner(Frame(buffer))
    } else {
        Bytes::from(buffer)
    }
}

struct Frame(Vec<u8>);

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = kept.iter().map(Vec::capacity).sum();
        if total + buffer.capacity() <= TOTAL_BYTES_MAX {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_bounded() {
        // Other tests of this program use the same buffers, so nothing is said of which one comes.
        let frames: Vec<Bytes> = (0..32)
            .map(|n| {
                let mut buffer = take(512 * 1024);
                assert!(buffer.is_empty() && buffer.capacity() >= 512 * 1024);
                buffer.resize(500 * 1024, n);
                share(buffer)
            })
            .collect();
        assert!(
            (0..).zip(&frames).all(|(n, frame)| frame.iter().all(|byte| *byte == n)),
            "no two share memory"
        );
        drop(frames);
        let kept: usize = KEPT.lock().expect("no test panics with it").iter().map(Vec::capacity).sum();
        assert!((KEPT_BYTES_MIN..=TOTAL_BYTES_MAX).contains(&kept), "{kept} bytes are kept");
        assert!(take(300 * 1024).capacity() <= 600 * 1024, "not a much larger one");
        assert_eq!(take(100).capacity(), 100);
    }
}
