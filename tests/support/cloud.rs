//! `xbcloud` for tests: stores, command lines, and backups laid out by hand.
#![expect(
    clippy::disallowed_methods,
    reason = "test support handles files with plain std"
)]

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::s3_server::{ACCESS_KEY, BUCKET, LocalS3, SECRET_KEY};
use crate::tool::{
    Chunks, Done, Node, Tree, assert_same, files, need, noise, read_tree, run, scratch,
    split_chunks, xbpipe,
};

/// Without whatever the environment of the tests says about stores.
pub(crate) fn clean(mut command: Command) -> Command {
    for set in ["S3_", "AWS_", ""] {
        for name in [
            "ACCESS_KEY_ID",
            "SECRET_ACCESS_KEY",
            "SESSION_TOKEN",
            "STORAGE_CLASS",
            "DEFAULT_REGION",
            "CA_BUNDLE",
            "ENDPOINT",
        ] {
            command.env_remove(format!("{set}{name}"));
        }
    }
    for name in ["AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL"] {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

pub(crate) fn xbcloud(args: &[&str]) -> Command {
    let mut command = clean(xbpipe(args));
    command.arg0("/usr/bin/xbcloud");
    command
}

/// A store, with the options that lead to it.
pub(crate) struct Cloud {
    options: Vec<String>,
}

impl Cloud {
    pub(crate) fn at(url: &str, bucket: &str) -> Self {
        let options = [
            "--no-defaults".to_owned(),
            "--storage=s3".to_owned(),
            format!("--s3-bucket={bucket}"),
            "--s3-region=us-east-1".to_owned(),
            format!("--s3-access-key={ACCESS_KEY}"),
            format!("--s3-secret-key={SECRET_KEY}"),
            format!("--s3-endpoint={url}"),
            "--timeout=2".to_owned(),
            "--max-backoff=50".to_owned(),
        ];
        Self {
            options: options.into(),
        }
    }

    pub(crate) fn local(server: &LocalS3) -> Self {
        Self::at(&format!("http://{}", server.address()), BUCKET)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = xbcloud(args);
        command.args(&self.options);
        command
    }

    pub(crate) fn put(&self, name: &str, stream: &[u8], options: &[&str]) -> Done {
        run(self.command(&[&["put", name], options].concat()), stream)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        run(self.command(args), b"")
    }
}

/// What lies in the bucket, by key.
pub(crate) fn objects(server: &LocalS3) -> Tree {
    let mut tree = read_tree(&server.bucket());
    tree.retain(|_, node| *node != Node::EmptyDir);
    tree
}

pub(crate) fn keys(server: &LocalS3) -> Vec<String> {
    let key = |key: Vec<u8>| String::from_utf8(key).unwrap();
    objects(server).into_keys().map(key).collect()
}

/// A stream with files of several chunks, interleaved, as a server writes it.
pub(crate) fn sample() -> (Vec<u8>, Tree) {
    let (a, b) = (noise(3_000_000, 1), noise(2_000_000, 2));
    let stream = Chunks::new()
        .payload("db/a.ibd", 0, &a[..1_000_000])
        .payload("db/b.ibd", 0, &b[..1_200_000])
        .payload("db/a.ibd", 1_000_000, &a[1_000_000..2_000_000])
        .payload("db/b.ibd", 1_200_000, &b[1_200_000..])
        .end("db/b.ibd")
        .payload("db/a.ibd", 2_000_000, &a[2_000_000..])
        .end("db/a.ibd")
        .end("db/empty")
        .file("db/a.ibd.0", b"a name that looks like a chunk's")
        .file(
            "xtrabackup_checkpoints",
            b"backup_type = full-backuped\nto_lsn = 4711\n",
        )
        .file("xtrabackup_info", b"uuid = 1\n")
        .file("xtrabackup_tablespaces", b"{}")
        .0;
    let tree = files([
        ("db/a.ibd", &a[..]),
        ("db/b.ibd", &b),
        ("db/empty", b""),
        ("db/a.ibd.0", b"a name that looks like a chunk's"),
        (
            "xtrabackup_checkpoints",
            b"backup_type = full-backuped\nto_lsn = 4711\n",
        ),
        ("xtrabackup_info", b"uuid = 1\n"),
        ("xtrabackup_tablespaces", b"{}"),
    ]);
    (stream, tree)
}

/// What our `xbstream -x` makes of a stream, and the real `mbstream -x`.
pub(crate) fn extracted(stream: &[u8]) -> Tree {
    let dir = scratch();
    let mut ours = xbpipe(["as", "xbstream", "-x", "-C"]);
    ours.arg(dir.path());
    assert_eq!(run(ours, stream).expect(0).err, "");
    let ours = read_tree(dir.path());
    let dir = scratch();
    let mut real = Command::new(need("mbstream", "mariadb-backup"));
    real.arg("-x").arg("-C").arg(dir.path());
    run(real, stream).expect(0);
    assert_same(&read_tree(dir.path()), &ours);
    ours
}

/// Name and bytes of every chunk, as the layout has them.
pub(crate) fn laid_out(stream: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut counts = std::collections::HashMap::new();
    let named = split_chunks(stream).into_iter().map(|chunk| {
        let len = u32::from_le_bytes(chunk[10..14].try_into().unwrap()) as usize;
        let path = String::from_utf8(chunk[14..14 + len].to_vec()).unwrap();
        let index: &mut u64 = counts.entry(path.clone()).or_default();
        *index += 1;
        (format!("{path}.{:020}", *index - 1), chunk)
    });
    named.collect()
}

/// Lays a backup out by hand.
pub(crate) fn lay_out(server: &LocalS3, backup: &str, stream: &[u8]) {
    for (name, chunk) in laid_out(stream) {
        let path = server.bucket().join(backup).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, chunk).unwrap();
    }
}
