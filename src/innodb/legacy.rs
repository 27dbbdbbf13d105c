//! The checksum of servers before CRC-32C. No supported server writes it any more, but files that were made by one and
//! upgraded since keep such pages until they are changed (`r[page.old.legacy]`).
//!
//! Written from the formula as publicly documented, checked against published values of it; no page of such a server
//! was at hand.

const MASK_1: u32 = 1_463_735_687;
const MASK_2: u32 = 1_653_893_711;

const fn fold_pair(fold: u32, byte: u32) -> u32 {
    let mixed = ((fold ^ byte ^ MASK_2) << 8).wrapping_add(fold);
    (mixed ^ MASK_1).wrapping_add(byte)
}

fn fold(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |fold, byte| fold_pair(fold, u32::from(*byte)))
}

/// What the first four bytes of an old page hold: over bytes 4 to 25 and 38 to the trailer.
pub(crate) fn head_checksum(page: &[u8]) -> Option<u32> {
    let end = page.len().checked_sub(8)?;
    Some(fold(page.get(4..26)?).wrapping_add(fold(page.get(38..end)?)))
}

/// What the first four bytes of the trailer hold: over the first 26 bytes, checksum included.
pub(crate) fn tail_checksum(page: &[u8]) -> Option<u32> {
    Some(fold(page.get(..26)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_of_the_formula() {
        for (fold, byte, value) in [
            (0, 0, 3_277_101_703),
            (0, 0xff, 3_277_088_390),
            (0xff, 0, 3_277_088_120),
            (0xff, 0xff, 3_277_101_943),
        ] {
            assert_eq!(fold_pair(fold, byte), value);
        }
    }
}
