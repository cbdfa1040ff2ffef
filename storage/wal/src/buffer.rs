//! A block of memory that starts at a multiple of 4096, as O_DIRECT wants it.

use crate::format::BLOCK;

/// Fixed-size aligned bytes.
pub(crate) struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zeros.
    pub(crate) fn new(len: usize) -> AlignedBuf {
        let bytes = vec![0u8; len + BLOCK as usize];
        let start = bytes.as_ptr().align_offset(BLOCK as usize);
        assert!(start <= BLOCK as usize, "a byte pointer can always be aligned");
        AlignedBuf { bytes, start, len }
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
