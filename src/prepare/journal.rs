//! What makes a killed prepare repeatable: a file that says what was proven, what is to be done, and how far it got.
//!
//! It is written before anything in the directory is changed, and replaced whole at each [`Step`]. Every step's work can be
//! done twice, so a run that finds a journal does the step it names again and goes on. It is removed after the metadata
//! says that the backup is prepared.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Kind, Result};
use crate::base::fsx;
use crate::prepare::markers::MarkerPlan;
use crate::prepare::redo::Patch;

/// Name of the journal in the backup's directory.
pub(crate) const JOURNAL_NAME: &str = "xbpipe_prepare";
/// Number of this format; a journal of another one is refused.
const FORMAT: u32 = 1;
/// Bytes of a journal that we read: a line per renamed table and changed log record.
const JOURNAL_LEN_MAX: u64 = 256 << 20;

/// How far a prepare got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    /// The log was proven whole. Log patches and removals are being done, renamed files leave their old names.
    Park,
    /// Every renamed file has left its old name; they get their new ones.
    Place,
    /// Files have their last names. The server recovers; the log may be the server's already.
    Recover,
}

/// A file that is out of the way during recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Aside {
    /// Its name.
    pub(crate) path: String,
    /// Its name meanwhile.
    pub(crate) via: String,
}

/// The journal's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    format: u32,
    /// Identifier of the backup this belongs to.
    pub(crate) backup: String,
    /// Where its log ends, as proven.
    pub(crate) last_lsn: u64,
    /// How far it got.
    pub(crate) step: Step,
    /// Whether a server was started already, so that the log may have grown.
    pub(crate) server_started: bool,
    /// Files to remove and rename.
    pub(crate) markers: MarkerPlan,
    /// Bytes to change in the log.
    pub(crate) patches: Vec<Patch>,
    /// `.isl` files.
    pub(crate) links: Vec<Aside>,
}

impl Journal {
    /// A journal at its first step.
    pub(crate) fn new(
        backup: String,
        last_lsn: u64,
        markers: MarkerPlan,
        patches: Vec<Patch>,
        links: Vec<Aside>,
    ) -> Self {
        Self {
            format: FORMAT,
            backup,
            last_lsn,
            step: Step::Park,
            server_started: false,
            markers,
            patches,
            links,
        }
    }

    /// Reads the journal in `root`, if there is one.
    pub(crate) fn read(root: &Path) -> Result<Option<Self>> {
        let path = root.join(JOURNAL_NAME);
        if !fsx::exists(&path)? {
            return Ok(None);
        }
        let bad = |why: String| {
            Error::new(
                Kind::Checksum,
                format!("journal of an earlier prepare: {why}"),
            )
            .path(&path)
            .hint("extract the backup again and prepare that")
        };
        let journal: Self = serde_json::from_slice(&fsx::read_small(&path, JOURNAL_LEN_MAX)?)
            .map_err(|e| bad(e.to_string()))?;
        if journal.format != FORMAT {
            return Err(bad(format!("format {} is unknown", journal.format)));
        }
        Ok(Some(journal))
    }

    /// Makes this the journal of `root`, durably.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let path = root.join(JOURNAL_NAME);
        let bytes = serde_json::to_vec(self).map_err(|e| {
            Error::new(Kind::Failed, "cannot write")
                .path(&path)
                .source(e)
        })?;
        fsx::write_small(&path, &bytes)?;
        fsx::sync_dir(root)
    }

    /// Goes on to `step`.
    pub(crate) fn advance(&mut self, root: &Path, step: Step) -> Result<()> {
        self.step = step;
        self.write(root)
    }
}
