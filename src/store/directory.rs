//! A local directory as a store: an object is a file, an upload a file beside it that gets its name when it is whole.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::fault::{Class, Fault};
use super::memory::{check_complete, check_part, no_upload, not_found, page};
use super::{
    Listed, Object, OpenUpload, Page, Part, Result, Store, Upload, UploadPage, check_key, whole_len,
};
use crate::base::error::{Error, Kind};
use crate::base::fsx::{self, Dir, EntryKind, File, Stat};

/// Between the name of an object to be and the id of its upload.
const UPLOAD_INFIX: &str = ".xbpipe-upload-";

/// Permission bits of objects.
const FILE_MODE: u32 = 0o640;

/// A directory. Names in it are resolved beneath it, links not followed.
#[derive(Debug)]
pub struct DirectoryStore {
    root: PathBuf,
    dir: Dir,
    url: String,
}

impl DirectoryStore {
    /// Opens a directory; with `create` a missing one is made.
    pub fn open(root: &Path, create: bool) -> crate::base::error::Result<Self> {
        if create {
            fsx::create_dir_all(root)?;
        }
        Ok(Self {
            root: root.to_owned(),
            dir: Dir::open(root)?,
            url: root.display().to_string(),
        })
    }

    fn upload_path(upload: &Upload) -> PathBuf {
        PathBuf::from(format!("{}{UPLOAD_INFIX}{}", upload.key, upload.id))
    }

    fn open_key(&self, method: &'static str, key: &str) -> Result<(File, Stat)> {
        check_key(key).map_err(|e| Fault::new(Class::Refused, method, key, e))?;
        let file = self
            .dir
            .open_for_reading(Path::new(key))
            .map_err(|e| fault(method, key, &e))?;
        let stat = file.stat().map_err(|e| fault(method, key, &e))?;
        if stat.mode & 0o170_000 != 0o100_000 {
            return Err(not_found(method, key));
        }
        Ok((file, stat))
    }

    /// Makes an unnamed whole file an object, with everything durable.
    fn publish(
        &self,
        method: &'static str,
        temporary: &Path,
        file: &File,
        key: &str,
        replace: bool,
    ) -> Result<Object> {
        let named = file
            .sync()
            .and_then(|()| self.dir.rename(temporary, Path::new(key), replace))
            .and_then(|()| self.sync_parents(key));
        match named {
            Ok(()) => {}
            Err(e) if !replace && self.dir.exists(Path::new(key)).unwrap_or(false) => {
                return Err(Fault::new(Class::Exists, method, key, e.to_string()));
            }
            Err(e) => return Err(fault(method, key, &e)),
        }
        file.stat()
            .map(|s| object(&s))
            .map_err(|e| fault(method, key, &e))
    }

    /// A name is durable when its directory is, and the names of that.
    fn sync_parents(&self, key: &str) -> crate::base::error::Result<()> {
        let mut at = Path::new(key).parent();
        while let Some(parent) = at.filter(|p| !p.as_os_str().is_empty()) {
            self.dir.open_dir(parent)?.sync()?;
            at = parent.parent();
        }
        self.dir.sync()
    }

    /// Names below a directory: objects, then uploads.
    fn walk(&self, prefix: &str) -> crate::base::error::Result<(Vec<Listed>, Vec<OpenUpload>)> {
        let mut found = (Vec::new(), Vec::new());
        // What stands before the last slash is a directory; only the rest is to be compared.
        let below = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        self.walk_in(below, prefix, &mut found)?;
        found.0.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn walk_in(
        &self,
        directory: &str,
        prefix: &str,
        found: &mut (Vec<Listed>, Vec<OpenUpload>),
    ) -> crate::base::error::Result<()> {
        let path = self.root.join(directory);
        let entries = match fsx::list_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        for entry in entries {
            // What is not text was not put here by us.
            let Some(name) = entry.name.to_str() else {
                continue;
            };
            let key = match directory {
                "" => name.to_owned(),
                _ => format!("{directory}/{name}"),
            };
            if entry.kind == EntryKind::Dir {
                let dir = format!("{key}/");
                if dir.starts_with(prefix) || prefix.starts_with(&dir) {
                    self.walk_in(&key, prefix, found)?;
                }
                continue;
            }
            if entry.kind != EntryKind::File || !key.starts_with(prefix) {
                continue;
            }
            let stat = match fsx::stat_nofollow(self.root.join(&key)) {
                Ok(stat) => stat,
                Err(e) if e.is_not_found() => continue,
                Err(e) => return Err(e),
            };
            let modified = i64::try_from(stat.modified_ns / 1_000_000_000).unwrap_or(0);
            match key.split_once(UPLOAD_INFIX) {
                Some((key, id)) => found.1.push(OpenUpload {
                    upload: Upload {
                        key: key.to_owned(),
                        id: id.to_owned(),
                    },
                    started: modified,
                }),
                None => found.0.push(Listed {
                    key,
                    len: stat.size,
                    modified,
                }),
            }
        }
        Ok(())
    }

    /// Removes directories that have become empty, from the key's own up.
    fn remove_empty_parents(&self, key: &str) {
        let mut at = Path::new(key).parent();
        while let Some(parent) = at.filter(|p| !p.as_os_str().is_empty()) {
            // One that is not empty, or was used again meanwhile, stays.
            if self.dir.remove_dir(parent).is_err() {
                return;
            }
            at = parent.parent();
        }
    }
}

/// What tells one content from another: a replaced file is another inode, a written one has another time.
fn object(stat: &Stat) -> Object {
    Object {
        len: stat.size,
        etag: format!(
            "{:x}-{:x}-{:x}",
            stat.identity.inode, stat.modified_ns, stat.size
        ),
        crc32: None,
    }
}

fn fault(method: &'static str, key: &str, error: &Error) -> Fault {
    let class = if error.is_not_found() {
        Class::NotFound
    } else if error.kind() == Kind::NoSpace {
        Class::Full
    } else {
        Class::Refused
    };
    let fault = Fault::new(class, method, key, error.to_string());
    match error.hint_text() {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

impl Store for DirectoryStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn put(&self, key: &str, body: Bytes, only_new: bool) -> Result<Object> {
        let upload = self.create_upload(key)?;
        let temporary = Self::upload_path(&upload);
        let done = self
            .dir
            .open_file(&temporary)
            .and_then(|file| file.write_all_at(&body, 0).map(|()| file))
            .map_err(|e| fault("put", key, &e))
            .and_then(|file| self.publish("put", &temporary, &file, key, !only_new));
        if done.is_err() {
            self.abort(&upload)?;
        }
        done
    }

    fn create_upload(&self, key: &str) -> Result<Upload> {
        const METHOD: &str = "begin the upload of";
        check_key(key).map_err(|e| Fault::new(Class::Refused, METHOD, key, e))?;
        let upload = Upload {
            key: key.to_owned(),
            id: uuid::Uuid::new_v4().to_string(),
        };
        self.dir
            .create_file(&Self::upload_path(&upload), FILE_MODE)
            .map_err(|e| fault(METHOD, key, &e))?;
        Ok(upload)
    }

    fn put_part(&self, upload: &Upload, part: &Part, body: Bytes) -> Result<Part> {
        check_part(part, &body, &upload.key)?;
        let written = self
            .dir
            .open_file(&Self::upload_path(upload))
            .and_then(|file| file.write_all_at(&body, part.offset));
        match written {
            Ok(()) => Ok(Part {
                etag: format!("{:08x}", part.crc32),
                ..part.clone()
            }),
            Err(e) if e.is_not_found() => Err(no_upload("put", upload)),
            Err(e) => Err(fault("put", &upload.key, &e)),
        }
    }

    fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<Object> {
        const METHOD: &str = "complete";
        let key = &upload.key;
        check_complete(key, parts)?;
        let path = Self::upload_path(upload);
        let file = self.dir.open_file(&path).map_err(|e| {
            if e.is_not_found() {
                no_upload(METHOD, upload)
            } else {
                fault(METHOD, key, &e)
            }
        })?;
        let refused = |what: String| Fault::new(Class::Refused, METHOD, key, what);
        if let Some(part) = parts.iter().find(|p| p.etag != format!("{:08x}", p.crc32)) {
            let what = format!("part {} is not the one that was sent", part.number);
            return Err(refused(what));
        }
        let len = file.stat().map_err(|e| fault(METHOD, key, &e))?.size;
        if len != whole_len(parts) {
            let what = format!("{len} bytes were sent, {} announced", whole_len(parts));
            return Err(refused(what));
        }
        self.publish(METHOD, &path, &file, key, true)
    }

    fn keep(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    fn abort(&self, upload: &Upload) -> Result<()> {
        let path = Self::upload_path(upload);
        self.dir
            .remove_tree(&path)
            .map_err(|e| fault("abort the upload of", &upload.key, &e))?;
        self.remove_empty_parents(&upload.key);
        Ok(())
    }

    fn head(&self, key: &str) -> Result<Object> {
        let (_, stat) = self.open_key("look at", key)?;
        Ok(object(&stat))
    }

    fn read(
        &self,
        key: &str,
        offset: u64,
        buf: &mut [u8],
        filled: &mut usize,
        etag: Option<&str>,
    ) -> Result<()> {
        let (file, stat) = self.open_key("read", key)?;
        if etag.is_some_and(|etag| etag != object(&stat).etag) {
            return Err(Fault::new(
                Class::Changed,
                "read",
                key,
                "it has changed meanwhile",
            ));
        }
        let rest = buf.get_mut(*filled..).unwrap_or_default();
        let n = file
            .read_at(rest, offset + *filled as u64)
            .map_err(|e| fault("read", key, &e))?;
        *filled += n;
        if *filled < buf.len() {
            return Err(Fault::new(Class::Short, "read", key, "it ends too early"));
        }
        Ok(())
    }

    fn list(&self, prefix: &str, by_directory: bool, from: Option<&str>) -> Result<Page> {
        let (objects, _) = self.walk(prefix).map_err(|e| fault("list", prefix, &e))?;
        Ok(page(objects.into_iter(), prefix, by_directory, from))
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            check_key(key).map_err(|e| Fault::new(Class::Refused, "remove", key, e))?;
            let path = Path::new(key);
            match self.dir.remove_file(path) {
                Ok(()) => self.remove_empty_parents(key),
                Err(_) if !self.dir.exists(path).unwrap_or(true) => {}
                Err(e) => return Err(fault("remove", key, &e)),
            }
        }
        Ok(())
    }

    fn uploads(&self, prefix: &str, _from: Option<&str>) -> Result<UploadPage> {
        let (_, uploads) = self.walk(prefix).map_err(|e| fault("list", prefix, &e))?;
        Ok(UploadPage {
            uploads,
            next: None,
        })
    }
}
