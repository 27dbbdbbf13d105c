//! Members as they are at the end of an archive: its renames, removals, replacements and patches carried out before the first
//! byte is passed on, for a sink that cannot take anything back.
//!
//! What becomes of a member is only known behind it. So an archive that can be read twice is gone through first ([`Survey`]),
//! and one that cannot must not do any of this to what it has passed on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes};

use crate::base::error::{Error, Kind, Result};
use crate::base::units::ByteCount;
use crate::pipeline::budget::ZEROS;
use crate::pipeline::sink::{Attributes, FileSink, NullSink, Sink};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Most bytes of patches of one archive, which are held in memory: mariadb-backup writes 7 in the head of each Aria log.
pub const PATCHES_LEN_MAX: usize = 1 << 20;

/// Bytes that an archive writes over content of the same file that came before.
#[derive(Debug, Clone)]
struct Patch {
    offset: u64,
    bytes: Bytes,
}

impl Patch {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// What becomes of one member.
#[derive(Debug)]
struct Fate {
    /// Its name in the end; `None` if it is removed or replaced.
    name: Option<ArchivePath>,
    /// In order.
    patches: Vec<Patch>,
}

/// What becomes of the members of an archive. Holds only names of which something else becomes than themselves.
#[derive(Debug, Default)]
pub struct Plan {
    /// Of each time that a member of that name begins.
    fates: HashMap<ArchivePath, Vec<Fate>>,
}

/// The sink of the first time through. Memory grows with the names, as it does for a list.
#[derive(Debug, Default)]
pub struct Survey(Mutex<Surveyed>);

#[derive(Debug, Default)]
struct Surveyed {
    /// In the order in which they begin: the name in the archive.
    members: Vec<ArchivePath>,
    /// Members that are there now.
    names: BTreeMap<ArchivePath, usize>,
    patches: HashMap<usize, Vec<Patch>>,
    patches_len: usize,
}

impl Survey {
    fn lock(&self) -> MutexGuard<'_, Surveyed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found out. Only of an archive that was whole.
    #[must_use]
    pub fn into_plan(self) -> Plan {
        let mut found = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<Option<ArchivePath>> = vec![None; found.members.len()];
        for (name, id) in found.names {
            if let Some(slot) = names.get_mut(id) {
                *slot = Some(name);
            }
        }
        let members = || found.members.iter().zip(&names).enumerate();
        let special: HashSet<ArchivePath> = members()
            .filter(|(id, (path, name))| {
                name.as_ref() != Some(*path) || found.patches.contains_key(id)
            })
            .map(|(_, (path, _))| path.clone())
            .collect();
        let mut plan = Plan::default();
        for (id, (path, name)) in members().filter(|(_, (path, _))| special.contains(*path)) {
            let fate = Fate {
                name: name.clone(),
                patches: found.patches.remove(&id).unwrap_or_default(),
            };
            plan.fates.entry(path.clone()).or_default().push(fate);
        }
        plan
    }
}

impl Sink for Survey {
    fn open<'s>(&'s self, path: &ArchivePath, _: Attributes) -> Result<Box<dyn FileSink + 's>> {
        let mut found = self.lock();
        let id = found.members.len();
        found.members.push(path.clone());
        found.names.insert(path.clone(), id);
        Ok(Box::new(Surveying {
            survey: self,
            id,
            path: path.clone(),
            end: 0,
        }))
    }

    fn directory(&self, _: &ArchivePath) -> Result<()> {
        Ok(())
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        let mut found = self.lock();
        if let Some(id) = found.names.remove(from) {
            found.names.insert(to.clone(), id);
        }
        Ok(())
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        let (RemovePattern::Exact(begin) | RemovePattern::Prefix { stem: begin }) = pattern;
        let mut found = self.lock();
        let from: (_, Bound<&[u8]>) = (Bound::Included(begin.as_bytes()), Bound::Unbounded);
        let gone: Vec<ArchivePath> = (found.names.range::<[u8], _>(from))
            .map(|(name, _)| name)
            .take_while(|name| name.as_bytes().starts_with(begin.as_bytes()))
            .filter(|name| pattern.matches(name))
            .cloned()
            .collect();
        for name in gone {
            found.names.remove(&name);
        }
        Ok(())
    }
}

struct Surveying<'s> {
    survey: &'s Survey,
    id: usize,
    path: ArchivePath,
    /// Length so far.
    end: u64,
}

impl Surveying<'_> {
    fn too_much(&self, offset: u64) -> Error {
        let most = ByteCount(PATCHES_LEN_MAX as u64);
        let what = format!(
            "the archive writes over what it holds already, and more than the {most} that can be kept, in"
        );
        Error::new(Kind::Failed, what)
            .path(self.path.as_path())
            .at(offset)
            .hint("extract it, and create a new archive")
    }
}

impl FileSink for Surveying<'_> {
    /// `r[convert.patch]`
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let over = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let over = over.min(data.len());
        if over > 0 {
            let mut found = self.survey.lock();
            found.patches_len += over;
            if found.patches_len > PATCHES_LEN_MAX {
                return Err(self.too_much(offset));
            }
            let bytes = Bytes::copy_from_slice(data.get(..over).unwrap_or_default());
            let patch = Patch { offset, bytes };
            found.patches.entry(self.id).or_default().push(patch);
        }
        self.end = self.end.max(offset + data.len() as u64);
        Ok(())
    }

    /// Also payload that was not read.
    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        if offset < self.end && len > 0 {
            return Err(self.too_much(offset));
        }
        self.end = self.end.max(offset + len);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Names that were there, as hashes under random keys: nobody can make two look the same on purpose.
#[derive(Debug, Default)]
pub struct Names {
    keys: [RandomState; 2],
    files: HashSet<[u64; 2]>,
    directories: HashSet<[u64; 2]>,
}

impl Names {
    fn key(&self, path: &[u8]) -> [u64; 2] {
        self.keys.each_ref().map(|key| key.hash_one(path))
    }

    /// Adds the name of a file; `false` if it was there.
    pub fn insert(&mut self, path: &ArchivePath) -> bool {
        let bytes = path.as_bytes();
        let parents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in std::iter::once(0).chain(parents.map(|(at, _)| at)) {
            let key = self.key(bytes.get(..end).unwrap_or_default());
            self.directories.insert(key);
        }
        let key = self.key(bytes);
        self.files.insert(key)
    }

    fn contains(&self, path: &ArchivePath) -> bool {
        self.files.contains(&self.key(path.as_bytes()))
    }

    /// Whether the pattern may match anything.
    fn may_match(&self, pattern: &RemovePattern) -> bool {
        match pattern {
            RemovePattern::Exact(path) => {
                let below = self.key(path.as_bytes());
                self.contains(path) || self.directories.contains(&below)
            }
            RemovePattern::Prefix { stem } => {
                let directory = self.key(stem.parent().unwrap_or_default());
                self.directories.contains(&directory)
            }
        }
    }
}

/// Lets members through as they will be, each from front to back.
pub struct SettledSink<'a> {
    inner: &'a dyn Sink,
    state: Mutex<State>,
}

enum State {
    /// What becomes of the members is known; and how often a member of these names has begun.
    Planned(Plan, HashMap<ArchivePath, usize>),
    /// It is not; names that were let through.
    Blind(Names),
}

impl<'a> SettledSink<'a> {
    /// In front of `inner`; with a plan of the same archive if it was gone through.
    pub fn new(inner: &'a dyn Sink, plan: Option<Plan>) -> Self {
        let state = match plan {
            Some(plan) => State::Planned(plan, HashMap::new()),
            None => State::Blind(Names::default()),
        };
        Self {
            inner,
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `r[convert.pipe]`
fn too_late(what: &str, path: &ArchivePath) -> Error {
    let what = format!("the archive {what} what has been passed on already:");
    Error::new(Kind::Failed, what)
        .path(path.as_path())
        .hint("store the archive in a file and convert that, so that it can be read twice; or extract it, and create a new one")
}

impl Sink for SettledSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        let (name, patches) = match &mut *self.lock() {
            State::Planned(plan, begun) => match plan.fates.get_mut(path) {
                None => (Some(path.clone()), Some(Vec::new())),
                Some(fates) => {
                    let number = begun.entry(path.clone()).or_default();
                    *number += 1;
                    let fate = fates.get_mut(*number - 1).ok_or_else(|| changed(path))?;
                    let patches = std::mem::take(&mut fate.patches);
                    (fate.name.take(), Some(patches))
                }
            },
            State::Blind(_) if !self.inner.wants(path) => (None, None),
            State::Blind(names) => {
                if attributes.rewrite && names.contains(path) {
                    return Err(too_late("replaces", path));
                }
                names.insert(path);
                (Some(path.clone()), None)
            }
        };
        let Some(name) = name else {
            return Ok(Box::new(NullSink));
        };
        let patched = patches
            .iter()
            .flatten()
            .fold(0, |sum, patch: &Patch| crc32fast_of(sum, &patch.bytes));
        Ok(Box::new(InOrder {
            inner: self.inner.open(&name, Attributes::default())?,
            path: path.clone(),
            position: 0,
            planned: patches.is_some(),
            patches: patches.unwrap_or_default(),
            patched,
            seen: 0,
        }))
    }

    fn wants(&self, path: &ArchivePath) -> bool {
        self.inner.wants(path)
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.inner.directory(path)
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        match &*self.lock() {
            State::Planned(..) => Ok(()),
            State::Blind(names) if names.contains(from) || names.contains(to) => {
                Err(too_late("renames", from))
            }
            State::Blind(_) if self.inner.wants(to) => Err(too_late("renames", from)),
            State::Blind(_) => Ok(()),
        }
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        match &*self.lock() {
            State::Blind(names) if names.may_match(pattern) => {
                let (RemovePattern::Exact(path) | RemovePattern::Prefix { stem: path }) = pattern;
                Err(too_late("removes", path))
            }
            _ => Ok(()),
        }
    }
}

fn changed(path: &ArchivePath) -> Error {
    Error::new(
        Kind::Failed,
        "the archive was changed while it was read, at",
    )
    .path(path.as_path())
}

/// One file whose content comes as it does, and leaves in order.
struct InOrder<'s> {
    inner: Box<dyn FileSink + 's>,
    path: ArchivePath,
    /// Everything before it has left.
    position: u64,
    /// Whether all patches are known.
    planned: bool,
    patches: Vec<Patch>,
    /// CRC-32 of their bytes, and of those that came so far.
    patched: u32,
    seen: u32,
}

fn crc32fast_of(sum: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(sum);
    hasher.update(bytes);
    hasher.finalize()
}

impl InOrder<'_> {
    /// The patches that lie in these bytes, in their order.
    fn patches(&self, begin: u64, end: u64) -> impl Iterator<Item = &Patch> {
        (self.patches.iter()).filter(move |patch| patch.offset < end && patch.end() > begin)
    }

    /// Content that goes on at the position.
    fn write(&mut self, data: Bytes) -> Result<()> {
        let (begin, end) = (self.position, self.position + data.len() as u64);
        self.position = end;
        if self.patches(begin, end).next().is_none() {
            return self.inner.data(begin, data);
        }
        let mut data = data.to_vec();
        for patch in self.patches(begin, end) {
            let from = patch.offset.max(begin);
            let to = patch.end().min(end);
            let here = usize::try_from(from - begin).unwrap_or(usize::MAX)
                ..usize::try_from(to - begin).unwrap_or(usize::MAX);
            let there = usize::try_from(from - patch.offset).unwrap_or(usize::MAX)
                ..usize::try_from(to - patch.offset).unwrap_or(usize::MAX);
            if let (Some(here), Some(there)) = (data.get_mut(here), patch.bytes.get(there)) {
                here.copy_from_slice(there);
            }
        }
        self.inner.data(begin, data.into())
    }

    /// Zeros that need no room up to `end`, but for what patches put there.
    fn leave_out(&mut self, end: u64) -> Result<()> {
        while self.position < end {
            let begin = self.position;
            let under = self.patches(begin, end).map(|p| (p.offset, p.end()));
            let Some(first) = under.min() else {
                self.position = end;
                return self.inner.hole(begin, end - begin);
            };
            if first.0 > begin {
                self.position = first.0;
                self.inner.hole(begin, first.0 - begin)?;
            } else {
                let len = usize::try_from(first.1.min(end) - begin).unwrap_or(usize::MAX);
                let zeros = ZEROS.get(..len).unwrap_or(&ZEROS);
                self.write(Bytes::from_static(zeros))?;
            }
        }
        Ok(())
    }
}

impl FileSink for InOrder<'_> {
    fn data(&mut self, offset: u64, mut data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.leave_out(offset)?;
        let over = usize::try_from(self.position - offset).unwrap_or(usize::MAX);
        let over = over.min(data.len());
        if over > 0 {
            if !self.planned {
                return Err(too_late("writes over", &self.path).at(offset));
            }
            self.seen = crc32fast_of(self.seen, data.get(..over).unwrap_or_default());
            data.advance(over);
        }
        if data.is_empty() {
            return Ok(());
        }
        self.write(data)
    }

    fn hole(&mut self, offset: u64, len: u64) -> Result<()> {
        if offset < self.position && len > 0 {
            return Err(too_late("writes over", &self.path).at(offset));
        }
        self.leave_out(offset + len)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }

    fn close(self: Box<Self>) -> Result<()> {
        if self.seen != self.patched {
            return Err(changed(&self.path));
        }
        self.inner.close()
    }
}
