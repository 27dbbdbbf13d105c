//! What became of the tablespaces while they were copied: told under the server's lock, by file and by tablespace id.

use std::collections::{HashMap, HashSet};

use crate::backup::copying::{Copy, SpaceKind, Work};
use crate::backup::follow_redo::{CopiedLog, NamedSpaces};
use crate::backup::inventory::{Inventory, Tablespace, if_there};
use crate::backup::reading;
use crate::base::error::{Error, Kind, Result};
use crate::base::fsx::Identity;
use crate::base::units::SpaceId;
use crate::innodb::redo::writer;
use crate::server::session::Session;

/// What was found when nothing could change any more.
pub(super) struct Reconciled {
    /// Every tablespace file of a table.
    pub(super) present: Vec<Tablespace>,
    /// Every id that exists, those of system and undo tablespaces included.
    ids: HashSet<SpaceId>,
    /// Names of files whose page 0 is not written yet, as the log names them.
    pending: HashSet<Vec<u8>>,
    /// Tablespaces that were imported: the log is no help for them.
    imported: Vec<Tablespace>,
}

/// How the log's own story begins: what must be known to tell an imported file from one that the log made.
pub(super) struct Beginning<'a> {
    /// Files that were there when copying began.
    pub(super) listed: &'a HashSet<Identity>,
    /// The log does not tell names and ids.
    pub(super) encrypted_log: bool,
}

impl Copy<'_> {
    /// With DDL blocked: finds out what became of every tablespace. Returns what is not in the backup yet.
    pub(super) fn reconcile(
        &self,
        inventory: &Inventory<'_>,
        log: &NamedSpaces,
        beginning: &Beginning<'_>,
    ) -> Result<(Reconciled, Vec<Work>)> {
        let listed = inventory.tables()?;
        let sent_ids: HashMap<SpaceId, Identity> = self
            .ledger()
            .sent()
            .iter()
            .filter_map(|s| s.space_id.map(|id| (id, s.identity)))
            .collect();
        let mut found = Reconciled {
            present: Vec::with_capacity(listed.len()),
            ids: self
                .ledger()
                .sent()
                .iter()
                .filter(|s| s.fixed)
                .filter_map(|s| s.space_id)
                .collect(),
            pending: HashSet::new(),
            imported: Vec::new(),
        };
        let mut fresh = Vec::new();
        for space in listed {
            let sent = {
                let ledger = self.ledger();
                let at = ledger.position(space.identity);
                at.and_then(|at| Some((at, ledger.sent().get(at)?.clone())))
            };
            // Page 0 of a file that nobody has written to since it was sent says what it said then.
            let known = sent
                .as_ref()
                .filter(|(_, s)| s.is_unchanged(&space))
                .and_then(|(_, s)| s.space_id);
            let id = match known {
                Some(id) => Some(id),
                // Only the intermediate table of a failing ALTER TABLE goes away under the lock.
                None => match if_there(reading::open(&space.place))? {
                    Some(file) => self.copier().head(&file)?.space_id(),
                    None => continue,
                },
            };
            let sent_id = sent.as_ref().and_then(|(_, s)| s.space_id);
            let replaced = sent_id.is_some_and(|sent_id| id != Some(sent_id));
            if let Some((at, s)) = &sent
                && s.space_id.is_none()
            {
                self.ledger().set_space_id(*at, id);
            }
            let Some(id) = id else {
                found.pending.insert(inventory.name_in_log(&space));
                self.take(&mut fresh, &space, sent.is_none(), replaced);
                found.present.push(space);
                continue;
            };
            found.ids.insert(id);
            // DISCARD and IMPORT TABLESPACE keep the id and bring another file. Recovery ignores all redo of an id that the
            // log says was deleted, and has none for what was imported, so the file must be copied when it needs none.
            let imported = if beginning.encrypted_log {
                replaced || sent_ids.get(&id).is_some_and(|i| *i != space.identity)
            } else {
                let from_outside = !beginning.listed.contains(&space.identity)
                    && !log.created.contains(&id)
                    && !log.renamed.contains(&id);
                log.deleted.contains(&id)
                    || from_outside
                    || (replaced && !log.created.contains(&id))
            };
            if imported {
                found.imported.push(space.clone());
            } else {
                self.take(&mut fresh, &space, sent.is_none(), replaced);
            }
            found.present.push(space);
        }
        Ok((found, fresh))
    }

    /// Notes a file that has to be copied. With `replaced` the file system gave the identity of a file that is gone to another.
    fn take(&self, fresh: &mut Vec<Work>, space: &Tablespace, is_new: bool, replaced: bool) {
        if replaced {
            self.ledger().supersede(space.identity);
        }
        if is_new || replaced {
            fresh.push(Work {
                space: space.clone(),
                kind: SpaceKind::Table,
            });
        }
    }
}

impl Reconciled {
    /// Whether [`Reconciled::imported_work`] has anything to do.
    pub(super) fn has_imported(&self) -> bool {
        !self.imported.is_empty()
    }

    fn imported_names(&self) -> String {
        let names: Vec<String> = self.imported.iter().map(|t| t.name.to_string()).collect();
        names.join(", ")
    }

    /// Makes the server write everything that is in its memory only to the imported tablespaces.
    pub(super) fn flush_imported(&self, session: &mut Session) -> Result<()> {
        session.checkpoint_now().map_err(|e| {
            let names = self.imported_names();
            Error::new(
                Kind::Server,
                format!("tablespaces were imported during the backup ({names}) and cannot be made durable: {e}"),
            )
            .hint("grant SUPER to the backup account, or back up again while no IMPORT TABLESPACE runs")
        })
    }

    /// The imported tablespaces, to be copied (again) after [`Reconciled::flush_imported`] with commits blocked.
    pub(super) fn imported_work(&self, copy: &Copy<'_>) -> Vec<Work> {
        copy.run.monitor.info(format!(
            "imported during the backup, copying again: {}",
            self.imported_names()
        ));
        let mut work = Vec::new();
        for space in &self.imported {
            copy.take(&mut work, space, true, true);
        }
        work
    }

    /// Ids that the log names and that are neither there nor deleted in it (a CREATE TABLE that failed leaves such) would end
    /// recovery: the log gets a record for each that says that it is gone.
    pub(super) fn bury_orphans(&self, log: &mut CopiedLog) -> Result<()> {
        let mut records = Vec::new();
        for (id, path) in orphans(&log.spaces, &self.ids, &self.pending) {
            writer::append_file_delete(&mut records, id, &local_path(path)).map_err(|e| {
                Error::new(
                    Kind::Failed,
                    format!("cannot end tablespace {id} in the copied redo log"),
                )
                .source(e)
            })?;
        }
        log.append(&records)
    }
}

/// Ids to bury with their last paths, in the order of the ids.
fn orphans<'l>(
    log: &'l NamedSpaces,
    existing: &HashSet<SpaceId>,
    pending: &HashSet<Vec<u8>>,
) -> Vec<(SpaceId, &'l [u8])> {
    // A file whose page 0 is not written yet has the latest id that the log gave its name.
    let mut latest: HashMap<&[u8], SpaceId> = HashMap::new();
    for (id, path) in &log.paths {
        if pending.contains(path) {
            let entry = latest.entry(path).or_insert(*id);
            *entry = (*entry).max(*id);
        }
    }
    let alive: HashSet<SpaceId> = latest.into_values().collect();
    let mut orphans: Vec<(SpaceId, &[u8])> = log
        .paths
        .iter()
        .filter(|(id, _)| {
            !existing.contains(id) && !alive.contains(id) && !log.deleted.contains(id)
        })
        .map(|(id, path)| (*id, path.as_slice()))
        .collect();
    orphans.sort_unstable();
    orphans
}

/// `./db/t.ibd` for `/data/x/db/t.ibd`: nothing in the log of a backup may lead out of its directory.
fn local_path(path: &[u8]) -> Vec<u8> {
    if !path.starts_with(b"/") {
        return path.to_vec();
    }
    let mut parts = path.rsplit(|b| *b == b'/');
    let (table, database) = (parts.next().unwrap_or_default(), parts.next());
    [b"./", database.unwrap_or_default(), b"/", table].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_without_a_file_are_buried() {
        let log = NamedSpaces {
            paths: [
                (1, "./d/there.ibd"),
                (2, "./d/gone.ibd"),
                (3, "/away/d/new.ibd"),
                (4, "/away/d/new.ibd"),
                (5, "./d/failed.ibd"),
            ]
            .map(|(id, path)| (SpaceId(id), path.as_bytes().to_vec()))
            .into(),
            deleted: [SpaceId(2)].into(),
            ..NamedSpaces::default()
        };
        let pending = HashSet::from([b"/away/d/new.ibd".to_vec()]);
        let found = orphans(&log, &HashSet::from([SpaceId(1)]), &pending);
        assert_eq!(
            found,
            [
                (SpaceId(3), &b"/away/d/new.ibd"[..]),
                (SpaceId(5), b"./d/failed.ibd")
            ]
        );
    }

    #[test]
    fn paths_of_buried_tablespaces_stay_in_the_backup() {
        assert_eq!(local_path(b"/data/x/db/t.ibd"), b"./db/t.ibd");
        assert_eq!(local_path(b"./db/t.ibd"), b"./db/t.ibd");
    }
}
