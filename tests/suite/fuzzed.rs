//! The bodies of the fuzz targets under ordinary tests: seeds, every input that once showed a
//! defect, and a bounded walk of random changes to the seeds.

use std::path::PathBuf;

use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::vec_file::{Vector, files_below, load, root, update_spec};

#[expect(
    unreachable_pub,
    reason = "the same file is a library in the fuzz workspace"
)]
#[path = "../../fuzz/src/lib.rs"]
pub(crate) mod targets;

type Body = fn(&[u8]);

const TARGETS: &[(&str, Body)] = &[
    ("age_decode", targets::crypt::age_decode),
    ("codec_decode", targets::codecs::codec_decode),
    ("crypt_roundtrip", targets::crypt::crypt_roundtrip),
    ("extract_sandbox", targets::extract_sandbox),
    ("quicklz_roundtrip", targets::codecs::quicklz_roundtrip),
    ("texts_decode", targets::texts::texts_decode),
    ("xbcrypt_decode", targets::crypt::xbcrypt_decode),
    ("xbstream_decode", targets::xbstream_decode),
    ("xbstream_roundtrip", targets::xbstream_roundtrip),
];

fn inputs(kind: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    files_below(&root().join("fuzz").join(kind).join(target), "")
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

#[test]
fn replay_corpus_and_artifacts() {
    for (name, body) in TARGETS {
        assert!(!inputs("corpus", name).is_empty(), "{name} has no seeds");
        for kind in ["corpus", "artifacts"] {
            for (path, bytes) in inputs(kind, name) {
                println!("{}", path.display());
                body(&bytes);
            }
        }
    }
    for kind in ["corpus", "artifacts"] {
        for path in files_below(&root().join("fuzz").join(kind), "") {
            let target = path.parent().unwrap().file_name().unwrap();
            let known = TARGETS.iter().any(|(name, _)| *name == target);
            assert!(known, "{} belongs to no target", path.display());
        }
    }
}

/// Insists that a seed is these bytes, or writes it.
fn seed_is(target: &str, name: &str, bytes: &[u8]) {
    let directory = root().join("fuzz/corpus").join(target);
    let path = directory.join(name);
    if update_spec() {
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let seed = std::fs::read(&path).unwrap_or_default();
    assert!(
        seed == bytes,
        "seed {path:?} is not its vector; UPDATE_SPEC=1 writes it"
    );
}

/// What is longer slows a fuzzer down.
fn is_short(vector: &&Vector) -> bool {
    vector.bytes.len() <= 1024
}

/// Seeds of the decoder are the golden vectors, so they cannot fall behind them.
#[test]
fn seeds_are_the_vectors() {
    for vector in load("xbstream").iter().filter(is_short) {
        seed_is("xbstream_decode", &vector.name, &vector.bytes);
    }
}

/// Number of a decoder among all, by the word that vectors use.
pub(crate) fn decoder_number(word: &str) -> u8 {
    let decoders = xbpipe::codec::decompressors();
    let suffix = match word {
        "zstd" => ".zst",
        "lz4" => ".lz4",
        "qpress" => ".qp",
        other => panic!("unknown option {other}"),
    };
    let at = decoders.iter().position(|d| d.suffix() == suffix);
    u8::try_from(at.unwrap()).unwrap()
}

/// The same for files: format, cut, bytes.
#[test]
fn seeds_of_codecs_are_the_vectors() {
    for vector in load("codecs").iter().filter(is_short) {
        let number = decoder_number(&vector.options[0]);
        let bytes = [&[number, 7], vector.bytes.as_slice()].concat();
        seed_is("codec_decode", &vector.name, &bytes);
    }
}

/// The same for encrypted files: cut, bytes.
#[test]
fn seeds_of_encryption_are_the_vectors() {
    for (area, target) in [("xbcrypt", "xbcrypt_decode"), ("encryption", "age_decode")] {
        for vector in load(area) {
            let bytes = [&[7], vector.bytes.as_slice()].concat();
            seed_is(target, &vector.name, &bytes);
        }
    }
}

/// The same for what a store holds beside archives.
#[test]
fn seeds_of_texts_are_the_vectors() {
    for vector in load("repository").iter().filter(is_short) {
        let kind = match vector.options[0].as_str() {
            "index" => 1,
            "manifest" => 2,
            other => panic!("unknown option {other}"),
        };
        let bytes = [&[kind | (7 << 3)], vector.bytes.as_slice()].concat();
        seed_is("texts_decode", &vector.name, &bytes);
    }
}

/// One random change: flip, overwrite with a telling value, cut, repeat a part, insert.
fn mutate(bytes: &mut Vec<u8>, next: &mut impl FnMut(usize) -> usize) {
    const TELLING: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xff, b'X', b'/'];
    let at = next(bytes.len() + 1);
    match next(6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << next(8),
        1 if at < bytes.len() => bytes[at] = TELLING[next(TELLING.len())],
        2 => bytes.truncate(at),
        3 => {
            let part = bytes[at..].to_vec();
            bytes.extend_from_slice(&part[..next(part.len() + 1)]);
        }
        4 if at < bytes.len() => {
            bytes.remove(at);
        }
        _ => bytes.insert(at, TELLING[next(TELLING.len())]),
    }
}

#[test]
fn random_changes_of_seeds() {
    use proptest::prelude::Rng as _;
    const ROUNDS_PER_SEED: usize = 60;
    for (name, body) in TARGETS {
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut next = |below: usize| (rng.next_u32() as usize) % below.max(1);
        for (_, seed) in inputs("corpus", name) {
            if seed.len() > 1024 {
                continue;
            }
            let mut bytes = seed.clone();
            for round in 0..ROUNDS_PER_SEED {
                if round % 8 == 0 {
                    bytes.clone_from(&seed);
                }
                mutate(&mut bytes, &mut next);
                body(&bytes);
            }
        }
    }
}
