//! Properties of the archive format: what is written is read; how input is cut does not matter; no
//! input makes the decoder panic or hold more memory than stated.

use bytes::Bytes;
use proptest::prelude::*;
use xbpipe::xbstream::{ArchivePath, CrcCheck, Decoder, Event, Options, Tracker, encode};

use crate::fuzzed::targets::{cut, read, xbstream_decode, xbstream_roundtrip};

fn path() -> impl Strategy<Value = ArchivePath> {
    prop_oneof![
        "[a-z]{1,8}(/[a-z.#]{3,20}){0,3}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 1..511),
    ]
    .prop_filter_map("a valid path", |bytes| ArchivePath::new(&bytes).ok())
}

/// Files as xbpipe writes them: payload cut into chunks, then the end.
fn write_file(out: &mut Vec<u8>, path: &ArchivePath, payload: &[u8], chunk_len: usize) {
    let mut offset = 0;
    for part in payload.chunks(chunk_len) {
        let len = part.len() as u64;
        encode::payload_head(out, path, offset, crc32fast::hash(part), len);
        out.extend_from_slice(part);
        offset += len;
    }
    encode::end(out, path);
}

proptest! {
    // r[xbstream.writer.dialect]
    #[test]
    fn files_survive(
        files in proptest::collection::btree_map(
            path(),
            proptest::collection::vec(any::<u8>(), 0..400),
            0..6,
        ),
        chunk_len in 1_usize..200,
        sizes in proptest::collection::vec(1_usize..90, 1..5),
    ) {
        let mut archive = Vec::new();
        for (path, payload) in &files {
            write_file(&mut archive, path, payload, chunk_len);
        }
        let archive = Bytes::from(archive);
        for crc in [CrcCheck::Decoder, CrcCheck::Caller] {
            let options = Options { crc, ..Options::default() };
            let reading = read(cut(&archive, &sizes), options, true);
            prop_assert_eq!(reading.error, None);
            let mut got = std::collections::BTreeMap::new();
            let mut current = None;
            for event in reading.events {
                match event {
                    Event::Chunk(head) => {
                        got.entry(head.path.clone()).or_insert_with(Vec::new);
                        current = Some(head.path);
                    }
                    Event::Data { file_offset, bytes } => {
                        let file: &mut Vec<u8> = got.get_mut(current.as_ref().unwrap()).unwrap();
                        prop_assert_eq!(file_offset, file.len() as u64);
                        file.extend_from_slice(&bytes);
                    }
                    Event::Hole { .. } => prop_assert!(false, "no holes were written"),
                    Event::ChunkEnd(_) => {}
                }
            }
            prop_assert_eq!(&got, &files);
        }
    }

    #[test]
    fn recipes_survive(recipe in proptest::collection::vec(any::<u8>(), 0..600)) {
        xbstream_roundtrip(&recipe);
    }

    // r[xbstream.reader.memory]
    #[test]
    fn no_input_does_harm(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        xbstream_decode(&input);
        xbstream_decode(&[b"XBSTCK01", &input[..]].concat());
        let p = b"XBSTCK01\0P\x01\0\0\0a";
        xbstream_decode(&[p, &input[..]].concat());
        let s = b"XBSTCK01\0S\x01\0\0\0a";
        xbstream_decode(&[s, &input[..]].concat());
    }

    // r[xbstream.payload.crc]
    #[test]
    fn every_flipped_payload_bit_is_found(
        payload in proptest::collection::vec(any::<u8>(), 1..200),
        bit in any::<prop::sample::Index>(),
    ) {
        let path = ArchivePath::new(b"db/t.ibd").unwrap();
        let mut archive = Vec::new();
        write_file(&mut archive, &path, &payload, usize::MAX);
        let bit = bit.index(payload.len() * 8);
        archive[encode::payload_head_len(&path) + bit / 8] ^= 1 << (bit % 8);
        let reading = read([Bytes::from(archive)], Options::default(), true);
        prop_assert_eq!(reading.error.map(|e| e.kind().word()), Some("BadChecksum"));
    }

    // r[xbstream.file.left-open]
    #[test]
    fn every_cut_is_found(
        files in proptest::collection::btree_map(path(), "[a-z]{0,40}", 1..4),
        place in any::<prop::sample::Index>(),
    ) {
        // An index that stays open around all members, as `format-spec/xbstream.md` describes it.
        let index = ArchivePath::new(b"xbpipe_index").unwrap();
        let mut archive = Vec::new();
        encode::payload_head(&mut archive, &index, 0, 0, 0);
        for (path, payload) in files.iter().filter(|(path, _)| **path != index) {
            write_file(&mut archive, path, payload.as_bytes(), 7);
        }
        encode::end(&mut archive, &index);
        archive.truncate(1 + place.index(archive.len() - 1));
        let reading = read([Bytes::from(archive)], Options::default(), true);
        let word = reading.error.map(|e| e.kind().word());
        prop_assert!(matches!(word, Some("Truncated" | "LeftOpen")), "{word:?}");
    }
}

/// Payload is a slice of what was fed, and nothing else keeps the buffer alive.
#[test]
fn payload_is_not_copied_and_buffers_are_let_go() {
    let path = ArchivePath::new(b"t").unwrap();
    let mut archive = Vec::new();
    write_file(&mut archive, &path, b"hello", usize::MAX);
    let archive = Bytes::from(archive);
    let mut decoder = Decoder::new(Options::default());
    decoder.feed(archive.clone());
    let mut seen = 0;
    while let Some(event) = decoder.next().unwrap() {
        if let Event::Data { bytes, .. } = event {
            assert!(archive.as_ptr_range().contains(&bytes.as_ptr()));
            seen += bytes.len();
        }
    }
    assert_eq!(seen, 5);
    assert!(
        archive.is_unique(),
        "the decoder keeps no slice of what it has read"
    );
}

/// A chunk that claims 2^63 - 1 bytes costs what was fed, not what was claimed.
/// `r[xbstream.reader.memory]`
#[test]
fn a_claimed_length_costs_nothing() {
    let path = ArchivePath::new(b"t").unwrap();
    let mut head = Vec::new();
    encode::payload_head(&mut head, &path, 0, 0, i64::MAX as u64);
    let mut decoder = Decoder::new(Options::default());
    decoder.feed(head.into());
    for _ in 0..100 {
        while decoder.next().unwrap().is_some() {}
        decoder.feed(vec![0; 1 << 16].into());
    }
    while decoder.next().unwrap().is_some() {}
    assert_eq!(decoder.held(), 0);
    assert_eq!(decoder.finish().unwrap_err().kind().word(), "Truncated");
}

/// Many tiny files in one buffer: each costs a few events and no memory that stays in the decoder.
#[test]
fn many_tiny_files() {
    const FILES: usize = 20_000;
    let mut archive = Vec::new();
    for i in 0..FILES {
        let path = ArchivePath::new(format!("db/t{i}.frm").as_bytes()).unwrap();
        write_file(&mut archive, &path, b"x", 10);
    }
    let mut decoder = Decoder::new(Options::default());
    let mut tracker = Tracker::new();
    decoder.feed(archive.into());
    let mut heads = 0;
    while let Some(event) = decoder.next().unwrap() {
        if let Event::Chunk(head) = event {
            tracker.chunk(&head).unwrap();
            heads += 1;
        }
    }
    assert_eq!(heads, 2 * FILES);
    assert_eq!(decoder.held(), 0);
    assert_eq!(tracker.finish(decoder.position()), Ok(()));
}
