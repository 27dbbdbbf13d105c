//! The vectors of `format-spec/repository.md`: indexes and manifests, read and written.

use xbpipe::base::error::{Error, Result};
use xbpipe::repository::index::{Line, Reader};
use xbpipe::repository::manifest::Manifest;

use crate::vec_file::{Direction, Vector, load};

/// What an index says as far as it can be read, written again, and why it cannot be read on.
fn read_index(bytes: &[u8], cut: usize) -> (Vec<String>, Vec<u8>, Option<Error>) {
    let (mut told, mut again) = (Vec::new(), Vec::new());
    let mut reader = Reader::default();
    let mut each = |line: Line| {
        line.append_to(&mut again);
        told.push(match line {
            Line::Header => "header".to_owned(),
            Line::File(path) => format!("file {}", path.escape_ascii()),
            Line::Run { file, len } => format!("run {file} {len}"),
            Line::Part(crc) => format!("part {crc:08x}"),
            Line::Entangled => "entangled".to_owned(),
            Line::End { bytes, parts } => format!("end {bytes} {parts}"),
        });
        Ok(())
    };
    let mut pieces = bytes.chunks(cut);
    let read: Result<()> = pieces.try_for_each(|piece| reader.push(piece, &mut each));
    let error = read.and_then(|()| reader.finish()).err();
    (told, again, error)
}

fn tell_manifest(manifest: &Manifest) -> Vec<String> {
    let archive = &manifest.archive;
    let mut told = vec![
        format!("run {}", manifest.run),
        format!("by {} on {}", manifest.tool, manifest.host),
        format!("from {} to {}", manifest.started, manifest.finished),
        format!(
            "archive of {} bytes, {} files, {} bytes of content, {}",
            archive.bytes, archive.files, archive.payload_bytes, archive.end
        ),
    ];
    if let Some(backup) = &manifest.backup {
        told.push(format!(
            "backup {} {}..{}..{} of {:?} {:?}",
            backup.kind,
            backup.from_lsn,
            backup.to_lsn,
            backup.last_lsn,
            backup.server,
            backup.uuid
        ));
    }
    told.push(format!(
        "parts {} of {}",
        manifest.parts(),
        manifest.part_len
    ));
    for segment in &manifest.segments {
        let (len, crc32, etag) = (segment.len, &segment.crc32, &segment.etag);
        told.push(format!("segment {len} {crc32} {etag}"));
    }
    let index = &manifest.index;
    told.push(format!(
        "index {} {} {}",
        index.len, index.crc32, index.etag
    ));
    told
}

/// What is told, what is written again, and the error, as a vector has them.
fn read(vector: &Vector, cut: usize) -> (Vec<String>, Vec<u8>, Option<Error>) {
    if vector.options == ["index"] {
        return read_index(&vector.bytes, cut);
    }
    assert_eq!(vector.options, ["manifest"], "{}", vector.name);
    match Manifest::parse(&vector.bytes) {
        Ok(manifest) => (tell_manifest(&manifest), manifest.render().unwrap(), None),
        Err(error) => (Vec::new(), Vec::new(), Some(error)),
    }
}

fn differences(vector: &Vector) -> Vec<String> {
    let mut wrong = Vec::new();
    for cut in [vector.bytes.len(), 1, 7] {
        let (told, again, error) = read(vector, cut);
        if told != vector.events.clone().unwrap_or_default() {
            wrong.push(format!("it says {told:#?}"));
        }
        if error.as_ref().map(ToString::to_string) != vector.message {
            wrong.push(format!("the error is {error:?}"));
        }
        if vector.direction == Direction::Both && again != vector.bytes {
            wrong.push("written again it differs".to_owned());
        }
    }
    wrong
}

#[test]
fn repository_vectors_hold() {
    let vectors = load("repository");
    let failures: Vec<String> = (vectors.iter())
        .flat_map(|vector| {
            let wrong = differences(vector).into_iter();
            wrong.map(|wrong| format!("{}: {wrong}", vector.name))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_wrong_repository_vector_is_noticed() {
    for name in ["index", "manifest"] {
        let good = || {
            let mut vectors = load("repository").into_iter();
            vectors.find(|v| v.name == name).unwrap()
        };
        assert!(differences(&good()).is_empty());
        let mut other = good();
        let at = other.bytes.len() - 3;
        other.bytes[at] ^= 1;
        assert!(!differences(&other).is_empty(), "{name}");
        let mut silent = good();
        silent.events.as_mut().unwrap().pop();
        assert!(!differences(&silent).is_empty(), "{name}");
        let mut failing = good();
        failing.message = Some("no".to_owned());
        assert!(!differences(&failing).is_empty(), "{name}");
    }
}
