//! The page check against every file of real servers, in every page format they write.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test helpers make and damage files with plain std"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use xbpipe::base::units::PageNo;
use xbpipe::innodb::aria::{AriaCheck, AriaFile};
use xbpipe::innodb::check::{BadPage, PageCheck, PageState};
use xbpipe::innodb::page::{PageHeader, TYPE_PAGE_COMPRESSED_ENCRYPTED};
use xbpipe::innodb::tablespace::{Page0, PageFormat, SpaceFlags};

use crate::innodb_real::{as_strs, encryption};
use crate::server::TestServer;

/// Table options of the tables to make; the names tell what they are for.
const TABLES: [(&str, &str); 8] = [
    ("plain", ""),
    ("redundant", "ROW_FORMAT=REDUNDANT"),
    ("zlib", "PAGE_COMPRESSED=1"),
    ("secret", "ENCRYPTED=YES"),
    ("secret_zlib", "PAGE_COMPRESSED=1 ENCRYPTED=YES"),
    ("row4", "ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=4"),
    ("row1", "ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=1"),
    (
        "row2_secret",
        "ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=2 ENCRYPTED=YES",
    ),
];

/// Makes a server with these install options, fills tables of every format it has, stops it in order.
fn stopped_server(install: &[&str]) -> TestServer {
    let (_keys, mut options) = encryption();
    options.push("--innodb-compression-algorithm=zlib".to_owned());
    options.push("--innodb-compression-default=OFF".to_owned());
    let mut server = TestServer::start_installed(install, &as_strs(&options));
    let large = install.contains(&"--innodb-page-size=64k");
    let mut statements = "CREATE DATABASE d; USE d; SET innodb_strict_mode=ON;".to_owned();
    for (name, options) in TABLES {
        // There is no ROW_FORMAT=COMPRESSED with large pages.
        if large && options.contains("KEY_BLOCK_SIZE") {
            continue;
        }
        statements += &format!(
            "CREATE TABLE {name} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100), b BLOB, \
             KEY (v)) {options}; \
             INSERT INTO {name} (v, b) SELECT MD5(seq), REPEAT(MD5(RAND(seq)), 1 + seq % 40) \
             FROM seq_1_to_1500;"
        );
    }
    statements += "CREATE TABLE place (id INT PRIMARY KEY, g GEOMETRY NOT NULL, SPATIAL KEY (g)); \
         INSERT INTO place SELECT seq, POINT(seq, seq * 7 % 100) FROM seq_1_to_1500;";
    server.sql(&statements);
    server.shutdown();
    server
}

/// Tablespace files below a data directory: the system's, undo, one per table.
fn tablespaces(datadir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(datadir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let inner = std::fs::read_dir(entry.path()).unwrap();
            files.extend(inner.map(|e| e.unwrap().path()));
        } else if name.starts_with("ibdata") || name.starts_with("undo0") {
            files.push(entry.path());
        }
    }
    files.retain(|f| f.extension().is_none_or(|e| e == "ibd"));
    files.sort();
    files
}

/// Whether a flipped bit at `at` can go unnoticed: the format's checksum leaves the place out.
fn is_uncovered(flags: SpaceFlags, page: &[u8], at: usize) -> bool {
    let header = PageHeader::parse(page).unwrap();
    let encrypted = header.key_version != 0 && header.page_no.0 != 0;
    match flags.format {
        PageFormat::FullCrc32 => {
            header.page_type & 0x8000 != 0 && at >= usize::from(header.page_type & 0x7fff) * 256
        }
        PageFormat::Old => {
            // The key version, and the checksum from before the encryption, belong to the encrypted page only.
            let key = if encrypted { 26..30 } else { 26..34 };
            let bare_trailer = header.page_type == TYPE_PAGE_COMPRESSED_ENCRYPTED;
            key.contains(&at) || (34..38).contains(&at) || bare_trailer && at >= page.len() - 8
        }
        PageFormat::CompressedRow => {
            (16..24).contains(&at) || (26..34).contains(&at) || encrypted && at < 4
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    valid: usize,
    zero: usize,
    unverifiable: usize,
}

/// Checks every page of every file, then flips bits of some of the valid ones.
fn check_all(datadir: &Path) -> BTreeMap<String, Tally> {
    let mut tallies = BTreeMap::new();
    let mut system = None;
    for path in tablespaces(datadir) {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (check, flags, first) = if name == "ibdata2" {
            system.clone().unwrap()
        } else {
            let page0 = Page0::parse(&bytes[..1024]).unwrap().unwrap();
            let flags = page0.flags;
            if name == "ibdata1" {
                let check = PageCheck::system(flags);
                let pages = u32::try_from(bytes.len() / flags.physical_len).unwrap();
                system = Some((check.clone(), flags, pages));
                (check, flags, 0)
            } else {
                assert!(page0.size_pages as usize * flags.physical_len <= bytes.len());
                (PageCheck::new(flags), flags, 0)
            }
        };
        let len = check.page_len();
        assert_eq!(bytes.len() % len, 0, "{name}");
        let run = check.check_run(PageNo(first), &bytes);
        assert_eq!(run, Ok(bytes.len() / len), "{name} {flags:?}");
        let tally: &mut Tally = tallies.entry(name.clone()).or_default();
        for (index, page) in bytes.chunks_exact(len).enumerate() {
            let page_no = PageNo(first + u32::try_from(index).unwrap());
            match check.check(page_no, page).unwrap() {
                PageState::Valid => tally.valid += 1,
                PageState::AllZero => tally.zero += 1,
                PageState::Unverifiable => tally.unverifiable += 1,
            }
            if check.check(page_no, page) != Ok(PageState::Valid) || index % 3 != 0 {
                continue;
            }
            for i in 0..6_usize {
                let at = (index * 7919 + i * 104_729 + i * i * 31) % len;
                let mut bad = page.to_vec();
                bad[at] ^= 1 << (i + index % 3);
                let found = check.check(page_no, &bad);
                assert!(
                    found != Ok(PageState::Valid) || is_uncovered(flags, page, at),
                    "{name} page {index} byte {at} {flags:?}"
                );
                let in_run: Result<usize, BadPage> = check.check_run(page_no, &bad);
                assert_eq!(in_run.is_err(), found.is_err());
            }
        }
    }
    tallies
}

/// Every page passes, and those that have a checksum are recognised as such.
fn every_page_passes(install: &[&str]) {
    let server = stopped_server(install);
    let tallies = check_all(server.datadir());
    let old = install.contains(&"--innodb-checksum-algorithm=crc32");
    for (name, tally) in tallies {
        if old && name == "zlib.ibd" {
            assert!(tally.unverifiable > 0, "{name}");
        } else if name == "ibdata2" && old {
            assert!(tally.valid > 50, "{tally:?}");
        } else if !name.starts_with("ibdata") {
            assert_eq!(tally.unverifiable, 0, "{name}");
            assert!(tally.valid > 3, "{name}");
        }
    }
}

#[test]
fn full_crc32_16k() {
    every_page_passes(&[
        "--innodb-data-file-path=ibdata1:12M;ibdata2:4M:autoextend",
        "--innodb-undo-tablespaces=2",
    ]);
}

#[test]
fn old_crc32_16k() {
    every_page_passes(&[
        "--innodb-checksum-algorithm=crc32",
        "--innodb-data-file-path=ibdata1:3M;ibdata2:10M:autoextend",
    ]);
}

#[test]
fn small_pages() {
    every_page_passes(&["--innodb-page-size=4k", "--innodb-checksum-algorithm=crc32"]);
    every_page_passes(&["--innodb-page-size=8k"]);
}

#[test]
fn large_pages() {
    every_page_passes(&["--innodb-page-size=64k"]);
    every_page_passes(&[
        "--innodb-page-size=64k",
        "--innodb-checksum-algorithm=crc32",
    ]);
}

#[test]
fn pages_of_transactional_aria_tables() {
    let mut server = TestServer::start(&[]);
    server.sql(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100), b BLOB, KEY (v)) \
         ENGINE=Aria; \
         INSERT INTO t (v, b) SELECT MD5(seq), REPEAT(MD5(seq), seq % 300) FROM seq_1_to_2000; \
         DELETE FROM t WHERE id % 7 = 0; \
         CREATE TABLE plain ENGINE=Aria TRANSACTIONAL=0 AS SELECT * FROM t; \
         CREATE TABLE bare (id INT PRIMARY KEY) ENGINE=Aria PAGE_CHECKSUM=0;",
    );
    server.shutdown();
    let file = |name: &str| std::fs::read(server.datadir().join(name)).unwrap();
    for name in ["d/plain.MAI", "d/bare.MAI", "mysql/help_topic.MAI"] {
        assert_eq!(AriaCheck::new(&file(name), 8192), None, "{name}");
    }
    for table in [
        "d/t",
        "mysql/proc",
        "mysql/global_priv",
        "mysql/proxies_priv",
    ] {
        let index = file(&format!("{table}.MAI"));
        let check = AriaCheck::new(&index, 8192).unwrap();
        let data = file(&format!("{table}.MAD"));
        for (kind, bytes) in [(AriaFile::Index, index), (AriaFile::Data, data)] {
            for (no, page) in bytes.chunks(8192).enumerate() {
                let page_no = PageNo(u32::try_from(no).unwrap());
                let state = check.check(kind, page_no, page).unwrap();
                let header = kind == AriaFile::Index && no == 0;
                assert_eq!(
                    state == PageState::Unverifiable,
                    header,
                    "{table} {kind:?} {no}"
                );
                let mut bad = page.to_vec();
                bad[no % 15] ^= 1;
                let noticed = check.check(kind, page_no, &bad).is_err();
                assert!(
                    noticed || state != PageState::Valid,
                    "{table} {kind:?} {no}"
                );
            }
        }
    }
}
