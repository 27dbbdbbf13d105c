//! Big-endian reads and writes at the fields of a layout; out of bounds is `None`, never a panic.

use crate::base::spec::Field;

/// One field of a layout; shorter than the literal.
pub(crate) const fn field(
    offset: usize,
    size: usize,
    name: &'static str,
    kind: &'static str,
) -> Field {
    Field {
        offset,
        size,
        name,
        kind,
    }
}

/// The `N` bytes at `offset`.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

/// The big-endian `u16` at `offset`.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_be_bytes)
}

/// The big-endian `u32` at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_be_bytes)
}

/// The big-endian `u64` at `offset`.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_be_bytes)
}

/// Puts `value` at `offset` if it fits there, and says whether it did.
pub(crate) fn put_at(bytes: &mut [u8], offset: usize, value: &[u8]) -> bool {
    match bytes
        .get_mut(offset..)
        .and_then(|rest| rest.get_mut(..value.len()))
    {
        Some(target) => {
            target.copy_from_slice(value);
            true
        }
        None => false,
    }
}
