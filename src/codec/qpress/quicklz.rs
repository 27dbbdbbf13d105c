//! Packets of QuickLZ 1.5, level 1, without a streaming buffer (`r[codec.qp.packet]`). Written from a description of the
//! format that was checked against packets of real backups.
//!
//! A packet is a sequence of items: literal bytes and matches, told apart by the bits of control words. A match names no
//! distance but a hash: both ends keep the same table of where each hash of three bytes was seen last.

use super::super::CodecError;

/// Packets for less than this many bytes have the short header.
const SHORT_LEN_MAX: usize = 215;
/// Header: flags, encoded length, plain length, a byte each.
const SHORT_HEAD_LEN: usize = 3;
/// Header: flags, then two `u32`.
const LONG_HEAD_LEN: usize = 9;
/// Most bytes of a header.
pub const HEAD_LEN_MAX: usize = LONG_HEAD_LEN;
/// Flags of every packet: level 1, and a bit that is always set.
const FLAGS: u8 = 0x44;
/// Flag: the packet is compressed, not stored.
const COMPRESSED: u8 = 0x01;
/// Flag: the header is a long one.
const LONG: u8 = 0x02;
/// Most bytes that a packet may be longer than its content.
const GROWTH_MAX: u64 = 400;
/// Plain bytes at the end that no match begins in.
const TAIL_LEN: usize = 11;
/// Plain bytes at the very end that are always literals.
const LITERAL_TAIL_LEN: usize = 4;
/// Longest match.
const MATCH_LEN_MAX: usize = 255;
/// Longest match that is written in two bytes.
const SHORT_MATCH_LEN_MAX: usize = 17;
/// Least bytes behind the header of a compressed packet; readers look ahead that far.
const BODY_LEN_MIN: usize = 9;
/// Marks the end of the items that a control word is about.
const SENTINEL: u32 = 1 << 31;
/// A table entry that was never set.
const UNSET: u32 = u32::MAX;

/// What the header of a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    compressed: bool,
    len: usize,
    /// Bytes of the packet, header included.
    pub encoded_len: usize,
    /// Bytes of its content.
    pub plain_len: usize,
}

impl Head {
    /// Reads a header from the first bytes of a packet; `None` when it needs more of them.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, CodecError> {
        let Some(flags) = bytes.first() else {
            return Ok(None);
        };
        if flags & !(COMPRESSED | LONG) != FLAGS {
            return Err(CodecError::damage(format!(
                "qpress: no QuickLZ packet of level 1 has the flags {flags:#04x}"
            )));
        }
        let compressed = flags & COMPRESSED != 0;
        let (len, encoded_len, plain_len) = match bytes {
            [_, e, p, ..] if flags & LONG == 0 => (SHORT_HEAD_LEN, u64::from(*e), u64::from(*p)),
            [_, a, b, c, d, e, f, g, h, ..] if flags & LONG != 0 => (
                LONG_HEAD_LEN,
                u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
                u64::from(u32::from_le_bytes([*e, *f, *g, *h])),
            ),
            _ => return Ok(None),
        };
        let least = if compressed { 1 } else { plain_len };
        if encoded_len < len as u64 + least || encoded_len > plain_len + GROWTH_MAX {
            return Err(CodecError::damage(format!(
                "qpress: a packet of {encoded_len} bytes cannot hold {plain_len}"
            )));
        }
        let sizes = (usize::try_from(encoded_len), usize::try_from(plain_len));
        let (Ok(encoded_len), Ok(plain_len)) = sizes else {
            return Err(CodecError::refused("qpress: a packet is too large"));
        };
        Ok(Some(Self {
            compressed,
            len,
            encoded_len,
            plain_len,
        }))
    }
}

/// Decodes `packet` into `plain`, which is at least as long as its header says; returns that length.
pub fn decode(packet: &[u8], plain: &mut [u8]) -> Result<usize, CodecError> {
    let damaged = || CodecError::damage("qpress: a packet is damaged");
    let head = Head::parse(packet)?.ok_or_else(damaged)?;
    let body = packet.get(head.len..head.encoded_len).ok_or_else(damaged)?;
    let plain = plain.get_mut(..head.plain_len).ok_or_else(damaged)?;
    if head.compressed {
        decode_items(body, plain).ok_or_else(damaged)?;
    } else {
        let body = body.get(..head.plain_len).ok_or_else(damaged)?;
        plain.copy_from_slice(body);
    }
    Ok(head.plain_len)
}

/// Hash of the three low bytes of a word.
const fn hash(word: u32) -> usize {
    let word = word & 0x00ff_ffff;
    (((word >> 12) ^ word) & 0xfff) as usize
}

/// Where each hash was seen last.
struct Table {
    places: [u32; 4096],
    /// The next position to enter.
    next: usize,
}

impl Table {
    const fn new() -> Self {
        Self {
            places: [UNSET; 4096],
            next: 0,
        }
    }

    /// Enters all positions before `end` that were not passed over. `plain` reaches at least two bytes beyond them.
    fn enter(&mut self, plain: &[u8], end: usize) {
        while self.next < end {
            let word = match plain.get(self.next..self.next + 4) {
                Some([a, b, c, d]) => u32::from_le_bytes([*a, *b, *c, *d]),
                _ => match plain.get(self.next..self.next + 3) {
                    Some([a, b, c]) => u32::from_le_bytes([*a, *b, *c, 0]),
                    _ => return,
                },
            };
            if let (Some(place), Ok(at)) =
                (self.places.get_mut(hash(word)), u32::try_from(self.next))
            {
                *place = at;
            }
            self.next += 1;
        }
    }

    /// Where a hash was seen last.
    fn place(&self, hash: usize) -> Option<usize> {
        let place = *self.places.get(hash)?;
        (place != UNSET).then_some(place as usize)
    }
}

/// The first four bytes as a word, and the rest.
fn take_word(body: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = body.split_first_chunk()?;
    Some((u32::from_le_bytes(*word), rest))
}

/// Fills `plain` from the items of a compressed packet; `None` when they do not fit together.
fn decode_items(mut body: &[u8], plain: &mut [u8]) -> Option<()> {
    let mut table = Table::new();
    let mut control = 1;
    let mut at = 0;
    // Up to here literals come in the midst of matches; behind it nothing but literals follow.
    let literal_end = plain.len().saturating_sub(TAIL_LEN);
    while at < plain.len() {
        if control == 1 {
            (control, body) = take_word(body)?;
            // A word without its sentinel would never end.
            if control & SENTINEL == 0 {
                return None;
            }
        }
        if control & 1 != 0 {
            control >>= 1;
            let (&[low, high], rest) = body.split_first_chunk()?;
            let pair = u16::from_le_bytes([low, high]);
            let len = match pair & 0xf {
                0 => {
                    let (len, rest) = rest.split_first()?;
                    body = rest;
                    usize::from(*len)
                }
                n => {
                    body = rest;
                    usize::from(n) + 2
                }
            };
            let from = table.place(usize::from(pair >> 4))?;
            if len < 3 || from >= at {
                return None;
            }
            copy_match(plain, from, at, len)?;
            table.enter(plain, at + 1);
            at += len;
            table.next = at;
        } else if at < literal_end {
            // As many literals as the word has zero bits, up to where the tail begins.
            let run = (control.trailing_zeros() as usize).min(literal_end - at);
            let (literals, rest) = body.split_at_checked(run)?;
            plain.get_mut(at..at + run)?.copy_from_slice(literals);
            body = rest;
            control >>= run;
            at += run;
            // The hash of the last two positions takes bytes that are not there yet.
            table.enter(plain.get(..at)?, at.saturating_sub(2));
        } else {
            return decode_tail(body, plain.get_mut(at..)?, control);
        }
    }
    Some(())
}

/// The literals at the end, between which only control words stand.
fn decode_tail(mut body: &[u8], plain: &mut [u8], mut control: u32) -> Option<()> {
    for byte in plain {
        if control == 1 {
            (_, body) = take_word(body)?;
            control = SENTINEL;
        }
        let (literal, rest) = body.split_first()?;
        *byte = *literal;
        body = rest;
        control >>= 1;
    }
    Some(())
}

/// Copies `len` bytes from `from` to `at`, each after the one before it was written.
fn copy_match(plain: &mut [u8], from: usize, at: usize, len: usize) -> Option<()> {
    let distance = at - from;
    if distance >= len {
        plain.get(at..at + len)?;
        plain.copy_within(from..from + len, at);
        return Some(());
    }
    let bytes = plain.get_mut(from..at + len)?;
    if distance == 1 {
        let byte = *bytes.first()?;
        bytes.fill(byte);
        return Some(());
    }
    // What was written doubles the period that can be copied at once.
    let mut done = distance;
    while done < bytes.len() {
        let n = done.min(bytes.len() - done);
        bytes.copy_within(..n, done);
        done += n;
    }
    Some(())
}

/// Most bytes of a packet that [`encode`] makes of `plain_len` bytes.
#[must_use]
pub const fn bound(plain_len: usize) -> usize {
    plain_len + LONG_HEAD_LEN
}

/// Encodes `plain`, at most 4 GiB, into `packet`, which is at least [`bound`] bytes long; returns the packet's length.
/// What would not become shorter is stored.
pub fn encode(plain: &[u8], packet: &mut [u8]) -> Option<usize> {
    let head_len = if plain.len() <= SHORT_LEN_MAX {
        SHORT_HEAD_LEN
    } else {
        LONG_HEAD_LEN
    };
    let (head, body) = packet.split_at_mut_checked(head_len)?;
    let room = body.get_mut(..plain.len())?;
    let (flags, body_len) = match encode_items(plain, room) {
        Some(n) => (FLAGS | COMPRESSED, n),
        None => {
            room.copy_from_slice(plain);
            (FLAGS, plain.len())
        }
    };
    let len = head_len + body_len;
    match head {
        [f, e, p] => {
            *f = flags;
            *e = u8::try_from(len).ok()?;
            *p = u8::try_from(plain.len()).ok()?;
        }
        [f, sizes @ ..] => {
            *f = flags | LONG;
            let (encoded, content) = sizes.split_at_mut_checked(4)?;
            encoded.copy_from_slice(&u32::try_from(len).ok()?.to_le_bytes());
            content.copy_from_slice(&u32::try_from(plain.len()).ok()?.to_le_bytes());
        }
        [] => return None,
    }
    Some(len)
}

/// The items of a packet under construction.
struct Items<'a> {
    body: &'a mut [u8],
    len: usize,
    /// Where the current control word stands.
    control_at: usize,
    control: u32,
    /// Items it is about so far.
    items: u32,
}

impl Items<'_> {
    /// Adds an item; `None` when there is no room for it.
    fn add(&mut self, is_match: bool, bytes: &[u8]) -> Option<()> {
        if self.items == 31 {
            self.close_word()?;
            self.control_at = self.len;
            self.len += 4;
            (self.control, self.items) = (0, 0);
        }
        self.control |= u32::from(is_match) << self.items;
        self.items += 1;
        let end = self.len + bytes.len();
        self.body.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    fn close_word(&mut self) -> Option<()> {
        let word = self.control | SENTINEL;
        let place = self.body.get_mut(self.control_at..self.control_at + 4)?;
        place.copy_from_slice(&word.to_le_bytes());
        Some(())
    }
}

/// Writes the items of `plain` to `body`; `None` when they do not fit.
fn encode_items(plain: &[u8], body: &mut [u8]) -> Option<usize> {
    let mut table = Table::new();
    let mut items = Items {
        body,
        len: 4,
        control_at: 0,
        control: 0,
        items: 0,
    };
    let match_end = plain.len().saturating_sub(TAIL_LEN);
    let mut at = 0;
    while at < plain.len() {
        if at < match_end {
            // The reader's table holds what it could enter when it comes here.
            table.enter(plain, at.saturating_sub(2));
            let word = match plain.get(at..at + 3) {
                Some([a, b, c]) => u32::from_le_bytes([*a, *b, *c, 0]),
                _ => return None,
            };
            let hash = hash(word);
            let room = (plain.len() - LITERAL_TAIL_LEN - at).min(MATCH_LEN_MAX);
            // Position 0 is never referred to: the reference decoder could not tell it from an empty entry.
            let found = table.place(hash).filter(|from| *from > 0).map(|from| {
                let (a, b) = (plain.get(from..)?, plain.get(at..at + room)?);
                Some(a.iter().zip(b).take_while(|(x, y)| x == y).count())
            });
            if let Some(Some(len)) = found
                && len >= 3
            {
                let hash = u16::try_from(hash << 4).ok()?;
                if len <= SHORT_MATCH_LEN_MAX {
                    let pair = hash | u16::try_from(len - 2).ok()?;
                    items.add(true, &pair.to_le_bytes())?;
                } else {
                    let [low, high] = hash.to_le_bytes();
                    items.add(true, &[low, high, u8::try_from(len).ok()?])?;
                }
                table.enter(plain, at + 1);
                at += len;
                table.next = at;
                continue;
            }
        }
        items.add(false, plain.get(at..=at)?)?;
        at += 1;
    }
    items.close_word()?;
    // Filler.
    let len = items.len.max(BODY_LEN_MIN);
    items.body.get_mut(items.len..len)?.fill(0);
    Some(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roundtrip(plain: &[u8]) -> usize {
        let mut packet = vec![0; bound(plain.len())];
        let n = encode(plain, &mut packet).unwrap();
        let mut back = vec![0xee; plain.len()];
        assert_eq!(decode(&packet[..n], &mut back).unwrap(), plain.len());
        assert!(back == plain);
        n
    }

    #[test]
    fn what_can_be_shorter_is() {
        assert!(roundtrip(&[0; 65536]) < 1500);
        assert!(roundtrip(&b"the quick brown fox ".repeat(1000)) < 1500);
        for len in 0..400 {
            roundtrip(&vec![7; len]);
            roundtrip(&b"abcabcabd".repeat(50)[..len]);
        }
    }

    proptest! {
        #[test]
        fn everything_comes_back(
            parts in proptest::collection::vec(
                (any::<u8>(), 1usize..40, 1usize..60), 0..60),
        ) {
            let mut plain = Vec::new();
            for (seed, period, len) in parts {
                for i in 0..len {
                    plain.push(seed.wrapping_mul(31).wrapping_add((i % period).to_le_bytes()[0]));
                }
            }
            roundtrip(&plain);
        }

        #[test]
        fn nothing_makes_the_decoder_panic(
            mut packet in proptest::collection::vec(any::<u8>(), 0..300), plain_len in 0u8..=255,
        ) {
            let len = u8::try_from(packet.len()).unwrap_or(255);
            if let [flags, encoded, plain, ..] = packet.as_mut_slice() {
                *flags = FLAGS | COMPRESSED;
                *encoded = len;
                *plain = plain_len;
            }
            let mut out = [0; 300];
            decode(&packet, &mut out).ok();
        }
    }
}
