//! `verify --quick`: trailer, index, and the heads of all chunks; no payload. `r[xbstream.index.trust]` Without an index the
//! structure is followed from front to back.

use std::collections::HashMap;

use crate::archive::{Access, Examined, Opened, ReadOptions, examine_opened};
use crate::base::error::{Error, Kind, Result};
use crate::base::run::Run;
use crate::pipeline::demux::{End, Failure, Outcome};
use crate::pipeline::index_file::{Indexed, bad_index};
use crate::pipeline::sink::NullSink;
use crate::pipeline::source::ReadAt;
use crate::xbstream::index::{IndexLine, Place};
use crate::xbstream::limits::{HEAD_LEN, OPEN_FILES_MAX, PATH_LEN_MAX};
use crate::xbstream::{
    ArchivePath, Body, ChunkHead, CrcCheck, Decoder, Event, MAGIC, Options, encode,
};

/// Bytes that the head of every payload chunk fits in.
const HEAD_READ_LEN: usize = HEAD_LEN + PATH_LEN_MAX + 20;

/// Checks that the index of an archive is right and that everything it tells of is where and as long as it says; or, when there
/// is none, that the structure is right from front to back, with large payload passed over where the archive can be read anywhere.
/// What is wrong is in the outcome. Fails for a backup in a store, which has ways of its own.
pub fn verify_quick(options: &ReadOptions, run: &Run) -> Result<Examined> {
    let opened = Opened::new(options, run)?;
    let name = opened.input.name().to_owned();
    if options.stored.is_some() {
        let what = "a quick check is for archives, not for a backup in a store:";
        return Err(Error::new(Kind::Usage, what)
            .path(&name)
            .hint("use --level 1, which reads its index"));
    }
    let found = match opened.input.source() {
        Some(source) => Indexed::find(source),
        None => Ok(None),
    };
    let mut outcome = Outcome {
        files: 0,
        payload_bytes: 0,
        archive_bytes: opened.input.source().map_or(0, |source| source.len()),
        end: End::Indexed,
        failures: Vec::new(),
        incomplete: Vec::new(),
        stream_error: None,
        further: Vec::new(),
    };
    let checked = match found {
        Ok(Some(indexed)) => check(&indexed, &mut outcome, run),
        Ok(None) => {
            // Another program wrote it, or it was cut, which its beginning tells.
            let scan = ReadOptions {
                access: Access::Structure,
                ..options.clone()
            };
            return examine_opened(opened, &scan, &NullSink, run);
        }
        Err(error) => Err(error),
    };
    match checked {
        Err(error) if bad_index(&error) => outcome.stream_error = Some(error),
        other => other?,
    }
    Ok(Examined { name, outcome })
}

/// A file of which chunk lines were read.
struct Begun {
    path: ArchivePath,
    len: u64,
    error: Option<Error>,
}

fn check(indexed: &Indexed, outcome: &mut Outcome, run: &Run) -> Result<()> {
    let source = indexed.source().as_ref();
    let mut begun: HashMap<u64, Begun> = HashMap::new();
    // Every byte of the archive belongs to something: what is nowhere in the index would be too much.
    let mut accounted = indexed.own_bytes();
    indexed.lines(|line| {
        run.cancel.check()?;
        match line {
            IndexLine::Chunks { member, list } => {
                for place in list {
                    if begun.len() >= OPEN_FILES_MAX {
                        return Err(bad("the index has too many files open"));
                    }
                    let head = head_at(source, place)?;
                    let file = begun.entry(member).or_insert_with(|| Begun {
                        path: head.as_ref().map_or_else(|_| unknown(), |h| h.path.clone()),
                        len: 0,
                        error: None,
                    });
                    let head_len = encode::payload_head_len(&file.path) as u64;
                    accounted = accounted.saturating_add(head_len).saturating_add(place.len);
                    let offset = file.len;
                    file.len = offset.saturating_add(place.len);
                    let found = head.and_then(|head| compare(&head, &file.path, offset, place));
                    if let Err(error) = found {
                        file.error.get_or_insert(error);
                    }
                }
            }
            IndexLine::File {
                member, len, path, ..
            } => {
                accounted = accounted.saturating_add(encode::end_len(&path) as u64);
                let file = begun.remove(&member).unwrap_or_else(|| Begun {
                    path: path.clone(),
                    len: 0,
                    error: None,
                });
                let error = file.error.or_else(|| {
                    let same = file.path == path && file.len == len;
                    (!same).then(|| bad("the index disagrees with itself about"))
                });
                match error {
                    Some(error) => outcome.failures.push(Failure {
                        error: error.path(path.as_path()),
                        path,
                    }),
                    None => {
                        outcome.files += 1;
                        outcome.payload_bytes += len;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    outcome.failures.sort_by(|a, b| a.path.cmp(&b.path));
    if !outcome.failures.is_empty() {
        return Ok(());
    }
    if !begun.is_empty() {
        return Err(bad("the index tells of chunks of files without a name"));
    }
    if accounted != outcome.archive_bytes {
        let what = format!(
            "the index accounts for {accounted} bytes of an archive of {}",
            outcome.archive_bytes
        );
        return Err(bad(&what));
    }
    Ok(())
}

fn bad(what: &str) -> Error {
    Error::new(Kind::Checksum, what)
}

/// A path for a file whose first head could not be read; it is named by its file line.
fn unknown() -> ArchivePath {
    ArchivePath::new(b"?").expect("a question mark is a legal name")
}

/// Reads the head of a chunk: `Err` outside is not the archive's fault, inside it is.
fn head_at(source: &dyn ReadAt, place: Place) -> Result<Result<ChunkHead>> {
    let mut bytes = vec![0; HEAD_READ_LEN];
    let n = source.read_at(&mut bytes, place.position)?;
    bytes.truncate(n);
    let wrong = || bad("the index tells of a chunk that is not there:").at(place.position);
    if !bytes.starts_with(&MAGIC) {
        return Ok(Err(wrong()));
    }
    let mut decoder = Decoder::new(Options {
        crc: CrcCheck::Caller,
        ..Options::default()
    });
    decoder.feed(bytes.into());
    Ok(match decoder.next() {
        Ok(Some(Event::Chunk(head))) => Ok(head),
        Ok(_) => Err(wrong()),
        Err(why) => Err(wrong().source(why)),
    })
}

fn compare(head: &ChunkHead, path: &ArchivePath, offset: u64, place: Place) -> Result<()> {
    match head.body {
        Body::Payload { len, offset: o, .. }
            if head.path == *path && o == offset && len == place.len =>
        {
            Ok(())
        }
        _ => Err(bad("the index tells of a chunk that is not there:").at(place.position)),
    }
}
