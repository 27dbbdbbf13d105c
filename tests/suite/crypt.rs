//! Encrypted files: golden vectors, any content, and every kind of damage.

use proptest::prelude::*;
use xbpipe::codec::{Decoder, Encoder, Fault};
use xbpipe::crypt::age::{AgeDecoder, AgeEncoder, Identities, Identity, Recipients};
use xbpipe::crypt::xbcrypt::{self, Key, XbcryptDecoder, XbcryptEncoder};

use crate::fuzzed::targets::codecs::{Decoded, How, decode_named};
use crate::fuzzed::targets::crypt::{
    IDENTITY, KEY, age_decoder, crypt_roundtrip, encrypt, xbcrypt_decoder,
};
use crate::tool::noise;
use crate::vec_file::{Direction, Vector, hex, load};

fn option<'v>(vector: &'v Vector, name: &str) -> Option<&'v str> {
    vector
        .options
        .iter()
        .find_map(|o| o.strip_prefix(name)?.strip_prefix('='))
}

fn xbcrypt_key(vector: &Vector) -> Key {
    let key = option(vector, "key").unwrap().to_owned();
    Key::new(&hex(&[key]).unwrap()).unwrap()
}

fn decoder(vector: &Vector) -> Box<dyn Decoder> {
    match option(vector, "identity") {
        Some(identity) => Box::new(AgeDecoder::new(
            Identities::parse(identity.as_bytes()).unwrap(),
        )),
        None => Box::new(XbcryptDecoder::new(xbcrypt_key(vector))),
    }
}

fn fault_word(fault: Fault) -> &'static str {
    match fault {
        Fault::Damage => "damage",
        Fault::Cut => "cut",
        Fault::Refused => "refused",
    }
}

fn differences(vector: &Vector) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = option(vector, "name").unwrap_or("t.ibd").as_bytes();
    let bytes = vector.bytes.as_slice();
    let read = |pieces: &[&[u8]], parts| {
        decode_named(
            decoder(vector).as_ref(),
            name,
            pieces.iter().copied(),
            parts,
        )
    };
    let whole = read(&[bytes], How::Whole);
    if whole.plain != hex(vector.events.as_ref().unwrap()).unwrap() {
        wrong.push(format!("content is {:02x?}", whole.plain));
    }
    let error = whole
        .error
        .as_ref()
        .map(|(f, at, _)| (fault_word(*f).to_owned(), *at));
    if error != vector.error {
        wrong.push(format!("outcome is {:?}", whole.error));
    }
    let message = whole.error.as_ref().map(|(.., message)| message);
    if vector.message.is_some() && vector.message.as_ref() != message {
        wrong.push(format!("message is {message:?}"));
    }
    let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
    if read(&bytewise, How::Whole) != whole {
        wrong.push("byte by byte it reads otherwise".to_owned());
    }
    for at in 1..bytes.len() {
        let (a, b) = bytes.split_at(at);
        if read(&[a, b], How::Whole) != whole {
            wrong.push(format!("cut at {at} it reads otherwise"));
        }
    }
    if option(vector, "key").is_some() {
        for len in [1, 7, 4096] {
            let parts = read(&[bytes], How::Parts(len));
            let same = parts.error.is_some() == whole.error.is_some();
            if !same || (whole.error.is_none() && parts.plain != whole.plain) {
                wrong.push(format!("in parts of {len} it reads otherwise"));
            }
        }
    }
    if vector.direction != Direction::Decode {
        let iv = || Ok(bytes[44..60].try_into().unwrap());
        let mut out = vec![0; xbcrypt::encrypted_len_max(whole.plain.len(), 1 << 16)];
        let n = xbcrypt::encrypt(&xbcrypt_key(vector), 1 << 16, &whole.plain, &mut out, iv);
        if out[..n.unwrap()] != *bytes {
            wrong.push("written again it differs".to_owned());
        }
    }
    wrong
}

#[test]
fn crypt_vectors_hold() {
    let mut failures = Vec::new();
    for area in ["xbcrypt", "encryption"] {
        for vector in load(area) {
            for wrong in differences(&vector) {
                failures.push(format!("{}: {wrong}", vector.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_wrong_crypt_vector_is_noticed() {
    for (area, name) in [("xbcrypt", "v3-aes256"), ("encryption", "bound")] {
        let good = || load(area).into_iter().find(|v| v.name == name).unwrap();
        assert_eq!(differences(&good()), Vec::<String>::new());
        let mut wrong = good();
        *wrong.bytes.last_mut().unwrap() ^= 1;
        assert_ne!(differences(&wrong), Vec::<String>::new());
        let mut wrong = good();
        wrong.events = Some(vec!["00".to_owned()]);
        assert_ne!(differences(&wrong), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_content_comes_back_encrypted(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        crypt_roundtrip(&bytes);
    }

    // r[xbcrypt.key.len] r[xbcrypt.cipher.ctr]
    #[test]
    fn xbcrypt_any_key_chunk_and_split(
        key_len in prop_oneof![Just(16_usize), Just(24), Just(32)],
        len in 0_usize..300_000, chunk_len in 1024_usize..80_000, cut in 1_usize..100_000, seed: u64,
    ) {
        let key = Key::new(&noise(key_len, seed)).unwrap();
        let plain = noise(len, seed ^ 1);
        let file = encrypt(&XbcryptEncoder::new(key.clone(), chunk_len), b"n", &plain);
        let decoder = XbcryptDecoder::new(key);
        for parts in [How::Whole, How::Parts(cut)] {
            let back = decode_named(&decoder, b"n", file.chunks(cut), parts);
            prop_assert_eq!(&back.error, &None);
            prop_assert!(back.plain == plain);
        }
        let other = XbcryptDecoder::new(Key::new(&noise(key_len, seed ^ 2)).unwrap());
        let back = decode_named(&other, b"n", file.chunks(cut), How::Whole);
        prop_assert_eq!(back.error.map(|(fault, at, _)| (fault, at)), (len > 0).then_some((Fault::Refused, 0)));
    }
}

/// The messages that tell one mistake with a key from another.
// r[xbcrypt.key.file] r[xbcrypt.key.newline]
#[test]
fn xbcrypt_keys_that_are_none() {
    let told = |bytes: &[u8]| Key::new(bytes).unwrap_err().to_string();
    for len in [16, 24, 32] {
        let with_newline = [&noise(len, 9)[..], b"\n"].concat();
        let expected = format!(
            "the key is followed by a newline, which makes it {} bytes long instead of {len}:",
            len + 1
        );
        assert_eq!(told(&with_newline), expected);
    }
    assert_eq!(
        told(&[7; 17]),
        "a key of xbcrypt has 16, 24 or 32 bytes, not 17:"
    );
    assert_eq!(told(b""), "a key of xbcrypt has 16, 24 or 32 bytes, not 0:");
    assert_eq!(
        told(IDENTITY.as_bytes()),
        "this is an identity of age, not a key of xbcrypt:"
    );
    assert!(!told(&[b's'; 31]).contains("ss"));
}

const CHUNK: usize = xbpipe::crypt::age::CHUNK_LEN;
const SEALED: usize = xbpipe::crypt::age::SEALED_LEN;

struct Sealed {
    plain: Vec<u8>,
    header: Vec<u8>,
    chunks: Vec<Vec<u8>>,
}

fn recipients() -> Recipients {
    let identities = Identities::parse(IDENTITY.as_bytes()).unwrap();
    Recipients::new(identities.recipients()).unwrap()
}

fn seal(encoder: &AgeEncoder, name: &[u8], len: usize) -> Sealed {
    let plain = noise(len, len as u64);
    let file = encrypt(encoder, name, &plain);
    let sealed_len = plain.len() + plain.len().div_ceil(CHUNK).max(1) * 16;
    let (header, payload) = file.split_at(file.len() - sealed_len);
    Sealed {
        plain,
        header: header.to_vec(),
        chunks: payload.chunks(SEALED).map(<[u8]>::to_vec).collect(),
    }
}

fn open(name: &[u8], file: &[u8]) -> Decoded {
    decode_named(&age_decoder(), name, file.chunks(70_001), How::Whole)
}

/// Nothing that is done to a file passes, and what came out before is a beginning of the content.
// r[encryption.chunk.nonce] r[encryption.cut] r[encryption.appended] r[encryption.chunk.len]
#[test]
fn age_every_change_of_the_chunks_is_noticed() {
    let encoder = AgeEncoder::new(recipients()).unwrap();
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 77] {
        let Sealed {
            plain,
            header,
            chunks,
        } = seal(&encoder, b"n", len);
        let whole = |chunks: &[Vec<u8>]| [header.clone(), chunks.concat()].concat();
        assert_eq!(open(b"n", &whole(&chunks)).error, None);
        assert!(open(b"n", &whole(&chunks)).plain == plain);
        let mut changed: Vec<(String, Vec<u8>)> = Vec::new();
        for i in 0..chunks.len() {
            let mut dropped = chunks.clone();
            dropped.remove(i);
            changed.push((format!("chunk {i} dropped"), whole(&dropped)));
            let mut twice = chunks.clone();
            twice.insert(i, chunks[i].clone());
            changed.push((format!("chunk {i} twice"), whole(&twice)));
            changed.push((format!("cut before chunk {i}"), whole(&chunks[..i])));
            for j in 0..i {
                let mut swapped = chunks.clone();
                swapped.swap(i, j);
                changed.push((format!("chunks {j} and {i} swapped"), whole(&swapped)));
            }
            for at in [0, chunks[i].len() / 2, chunks[i].len() - 1] {
                let mut flipped = chunks.clone();
                flipped[i][at] ^= 0x10;
                changed.push((format!("byte {at} of chunk {i} changed"), whole(&flipped)));
            }
        }
        let other = seal(&encoder, b"n", len.max(1));
        let mut mixed = chunks.clone();
        mixed[0].clone_from(&other.chunks[0]);
        changed.push(("a chunk of another file".to_owned(), whole(&mixed)));
        for n in [1, 16, 17, SEALED] {
            let mut more = whole(&chunks);
            more.extend(std::iter::repeat_n(0, n));
            changed.push((format!("{n} bytes appended"), more));
        }
        for at in 0..header.len() {
            let mut file = whole(&chunks);
            file[at] ^= 1;
            changed.push((format!("byte {at} of the header changed"), file));
        }
        for cut in (0..header.len()).chain([header.len() + 1, header.len() + 15]) {
            changed.push((format!("cut at {cut}"), whole(&chunks)[..cut].to_vec()));
        }
        for (what, file) in changed {
            let got = open(b"n", &file);
            assert!(got.error.is_some(), "{len} bytes: {what} passes");
            assert!(
                plain.starts_with(&got.plain),
                "{len} bytes: {what} gives other content"
            );
        }
        if len > CHUNK {
            let cut = open(b"n", &whole(&chunks[..chunks.len() - 1]))
                .error
                .unwrap();
            let at = (header.len() + (chunks.len() - 1) * SEALED) as u64;
            assert_eq!((cut.0, cut.1), (Fault::Cut, at), "{}", cut.2);
            let longer = [whole(&chunks), vec![0]].concat();
            let told = open(b"n", &longer).error.unwrap().2;
            let expected = if len % CHUNK == 0 {
                "data after the last chunk of an age file"
            } else {
                "damaged age chunk: it was not written at this place"
            };
            assert_eq!(told, expected);
        }
    }
}

/// A whole file under another name, or from another run, is undamaged and yet wrong.
// r[encryption.binding] r[encryption.binding.check]
#[test]
fn age_files_stay_in_their_place() {
    let encoder = AgeEncoder::new(recipients()).unwrap();
    let file = |encoder: &AgeEncoder, name: &[u8]| encrypt(encoder, name, b"content");
    let decoder = age_decoder();
    let read = |name: &[u8], bytes: &[u8]| decode_named(&decoder, name, [bytes], How::Whole).error;
    assert_eq!(read(b"d/a.ibd", &file(&encoder, b"d/a.ibd")), None);
    assert_eq!(read(b"d/b.ibd", &file(&encoder, b"d/b.ibd")), None);
    let told = read(b"d/b.ibd", &file(&encoder, b"d/a.ibd")).unwrap();
    assert_eq!(told.2, r#"the content belongs to "d/a.ibd""#);
    let monday = AgeEncoder::new(recipients()).unwrap();
    let told = read(b"d/c.ibd", &file(&monday, b"d/c.ibd")).unwrap();
    assert_eq!(
        told.2,
        "the content belongs to another backup than that of the first file"
    );
}

/// Every recipient can decrypt, nobody else can, and two files share nothing.
// r[encryption.file-key] r[encryption.x25519]
#[test]
fn age_recipients_and_nobody_else() {
    let identities: Vec<Identity> = (0..3).map(|_| Identity::generate().unwrap()).collect();
    let recipients = Recipients::new(identities[..2].iter().map(Identity::recipient)).unwrap();
    let encoder = AgeEncoder::new(recipients).unwrap();
    let file = encrypt(&encoder, b"n", b"content");
    for (identity, fits) in identities.iter().zip([true, true, false]) {
        let decoder = AgeDecoder::new(vec![identity.clone()].into());
        let got = decode_named(&decoder, b"n", [file.as_slice()], How::Whole);
        assert_eq!(got.plain == b"content", fits);
        assert_eq!(got.error.map(|e| e.0), (!fits).then_some(Fault::Refused));
    }
    let again = encrypt(&encoder, b"n", b"content");
    let tail = |file: &[u8]| file[file.len() - 23..].to_vec();
    assert_ne!(tail(&file), tail(&again));
}

/// What is wrong with key files is told by line, and no secret is told.
// r[encryption.identity-file]
#[test]
fn age_key_files_that_are_none() {
    let told = |text: &str| Identities::parse(text.as_bytes()).unwrap_err().to_string();
    let recipient = recipients_text();
    assert!(Identities::parse(format!("# a comment\r\n\n{IDENTITY}\r\n").as_bytes()).is_ok());
    assert_eq!(told("# nothing\n"), "there is no identity in the file:");
    assert_eq!(
        told(&format!("\n{recipient}\n")),
        "line 2 is a recipient, not an identity, in the identity file"
    );
    for bad in [
        IDENTITY.to_lowercase(),
        IDENTITY.replace("CM57", "CM58"),
        IDENTITY.replace("SECRET", "SECRE"),
        IDENTITY[..40].to_owned(),
        format!("{IDENTITY} {IDENTITY}"),
    ] {
        let message = told(&bad);
        assert_eq!(message, "line 1 is not an identity in the identity file");
    }
    assert_eq!(
        told("age-encryption.org/v1\n"),
        "the key file is itself encrypted with age:"
    );
    let told = |text: &str| Recipients::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(!told(IDENTITY).contains("D5SZH"));
    assert!(!told(&IDENTITY.to_lowercase()).contains("d5szh"));
    assert!(told("ssh-ed25519 AAAA").contains("line 1"));
    assert!(
        told(&recipient.replace(&recipient[20..21], "b")).contains("is not a recipient of age")
    );
    assert_eq!(
        Recipients::parse(format!("# x\n{recipient}\n").as_bytes())
            .unwrap()
            .len(),
        1
    );
}

fn recipients_text() -> String {
    let identities = Identities::parse(IDENTITY.as_bytes()).unwrap();
    identities.recipients()[0].to_string()
}

/// Chunks with sizes that lie cost nothing before they are refused.
#[test]
fn xbcrypt_lying_sizes_take_no_memory() {
    let mut head = b"XBCRYP01".to_vec();
    head.extend_from_slice(&[0; 8]);
    for _ in 0..2 {
        head.extend_from_slice(&(i32::MAX as u64).to_le_bytes());
    }
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&[7; 1000]);
    let got = decode_named(&xbcrypt_decoder(), b"n", head.chunks(100), How::Whole);
    assert_eq!(got.error.map(|e| e.0), Some(Fault::Cut));
    assert_eq!(KEY.len(), 32);
}

/// The suffixes that readers go by.
#[test]
fn suffixes_of_encryption() {
    let key = Key::new(KEY).unwrap();
    assert_eq!(
        XbcryptEncoder::new(key, 1 << 16).suffix(),
        xbcrypt_decoder().suffix()
    );
    assert_eq!(
        AgeEncoder::new(recipients()).unwrap().suffix(),
        age_decoder().suffix()
    );
}
