//! Backups in stores, from within: segments, partial reads counted in bytes, commits that go wrong. The store is in memory.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Error, Kind};
use xbpipe::base::monitor::Collector;
use xbpipe::base::run::Run;
use xbpipe::base::units::ByteCount;
use xbpipe::pipeline::input::OpenFeed as _;
use xbpipe::repository::cut::Shares;
use xbpipe::repository::manifest::Manifest;
use xbpipe::repository::{Repository, StoredBackup, Writer};
use xbpipe::store::{Class, MemoryStore, Shared, all_uploads};

use crate::store_wrappers::{Mishap, Scripted};
use crate::tool::{Chunks, noise};

const MEMORY: ByteCount = ByteCount(32 << 20);

fn quiet() -> Run {
    Run {
        cancel: Cancel::new(),
        monitor: Arc::new(Collector::default()),
    }
}

fn shares() -> Shares {
    Shares {
        pipeline: ByteCount(8 << 20),
        part_len: 5 << 20,
        bufs: 3,
    }
}

fn write(
    store: &Shared,
    archive: &[u8],
    segment_len: u64,
    piece: usize,
) -> Result<Manifest, Error> {
    let run = quiet();
    let repository = Repository::new(Arc::clone(store));
    let mut writer = Writer::with_segments(&repository, "a", shares(), segment_len, &run)?;
    for piece in archive.chunks(piece) {
        writer.write(Bytes::copy_from_slice(piece))?;
    }
    writer.commit()
}

fn read(store: &Shared, names: &[&str]) -> Vec<u8> {
    let repository = Repository::new(Arc::clone(store));
    let backup = StoredBackup::open(&repository, "a").unwrap();
    let names: Vec<OsString> = names.iter().map(OsString::from).collect();
    let mut feed = backup.open(&names, MEMORY, &quiet()).unwrap();
    let mut out = Vec::new();
    loop {
        let bytes = feed.next(&AtomicBool::new(false)).unwrap().unwrap();
        if bytes.is_empty() {
            return out;
        }
        out.extend_from_slice(&bytes);
    }
}

/// Three files that interleave, chunks of all sizes.
fn archive() -> Vec<u8> {
    let mut chunks = Chunks::new();
    let mut offsets = [0_u64; 3];
    for i in 0..120_u64 {
        let file = usize::try_from(i % 3).unwrap();
        let data = noise(usize::try_from(1 + i * i * 13).unwrap(), i);
        chunks = chunks.payload(["db/a", "db/b.zst", "c"][file], offsets[file], &data);
        offsets[file] += data.len() as u64;
    }
    chunks.end("db/a").end("c").end("db/b.zst").0
}

// r[repository.segment.border] r[repository.segment.len] r[repository.parts]
#[test]
fn segments_begin_with_chunks_and_make_the_archive() {
    let archive = archive();
    for (segment_len, piece) in [
        (1, 5000),
        (700_000, 1 << 20),
        (700_000, 13),
        (1 << 40, 100_000),
    ] {
        let store: Shared = Arc::new(MemoryStore::default());
        let manifest = write(&store, &archive, segment_len, piece).unwrap();
        let mut whole = Vec::new();
        for (number, segment) in manifest.segments.iter().enumerate() {
            let key = format!("a/{}/{number:08}.xbs", manifest.run);
            let (bytes, object) = xbpipe::store::get_small(store.as_ref(), &key, 1 << 30).unwrap();
            assert!(bytes.starts_with(b"XBSTCK01"), "segment {number}");
            assert_eq!(object.crc32, segment.crc().ok());
            whole.extend_from_slice(&bytes);
        }
        assert!(whole == archive);
        let expected = if segment_len == 1 {
            123
        } else if segment_len == 1 << 40 {
            1
        } else {
            manifest.segments.len()
        };
        assert_eq!(manifest.segments.len(), expected);
        assert!(read(&store, &[]) == archive);
        assert_eq!(manifest.archive.files, 3);
        assert_eq!(all_uploads(store.as_ref(), "").unwrap(), []);
    }
}

// r[repository.partial]
#[test]
fn only_the_ranges_of_wanted_files_are_fetched() {
    let archive = archive();
    for segment_len in [1, 700_000, 1 << 40] {
        let scripted = Arc::new(Scripted::new(Arc::new(MemoryStore::default())));
        let store: Shared = Arc::<Scripted>::clone(&scripted);
        write(&store, &archive, segment_len, 1 << 20).unwrap();
        for (name, stored) in [("db/b", "db/b.zst"), ("c", "c"), ("db", "db/")] {
            let wanted: Vec<u8> = crate::tool::split_chunks(&archive)
                .into_iter()
                .filter(|chunk| chunk[14..].starts_with(stored.as_bytes()))
                .flatten()
                .collect();
            scripted.take_calls();
            assert!(read(&store, &[name]) == wanted, "{name}");
            let fetched: usize = scripted
                .take_calls()
                .iter()
                .filter(|call| call.starts_with("read") && call.contains(".xbs"))
                .map(|call| call.rsplit_once('+').unwrap().1.parse::<usize>().unwrap())
                .sum();
            // r[repository.read.blocks]: one in 32 bytes to save requests, and one to fetch whole parts.
            let most = wanted.len() * 33 / 32 * 33 / 32;
            assert!(
                (wanted.len()..=most).contains(&fetched),
                "{fetched} for {name}"
            );
        }
        assert_eq!(read(&store, &["nothing"]), b"");
    }
}

/// Nothing of a failed run is left in the store.
fn assert_nothing(store: &Shared) {
    let page = store.list("", false, None).unwrap();
    assert_eq!(page.objects, []);
    assert_eq!(all_uploads(store.as_ref(), "").unwrap(), []);
}

#[test]
fn failed_runs_leave_nothing() {
    let archive = archive();
    for (method, skip) in [
        ("put_part", 0),
        ("put_part", 1),
        ("create_upload", 0),
        ("complete", 0),
        ("put", 0),
    ] {
        let scripted = Arc::new(Scripted::new(Arc::new(MemoryStore::default())));
        scripted.on(method, skip, 1, Mishap::Fails(Class::Refused));
        let store: Shared = Arc::<Scripted>::clone(&scripted);
        // The segments are longer than a part, so that all methods are called.
        let error = write(&store, &archive, 6 << 20, 100_000).unwrap_err();
        assert_eq!(error.kind(), Kind::Store, "{method}: {error}");
        assert_nothing(&store);
        write(&store, &archive, 6 << 20, 100_000).unwrap();
    }
    let scripted = Arc::new(Scripted::new(Arc::new(MemoryStore::default())));
    scripted.has_room_for(6_000_000);
    let store: Shared = Arc::<Scripted>::clone(&scripted);
    let error = write(&store, &archive, 6 << 20, 100_000).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error}");
    assert_nothing(&store);
    // Not an archive at all; cut inside a chunk.
    for bad in [&archive[..archive.len() - 1], b"nonsense, long enough", b""] {
        write(&store, bad, 6 << 20, 100_000).unwrap_err();
        assert_nothing(&store);
    }
}

// r[repository.commit] r[repository.commit.checked]
#[test]
fn a_commit_in_doubt_removes_nothing() {
    let archive = Chunks::new().file("x", b"y").0;
    let scripted = Arc::new(Scripted::new(Arc::new(MemoryStore::default())));
    let store: Shared = Arc::<Scripted>::clone(&scripted);
    // The index and the segment are put in one piece each; the third put is the manifest, whose answer is lost.
    scripted.on("put", 2, 1, Mishap::Lost);
    let error = write(&store, &archive, 1 << 30, 100).unwrap_err();
    assert!(error.to_string().contains("not known"), "{error}");
    assert_eq!(read(&store, &[]), archive);
}

#[test]
fn stores_that_ignore_conditions_are_looked_at() {
    let store: Shared = Arc::new(Scripted::unconditional(Arc::new(MemoryStore::default())));
    let (first, second) = (
        Chunks::new().file("x", b"1").0,
        Chunks::new().file("x", b"2").0,
    );
    // Both begin before either commits.
    let run = quiet();
    let repository = Repository::new(Arc::clone(&store));
    let mut late = Writer::begin(&repository, "a", shares(), &run).unwrap();
    late.write(Bytes::from(second)).unwrap();
    write(&store, &first, 1 << 30, 100).unwrap();
    let error = late.commit().unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    assert_eq!(read(&store, &[]), first);
    assert_eq!(store.list("", false, None).unwrap().objects.len(), 3);
}

// r[repository.remove] r[repository.exists]
#[test]
fn what_has_no_manifest_does_not_exist() {
    let scripted = Arc::new(Scripted::new(Arc::new(MemoryStore::default())));
    let store: Shared = Arc::<Scripted>::clone(&scripted);
    write(&store, &Chunks::new().file("x", b"y").0, 1 << 30, 100).unwrap();
    let repository = Repository::new(Arc::clone(&store));
    assert_eq!(repository.list().unwrap().len(), 1);
    // The removal breaks off behind its first step.
    scripted.on("delete", 1, 1, Mishap::Fails(Class::Refused));
    repository.remove("a").unwrap_err();
    assert_eq!(repository.list().unwrap(), []);
    assert_eq!(
        repository
            .leftovers(i64::MAX, &Collector::default())
            .unwrap()
            .objects
            .len(),
        2
    );
    write(&store, &Chunks::new().file("x", b"z").0, 1 << 30, 100).unwrap();
    let left = repository
        .leftovers(i64::MAX, &Collector::default())
        .unwrap();
    repository.remove_leftovers(&left).unwrap();
    assert_eq!(
        repository
            .leftovers(i64::MAX, &Collector::default())
            .unwrap(),
        Default::default()
    );
    assert_eq!(store.list("", false, None).unwrap().objects.len(), 3);
}
