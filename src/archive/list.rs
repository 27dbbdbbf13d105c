//! `list`: what an archive holds, as it would be extracted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::archive::{Examined, Opened, ReadOptions, examine_opened};
use crate::base::error::Result;
use crate::base::run::Run;
use crate::codec::CHAIN_MAX;
use crate::pipeline::demux::{End, Outcome};
use crate::pipeline::index_file::{Indexed, bad_index};
use crate::pipeline::select::{SelectSink, Selection};
use crate::pipeline::sink::{Attributes, FileSink, NullSink, Sink};
use crate::xbstream::index::IndexLine;
use crate::xbstream::{ArchivePath, RemovePattern};

/// One member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its length in bytes as stored (compressed members: compressed).
    pub size: u64,
    /// An empty directory.
    pub directory: bool,
    /// Its length in bytes once it is decompressed, where the index tells.
    pub plain_size: Option<u64>,
    /// Its end was reached.
    pub whole: bool,
}

/// The members, and whether the archive is whole.
pub struct Listing {
    /// By name. Renames and removes that the archive contains have been carried out.
    pub members: BTreeMap<ArchivePath, Member>,
    /// What is known about the archive.
    pub examined: Examined,
}

/// How a member is compressed and encrypted by the suffixes of its path, what was done last coming last.
/// `r[xbstream.index.chain]`
#[must_use]
pub fn chain(path: &ArchivePath) -> Vec<&'static str> {
    const SUFFIXES: [(&[u8], &str); 5] = [
        (b".zst", "zstd"),
        (b".lz4", "lz4"),
        (b".qp", "qpress"),
        (b".xbcrypt", "xbcrypt"),
        (b".age", "age"),
    ];
    let mut rest = path.as_bytes();
    let mut chain = Vec::new();
    while let Some((name, what)) = SUFFIXES
        .iter()
        .find_map(|(suffix, what)| Some((rest.strip_suffix(*suffix)?, *what)))
        .filter(|(name, _)| chain.len() < CHAIN_MAX && !name.is_empty() && !name.ends_with(b"/"))
    {
        chain.push(what);
        rest = name;
    }
    chain.reverse();
    chain
}

/// Lists an archive: by its index if it has one and can be read anywhere, else by going through it. Memory grows with the
/// names, not with the data. Fails only for reasons outside the archive, or when something asked for is not in it.
pub fn list(options: &ReadOptions, selection: &Selection, run: &Run) -> Result<Listing> {
    let opened = Opened::new(options, run)?;
    if let Some(indexed) = opened.index(run)? {
        let select = SelectSink::new(&NullSink, selection)?;
        match from_index(&indexed, &select) {
            Ok((members, outcome)) => {
                select.check_found()?;
                let name = opened.input.name().to_owned();
                let examined = Examined { name, outcome };
                return Ok(Listing { members, examined });
            }
            Err(error) if bad_index(&error) => run
                .monitor
                .warning(format!("{error}; reading the whole archive instead")),
            Err(error) => return Err(error),
        }
    }
    let catalog = Catalog::default();
    let examined = {
        let select = SelectSink::new(&catalog, selection)?;
        let examined = examine_opened(opened, options, &select, run)?;
        if examined.outcome.is_whole() {
            select.check_found()?;
        }
        examined
    };
    let members = catalog
        .members
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(Listing { members, examined })
}

type Members = BTreeMap<ArchivePath, Member>;

fn from_index(indexed: &Indexed, select: &SelectSink<'_>) -> Result<(Members, Outcome)> {
    let mut members = BTreeMap::new();
    let mut plain = HashMap::new();
    let (mut files, mut payload_bytes) = (0, 0);
    indexed.lines(|line| {
        match line {
            IndexLine::Frames { member, list } => {
                if let Some(last) = list.last() {
                    plain.insert(member, last.plain);
                }
            }
            IndexLine::File {
                member, len, path, ..
            } => {
                // Of several transforms the frames are those of the last.
                let plain_size = plain
                    .remove(&member)
                    .filter(|_: &u64| chain(&path).len() == 1);
                if select.selects(&path) {
                    files += 1;
                    payload_bytes += len;
                    let member = Member {
                        size: len,
                        directory: false,
                        plain_size,
                        whole: true,
                    };
                    members.insert(path, member);
                }
            }
            IndexLine::Directory { path } if select.selects(&path) => {
                let member = Member {
                    size: 0,
                    directory: true,
                    plain_size: None,
                    whole: true,
                };
                members.insert(path, member);
            }
            _ => {}
        }
        Ok(())
    })?;
    let outcome = Outcome {
        files,
        payload_bytes,
        archive_bytes: indexed.source().len(),
        end: End::Indexed,
        failures: Vec::new(),
        incomplete: Vec::new(),
        stream_error: None,
        further: Vec::new(),
    };
    Ok((members, outcome))
}

#[derive(Default)]
struct Catalog {
    members: Mutex<BTreeMap<ArchivePath, Member>>,
}

impl Catalog {
    fn with<R>(&self, f: impl FnOnce(&mut BTreeMap<ArchivePath, Member>) -> R) -> R {
        f(&mut self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink for Catalog {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        _attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        let member = Member {
            size: 0,
            directory: false,
            plain_size: None,
            whole: false,
        };
        self.with(|members| members.insert(path.clone(), member));
        Ok(Box::new(Entry {
            catalog: self,
            path: path.clone(),
            size: 0,
        }))
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        let member = Member {
            size: 0,
            directory: true,
            plain_size: None,
            whole: true,
        };
        self.with(|members| members.insert(path.clone(), member));
        Ok(())
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        self.with(|members| {
            if let Some(member) = members.remove(from) {
                members.insert(to.clone(), member);
            }
        });
        Ok(())
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        self.with(|members| {
            if let Some(member) = members.get_mut(path) {
                member.whole = false;
            }
        });
        Ok(())
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        self.with(|members| members.retain(|path, _| !pattern.matches(path)));
        Ok(())
    }
}

struct Entry<'s> {
    catalog: &'s Catalog,
    path: ArchivePath,
    size: u64,
}

impl FileSink for Entry<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.size = self.size.max(offset + data.len() as u64);
        Ok(())
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        self.size = self.size.max(offset + len);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        let member = Member {
            size: self.size,
            directory: false,
            plain_size: None,
            whole: true,
        };
        self.catalog
            .with(|members| members.insert(self.path.clone(), member));
        Ok(())
    }
}
