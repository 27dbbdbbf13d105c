//! Encryption on the command line: options for writers and readers, and the verb that makes keys.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::base::error::{Error, Kind, Result};
use crate::base::monitor::Monitor;
use crate::base::run::Run;
use crate::base::secret;
use crate::base::units::ByteCount;
use crate::cli::common::Common;
use crate::cli::{Summary, Verb};
use crate::codec::{Decoders, Encoder};
use crate::crypt::age::{Identity, Recipient};
use crate::crypt::xbcrypt::chunk::{CHUNK_LEN_DEFAULT, CHUNK_LEN_MAX, CHUNK_LEN_MIN};
use crate::pipeline::keys::{RecipientSources, age_encoder, decryptors, xbcrypt_encoder};

/// A format of encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Encryption {
    /// Authenticated, to recipients: names get the suffix .age
    Age,
    /// As xtrabackup and xbcrypt do it, which notices no reordering and no missing chunk: names get the suffix .xbcrypt
    Xbcrypt,
}

/// How files are encrypted on their way into an archive.
#[derive(Debug, Clone, Args)]
pub(super) struct EncryptArgs {
    /// Encrypt each file, after compression
    #[arg(long, value_name = "HOW", value_enum)]
    encrypt: Option<Encryption>,

    /// Whom to encrypt to: a public key, age1...; may be repeated
    #[arg(long, value_name = "RECIPIENT", requires = "encrypt")]
    encrypt_recipient: Vec<Recipient>,

    /// File of recipients, one in a line; may be repeated
    #[arg(long, value_name = "FILE", requires = "encrypt")]
    encrypt_recipients_file: Vec<PathBuf>,

    /// age: identity file to whose owner files are encrypted. xbcrypt: file whose 16, 24 or 32 bytes are the key
    #[arg(long, value_name = "FILE", requires = "encrypt")]
    encrypt_key_file: Option<PathBuf>,

    /// xbcrypt: plain bytes of one chunk, 1K to 1M [default: 64K]
    #[arg(long, value_name = "SIZE", requires = "encrypt")]
    encrypt_chunk_size: Option<ByteCount>,
}

fn usage(what: &str) -> Error {
    Error::new(Kind::Usage, what)
}

impl EncryptArgs {
    /// What does it.
    pub(super) fn encoder(&self, monitor: &dyn Monitor) -> Result<Option<Arc<dyn Encoder>>> {
        Ok(match self.encrypt {
            None => None,
            Some(Encryption::Age) => Some(self.age(monitor)?),
            Some(Encryption::Xbcrypt) => Some(self.xbcrypt(monitor)?),
        })
    }

    fn age(&self, monitor: &dyn Monitor) -> Result<Arc<dyn Encoder>> {
        if self.encrypt_chunk_size.is_some() {
            return Err(usage("--encrypt-chunk-size is for --encrypt xbcrypt"));
        }
        let sources = RecipientSources {
            recipients: self.encrypt_recipient.clone(),
            files: self.encrypt_recipients_file.clone(),
            identity_files: self.encrypt_key_file.iter().cloned().collect(),
        };
        age_encoder(&sources, monitor)
    }

    fn xbcrypt(&self, monitor: &dyn Monitor) -> Result<Arc<dyn Encoder>> {
        if !self.encrypt_recipient.is_empty() || !self.encrypt_recipients_file.is_empty() {
            return Err(usage("recipients are for --encrypt age")
                .hint("xbcrypt has one secret key: --encrypt-key-file"));
        }
        let Some(file) = &self.encrypt_key_file else {
            return Err(usage("--encrypt xbcrypt needs --encrypt-key-file"));
        };
        let len = self
            .encrypt_chunk_size
            .map_or(Ok(CHUNK_LEN_DEFAULT), |size| usize::try_from(size.0))
            .unwrap_or(usize::MAX);
        if !(CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&len) {
            return Err(usage("--encrypt-chunk-size is not between 1K and 1M"));
        }
        xbcrypt_encoder(file, len, monitor)
    }
}

/// How members are decrypted on their way out of an archive.
#[derive(Debug, Clone, Args)]
pub(super) struct DecryptArgs {
    /// Decrypt files whose names end in .age or .xbcrypt with the key in this file: identities of age, or a key of xbcrypt;
    /// may be repeated
    #[arg(long, value_name = "FILE")]
    decrypt_key_file: Vec<PathBuf>,
}

impl DecryptArgs {
    /// What does it; nothing without a key.
    pub(super) fn decoders(&self, monitor: &dyn Monitor) -> Result<Decoders> {
        decryptors(&self.decrypt_key_file, monitor)
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The file gets the secret half, an identity of age, and the mode 0600; an existing file is never overwritten. The public half,
the recipient, is written to standard output and into the file as a comment. A host that makes backups needs the recipient
only. Keep the file where the backups are not: whoever has it can read them, and without it nobody can.

Examples:
  xbpipe keygen /secure/backup.key
  xbpipe backup --encrypt age --encrypt-recipient age1... --to /backup/monday.xb
  xbpipe extract --decrypt-key-file /secure/backup.key -C /restore /backup/monday.xb")]
pub(super) struct KeygenArgs {
    /// File to make
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    common: Common,
}

impl Verb for KeygenArgs {
    fn name(&self) -> &'static str {
        "keygen"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn is_brief(&self) -> bool {
        true
    }

    /// `r[encryption.keygen]`
    fn run(self: Box<Self>, _run: &Run) -> Result<Summary> {
        let identity = Identity::generate()?;
        let recipient = identity.recipient();
        let private = identity.to_text()?;
        let created = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let head = format!("# created: {created}\n# public key: {recipient}\n");
        let mut text = Zeroizing::new(Vec::with_capacity(head.len() + private.len() + 1));
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(private.as_bytes());
        text.push(b'\n');
        secret::write(&self.file, &text)?;
        writeln!(std::io::stdout(), "{recipient}")
            .map_err(|e| Error::io("write", "standard output", e))?;
        Ok(Summary {
            files: 1,
            bytes: text.len() as u64,
        })
    }
}
