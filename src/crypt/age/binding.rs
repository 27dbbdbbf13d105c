//! What a file is bound to: a stanza of ours, which every other reader of age passes over, and which the header's
//! authentication code covers.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use super::header::Stanza;

/// The stanza's type.
pub const STANZA: &str = "xbpipe-file";

/// Bytes of the number of a run.
pub const RUN_LEN: usize = 16;

/// The place of a file's content. `r[encryption.binding]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Number of the run that wrote the file, the same in all files of a backup.
    pub run: [u8; RUN_LEN],
    /// Path in the archive, without the suffix of encryption.
    pub path: Vec<u8>,
}

impl Binding {
    pub(super) fn stanza(&self) -> Stanza {
        Stanza {
            kind: STANZA.to_owned(),
            args: vec![BASE64_STANDARD_NO_PAD.encode(self.run)],
            body: self.path.clone(),
        }
    }

    /// The binding of a stanza; `None` if it is not ours, or of a kind that a later version writes.
    pub(super) fn of(stanza: &Stanza) -> Option<Self> {
        let [run] = stanza.args.as_slice() else {
            return None;
        };
        let run = BASE64_STANDARD_NO_PAD.decode(run).ok()?;
        (stanza.kind == STANZA).then_some(Self {
            run: run.try_into().ok()?,
            path: stanza.body.clone(),
        })
    }
}
