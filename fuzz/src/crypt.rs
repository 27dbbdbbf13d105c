//! Decryption of single files, and encryption with any content.

use std::sync::Arc;

use xbpipe::codec::{Contexts, Decoder, Encoder, Piece};
use xbpipe::crypt::age::{AgeDecoder, AgeEncoder, Identities, Identity, Recipients};
use xbpipe::crypt::xbcrypt::{Key, XbcryptDecoder, XbcryptEncoder};

use super::codecs::{How, decode_named, same_however_cut};

/// The key of the golden vectors.
pub const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// The identity of the golden vectors.
pub const IDENTITY: &str =
    "AGE-SECRET-KEY-1D5SZH74GTEXW20C7H7WXC3SH63SZMKYWQD7JTTDND0NZNE45QQMS46CM57";

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

/// Any bytes as an xbcrypt file: the first byte says how the rest is cut.
pub fn xbcrypt_decode(data: &[u8]) {
    if let [cut, file @ ..] = data {
        same_however_cut(&xbcrypt_decoder(), *cut, file, true);
    }
}

/// Any bytes as an age file.
pub fn age_decode(data: &[u8]) {
    if let [cut, file @ ..] = data {
        // Chunks of age are opened as a whole or not at all.
        same_however_cut(&age_decoder(), *cut, file, false);
    }
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
        let back = decode_named(decoder.as_ref(), b"t.ibd", file.chunks(cut), How::Whole);
        assert_eq!(back.error, None);
        assert!(back.plain == plain, "{} bytes differ", plain.len());
    }
}
