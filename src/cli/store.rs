//! The verbs on stores.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::base::error::{Error, Kind, Result};
use crate::base::run::Run;
use crate::base::units::ByteCount;
use crate::cli::archive::print;
use crate::cli::common::Common;
use crate::cli::store_args::StoreArgs;
use crate::cli::{Summary, Verb};
use crate::repository::{
    Backup, Keep, Level, Origin, StoredBackup, Verdict, get, judge, name_of_now, put, verify,
};

#[derive(Debug, Subcommand)]
pub(super) enum StoreVerbs {
    /// Put an archive into a store, from standard input or from a command
    Put(PutArgs),
    /// Write a backup of a store to standard output
    Get(GetArgs),
    /// Tell which backups a store holds
    Ls(LsArgs),
    /// Remove backups from a store
    Rm(RmArgs),
    /// Remove backups that no rule wants to keep
    Prune(PruneArgs),
    /// Remove what failed runs have left in a store
    Gc(GcArgs),
    /// Copy a backup from one store to another
    Copy(CopyArgs),
}

impl StoreVerbs {
    pub(super) fn into_verb(self) -> Box<dyn Verb + Send> {
        match self {
            Self::Put(args) => Box::new(args),
            Self::Get(args) => Box::new(args),
            Self::Ls(args) => Box::new(args),
            Self::Rm(args) => Box::new(args),
            Self::Prune(args) => Box::new(args),
            Self::Gc(args) => Box::new(args),
            Self::Copy(args) => Box::new(args),
        }
    }
}

const fn nothing() -> Summary {
    Summary { files: 0, bytes: 0 }
}

fn to_bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The archive is checked to its last byte on its way, as verify does. It exists in the store only when it is whole, and when
COMMAND, if there is one, has succeeded; otherwise nothing of it stays.

Examples:
  mariadb-backup --backup --stream=xbstream | xbpipe put s3://backups/db1/monday
  xbpipe put --store s3://backups/db1 --name monday -- xtrabackup --backup --stream=xbstream
  xbpipe put /backups/monday < full.xb")]
pub(super) struct PutArgs {
    /// STORE/NAME, or a name in the store that --store names
    #[arg(
        value_name = "NAME",
        conflicts_with = "name",
        required_unless_present = "command"
    )]
    target: Option<String>,

    /// The same, where a command follows [default: the time]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Store also a backup that ends before its last file (xtrabackup_info, mariadb_backup_info or xtrabackup_tablespaces)
    #[arg(long)]
    allow_unfinished: bool,

    #[command(flatten)]
    store: Box<StoreArgs>,

    #[command(flatten)]
    common: Common,

    /// Program that writes the archive to its standard output
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
}

impl Verb for PutArgs {
    fn name(&self) -> &'static str {
        "put"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let target = self.target.or(self.name).unwrap_or_else(name_of_now);
        let (repository, name) = self.store.named(&target, true, run)?;
        let origin = if self.command.is_empty() {
            Origin::Stdin
        } else {
            Origin::Command(self.command)
        };
        let (unfinished, memory) = (self.allow_unfinished, self.common.memory_with_store());
        let stored = put(&repository, &name, &origin, unfinished, memory, run)?;
        run.monitor
            .info(format!("stored as {}", repository.describe(&name)));
        Ok(Summary {
            files: stored.archive.files,
            bytes: stored.archive.bytes,
        })
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Every part is checked before it is written; a reader that gets to the end with status 0 has the archive as it was stored.

Examples:
  xbpipe get s3://backups/db1/monday | mbstream -x -C /restore
  xbpipe get --store /backups monday > monday.xb")]
pub(super) struct GetArgs {
    /// STORE/NAME, or a name in the store that --store names
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    store: Box<StoreArgs>,

    #[command(flatten)]
    common: Common,
}

impl Verb for GetArgs {
    fn name(&self) -> &'static str {
        "get"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let backup = self.store.backup(&self.name, run)?;
        let bytes = get(&backup, self.common.memory_with_store(), run)?;
        Ok(Summary {
            files: backup.manifest().archive.files,
            bytes,
        })
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Each line is: time of completion (UTC), bytes of the archive, files, type of the backup, its LSNs, version of the server,
state, name. The state is `proven` when the archive states its own end, `unstated` when its writer does not do so, and
`unreadable` when the manifest is damaged. With --json each line is an object: the manifest with the name.

Examples:
  xbpipe ls s3://backups/db1
  xbpipe ls --json /backups | jq -r .name")]
pub(super) struct LsArgs {
    /// The store [default: the one that --store names]
    #[arg(value_name = "STORE")]
    at: Option<String>,

    /// One JSON object per line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: Box<StoreArgs>,

    #[command(flatten)]
    common: Common,
}

fn json_backup(backup: &Backup) -> Value {
    let mut value = match &backup.manifest {
        Ok(manifest) => serde_json::to_value(manifest).unwrap_or_default(),
        Err(error) => json!({ "error": error }),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("name".to_owned(), json!(backup.name));
        let state = match &backup.manifest {
            Ok(manifest) => manifest.archive.end.as_str(),
            Err(_) => "unreadable",
        };
        object.insert("state".to_owned(), json!(state));
    }
    value
}

fn line_of(backup: &Backup) -> String {
    let name = &backup.name;
    let Ok(manifest) = &backup.manifest else {
        return format!("{:20} {:>16} {:>8} unreadable {name}", "-", "-", "-");
    };
    let facts = manifest.backup.as_ref();
    let kind = facts.map_or("archive", |f| f.kind.as_str());
    let lsns = facts.map_or("-".to_owned(), |f| {
        format!("{}..{}", f.from_lsn, f.last_lsn)
    });
    let server = facts.and_then(|f| f.server.as_deref()).unwrap_or("-");
    let time = manifest.finished().strftime("%Y-%m-%dT%H:%M:%SZ");
    let archive = &manifest.archive;
    format!(
        "{time} {:>16} {:>8} {kind} {lsns} {server} {} {name}",
        archive.bytes, archive.files, archive.end
    )
}

impl Verb for LsArgs {
    fn name(&self) -> &'static str {
        "ls"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn is_brief(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let repository = self.store.open_existing(self.at.as_deref(), run)?;
        let backups = repository.list()?;
        let mut out = String::new();
        for backup in &backups {
            let line = if self.json {
                json_backup(backup).to_string()
            } else {
                line_of(backup)
            };
            out.push_str(&line);
            out.push('\n');
        }
        print(&to_bytes(&out))?;
        let manifests = backups.iter().filter_map(|b| b.manifest.as_ref().ok());
        Ok(Summary {
            files: backups.len() as u64,
            bytes: manifests.map(|m| m.archive.bytes).sum(),
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// STORE/NAME, or names in the store that --store names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    #[command(flatten)]
    store: Box<StoreArgs>,

    #[command(flatten)]
    common: Common,
}

impl Verb for RmArgs {
    fn name(&self) -> &'static str {
        "rm"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        for name in &self.names {
            let (repository, name) = self.store.named(name, false, run)?;
            repository.remove(&name)?;
            run.monitor
                .info(format!("removed {}", repository.describe(&name)));
        }
        Ok(nothing())
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A backup stays when any of the rules wants it; days, weeks and months are those of UTC. A base stays as long as an increment
that builds on it does. Backups whose manifest cannot be read, and archives that are no backups, are left alone.

Examples:
  xbpipe prune --store s3://backups/db1 --keep-daily 7 --keep-weekly 4 --dry-run
  xbpipe prune --store /backups --keep-last 3")]
pub(super) struct PruneArgs {
    /// The newest so many
    #[arg(long, value_name = "N", default_value = "0")]
    keep_last: usize,

    /// The newest of each of so many days
    #[arg(long, value_name = "N", default_value = "0")]
    keep_daily: usize,

    /// The newest of each of so many weeks
    #[arg(long, value_name = "N", default_value = "0")]
    keep_weekly: usize,

    /// The newest of each of so many months
    #[arg(long, value_name = "N", default_value = "0")]
    keep_monthly: usize,

    /// Everything younger than so many days
    #[arg(long, value_name = "DAYS")]
    keep_within: Option<u32>,

    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    store: Box<StoreArgs>,

    #[command(flatten)]
    common: Common,
}

impl Verb for PruneArgs {
    fn name(&self) -> &'static str {
        "prune"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn is_brief(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let keep = Keep {
            last: self.keep_last,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            within_seconds: self.keep_within.map(|days| i64::from(days) * 86_400),
        };
        if keep.is_nothing() {
            return Err(
                Error::new(Kind::Usage, "prune without a rule would remove everything")
                    .hint("say what to keep, such as --keep-last 7; xbpipe rm removes by name"),
            );
        }
        let repository = self.store.open(&self.store.default_store(), false, run)?;
        let backups = repository.list()?.into_iter().filter_map(|backup| {
            let manifest = backup.manifest.ok().filter(|m| m.backup.is_some())?;
            Some((backup.name, manifest))
        });
        let backups: Vec<_> = backups.collect();
        let verdicts = judge(&backups, &keep, jiff::Timestamp::now());
        let mut out = String::new();
        for Verdict { name, kept_for } in &verdicts {
            let line = match kept_for {
                Some(why) => format!("keep {why:8} {name}\n"),
                None => format!("remove        {name}\n"),
            };
            out.push_str(&line);
        }
        print(&to_bytes(&out))?;
        // Increments go before what they build on.
        for verdict in verdicts.iter().filter(|v| v.kept_for.is_none()) {
            if !self.dry_run {
                repository.remove(&verdict.name)?;
            }
        }
        Ok(nothing())
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Looks for objects and unfinished uploads of runs that never became a backup, and removes those that are old enough not to
be one that is under way.

Examples:
  xbpipe gc s3://backups/db1
  xbpipe gc --older-than 0 --dry-run /backups")]
pub(super) struct GcArgs {
    /// The store [default: the one that --store names]
    #[arg(value_name = "STORE")]
    at: Option<String>,

    /// Hours after which nobody can be writing them any more
    #[arg(long, value_name = "HOURS", default_value = "24")]
    older_than: u32,

    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    store: Box<StoreArgs>,

    #[command(flatten)]
    common: Common,
}

impl Verb for GcArgs {
    fn name(&self) -> &'static str {
        "gc"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn is_brief(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let repository = self.store.open_existing(self.at.as_deref(), run)?;
        let now = jiff::Timestamp::now().as_second();
        // Stores know whole seconds: what is from this one counts as old at once.
        let before = now - i64::from(self.older_than) * 3600 + i64::from(self.older_than == 0);
        let left = repository.leftovers(before, run.monitor.as_ref())?;
        let mut out = String::new();
        for object in &left.objects {
            out.push_str(&format!("object {:>16} {}\n", object.len, object.key));
        }
        for upload in &left.uploads {
            out.push_str(&format!("upload {:>16} {}\n", "-", upload.key));
        }
        if !self.dry_run {
            repository.remove_leftovers(&left)?;
        }
        print(&to_bytes(&out))?;
        Ok(Summary {
            files: (left.objects.len() + left.uploads.len()) as u64,
            bytes: left.objects.iter().map(|o| o.len).sum(),
        })
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The copy is checked as it passes, and cut into segments and parts anew. Options about stores hold for both.

Examples:
  xbpipe copy /backups/monday s3://backups/db1/monday")]
pub(super) struct CopyArgs {
    /// STORE/NAME to read
    #[arg(value_name = "FROM")]
    from: String,

    /// STORE/NAME to make
    #[arg(value_name = "TO")]
    to: String,

    #[command(flatten)]
    store: Box<StoreArgs>,

    #[command(flatten)]
    common: Common,
}

impl Verb for CopyArgs {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(self: Box<Self>, run: &Run) -> Result<Summary> {
        let from = self.store.backup(&self.from, run)?;
        let (repository, name) = self.store.named(&self.to, true, run)?;
        let origin = Origin::Stored(Box::new(from));
        // Whoever stored it has decided.
        let memory = self.common.memory_with_store();
        let stored = put(&repository, &name, &origin, true, memory, run)?;
        Ok(Summary {
            files: stored.archive.files,
            bytes: stored.archive.bytes,
        })
    }
}

/// Checks a backup without reading all of it, and says how far that went.
pub(super) fn verify_stored(
    backup: &StoredBackup,
    level: u8,
    memory: ByteCount,
    as_json: bool,
    run: &Run,
) -> Result<Summary> {
    let level_of = Level::from_number(level);
    let level_of = level_of.ok_or_else(|| Error::new(Kind::Usage, "there is no such level"))?;
    let checked = verify(backup, level_of, memory, run);
    let error = checked.as_ref().err().map(ToString::to_string);
    let report = checked.as_ref().copied().unwrap_or_default();
    let text = if as_json {
        json!({
            "level": level,
            "objects": report.objects,
            "objects_with_checksum": report.told_checksums,
            "objects_with_another_tag": report.other_tags,
            "parts_read": report.parts,
            "bytes_read": report.bytes,
            "error": error,
        })
        .to_string()
    } else {
        format!(
            "as far as level {level} goes: {} objects are there, the store vouches for the checksum of {}; {} parts read",
            report.objects, report.told_checksums, report.parts
        )
    };
    if report.other_tags > 0 && level_of != Level::Everything {
        run.monitor.warning(format!(
            "{} objects are not those that were stored, by their tags: somebody has copied or replaced them; \
             --level 3 reads what is in them",
            report.other_tags
        ));
    }
    if as_json || checked.is_ok() {
        print(format!("{text}\n").as_bytes())?;
    }
    checked.map(|report| Summary {
        files: backup.manifest().archive.files,
        bytes: report.bytes,
    })
}
