//! Which backups there are: names, keys, and what belongs to none.

use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::Monitor;
use crate::repository::cloud::holds_chunks;
use crate::repository::manifest::{MANIFEST_LEN_MAX, Manifest};
use crate::store::{self, Class, Listed, Shared, Upload, get_small};

/// Longest name of a backup, in bytes. `r[repository.name]`
pub const NAME_LEN_MAX: usize = 200;

/// Last component of a manifest's key.
const MANIFEST: &str = "manifest.json";

/// How often a manifest is read that seems damaged: it may have been so on its way only.
const DAMAGED_ATTEMPTS_MAX: u32 = 3;

/// Last component of an index's key.
const INDEX: &str = "index";

/// Backups in a store.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Shared,
}

/// A backup that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its name.
    pub name: String,
    /// Its manifest, or why that cannot be read.
    pub manifest: std::result::Result<Manifest, String>,
}

/// What no backup refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Objects.
    pub objects: Vec<Listed>,
    /// Uploads that were neither completed nor aborted.
    pub uploads: Vec<Upload>,
}

/// Refuses names that cannot be one component of a key everywhere. `r[repository.name]`
pub fn check_name(name: &str) -> Result<()> {
    let bad = |c: char| c == '/' || c == '\\' || c.is_control();
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.starts_with('.') || name.contains(bad) {
        return Err(
            Error::new(Kind::Usage, format!("{name:?} is no name for a backup")).hint(format!(
                "a name has 1 to {NAME_LEN_MAX} bytes, no slash, and does not begin with a dot"
            )),
        );
    }
    Ok(())
}

impl Repository {
    /// What is kept in `store`.
    #[must_use]
    pub fn new(store: Shared) -> Self {
        Self { store }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Shared {
        Arc::clone(&self.store)
    }

    /// What to call a backup in messages.
    #[must_use]
    pub fn describe(&self, name: &str) -> String {
        format!("{}/{name}", self.store.url().trim_end_matches('/'))
    }

    // r[repository.keys]
    pub(super) fn manifest_key(&self, name: &str) -> String {
        format!("{name}/{MANIFEST}")
    }

    pub(super) fn index_key(&self, name: &str, run: &str) -> String {
        format!("{name}/{run}/{INDEX}")
    }

    pub(super) fn segment_key(&self, name: &str, run: &str, number: usize) -> String {
        format!("{name}/{run}/{number:08}.xbs")
    }

    pub(super) fn exists(&self, name: &str) -> Error {
        let what = format!("there is a backup {:?} already", self.describe(name));
        Error::new(Kind::Store, what).hint("use another name, or remove that one first (xbpipe rm)")
    }

    /// Fails if there is a backup of that name.
    pub fn must_not_exist(&self, name: &str) -> Result<()> {
        match self.store.head(&self.manifest_key(name)) {
            Ok(_) => Err(self.exists(name)),
            Err(fault) if fault.class == Class::NotFound => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }

    /// What is stored as the manifest of a backup; the store has its own word first.
    fn stored_manifest(&self, name: &str) -> store::Result<Result<Manifest>> {
        let key = self.manifest_key(name);
        let mut attempts = 0;
        loop {
            let (text, _) = get_small(self.store.as_ref(), &key, MANIFEST_LEN_MAX)?;
            attempts += 1;
            match Manifest::parse(&text) {
                Err(error) if error.kind() == Kind::Checksum && attempts < DAMAGED_ATTEMPTS_MAX => {
                }
                parsed => return Ok(parsed.map_err(|e| e.path(self.describe(name)))),
            }
        }
    }

    /// The manifest of a backup.
    pub fn manifest(&self, name: &str) -> Result<Manifest> {
        check_name(name)?;
        match self.stored_manifest(name) {
            Ok(manifest) => manifest,
            Err(fault) if fault.class == Class::NotFound => {
                let at = self.describe(name);
                let what = format!("there is no backup {at:?}");
                let error = Error::new(Kind::Store, what);
                // r[cloud-layout.detect]
                Err(match holds_chunks(self.store.as_ref(), name) {
                    true => error.hint(format!(
                        "xbcloud has stored one of that name: xbpipe as xbcloud get {at} | xbpipe extract"
                    )),
                    false => error.hint("xbpipe ls shows which there are"),
                })
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Names of everything that may be a backup: one level of the store.
    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let page = self.store.list("", true, from.as_deref())?;
            let directories = page.prefixes.iter();
            names.extend(directories.map(|p| p.trim_end_matches('/').to_owned()));
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(names),
            }
        }
    }

    /// Every backup that exists, in order of name; what has no manifest is none. `r[repository.exists]`
    pub fn list(&self) -> Result<Vec<Backup>> {
        let mut backups = Vec::new();
        for name in self.names()? {
            if check_name(&name).is_err() {
                continue;
            }
            let manifest = match self.stored_manifest(&name) {
                Ok(manifest) => manifest.map_err(|e| e.to_string()),
                Err(fault) if fault.class == Class::NotFound => continue,
                // Whatever is wrong with this one, the others can be told.
                Err(fault) if fault.class == Class::Refused => Err(Error::from(fault).to_string()),
                Err(fault) => return Err(fault.into()),
            };
            backups.push(Backup { name, manifest });
        }
        Ok(backups)
    }

    /// Removes a backup: first what makes it exist, then the rest. `r[repository.remove]`
    pub fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let key = self.manifest_key(name);
        match self.store.head(&key) {
            Ok(_) => {}
            Err(fault) if fault.class == Class::NotFound => {
                let what = format!("there is no backup {:?}", self.describe(name));
                return Err(Error::new(Kind::Store, what).hint("xbpipe ls shows which there are"));
            }
            Err(fault) => return Err(fault.into()),
        }
        // A manifest that cannot be read says nothing about its objects; gc finds them.
        let run = self.manifest(name).map(|m| m.run);
        self.store.delete(&[key])?;
        match run {
            Ok(run) => {
                let prefix = format!("{name}/{run}/");
                let mut keys = Vec::new();
                store::for_each_object(self.store.as_ref(), &prefix, |object| {
                    keys.push(object.key);
                    Ok(())
                })?;
                self.remove_keys(&keys)
            }
            Err(_) => Ok(()),
        }
    }

    /// Removes objects, whatever they are.
    pub(super) fn remove_keys(&self, keys: &[String]) -> Result<()> {
        for batch in keys.chunks(store::KEYS_MAX) {
            self.store.delete(batch)?;
        }
        Ok(())
    }

    /// What runs that have failed have left, begun before `before` (seconds since the epoch). What cannot be judged is told and
    /// stays. `r[repository.gc]`
    pub fn leftovers(&self, before: i64, monitor: &dyn Monitor) -> Result<Leftovers> {
        let mut left = Leftovers::default();
        for name in self.names()? {
            if check_name(&name).is_err() {
                continue;
            }
            let mut runs: std::collections::BTreeMap<String, Vec<Listed>> = Default::default();
            store::for_each_object(self.store.as_ref(), &format!("{name}/"), |object| {
                if let Some(run) = run_of(&object.key) {
                    runs.entry(run.to_owned()).or_default().push(object);
                }
                Ok(())
            })?;
            if runs.is_empty() {
                continue;
            }
            // Asked for after the objects: a run that commits meanwhile is found.
            let unknown = |error: Error| {
                let at = self.describe(&name);
                monitor.warning(format!(
                    "{at} is left as it is, its manifest cannot be read: {error}"
                ));
            };
            let kept = match self.stored_manifest(&name) {
                Ok(Ok(manifest)) => Some(manifest.run),
                Err(fault) if fault.class == Class::NotFound => None,
                Ok(Err(error)) => {
                    unknown(error);
                    continue;
                }
                Err(fault) if fault.class == Class::Refused => {
                    unknown(fault.into());
                    continue;
                }
                Err(fault) => return Err(fault.into()),
            };
            for (run, objects) in runs {
                let is_old = objects.iter().all(|o| o.modified < before);
                if kept.as_ref() != Some(&run) && is_old {
                    left.objects.extend(objects);
                }
            }
        }
        let open = match store::all_uploads(self.store.as_ref(), "") {
            Ok(open) => open,
            Err(fault) if fault.class == Class::Refused => {
                monitor.warning(format!(
                    "uploads that failed runs have left open stay as they are: {fault}"
                ));
                Vec::new()
            }
            Err(fault) => return Err(fault.into()),
        };
        for open in open {
            if run_of(&open.upload.key).is_some() && open.started < before {
                left.uploads.push(open.upload);
            }
        }
        Ok(left)
    }

    /// Removes them.
    pub fn remove_leftovers(&self, left: &Leftovers) -> Result<()> {
        for upload in &left.uploads {
            self.store.abort(upload)?;
        }
        let keys: Vec<String> = left.objects.iter().map(|o| o.key.clone()).collect();
        self.remove_keys(&keys)
    }
}

/// The run that a key belongs to, if it is one that this program makes; nothing else is ever removed.
fn run_of(key: &str) -> Option<&str> {
    let mut parts = key.split('/');
    let (_, run, last) = (parts.next()?, parts.next()?, parts.next()?);
    let number = last.strip_suffix(".xbs");
    let ours = last == INDEX
        || number.is_some_and(|n| n.len() >= 8 && n.bytes().all(|b| b.is_ascii_digit()));
    let uuid = uuid::Uuid::parse_str(run).ok()?;
    (ours && parts.next().is_none() && uuid.to_string() == run).then_some(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    // r[repository.name]
    #[test]
    fn names_are_one_harmless_component() {
        for good in ["monday", "2026-11-21T12:00:00Z", "a b", "ü"] {
            check_name(good).unwrap();
        }
        let long = "x".repeat(NAME_LEN_MAX + 1);
        for bad in ["", ".", "..", ".x", "a/b", "a\n", &long] {
            assert_eq!(check_name(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }

    // r[repository.keys]
    #[test]
    fn only_keys_of_runs_are_ours() {
        let run = uuid::Uuid::from_u128(5).to_string();
        let repository = Repository::new(Arc::new(store::MemoryStore::default()));
        for key in [
            repository.segment_key("n", &run, 0),
            repository.segment_key("n", &run, 123_456_789),
            repository.index_key("n", &run),
        ] {
            assert_eq!(run_of(&key), Some(run.as_str()), "{key}");
        }
        for other in [
            "n/manifest.json".to_owned(),
            format!("n/{run}/x"),
            format!("n/{run}/0000000.xbs"),
            format!("n/{run}/00000000.xbs/more"),
            format!("{run}/index"),
            "n/not-a-uuid/index".to_owned(),
            format!("n/{}/index", run.to_uppercase().replace('0', "A")),
        ] {
            assert_eq!(run_of(&other), None, "{other}");
        }
    }
}
