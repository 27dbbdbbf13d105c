//! What was sent under which name, and how that becomes what the server has at the end.
//!
//! DDL goes on while files are copied. Nothing is taken back from a stream, so a file keeps the name it was sent under,
//! and marker files tell `prepare` what became of it: `T.del` (gone, r[metadata.marker.del]), `T.ren` (renamed,
//! r[metadata.marker.ren]).

use std::collections::{HashMap, HashSet};

use crate::backup::inventory::Tablespace;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::{Identity, Stat};
use crate::base::units::SpaceId;
use crate::xbstream::ArchivePath;

/// A tablespace in the backup.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Its name in the backup.
    pub(crate) name: ArchivePath,
    /// Which file it was.
    pub(crate) identity: Identity,
    /// When it had been written to last before it was sent.
    pub(crate) modified_ns: i128,
    /// Its id, once page 0 is written.
    pub(crate) space_id: Option<SpaceId>,
    /// Not table files: they are neither renamed nor dropped.
    pub(crate) fixed: bool,
    /// Sent again later under another name.
    pub(crate) superseded: bool,
}

impl Sent {
    /// Whether `now` is this file and nobody has written to it since.
    pub(crate) fn is_unchanged(&self, now: &Tablespace) -> bool {
        // Without a birth time another file may have got the inode.
        self.identity == now.identity
            && self.identity.born_ns.is_some()
            && self.modified_ns == now.modified_ns
    }
}

/// Everything sent so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sent: Vec<Sent>,
    by_identity: HashMap<Identity, usize>,
    names: HashSet<ArchivePath>,
    aliases: u32,
}

/// A marker file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Its name in the backup.
    pub(crate) name: ArchivePath,
    /// Its content.
    pub(crate) content: Vec<u8>,
}

impl Ledger {
    /// Takes note of a file that is about to be sent; `None` if it is in the backup already. The name is `wanted` unless an
    /// earlier file had it; then it is a name that no table can have.
    pub(crate) fn claim(
        &mut self,
        wanted: &ArchivePath,
        stat: &Stat,
        fixed: bool,
    ) -> Result<Option<(usize, ArchivePath)>> {
        let identity = stat.identity;
        if self.by_identity.contains_key(&identity) {
            return Ok(None);
        }
        let name = if self.names.contains(wanted) {
            self.alias(wanted)?
        } else {
            wanted.clone()
        };
        self.names.insert(name.clone());
        let at = self.sent.len();
        self.sent.push(Sent {
            name: name.clone(),
            identity,
            modified_ns: stat.modified_ns,
            space_id: None,
            fixed,
            superseded: false,
        });
        self.by_identity.insert(identity, at);
        Ok(Some((at, name)))
    }

    /// `#` is always encoded in table names, so no table is ever called `xbpipe#1` (r[metadata.marker.alias]).
    fn alias(&mut self, wanted: &ArchivePath) -> Result<ArchivePath> {
        self.aliases += 1;
        let mut name = wanted
            .parent()
            .map(|p| [p, b"/"].concat())
            .unwrap_or_default();
        name.extend_from_slice(format!("xbpipe#{}.ibd", self.aliases).as_bytes());
        named(&name)
    }

    /// The id of a claimed file became known.
    pub(crate) fn set_space_id(&mut self, at: usize, space_id: Option<SpaceId>) {
        if let Some(sent) = self.sent.get_mut(at) {
            sent.space_id = space_id.or(sent.space_id);
        }
    }

    /// Whether this very file is in the backup.
    pub(crate) fn holds(&self, identity: Identity) -> bool {
        self.by_identity.contains_key(&identity)
    }

    /// Gives a file up that is going to be sent again (an imported tablespace).
    pub(crate) fn supersede(&mut self, identity: Identity) {
        if let Some(at) = self.by_identity.remove(&identity)
            && let Some(sent) = self.sent.get_mut(at)
        {
            sent.superseded = true;
        }
    }

    /// Everything sent.
    pub(crate) fn sent(&self) -> &[Sent] {
        &self.sent
    }

    /// The entry of a file.
    pub(crate) fn position(&self, identity: Identity) -> Option<usize> {
        self.by_identity.get(&identity).copied()
    }

    /// The markers that turn what was sent into what is `present` now.
    pub(crate) fn markers(&self, present: &[Tablespace]) -> Result<Vec<Marker>> {
        let now: HashMap<Identity, &ArchivePath> =
            present.iter().map(|t| (t.identity, &t.name)).collect();
        let mut markers = Vec::new();
        for sent in self.sent.iter().filter(|s| !s.fixed) {
            let current = if sent.superseded {
                None
            } else {
                now.get(&sent.identity)
            };
            match current {
                None => markers.push(Marker {
                    name: marker_name(&sent.name, "del")?,
                    content: Vec::new(),
                }),
                Some(name) if **name != sent.name => {
                    let content = stem(name).to_vec();
                    markers.push(Marker {
                        name: marker_name(&sent.name, "ren")?,
                        content,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(markers)
    }
}

/// `db/t` of `db/t.ibd`.
fn stem(name: &ArchivePath) -> &[u8] {
    name.as_bytes()
        .strip_suffix(b".ibd")
        .unwrap_or(name.as_bytes())
}

fn marker_name(name: &ArchivePath, extension: &str) -> Result<ArchivePath> {
    named(&[stem(name), b".", extension.as_bytes()].concat())
}

fn named(bytes: &[u8]) -> Result<ArchivePath> {
    ArchivePath::new(bytes).map_err(|e| {
        let name = String::from_utf8_lossy(bytes).into_owned();
        Error::new(Kind::Failed, "no archive can hold the name")
            .path(name)
            .source(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> ArchivePath {
        ArchivePath::new(name.as_bytes()).unwrap()
    }

    fn identity(n: u64) -> Identity {
        Identity {
            device: 1,
            inode: n,
            born_ns: Some(1),
        }
    }

    fn file(n: u64) -> Stat {
        Stat {
            identity: identity(n),
            size: 0,
            allocated: 0,
            modified_ns: 5,
            changed_ns: 5,
            uid: 0,
            gid: 0,
            mode: 0,
        }
    }

    fn present(name: &str, n: u64) -> Tablespace {
        Tablespace {
            name: path(name),
            place: "/x".into(),
            size: 0,
            identity: identity(n),
            modified_ns: 5,
        }
    }

    fn marker(name: &str, content: &str) -> Marker {
        Marker {
            name: path(name),
            content: content.as_bytes().to_vec(),
        }
    }

    #[test]
    fn drops_renames_and_recreations_become_markers() {
        let mut ledger = Ledger::default();
        for (name, n) in [
            ("d/keep.ibd", 1),
            ("d/gone.ibd", 2),
            ("d/a.ibd", 3),
            ("d/b.ibd", 4),
            ("d/t.ibd", 5),
        ] {
            assert_eq!(
                ledger
                    .claim(&path(name), &file(n), false)
                    .unwrap()
                    .unwrap()
                    .1,
                path(name)
            );
        }
        ledger
            .claim(&path("ibdata1"), &file(9), true)
            .unwrap()
            .unwrap();
        assert!(
            ledger
                .claim(&path("d/other.ibd"), &file(1), false)
                .unwrap()
                .is_none()
        );
        // t was dropped and created again, twice; only the last one is left.
        for n in [6, 7] {
            ledger
                .claim(&path("d/t.ibd"), &file(n), false)
                .unwrap()
                .unwrap();
        }
        let now = [
            present("d/keep.ibd", 1),
            present("d/b.ibd", 3),
            present("e/a.ibd", 4),
            present("d/t.ibd", 7),
        ];
        assert_eq!(
            ledger.markers(&now).unwrap(),
            [
                marker("d/gone.del", ""),
                marker("d/a.ren", "d/b"),
                marker("d/b.ren", "e/a"),
                marker("d/t.del", ""),
                marker("d/xbpipe#1.del", ""),
                marker("d/xbpipe#2.ren", "d/t"),
            ]
        );
    }

    #[test]
    fn a_file_is_unchanged_only_if_that_can_be_told() {
        let mut ledger = Ledger::default();
        ledger
            .claim(&path("d/t.ibd"), &file(1), false)
            .unwrap()
            .unwrap();
        let mut sent = ledger.sent()[0].clone();
        assert!(sent.is_unchanged(&present("d/u.ibd", 1)));
        assert!(!sent.is_unchanged(&present("d/t.ibd", 2)));
        sent.modified_ns = 4;
        assert!(!sent.is_unchanged(&present("d/t.ibd", 1)));
        let mut unborn = present("d/t.ibd", 1);
        unborn.identity.born_ns = None;
        sent.identity.born_ns = None;
        sent.modified_ns = 5;
        assert!(!sent.is_unchanged(&unborn));
    }

    #[test]
    fn an_imported_table_is_sent_again_under_another_name() {
        let mut ledger = Ledger::default();
        ledger
            .claim(&path("d/t.ibd"), &file(1), false)
            .unwrap()
            .unwrap();
        ledger.supersede(identity(1));
        let (_, name) = ledger
            .claim(&path("d/t.ibd"), &file(1), false)
            .unwrap()
            .unwrap();
        assert_eq!(name, path("d/xbpipe#1.ibd"));
        assert_eq!(
            ledger.markers(&[present("d/t.ibd", 1)]).unwrap(),
            [marker("d/t.del", ""), marker("d/xbpipe#1.ren", "d/t")]
        );
    }
}
