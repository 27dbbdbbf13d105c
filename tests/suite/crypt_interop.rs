//! Encryption on the command line, and with the programs that others use: age, age-keygen, openssl.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::backup_support::{backup, restores};
use crate::server::TestServer;
use crate::tool::{
    Chunks, Done, Node, Tree, assert_same, files, need, noise, read_tree, run, scratch,
    split_chunks, write_tree, xbpipe,
};

/// Contents that meet every edge of a chunk.
fn contents() -> Tree {
    let mut tree = files([
        ("empty", &b""[..]),
        ("one", b"x"),
        ("db/zeros", &vec![0; 3_000_000]),
    ]);
    for len in [
        65_535,
        65_536,
        65_537,
        131_072,
        262_144,
        262_145,
        1 << 20,
        2_500_000,
    ] {
        let name = format!("db/n{len}");
        tree.insert(name.into_bytes(), Node::File(noise(len, len as u64)));
    }
    tree
}

struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        Self { dir: scratch() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of a secret, not readable by others.
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Makes an identity; its file, and the recipient as it was printed.
    fn generate(&self, name: &str) -> (PathBuf, String) {
        let path = self.path(name);
        let mut command = xbpipe(["keygen"]);
        command.arg(&path);
        let done = run(command, b"").expect(0);
        (path, done.text().trim_end().to_owned())
    }
}

fn create(source: &Path, options: &[&str]) -> Vec<u8> {
    let mut command = xbpipe(["create"]);
    command.args(options).arg("-C").arg(source).arg(".");
    let done = run(command, b"").expect(0);
    assert!(!done.err.contains("warning"), "{}", done.err);
    done.out
}

fn extract(archive: &[u8], target: &Path, options: &[&str]) -> Done {
    let mut command = xbpipe(["extract", "--no-sync"]);
    command.args(options).arg("-C").arg(target);
    run(command, archive)
}

/// What the age tool makes of a file.
fn age_decrypts(key: &Path, file: &Path) -> Vec<u8> {
    let mut command = Command::new(need("age", "age"));
    command.arg("-d").arg("-i").arg(key).arg(file);
    run(command, b"").expect(0).out
}

// r[encryption.keygen]
#[test]
fn keys_are_what_age_keygen_makes() {
    let keys = Keys::new();
    let (key, recipient) = keys.generate("key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let mut command = Command::new(need("age-keygen", "age"));
    command.arg("-y").arg(&key);
    assert_eq!(run(command, b"").expect(0).text().trim_end(), recipient);
    let before = std::fs::read(&key).unwrap();
    let mut command = xbpipe(["keygen"]);
    command.arg(&key);
    let done = run(command, b"").expect(1);
    assert!(done.last_line().contains("cannot create"), "{}", done.err);
    assert!(done.out.is_empty());
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

/// The emergency reader: files taken out as they are, decrypted and decompressed without us.
#[test]
fn the_age_tool_reads_our_files() {
    let keys = Keys::new();
    let (key, recipient) = keys.generate("key");
    let (other, _) = keys.generate("other");
    let list = keys.write("recipients", format!("# us\n{recipient}\n").as_bytes());
    let root = scratch();
    let source = root.path().join("source");
    let tree = contents();
    write_tree(&source, &tree);
    let other_arg = other.to_str().unwrap();
    for (i, options) in [
        &["--encrypt", "age", "--encrypt-recipient", &recipient][..],
        &[
            "--encrypt=age",
            "--encrypt-recipients-file",
            list.to_str().unwrap(),
            "--encrypt-key-file",
            other_arg,
        ],
        &[
            "--encrypt=age",
            "--encrypt-recipient",
            &recipient,
            "--compress=zstd",
            "--memory=8M",
            "--parallel=8",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let archive = create(&source, options);
        let sealed = root.path().join(format!("sealed{i}"));
        extract(&archive, &sealed, &[]).expect(0);
        let compressed = options.contains(&"--compress=zstd");
        let suffix = if compressed { ".zst.age" } else { ".age" };
        for (name, node) in &tree {
            let Node::File(content) = node else { continue };
            let file = sealed.join(format!("{}{suffix}", str::from_utf8(name).unwrap()));
            let mut plain = age_decrypts(&key, &file);
            if compressed {
                let mut command = Command::new(need("zstd", "zstd"));
                command.arg("-dc");
                plain = run(command, &plain).expect(0).out;
            }
            assert!(plain == *content, "{file:?}");
        }
        assert_eq!(read_tree(&sealed).len(), tree.len());
        for memory in ["8M", "64M"] {
            let target = root.path().join(format!("target{i}-{memory}"));
            let options = [
                "--decompress",
                "--memory",
                memory,
                "--decrypt-key-file",
                key.to_str().unwrap(),
            ];
            extract(&archive, &target, &options).expect(0);
            assert_same(&read_tree(&target), &tree);
        }
        if i == 1 {
            // Two keys, one of which fits.
            let target = root.path().join("both");
            let (unfit, _) = keys.generate("unfit");
            let options = [
                "--decrypt-key-file",
                unfit.to_str().unwrap(),
                "--decrypt-key-file",
                other_arg,
            ];
            extract(&archive, &target, &options).expect(0);
            assert_same(&read_tree(&target), &tree);
        }
    }
}

#[test]
fn we_read_files_of_the_age_tool() {
    let keys = Keys::new();
    let mut command = Command::new(need("age-keygen", "age"));
    let key = keys.path("key");
    command.arg("-o").arg(&key);
    let recipient = run(command, b"").expect(0).err;
    let recipient = recipient.trim().rsplit(' ').next().unwrap().to_owned();
    let (_, second) = keys.generate("second");
    let mut archive = Chunks::new();
    let mut tree = Tree::new();
    for (i, (name, node)) in contents().into_iter().enumerate() {
        let Node::File(content) = &node else { continue };
        let mut command = Command::new(need("age", "age"));
        if i % 2 == 0 {
            command.args(["-r", &second]);
        }
        command.args(["-r", &recipient]);
        let sealed = run(command, content).expect(0).out;
        archive = archive.file(&format!("{}.age", str::from_utf8(&name).unwrap()), &sealed);
        tree.insert(name, node);
    }
    let root = scratch();
    let target = root.path().join("target");
    extract(
        &archive.0,
        &target,
        &["--decrypt-key-file", key.to_str().unwrap()],
    )
    .expect(0);
    assert_same(&read_tree(&target), &tree);
}

/// AES-CTR of OpenSSL with a counter block, both ways.
fn openssl_ctr(key: &[u8], iv: &[u8], input: &[u8]) -> Vec<u8> {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let mut command = Command::new(need("openssl", "openssl"));
    let cipher = format!("-aes-{}-ctr", key.len() * 8);
    command.args(["enc", &cipher, "-K", &hex(key), "-iv", &hex(iv)]);
    run(command, input).expect(0).out
}

fn openssl_sha256(input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(need("openssl", "openssl"));
    command.args(["dgst", "-sha256", "-binary"]);
    run(command, input).expect(0).out
}

/// The chunks of an xbcrypt file taken apart by hand: initialisation vector and payload.
fn take_apart(mut file: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut chunks = Vec::new();
    while !file.is_empty() {
        assert_eq!(&file[..16], b"XBCRYP03\0\0\0\0\0\0\0\0");
        let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let len = usize::try_from(u64_at(16)).unwrap();
        assert_eq!((u64_at(24), u64_at(36)), (len as u64, 16));
        let payload = &file[60..60 + len];
        assert_eq!(file[32..36], crc32fast::hash(payload).to_le_bytes());
        chunks.push((&file[44..60], payload));
        file = &file[60 + len..];
    }
    chunks
}

// r[xbcrypt.writer.v3] r[xbcrypt.cipher.ctr] r[xbcrypt.writer.chunk-len]
#[test]
fn openssl_agrees_about_xbcrypt() {
    let keys = Keys::new();
    let root = scratch();
    let source = root.path().join("source");
    let tree = contents();
    write_tree(&source, &tree);
    for (key_len, chunk_len) in [(16, "64K"), (24, "1K"), (32, "1M")] {
        let key = noise(key_len, 77);
        let key_file = keys.write(&format!("key{key_len}"), &key);
        let key_arg = key_file.to_str().unwrap();
        let options = [
            "--encrypt=xbcrypt",
            "--encrypt-key-file",
            key_arg,
            "--encrypt-chunk-size",
            chunk_len,
        ];
        let archive = create(&source, &options);
        let sealed = root.path().join(format!("sealed{key_len}"));
        extract(&archive, &sealed, &[]).expect(0);
        let target = root.path().join(format!("target{key_len}"));
        extract(
            &archive,
            &target,
            &["--memory=8M", "--decrypt-key-file", key_arg],
        )
        .expect(0);
        assert_same(&read_tree(&target), &tree);
        // What we wrote, rebuilt; each program call takes its time, so of the small files only.
        let mut ivs = std::collections::HashSet::new();
        for name in ["one", "db/n65537"] {
            let file = std::fs::read(sealed.join(format!("{name}.xbcrypt"))).unwrap();
            let mut content = Vec::new();
            let chunks = take_apart(&file);
            for (i, (iv, payload)) in chunks.iter().enumerate() {
                assert!(ivs.insert(iv.to_vec()), "an initialisation vector twice");
                if chunks.len() > 10 && i % 16 != 0 {
                    continue;
                }
                let plain = openssl_ctr(&key, iv, payload);
                let (data, hash) = plain.split_at(plain.len() - 32);
                assert_eq!(openssl_sha256(data), hash);
                content.extend_from_slice(data);
            }
            if chunks.len() <= 10 {
                assert_eq!(tree[name.as_bytes()], Node::File(content));
            }
        }
        // What they make, read.
        let mut theirs = Vec::new();
        for (i, data) in [&b"first"[..], &noise(100_000, 5), b""]
            .into_iter()
            .enumerate()
        {
            let iv = [0xff - u8::try_from(i).unwrap(); 16];
            let payload = openssl_ctr(&key, &iv, &[data, &openssl_sha256(data)].concat());
            theirs.extend_from_slice(b"XBCRYP03\0\0\0\0\0\0\0\0");
            theirs.extend_from_slice(&(payload.len() as u64).to_le_bytes());
            theirs.extend_from_slice(&(payload.len() as u64).to_le_bytes());
            theirs.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            theirs.extend_from_slice(&16_u64.to_le_bytes());
            theirs.extend_from_slice(&iv);
            theirs.extend_from_slice(&payload);
        }
        let archive = Chunks::new().file("t.xbcrypt", &theirs).0;
        let mut command = xbpipe(["cat", "--decrypt-key-file", key_arg, "-", "t"]);
        command.env("TMPDIR", root.path());
        let done = run(command, &archive).expect(0);
        assert!(done.out == [&b"first"[..], &noise(100_000, 5)].concat());
    }
}

/// Without a key files stay as they are; with one every verb sees through it.
#[test]
fn every_verb_decrypts() {
    let keys = Keys::new();
    let (key, recipient) = keys.generate("key");
    let key = key.to_str().unwrap();
    let root = scratch();
    let source = root.path().join("source");
    let tree = files([("db/t.ibd", &noise(200_000, 1)[..]), ("x", b"plain")]);
    write_tree(&source, &tree);
    let archive = create(
        &source,
        &[
            "--compress=zstd",
            "--encrypt=age",
            "--encrypt-recipient",
            &recipient,
        ],
    );
    let names = |options: &[&str]| {
        let mut command = xbpipe(["list"]);
        command.args(options);
        run(command, &archive).expect(0).text().to_owned()
    };
    assert_eq!(names(&[]), "db/t.ibd.zst.age\nx.zst.age\n");
    assert_eq!(names(&["--decompress"]), "db/t.ibd.zst.age\nx.zst.age\n");
    assert_eq!(names(&["--decrypt-key-file", key]), "db/t.ibd.zst\nx.zst\n");
    assert_eq!(
        names(&["--decrypt-key-file", key, "--decompress"]),
        "db/t.ibd\nx\n"
    );
    run(
        xbpipe(["verify", "--decompress", "--decrypt-key-file", key]),
        &archive,
    )
    .expect(0);
    let plain = ["cat", "--decompress", "--decrypt-key-file", key, "-", "x"];
    assert_eq!(run(xbpipe(plain), &archive).expect(0).out, b"plain");
    let sealed = root.path().join("sealed");
    extract(&archive, &sealed, &["--decompress"]).expect(0);
    let left: Vec<_> = read_tree(&sealed).into_keys().collect();
    assert_eq!(left, [&b"db/t.ibd.zst.age"[..], b"x.zst.age"]);
    // A damaged byte of any chunk of the encrypted file is told with its name, and nothing gets its final name.
    let mut chunks = split_chunks(&archive);
    let big = chunks.iter_mut().max_by_key(|c| c.len()).unwrap();
    let at = big.len() - 100_000;
    big[at] ^= 1;
    let body = big.windows(8).position(|w| w == b"age-encr").unwrap();
    let crc = crc32fast::hash(&big[body..]);
    big[body - 4..body].copy_from_slice(&crc.to_le_bytes());
    let target = root.path().join("target");
    let done = extract(&chunks.concat(), &target, &["--decrypt-key-file", key]).expect(4);
    assert!(
        done.last_line().contains("damaged age chunk"),
        "{}",
        done.err
    );
    assert!(!target.join("db/t.ibd.zst").exists());
}

/// Two members that changed places are both whole, and both wrong.
// r[encryption.binding.check]
#[test]
fn exchanged_members_are_noticed() {
    let keys = Keys::new();
    let (key, recipient) = keys.generate("key");
    let root = scratch();
    let sealed = |run: &str| {
        let source = root.path().join(format!("source{run}"));
        write_tree(
            &source,
            &files([("a.ibd", &b"content of a"[..]), ("b.ibd", b"content of b")]),
        );
        let archive = create(
            &source,
            &["--encrypt=age", "--encrypt-recipient", &recipient],
        );
        let target = root.path().join(format!("sealed{run}"));
        extract(&archive, &target, &[]).expect(0);
        let read = |name| std::fs::read(target.join(name)).unwrap();
        (read("a.ibd.age"), read("b.ibd.age"))
    };
    let (a, b) = sealed("1");
    let (_, b_of_2) = sealed("2");
    let outcome = |a: &[u8], b: &[u8]| {
        let archive = Chunks::new().file("a.ibd.age", a).file("b.ibd.age", b).0;
        let mut command = xbpipe(["verify", "--decrypt-key-file"]);
        command.arg(&key);
        run(command, &archive)
    };
    outcome(&a, &b).expect(0);
    let done = outcome(&b, &a).expect(4);
    assert!(done.err.contains("the content belongs to"), "{}", done.err);
    let done = outcome(&a, &b_of_2).expect(4);
    assert!(
        done.err.contains("belongs to another backup"),
        "{}",
        done.err
    );
}

/// What can go wrong with keys on the command line, each told as what it is.
#[test]
fn keys_on_the_command_line() {
    let keys = Keys::new();
    let (identity, recipient) = keys.generate("identity");
    let (identity, secret) = (
        identity.to_str().unwrap().to_owned(),
        std::fs::read_to_string(&identity).unwrap(),
    );
    let secret = secret.lines().last().unwrap().to_owned();
    let good = keys.write("good", &[b'k'; 32]);
    let newline = keys.write("newline", &[&[b'k'; 32][..], b"\n"].concat());
    let short = keys.write("short", b"short");
    let empty = keys.write("empty", b"");
    let open = keys.write("open", &[b'k'; 32]);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let root = scratch();
    std::fs::write(root.path().join("f"), "content").unwrap();
    let try_create = |options: &[&str]| {
        let mut command = xbpipe(["create", "-C"]);
        command.arg(root.path()).args(options).arg("f");
        run(command, b"")
    };
    let path = |p: &PathBuf| p.to_str().unwrap().to_owned();
    for (options, told) in [
        (&["--encrypt=age"][..], "whom to encrypt to"),
        (&["--encrypt=xbcrypt"], "needs --encrypt-key-file"),
        (
            &["--encrypt=xbcrypt", "--encrypt-recipient", &recipient],
            "recipients are for --encrypt age",
        ),
        // Never in the clear because half of the request is missing.
        (&["--encrypt-recipient", &recipient], "--encrypt"),
        (&["--encrypt-key-file", &identity], "--encrypt"),
        (&["--encrypt=aes"], "aes"),
        (
            &["--encrypt=age", "--encrypt-recipient", &secret],
            "an identity (a secret) was given",
        ),
        (
            &["--encrypt=age", "--encrypt-recipient", "age1xyz"],
            "not a recipient",
        ),
        (
            &["--encrypt=age", "--encrypt-key-file", &path(&good)],
            "not an identity",
        ),
        (
            &["--encrypt=xbcrypt", "--encrypt-key-file", &identity],
            "an identity of age",
        ),
        (
            &["--encrypt=xbcrypt", "--encrypt-key-file", &path(&newline)],
            "followed by a newline, which makes it 33",
        ),
        (
            &["--encrypt=xbcrypt", "--encrypt-key-file", &path(&short)],
            "16, 24 or 32 bytes, not 5",
        ),
        (
            &["--encrypt=xbcrypt", "--encrypt-key-file", &path(&empty)],
            "the key file is empty",
        ),
        (
            &[
                "--encrypt=xbcrypt",
                "--encrypt-key-file",
                &path(&good),
                "--encrypt-chunk-size=1",
            ],
            "between 1K and 1M",
        ),
        (
            &[
                "--encrypt=age",
                "--encrypt-key-file",
                &identity,
                "--encrypt-chunk-size=64K",
            ],
            "is for --encrypt xbcrypt",
        ),
    ] {
        let done = try_create(options).expect(2);
        assert!(done.err.contains(told), "{options:?}: {}", done.err);
        assert!(done.out.is_empty(), "{options:?} wrote something");
    }
    let done = try_create(&["--encrypt=xbcrypt", "--encrypt-key-file", &path(&open)]).expect(0);
    assert!(
        done.err.contains("can be read by every user"),
        "{}",
        done.err
    );
    let archive = done.out;
    let verify = |file: &str| run(xbpipe(["verify", "--decrypt-key-file", file]), &archive);
    verify(&path(&good)).expect(0);
    let wrong = keys.write("wrong", &[b'w'; 32]);
    let done = verify(&path(&wrong)).expect(1);
    assert!(done.last_line().contains("wrong key"), "{}", done.err);
    assert!(
        done.err
            .contains("hint: use the key file that the backup was made with")
    );
    verify(&path(&newline)).expect(2);
    let two = [
        "verify",
        "--decrypt-key-file",
        &path(&good),
        "--decrypt-key-file",
        &path(&wrong),
    ];
    let done = run(xbpipe(two), &archive).expect(2);
    assert!(done.err.contains("a second key of xbcrypt"), "{}", done.err);
    // A key that comes through a pipe, as from a vault.
    let mut shell = Command::new("bash");
    shell.args([
        "-c",
        "exec \"$0\" verify --decrypt-key-file <(printf kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk) -",
    ]);
    shell.arg(env!("CARGO_BIN_EXE_xbpipe"));
    run(shell, &archive).expect(0);
}

/// A backup that only the holder of a key can read: what other programs read out of the stream stays plain.
// r[encryption.plain]
#[test]
fn an_encrypted_backup_restores() {
    let keys = Keys::new();
    let (key, recipient) = keys.generate("key");
    let server = TestServer::start(&[]);
    server.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(300)); \
         INSERT INTO t SELECT seq, REPEAT(MD5(seq), 5) FROM seq_1_to_20000; \
         CREATE TABLE m (v INT) ENGINE=MyISAM; INSERT INTO m SELECT seq FROM seq_1_to_1000;",
    );
    let archive = server.scratch().join("full.xb");
    let mut command = backup(&server);
    command.args([
        "--compress=zstd",
        "--encrypt=age",
        "--encrypt-recipient",
        &recipient,
        "--to",
    ]);
    command.arg(&archive);
    run(command, b"").expect(0);
    let mut command = xbpipe(["list"]);
    command.arg(&archive);
    let listed = run(command, b"").expect(0);
    let plain: Vec<_> = listed
        .text()
        .lines()
        .filter(|l| !l.ends_with(".zst.age"))
        .collect();
    assert_eq!(plain, ["xtrabackup_checkpoints"]);
    let target = server.scratch().join("restored");
    let mut command = xbpipe(["extract", "--decompress", "--decrypt-key-file"]);
    command.arg(&key).arg("-C").arg(&target).arg(&archive);
    run(command, b"").expect(0);
    let info = std::fs::read_to_string(target.join("xtrabackup_info")).unwrap();
    assert!(
        info.contains("\ncompressed = compressed\n") && info.contains("\nencrypted = Y\n"),
        "{info}"
    );
    restores(&server, &target, &[]);
}

/// The text form of the age tool is refused by name, and stays what it is for whoever has that tool.
// r[encryption.armour]
#[test]
fn armoured_files_are_refused_by_name() {
    let keys = Keys::new();
    let (key, recipient) = keys.generate("key");
    let mut command = Command::new(need("age", "age"));
    command.args(["-a", "-r", &recipient]);
    let text = run(command, b"content").expect(0).out;
    let archive = Chunks::new().file("t.age", &text).0;
    let root = scratch();
    let options = ["--decrypt-key-file", key.to_str().unwrap()];
    let target = root.path().join("target");
    let done = extract(&archive, &target, &options).expect(1);
    assert!(
        done.last_line().contains("as text (armoured)"),
        "{}",
        done.err
    );
    assert!(done.err.contains("use `age -d`"), "{}", done.err);
    assert!(!target.join("t").exists());
    extract(&archive, &target, &[]).expect(0);
    assert_eq!(age_decrypts(&key, &target.join("t.age")), b"content");
}
