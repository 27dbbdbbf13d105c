//! Decryption of single files, and encryption with any content.

use std::sync::Arc;

use xbpipe::codec::{CodecError, Contexts, Decoder, Encoder, Fault, Piece, Split, Unit};
use xbpipe::crypt::age::{AgeDecoder, AgeEncoder, Identities, Identity, Recipients};
use xbpipe::crypt::xbcrypt::{Key, XbcryptDecoder, XbcryptEncoder};

/// The key of the golden vectors.
pub const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// The identity of the golden vectors.
pub const IDENTITY: &str =
    "AGE-SECRET-KEY-1D5SZH74GTEXW20C7H7WXC3SH63SZMKYWQD7JTTDND0NZNE45QQMS46CM57";

/// Most content that is looked at.
const PLAIN_LEN_MAX: usize = 8 << 20;

/// Longest chunk that is decrypted as a whole; longer ones claim what they like.
const WHOLE_LEN_MAX: u64 = 1 << 20;

/// What a file decrypts to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decrypted {
    /// Content before the end or the error.
    pub plain: Vec<u8>,
    /// Fault, offset in the encrypted file, message.
    pub error: Option<(Fault, u64, String)>,
}

/// Decrypts a file called `name` that comes in pieces; `part_len` has chunks decrypted as they come, in such parts.
pub fn decrypt<'a>(
    decoder: &dyn Decoder,
    name: &[u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
    part_len: Option<usize>,
) -> Decrypted {
    let mut plain = Vec::new();
    let result = run(decoder, name, pieces, part_len, &mut plain);
    Decrypted {
        plain,
        error: result
            .err()
            .map(|(at, e)| (e.fault(), at + e.offset(), e.to_string())),
    }
}

fn run<'a>(
    decoder: &dyn Decoder,
    name: &[u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
    part_len: Option<usize>,
    plain: &mut Vec<u8>,
) -> Result<(), (u64, CodecError)> {
    let mut splitter = decoder.begin(name);
    let mut unit_bytes = Vec::new();
    let mut unit_at = 0;
    for mut piece in pieces {
        while !piece.is_empty() && plain.len() <= PLAIN_LEN_MAX {
            let split = splitter.feed(piece).map_err(|e| (unit_at, e))?;
            let n = match &split {
                Split::More => piece.len(),
                Split::Skip(n) | Split::Unit(n, _) => *n,
            };
            unit_bytes.extend_from_slice(&piece[..n]);
            piece = &piece[n..];
            if let Split::Unit(_, unit) = &split {
                chunk(unit, &unit_bytes, part_len, plain).map_err(|e| (unit_at, e))?;
            }
            if !matches!(split, Split::More) {
                unit_at += unit_bytes.len() as u64;
                unit_bytes.clear();
            }
        }
    }
    match splitter.finish().map_err(|e| (unit_at, e))? {
        Some(unit) => chunk(&unit, &unit_bytes, part_len, plain).map_err(|e| (unit_at, e)),
        None => Ok(()),
    }
}

fn chunk(
    unit: &Unit,
    encoded: &[u8],
    part_len: Option<usize>,
    plain: &mut Vec<u8>,
) -> Result<(), CodecError> {
    assert_eq!(unit.encoded_len, Some(encoded.len() as u64));
    let len = unit.plain_len.expect("heads tell the length");
    assert!(len <= encoded.len() as u64);
    if part_len.is_none() && len <= WHOLE_LEN_MAX {
        let mut content = vec![0; len as usize];
        let n = unit
            .decoder
            .decode(encoded, &mut content, &mut Contexts::default())?;
        assert_eq!(n, content.len());
        plain.extend_from_slice(&content);
        return Ok(());
    }
    let part_len = part_len.unwrap_or(1 << 16);
    let mut stream = unit.decoder.stream()?;
    let mut buf = vec![0; part_len];
    let mut ended = false;
    let mut content = Vec::new();
    for mut part in encoded.chunks(part_len) {
        while !part.is_empty() {
            assert!(!ended, "a chunk ends before its last byte");
            let step = stream.step(part, &mut buf)?;
            assert!(step.consumed > 0 || step.produced > 0);
            content.extend_from_slice(&buf[..step.produced]);
            part = &part[step.consumed..];
            ended = step.ended;
        }
    }
    assert!(ended, "a chunk ends with its last byte");
    plain.append(&mut content);
    Ok(())
}

/// Encrypts a file called `name` in pieces as its encoder wants them.
pub fn encrypt(encoder: &dyn Encoder, name: &[u8], plain: &[u8]) -> Vec<u8> {
    let file = encoder.begin(name).expect("encryption begins");
    let mut out = file.header();
    let len = encoder.pieces().len;
    let mut pieces: Vec<&[u8]> = plain.chunks(len).collect();
    if pieces.is_empty() {
        pieces.push(b"");
    }
    for (i, piece) in pieces.iter().enumerate() {
        let place = Piece {
            index: i as u64,
            position: (i * len) as u64,
            last: i + 1 == pieces.len(),
        };
        let mut encoded = vec![0; encoder.bound(piece.len())];
        let n = file
            .piece(place, piece, &mut encoded, &mut Contexts::default())
            .expect("a piece is encrypted");
        out.extend_from_slice(&encoded[..n]);
    }
    out
}

/// A reader of the age files of [`IDENTITY`].
pub fn age_decoder() -> AgeDecoder {
    AgeDecoder::new(Identities::parse(IDENTITY.as_bytes()).expect("an identity"))
}

/// A reader of the xbcrypt files of [`KEY`].
pub fn xbcrypt_decoder() -> XbcryptDecoder {
    XbcryptDecoder::new(Key::new(KEY).expect("a key"))
}

fn same_however_cut(decoder: &dyn Decoder, data: &[u8], parts: bool) {
    let Some((cut, file)) = data.split_first() else {
        return;
    };
    let cut = usize::from(*cut).max(1);
    let whole = decrypt(decoder, b"t.ibd", [file], None);
    let pieces = decrypt(decoder, b"t.ibd", file.chunks(cut), None);
    assert_eq!(whole, pieces, "cut into pieces of {cut} it reads otherwise");
    if parts {
        let parts = decrypt(decoder, b"t.ibd", file.chunks(cut), Some(cut));
        assert_eq!(whole, parts, "in parts of {cut} it reads otherwise");
    }
}

/// Any bytes as an xbcrypt file: the first byte says how the rest is cut.
pub fn xbcrypt_decode(data: &[u8]) {
    same_however_cut(&xbcrypt_decoder(), data, true);
}

/// Any bytes as an age file.
pub fn age_decode(data: &[u8]) {
    same_however_cut(&age_decoder(), data, false);
}

/// Any content comes back from both formats: the first bytes say how it is cut and repeated.
pub fn crypt_roundtrip(data: &[u8]) {
    let [cut, repeat, chunk, content @ ..] = data else {
        return;
    };
    let plain = content.repeat(1 + usize::from(*repeat) * 4);
    let cut = 1 + usize::from(*cut) * 977;
    let key = Key::new(KEY).expect("a key");
    let identity: Identity = Identities::parse(IDENTITY.as_bytes())
        .expect("an identity")
        .into_iter()
        .next()
        .expect("one");
    let recipients = Recipients::new([identity.recipient()]).expect("a recipient");
    let pairs: [(Arc<dyn Encoder>, Box<dyn Decoder>); 2] = [
        (
            Arc::new(XbcryptEncoder::new(key, usize::from(*chunk) << 8)),
            Box::new(xbcrypt_decoder()),
        ),
        (
            Arc::new(AgeEncoder::new(recipients).expect("a number for the run")),
            Box::new(age_decoder()),
        ),
    ];
    for (encoder, decoder) in pairs {
        let file = encrypt(encoder.as_ref(), b"t.ibd", &plain);
        let back = decrypt(decoder.as_ref(), b"t.ibd", file.chunks(cut), None);
        assert_eq!(back.error, None);
        assert!(back.plain == plain, "{} bytes differ", plain.len());
    }
}
