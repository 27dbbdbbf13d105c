//! The markers `.del`, `.ren` and `.new` (r[metadata.marker.new]): what happened to tables after their files had been copied.
//!
//! Names change in two phases, because tables may have swapped them: all files leave their old names, then all get their
//! new ones. The plan is made once, from what lies in the directory, and kept in the journal; each phase
//! can be repeated.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::prepare::inventory::Inventory;

/// Directory that holds renamed files between their names.
pub(crate) const PARKED_DIR: &str = "xbpipe_prepare.parked";
/// Bytes of a `.ren` file: two names of at most 255 bytes.
const RENAME_LEN_MAX: u64 = 4096;

/// One file's way to its new name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rename {
    from: String,
    via: String,
    to: String,
}

/// A file that replaces whatever has its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    from: String,
    to: String,
}

/// What the markers ask for; paths within the directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct MarkerPlan {
    removals: Vec<String>,
    renames: Vec<Rename>,
    arrivals: Vec<Arrival>,
    markers: Vec<String>,
}

impl MarkerPlan {
    /// Reads the markers in `root` and checks that they can be followed.
    pub(crate) fn of(root: &Path, found: &Inventory) -> Result<Self> {
        let mut plan = Self::default();
        let mut files: BTreeSet<String> = BTreeSet::new();
        for file in found.with_extension("ibd") {
            files.insert(text(root, &file.path)?);
        }
        for marker in found.with_extension("del") {
            let target = text(root, &marker.path.with_extension("ibd"))?;
            plan.markers.push(text(root, &marker.path)?);
            files.remove(&target);
            plan.removals.push(target);
        }
        for marker in found.with_extension("ren") {
            plan.markers.push(text(root, &marker.path)?);
            let from = text(root, &marker.path.with_extension("ibd"))?;
            let to = new_name(root, &marker.path)?;
            if !files.remove(&from) {
                return Err(Error::new(
                    Kind::Incomplete,
                    format!("the backup is incomplete: it renames {from}, which is missing"),
                )
                .path(root.join(&marker.path)));
            }
            plan.renames.push(Rename {
                from,
                via: format!("{PARKED_DIR}/{}", plan.renames.len()),
                to,
            });
        }
        let mut targets = BTreeSet::new();
        for file in found.with_extension("new") {
            let to = text(root, &file.path.with_extension("ibd"))?;
            files.remove(&to);
            targets.insert(to.clone());
            let from = text(root, &file.path)?;
            plan.arrivals.push(Arrival { from, to });
        }
        for rename in &plan.renames {
            if files.contains(&rename.to) || !targets.insert(rename.to.clone()) {
                return Err(Error::new(
                    Kind::Checksum,
                    format!("two files of the backup are to be called {}", rename.to),
                )
                .path(root.join(&rename.from)));
            }
        }
        Ok(plan)
    }

    /// Number of files that are removed, renamed or put in place.
    pub(crate) fn len(&self) -> usize {
        self.removals.len() + self.renames.len() + self.arrivals.len()
    }

    /// First phase: dropped tables go, renamed ones leave their names.
    pub(crate) fn park(&self, root: &fsx::Dir) -> Result<()> {
        for path in &self.removals {
            remove_if_there(root, path)?;
        }
        if !self.renames.is_empty() {
            root.create_dirs(Path::new(PARKED_DIR))?;
        }
        for rename in &self.renames {
            // No file gets a new name in this phase, so what has the old name is the file itself.
            if root.exists(Path::new(&rename.from))? {
                root.rename(Path::new(&rename.from), Path::new(&rename.via), false)?;
            }
        }
        Ok(())
    }

    /// Second phase: everything gets its name, the markers go.
    pub(crate) fn place(&self, root: &fsx::Dir) -> Result<()> {
        for rename in &self.renames {
            let (via, to) = (Path::new(&rename.via), Path::new(&rename.to));
            if root.exists(via)? {
                if let Some(parent) = to.parent() {
                    root.create_dirs(parent)?;
                }
                root.rename(via, to, false)?;
            }
        }
        for arrival in &self.arrivals {
            let (from, to) = (Path::new(&arrival.from), Path::new(&arrival.to));
            if root.exists(from)? {
                root.rename(from, to, true)?;
            }
        }
        for marker in &self.markers {
            remove_if_there(root, marker)?;
        }
        self.drop_databases(root)?;
        if root.exists(Path::new(PARKED_DIR))? {
            root.remove_dir(Path::new(PARKED_DIR))?;
        }
        Ok(())
    }

    /// A database that exists has at least its `db.opt`. What nothing is left of was dropped during the backup, and its empty
    /// directory would make the server show it again.
    fn drop_databases(&self, root: &fsx::Dir) -> Result<()> {
        let directories: BTreeSet<&Path> = self
            .markers
            .iter()
            .filter_map(|marker| Path::new(marker).parent())
            .filter(|directory| !directory.as_os_str().is_empty())
            .collect();
        for directory in directories {
            if root.exists(directory)? && root.names_in(directory)?.is_empty() {
                root.remove_dir(directory)?;
            }
        }
        Ok(())
    }
}

fn remove_if_there(root: &fsx::Dir, path: &str) -> Result<()> {
    let path = Path::new(path);
    if root.exists(path)? {
        root.remove_file(path)?;
    }
    Ok(())
}

/// A path as text; the server's own names are ASCII.
pub(crate) fn text(root: &Path, path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(Kind::Checksum, "no server gives a tablespace such a name").path(root.join(path))
    })
}

/// What a `.ren` file says: `db/name`, to which the suffix is added.
fn new_name(root: &Path, marker: &Path) -> Result<String> {
    let bytes = fsx::read_small(root.join(marker), RENAME_LEN_MAX)?;
    let name = String::from_utf8_lossy(&bytes);
    let name = name.trim_end_matches(['\n', '\r']);
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Component::Normal(db)), Some(Component::Normal(table)), None)
            if db.len() + 1 + table.len() == name.len() && !name.contains('\0') =>
        {
            Ok(format!("{name}.ibd"))
        }
        _ => Err(Error::new(
            Kind::Checksum,
            format!("damaged marker: {name:?} is no name of a table"),
        )
        .path(root.join(marker))),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files with plain std")]
mod tests {
    use super::*;
    use std::fs;

    /// A directory with tables whose content is their first name, and markers.
    fn directory(tables: &[&str], markers: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in tables
            .iter()
            .map(|t| (*t, *t))
            .chain(markers.iter().copied())
        {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn content(root: &Path) -> Vec<(String, String)> {
        let found = Inventory::of(root).unwrap();
        let read = |f: &crate::prepare::inventory::FoundFile| {
            (
                f.path.to_str().unwrap().to_owned(),
                fs::read_to_string(root.join(&f.path)).unwrap(),
            )
        };
        found.files.iter().map(read).collect()
    }

    const TABLES: [&str; 7] = [
        "d/a.ibd",
        "d/b.ibd",
        "d/c.ibd",
        "d/e.ibd",
        "d/gone.ibd",
        "d/kept.ibd",
        "dropped/t.ibd",
    ];
    /// A swap, a chain into another directory, a drop, a table made again under a freed name, a dropped database.
    const MARKERS: [(&str, &str); 7] = [
        ("dropped/t.del", ""),
        ("d/a.ren", "d/b"),
        ("d/b.ren", "d/a"),
        ("d/c.ren", "d/e"),
        ("d/e.ren", "other/e\n"),
        ("d/gone.del", ""),
        ("d/c.new", "new c"),
    ];

    fn expected() -> Vec<(String, String)> {
        [
            ("d/a.ibd", "d/b.ibd"),
            ("d/b.ibd", "d/a.ibd"),
            ("d/c.ibd", "new c"),
            ("d/e.ibd", "d/c.ibd"),
            ("d/kept.ibd", "d/kept.ibd"),
            ("other/e.ibd", "d/e.ibd"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .to_vec()
    }

    #[test]
    fn swaps_chains_drops_and_new_files() {
        let dir = directory(&TABLES, &MARKERS);
        let plan = MarkerPlan::of(dir.path(), &Inventory::of(dir.path()).unwrap()).unwrap();
        assert_eq!(plan.len(), 7);
        let root = fsx::Dir::open(dir.path()).unwrap();
        plan.park(&root).unwrap();
        plan.place(&root).unwrap();
        assert_eq!(content(dir.path()), expected());
        assert!(!dir.path().join("dropped").exists());
    }

    /// A run that ends after any number of its file operations is repeated from the start of its phase.
    #[test]
    fn each_phase_can_be_broken_off_anywhere_and_repeated() {
        let renames = MARKERS.iter().filter(|m| m.0.ends_with(".ren")).count();
        for cut in 0..=renames {
            for phase in ["park", "place"] {
                let dir = directory(&TABLES, &MARKERS);
                let found = Inventory::of(dir.path()).unwrap();
                let plan = MarkerPlan::of(dir.path(), &found).unwrap();
                let mut half = plan.clone();
                half.renames.truncate(cut);
                let root = fsx::Dir::open(dir.path()).unwrap();
                if phase == "park" {
                    half.park(&root).unwrap();
                    plan.park(&root).unwrap();
                } else {
                    plan.park(&root).unwrap();
                    for rename in &half.renames {
                        root.create_dirs(Path::new("other")).unwrap();
                        root.rename(Path::new(&rename.via), Path::new(&rename.to), false)
                            .unwrap();
                    }
                }
                plan.place(&root).unwrap();
                plan.place(&root).unwrap();
                assert_eq!(content(dir.path()), expected(), "{phase} {cut}");
            }
        }
    }

    #[test]
    fn markers_that_make_no_sense_are_refused() {
        for (markers, kind) in [
            (vec![("d/x.ren", "d/y")], Kind::Incomplete),
            (vec![("d/a.ren", "d/b")], Kind::Checksum),
            (vec![("d/a.ren", "d/z"), ("d/z.new", "")], Kind::Checksum),
            (vec![("d/a.ren", "d/z"), ("d/b.ren", "d/z")], Kind::Checksum),
            (vec![("d/a.ren", "../z")], Kind::Checksum),
            (vec![("d/a.ren", "/d/z")], Kind::Checksum),
            (vec![("d/a.ren", "d/e/z")], Kind::Checksum),
            (vec![("d/a.ren", "d//z")], Kind::Checksum),
            (vec![("d/a.ren", "")], Kind::Checksum),
        ] {
            let dir = directory(&TABLES, &markers);
            let found = Inventory::of(dir.path()).unwrap();
            let error = MarkerPlan::of(dir.path(), &found).unwrap_err();
            assert_eq!(error.kind(), kind, "{markers:?}: {error}");
        }
    }
}
