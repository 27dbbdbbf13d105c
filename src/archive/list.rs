//! `list`: what an archive holds, as it would be extracted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::archive::{Examined, ReadOptions, examine};
use crate::base::error::Result;
use crate::base::run::Run;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// One member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its length in bytes as stored (compressed members: compressed).
    pub size: u64,
    /// An empty directory.
    pub directory: bool,
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

/// Lists an archive. Memory grows with the names, not with the data. Fails only for reasons outside the archive.
pub fn list(options: &ReadOptions, run: &Run) -> Result<Listing> {
    let catalog = Catalog::default();
    let examined = examine(options, &catalog, run)?;
    let members = catalog
        .members
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(Listing { members, examined })
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
            whole: true,
        };
        self.catalog
            .with(|members| members.insert(self.path.clone(), member));
        Ok(())
    }
}
