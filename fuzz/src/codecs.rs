//! Decoders of single files.

use xbpipe::codec::{CodecError, Contexts, Decoder, Fault, Split, Splitter, Unit, decompressors};

/// Longest unit that is decoded as a whole; longer ones claim what they like.
const WHOLE_LEN_MAX: u64 = 1 << 20;

/// Most plain bytes that are looked at.
const PLAIN_LEN_MAX: usize = 8 << 20;

/// What a file decodes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decoded {
    /// Content before the end or the error.
    pub plain: Vec<u8>,
    /// Fault, offset in the encoded file, message.
    pub error: Option<(Fault, u64, String)>,
}

/// How units are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// As a whole where their length is known.
    Whole,
    /// In parts of this many bytes, into buffers of as many.
    Parts(usize),
}

/// Decodes a file that comes in pieces.
pub fn decode<'a>(
    decoder: &dyn Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    how: How,
) -> Decoded {
    decode_named(decoder, b"t.ibd", pieces, how)
}

/// Decodes a file of this name, without the suffix.
pub fn decode_named<'a>(
    decoder: &dyn Decoder,
    name: &[u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
    how: How,
) -> Decoded {
    let mut decoded = Decoded::default();
    let splitter = decoder.begin(name);
    let (mut at, result) = (0, run(splitter, pieces, how, &mut decoded.plain));
    if let Err((unit_at, error)) = result {
        at += unit_at + error.offset();
        decoded.error = Some((error.fault(), at, error.to_string()));
    }
    decoded
}

fn run<'a>(
    mut splitter: Box<dyn Splitter>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    how: How,
    plain: &mut Vec<u8>,
) -> Result<(), (u64, CodecError)> {
    let mut contexts = Contexts::default();
    let mut unit_bytes = Vec::new();
    let mut unit_at = 0;
    // What is counted, and where it begins.
    let mut counted = None;
    for mut piece in pieces {
        while !piece.is_empty() {
            match splitter.feed(piece).map_err(|e| (unit_at, e))? {
                Split::More => {
                    unit_bytes.extend_from_slice(piece);
                    break;
                }
                Split::Skip(n) => {
                    assert!(n > 0 && n <= piece.len(), "a skip of {n}");
                    unit_at += (unit_bytes.len() + n) as u64;
                    unit_bytes.clear();
                    piece = &piece[n..];
                }
                Split::Begin(n, content) => {
                    assert!(n > 0 && n <= piece.len(), "a head of {n}");
                    counted = Some((content, plain.len()));
                    unit_at += (unit_bytes.len() + n) as u64;
                    unit_bytes.clear();
                    piece = &piece[n..];
                }
                Split::End(n, end) => {
                    assert!(n > 0 && n <= piece.len(), "a tail of {n}");
                    let (mut content, from) = counted.take().expect("a beginning");
                    content.update(&plain[from..]);
                    end.check(&content).map_err(|e| (unit_at, e))?;
                    unit_at += (unit_bytes.len() + n) as u64;
                    unit_bytes.clear();
                    piece = &piece[n..];
                }
                Split::Unit(n, unit) => {
                    unit_bytes.extend_from_slice(&piece[..n]);
                    piece = &piece[n..];
                    assert!(!unit_bytes.is_empty(), "a unit of no bytes");
                    decode_unit(&unit, &unit_bytes, how, plain, &mut contexts)
                        .map_err(|e| (unit_at, e))?;
                    unit_at += unit_bytes.len() as u64;
                    unit_bytes.clear();
                }
            }
            if plain.len() > PLAIN_LEN_MAX {
                return Ok(());
            }
        }
    }
    match splitter.finish().map_err(|e| (unit_at, e))? {
        Some(unit) => {
            decode_unit(&unit, &unit_bytes, how, plain, &mut contexts).map_err(|e| (unit_at, e))
        }
        None => Ok(()),
    }
}

fn decode_unit(
    unit: &Unit,
    encoded: &[u8],
    how: How,
    plain: &mut Vec<u8>,
    contexts: &mut Contexts,
) -> Result<(), CodecError> {
    if let Some(len) = unit.encoded_len {
        assert_eq!(len, encoded.len() as u64, "a unit has the length it states");
    }
    let begin = plain.len();
    let part_len = match (how, unit.plain_max()) {
        (How::Whole, Some(max)) if max <= WHOLE_LEN_MAX => {
            plain.resize(begin + usize::try_from(max).unwrap(), 0);
            let n = unit.decoder.decode(encoded, &mut plain[begin..], contexts);
            match n {
                Ok(n) if unit.plain_len.is_none_or(|len| len == n as u64) => {
                    plain.truncate(begin + n);
                    return Ok(());
                }
                Ok(_) => {
                    plain.truncate(begin);
                    return Err(CodecError::damage("another length than stated"));
                }
                Err(error) => {
                    plain.truncate(begin);
                    return Err(error);
                }
            }
        }
        (How::Whole, _) => 1 << 16,
        (How::Parts(len), _) => len,
    };
    if unit.stream_memory > 32 << 20 {
        return Err(CodecError::refused("too large for this test"));
    }
    let mut stream = unit.decoder.stream()?;
    let mut buf = vec![0; part_len];
    let mut ended = false;
    for mut part in encoded.chunks(part_len) {
        loop {
            let step = stream.step(part, &mut buf)?;
            plain.extend_from_slice(&buf[..step.produced]);
            part = &part[step.consumed..];
            ended = step.ended;
            if ended || plain.len() > PLAIN_LEN_MAX {
                break;
            }
            if part.is_empty() && step.produced < buf.len() {
                break;
            }
            if step.consumed == 0 && step.produced == 0 {
                return Err(CodecError::damage("no progress"));
            }
        }
        if plain.len() > PLAIN_LEN_MAX {
            return Ok(());
        }
        if ended && !part.is_empty() {
            return Err(CodecError::damage("ends before its structure does"));
        }
    }
    if ended {
        Ok(())
    } else {
        Err(CodecError::damage("does not end where its structure does"))
    }
}

/// The first byte chooses the format, the second how the rest is cut. However it comes, it must decode to the same.
pub fn codec_decode(bytes: &[u8]) {
    let [format, cut, rest @ ..] = bytes else {
        return;
    };
    let decoders = decompressors();
    let decoder = decoders[usize::from(*format) % decoders.len()].as_ref();
    same_however_cut(decoder, *cut, rest, true);
}

/// A file reads the same in pieces of `cut` bytes and, with `parts`, when its units are decoded in such parts.
pub fn same_however_cut(decoder: &dyn Decoder, cut: u8, rest: &[u8], parts: bool) {
    let whole = decode(decoder, [rest], How::Whole);
    let cut = usize::from(cut).clamp(1, rest.len().max(1));
    let pieces = decode(decoder, rest.chunks(cut), How::Whole);
    assert_eq!(whole, pieces, "cut into pieces of {cut} it reads otherwise");
    if !parts {
        return;
    }
    let parts = decode(decoder, rest.chunks(cut), How::Parts(cut));
    if decoder.suffix() == ".zst" && one_is_stricter(&whole, &parts) {
        return;
    }
    assert_eq!(
        whole.error.is_some(),
        parts.error.is_some(),
        "decoded in parts it ends otherwise: {:?} {:?}",
        whole.error,
        parts.error
    );
    if whole.error.is_none() {
        assert_eq!(whole.plain, parts.plain, "decoded in parts it is different");
    }
}

/// The library of zstd decodes a frame at once by other code than in parts, and that of a malformed frame which no writer makes
/// (a repeated byte no times, a compressed block of no bytes) one of them takes what the other one calls damaged. A window may be too
/// large for parts as well. What both decode is the same.
fn one_is_stricter(whole: &Decoded, parts: &Decoded) -> bool {
    let (good, bad) = match (&whole.error, &parts.error) {
        (None, Some(_)) => (whole, parts),
        (Some(_), None) => (parts, whole),
        _ => return false,
    };
    assert!(
        good.plain.starts_with(&bad.plain),
        "decoded in parts it is different"
    );
    true
}

/// What the QuickLZ encoder makes is decoded to the same.
pub fn quicklz_roundtrip(bytes: &[u8]) {
    use xbpipe::codec::qpress::quicklz;
    let mut packet = vec![0; quicklz::bound(bytes.len())];
    let n = quicklz::encode(bytes, &mut packet).unwrap();
    let mut back = vec![0; bytes.len()];
    let len = quicklz::decode(&packet[..n], &mut back).unwrap();
    assert_eq!(len, bytes.len());
    assert!(back == bytes, "{n} bytes decode to something else");
}
