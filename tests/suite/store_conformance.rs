//! One suite for every store: directory, memory, `s3s-fs` in process and a real Ceph gateway, each also behind the retry
//! policy and the rate limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xbpipe::base::cancel::Cancel;
use xbpipe::base::monitor::Collector;
use xbpipe::store::s3::{AccessKey, Encryption, S3Options, S3Store, Tags};
use xbpipe::store::{
    Class, DirectoryStore, Fault, MemoryStore, Part, Policy, Rated, Retrying, Shared, Store,
    Upload, all_uploads, get_small, whole_crc,
};

use crate::s3_server::{ACCESS_KEY, BUCKET, Ceph, LocalS3, SECRET_KEY};
use crate::tool::{noise, scratch};

const MIB: usize = 1 << 20;

/// Where a store is known to fall short of Amazon's.
#[derive(Debug, Clone, Copy, Default)]
struct Lacks {
    /// `If-Match` on GET.
    read_condition: bool,
    /// Part names in Complete.
    part_names: bool,
    /// `ListMultipartUploads`.
    uploads: bool,
    /// Declared checksums.
    checksums: bool,
    /// `NoSuchUpload` instead of a refusal without a reason.
    upload_errors: bool,
    /// Parts of 5 MiB at least.
    nothing_small: bool,
}

/// Options for a server in this process.
pub(crate) fn options(address: &str, prefix: &str) -> S3Options {
    S3Options {
        endpoint_url: Some(format!("http://{address}")),
        region: Some("us-east-1".to_owned()),
        access_key: Some(AccessKey {
            id: ACCESS_KEY.to_owned(),
            secret: SECRET_KEY.to_owned(),
            session_token: None,
        }),
        stall: Duration::from_secs(20),
        ..S3Options::new(BUCKET, prefix)
    }
}

fn class<T: std::fmt::Debug>(result: Result<T, Fault>) -> Class {
    result.unwrap_err().class
}

fn part(number: u32, offset: usize, bytes: &[u8]) -> Part {
    Part {
        number,
        offset: offset as u64,
        len: bytes.len() as u64,
        crc32: crc32fast::hash(bytes),
        etag: String::new(),
    }
}

/// Sends `data` in parts of `len`, in the order of `turns` (all, if empty).
fn send(
    store: &dyn Store,
    upload: &Upload,
    data: &Bytes,
    len: usize,
    turns: &[usize],
) -> Vec<Part> {
    let pieces: Vec<Bytes> = (0..data.len().div_ceil(len))
        .map(|i| data.slice(i * len..data.len().min((i + 1) * len)))
        .collect();
    let all: Vec<usize> = (0..pieces.len()).collect();
    let turns = if turns.is_empty() { &all } else { turns };
    let mut parts: Vec<Part> = turns
        .iter()
        .map(|&i| {
            let number = u32::try_from(i + 1).unwrap();
            let part = part(number, i * len, &pieces[i]);
            store.put_part(upload, &part, pieces[i].clone()).unwrap()
        })
        .collect();
    parts.sort_by_key(|p| p.number);
    parts
}

fn read(
    store: &dyn Store,
    key: &str,
    from: u64,
    len: usize,
    etag: Option<&str>,
) -> Result<Vec<u8>, Fault> {
    let mut buf = vec![0; len];
    let mut filled = 0;
    store.read(key, from, &mut buf, &mut filled, etag)?;
    assert_eq!(filled, len);
    Ok(buf)
}

fn conform(store: &dyn Store, lacks: Lacks) {
    small_objects(store, lacks);
    listings(store);
    uploads(store, lacks);
    leftovers(store, lacks);
}

fn small_objects(store: &dyn Store, lacks: Lacks) {
    assert_eq!(class(store.head("a/none")), Class::NotFound);
    assert_eq!(class(read(store, "a/none", 0, 1, None)), Class::NotFound);
    let put = store
        .put("a/one", Bytes::from_static(b"first"), true)
        .unwrap();
    assert_eq!(put.len, 5);
    // r[repository.commit.conditional]
    let again = store.put("a/one", Bytes::from_static(b"other"), true);
    assert_eq!(class(again), Class::Exists);
    let head = store.head("a/one").unwrap();
    assert_eq!((head.len, &head.etag), (5, &put.etag));
    assert_eq!(
        read(store, "a/one", 0, 5, Some(&head.etag)).unwrap(),
        b"first"
    );
    assert_eq!(read(store, "a/one", 2, 2, None).unwrap(), b"rs");
    assert_eq!(class(read(store, "a/one", 3, 3, None)), Class::Short);
    assert_eq!(class(read(store, "a/one", 9, 1, None)), Class::Short);
    // Replaced without a condition; whoever read the old one hears of it.
    std::thread::sleep(Duration::from_millis(10));
    store
        .put("a/one", Bytes::from_static(b"SECOND"), false)
        .unwrap();
    assert_eq!(get_small(store, "a/one", 10).unwrap().0, &b"SECOND"[..]);
    if !lacks.read_condition {
        assert_eq!(
            class(read(store, "a/one", 0, 5, Some(&head.etag))),
            Class::Changed
        );
    }
    assert_eq!(class(get_small(store, "a/one", 5)), Class::Refused);
    store.put("a/empty", Bytes::new(), true).unwrap();
    assert_eq!(get_small(store, "a/empty", 10).unwrap().0, Bytes::new());
    store
        .delete(&["a/one".into(), "a/empty".into(), "a/never".into()])
        .unwrap();
    assert_eq!(class(store.head("a/one")), Class::NotFound);
    store.delete(&[]).unwrap();
    for bad in ["../x", "a//b", "/a", "a/"] {
        assert_eq!(
            class(store.put(bad, Bytes::new(), false)),
            Class::Refused,
            "{bad}"
        );
    }
}

fn listings(store: &dyn Store) {
    let odd = "l/odd name ü=&.x";
    let keys = ["l/a/1", "l/a/2", "l/b", "l/c/d/e", "l/c-d", odd];
    for key in keys {
        store.put(key, Bytes::from_static(b"xyz"), true).unwrap();
    }
    let page = store.list("l/", false, None).unwrap();
    let found: Vec<&str> = page.objects.iter().map(|o| o.key.as_str()).collect();
    let mut sorted = keys;
    sorted.sort_unstable();
    assert_eq!(found, sorted);
    assert!(
        page.objects
            .iter()
            .all(|o| o.len == 3 && o.modified > 1_700_000_000)
    );
    assert_eq!((page.prefixes, page.next), (Vec::new(), None));
    let page = store.list("l/", true, None).unwrap();
    let found: Vec<&str> = page.objects.iter().map(|o| o.key.as_str()).collect();
    assert_eq!(found, ["l/b", "l/c-d", odd]);
    assert_eq!(page.prefixes, ["l/a/", "l/c/"]);
    let page = store.list("l/c", true, None).unwrap();
    assert_eq!(
        (page.objects.len(), &page.prefixes[..]),
        (1, &["l/c/".to_owned()][..])
    );
    assert_eq!(
        store.list("nothing/", false, None).unwrap(),
        Default::default()
    );
    store.delete(&keys.map(str::to_owned)).unwrap();
    assert_eq!(store.list("l/", false, None).unwrap(), Default::default());
}

/// More names than fit on a page.
fn long_listings(store: &dyn Store) {
    let keys: Vec<String> = (0..1203)
        .map(|i| format!("many/{:02}/{i:05}", i % 40))
        .collect();
    for key in &keys {
        store.put(key, Bytes::new(), false).unwrap();
    }
    let mut found = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let page = store.list("many/", false, from.as_deref()).unwrap();
        found.extend(page.objects.into_iter().map(|o| o.key));
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(found, sorted);
    assert_eq!(store.list("many/", true, None).unwrap().prefixes.len(), 40);
    for batch in keys.chunks(1000) {
        store.delete(batch).unwrap();
    }
    assert_eq!(
        store.list("many/", false, None).unwrap(),
        Default::default()
    );
}

fn uploads(store: &dyn Store, lacks: Lacks) {
    let data = Bytes::from(noise(11 * MIB + 12_345, 7));
    let upload = store.create_upload("u/big").unwrap();
    // Nothing is there before it is complete.
    assert_eq!(class(store.head("u/big")), Class::NotFound);
    assert_eq!(store.list("u/", false, None).unwrap(), Default::default());
    // Out of order, one of them twice with other content first.
    let wrong = Bytes::from(noise(5 * MIB, 8));
    store
        .put_part(&upload, &part(2, 5 * MIB, &wrong), wrong.clone())
        .unwrap();
    let parts = send(store, &upload, &data, 5 * MIB, &[2, 0, 1]);
    let done = store.complete(&upload, &parts).unwrap();
    assert_eq!(done.len, data.len() as u64);
    let head = store.head("u/big").unwrap();
    assert_eq!(head.len, data.len() as u64);
    // r[repository.crc.declared]
    if let Some(crc) = head.crc32 {
        assert_eq!(crc, crc32fast::hash(&data));
        assert_eq!(crc, whole_crc(&parts));
    }
    let from = 5 * MIB - 3;
    let etag = Some(head.etag.as_str());
    assert_eq!(
        read(store, "u/big", from as u64, 100_000, etag).unwrap(),
        data[from..from + 100_000]
    );
    assert_eq!(read(store, "u/big", 0, data.len(), etag).unwrap(), data);
    // Bytes that are not what their checksum says.
    let upload = store.create_upload("u/bad").unwrap();
    let mut bad = part(1, 0, &data[..100]);
    if !lacks.checksums {
        bad.crc32 ^= 1;
        assert_eq!(
            class(store.put_part(&upload, &bad, data.slice(..100))),
            Class::Damaged
        );
    }
    // Parts that are too small, or not the ones that were sent.
    if !lacks.nothing_small {
        let small = send(store, &upload, &data.slice(..3000), 1000, &[]);
        assert_eq!(class(store.complete(&upload, &small)), Class::Refused);
    }
    if !lacks.part_names {
        let mut parts = send(store, &upload, &data.slice(..1000), 1000, &[]);
        parts[0].etag = "\"0123456789abcdef0123456789abcdef\"".to_owned();
        assert_eq!(class(store.complete(&upload, &parts)), Class::Refused);
    }
    assert_eq!(class(store.head("u/bad")), Class::NotFound);
    let aborted = store.abort(&upload);
    assert!(aborted.is_ok() || lacks.upload_errors, "{aborted:?}");
    let late = store.put_part(&upload, &part(1, 0, b"x"), Bytes::from_static(b"x"));
    let expected = if lacks.upload_errors {
        Class::Refused
    } else {
        Class::NotFound
    };
    assert_eq!(class(late), expected);
    if !lacks.upload_errors {
        store.abort(&upload).unwrap();
    }
    store.delete(&["u/big".to_owned()]).unwrap();
}

fn leftovers(store: &dyn Store, lacks: Lacks) {
    if lacks.uploads {
        return;
    }
    let one = store.create_upload("o/x/one").unwrap();
    let two = store.create_upload("o/two").unwrap();
    let open: Vec<Upload> = all_uploads(store, "o/")
        .unwrap()
        .into_iter()
        .map(|u| u.upload)
        .collect();
    assert_eq!(open.len(), 2);
    assert!(open.contains(&one) && open.contains(&two));
    assert_eq!(all_uploads(store, "o/x").unwrap().len(), 1);
    store.abort(&one).unwrap();
    store.abort(&two).unwrap();
    assert_eq!(all_uploads(store, "").unwrap(), []);
}

/// The same store behind everything that may stand in front of one.
fn wrapped(store: Shared) -> Retrying {
    let cancel = Cancel::new();
    let rated = Rated::new(store, 1 << 40, cancel.clone());
    let monitor = Arc::new(Collector::default());
    Retrying::new(Arc::new(rated), Policy::default(), cancel, monitor)
}

#[test]
fn memory() {
    let store = Arc::new(MemoryStore::default());
    conform(store.as_ref(), Lacks::default());
    long_listings(store.as_ref());
    conform(&wrapped(store), Lacks::default());
}

#[test]
fn directory() {
    let dir = scratch();
    let store = Arc::new(DirectoryStore::open(&dir.path().join("new/store"), true).unwrap());
    conform(store.as_ref(), Lacks::default());
    long_listings(store.as_ref());
    conform(
        &wrapped(Arc::<DirectoryStore>::clone(&store)),
        Lacks::default(),
    );
    // Nothing is left, not even directories.
    assert_eq!(crate::tool::read_tree(&dir.path().join("new")).len(), 1);
    assert!(DirectoryStore::open(&dir.path().join("missing"), false).is_err());
}

#[test]
fn directory_follows_no_links() {
    let (dir, outside) = (scratch(), scratch());
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    let store = DirectoryStore::open(dir.path(), false).unwrap();
    assert!(
        store
            .put("link/x", Bytes::from_static(b"x"), false)
            .is_err()
    );
    assert!(store.create_upload("link/y").is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn s3_in_process() {
    let server = LocalS3::start();
    let cancel = Cancel::new();
    // As observed with s3s-fs 0.14.1.
    let lacks = Lacks {
        read_condition: false,
        part_names: true,
        uploads: true,
        checksums: true,
        upload_errors: true,
        nothing_small: false,
    };
    for prefix in ["", "some/prefix"] {
        let store = S3Store::open(options(server.address(), prefix), &cancel).unwrap();
        conform(&wrapped(Arc::new(store)), lacks);
    }
    let store = S3Store::open(options(server.address(), "p"), &cancel).unwrap();
    long_listings(&store);
    // Without checksums, as some stores want it.
    let plain = S3Options {
        checksums: false,
        ..options(server.address(), "plain")
    };
    let store = S3Store::open(plain, &cancel).unwrap();
    conform(&store, lacks);
}

#[test]
fn ceph() {
    let ceph = Ceph::shared();
    let cancel = Cancel::new();
    let base = options(&ceph.address(), "conformance");
    ceph.make_bucket("conformance");
    let base = S3Options {
        bucket: "conformance".to_owned(),
        ..base
    };
    // As observed with Ceph 16.2.15, which knows no checksums.
    let lacks = Lacks {
        checksums: true,
        ..Lacks::default()
    };
    let store = S3Store::open(base.clone(), &cancel).unwrap();
    conform(&store, lacks);
    long_listings(&store);
    let store = S3Store::open(base.clone(), &cancel).unwrap();
    conform(&wrapped(Arc::new(store)), lacks);
    // With a key that the store does not keep, and tags.
    let dir = scratch();
    let key = dir.path().join("key");
    std::fs::write(&key, noise(32, 1)).unwrap();
    let encrypted = S3Options {
        encryption: Some(Encryption::Customer(
            xbpipe::store::s3::CustomerKey::read(&key).unwrap(),
        )),
        tags: Tags::parse(&["kind=backup".to_owned()]).unwrap(),
        ..base.clone()
    };
    let store = S3Store::open(encrypted, &cancel).unwrap();
    conform(&store, lacks);
    store.put("secret", Bytes::from_static(b"x"), true).unwrap();
    let plain = S3Store::open(base, &cancel).unwrap();
    assert_eq!(class(read(&plain, "secret", 0, 1, None)), Class::Refused);
    store.delete(&["secret".to_owned()]).unwrap();
}
