//! `xbcrypt`, and `xbstream --decrypt`. What the format is was proved with other tools elsewhere; here it is about options.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::tool::{assert_same, files, noise, read_tree, run, scratch, write_tree, xbpipe};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn named(name: &str, directory: &Path, args: &str) -> Command {
    let mut command = xbpipe(args.split_whitespace());
    command
        .arg0(name)
        .current_dir(directory)
        .env_remove("XBCRYPT_ENCRYPTION_KEY");
    command
}

/// r[compat-xbcrypt.key] r[compat-xbcrypt.output]
#[test]
fn what_it_encrypts_it_decrypts() {
    let root = scratch();
    let dir = root.path();
    let content = noise(5_000_000, 9);
    write_tree(
        dir,
        &files([
            ("plain", &content[..]),
            ("key", KEY.as_bytes()),
            ("empty", b""),
        ]),
    );
    let crypt = |args: &str, input: &[u8]| run(named("xbcrypt", dir, args), input);
    let encrypted = crypt("-f key -a AES256", &content).expect(0);
    assert_eq!(encrypted.err, "");
    assert!(encrypted.out.starts_with(b"XBCRYP03"));
    // 64 KiB, its hash and the head make a chunk.
    assert_eq!(&encrypted.out[65536 + 32 + 60..][..8], b"XBCRYP03");
    for args in [
        "-d --encrypt-key-file=key",
        "--decrypt --encrypt_key_file key -a AES256 -t4 -r 10M --encrypt-threads=2",
        &format!("-dk {KEY}"),
        "-d -f key -v -s 1K",
    ] {
        let done = crypt(args, &encrypted.out).expect(0);
        assert!(done.out == content, "{args}");
        let said = args.contains("-v");
        assert_eq!(done.err.contains("5000000 bytes written"), said, "{args}");
        assert_eq!(done.err.is_empty(), !said, "{args}");
    }
    let mut command = named("xbcrypt", dir, "-d");
    command.env("XBCRYPT_ENCRYPTION_KEY", KEY);
    assert!(run(command, &encrypted.out).expect(0).out == content);
    // Files.
    crypt("-f key -i plain -o plain.xbcrypt -s 4K", b"").expect(0);
    crypt("-d -f key --input=plain.xbcrypt --output=again", b"").expect(0);
    assert!(std::fs::read(dir.join("again")).unwrap() == content);
    let done = crypt("-d -f key -i plain.xbcrypt -o key", b"").expect(1);
    assert!(
        done.last_line()
            .starts_with("xbcrypt: error: target exists"),
        "{}",
        done.err
    );
    assert_eq!(std::fs::read(dir.join("key")).unwrap(), KEY.as_bytes());
    // Nothing stays nothing.
    assert!(crypt("-f key -i empty", b"").expect(0).out.is_empty());
    assert!(crypt("-d -f key", b"").expect(0).out.is_empty());
}

/// r[compat-xbcrypt.algorithm] r[compat-xbcrypt.none] r[compat-xbcrypt.words]
#[test]
fn what_is_wrong_is_said() {
    let root = scratch();
    let dir = root.path();
    let newline = format!("{KEY}\n");
    write_tree(
        dir,
        &files([
            ("key", KEY.as_bytes()),
            ("newline", newline.as_bytes()),
            ("other", b"fedcba9876543210"),
        ]),
    );
    let good = run(named("xbcrypt", dir, "-f key"), &[7; 1000])
        .expect(0)
        .out;
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    for (args, input, said) in [
        ("-d", &good[..], "no key is given"),
        ("-d -f newline", &good, "followed by a newline"),
        ("-d -f missing", &good, "missing"),
        ("-d -k short", &good, "16, 24 or 32 bytes"),
        ("-d -f key -k 0123456789abcdef", &good, "exclude each other"),
        ("-d -f other", &good, "wrong"),
        ("-d -f key", &damaged, "(standard input)"),
        ("-d -f key", &good[..500], "(standard input)"),
        (
            "-d -f key",
            b"not encrypted at all, but long enough to be",
            "(standard input)",
        ),
        ("-f key -a NONE", b"x", "NONE does not encrypt"),
        (
            "-f key -a DES",
            b"x",
            "it is one of NONE, AES128, AES192, AES256",
        ),
        ("-d -f key file", &good, "unexpected word"),
        ("--frob", b"", "unknown option '--frob'"),
    ] {
        let done = run(named("xbcrypt", dir, args), input).expect(1);
        assert!(done.err.contains(said), "{args}: {}", done.err);
        assert!(!done.err.contains(KEY), "{args} tells the key");
        // No damaged byte comes out.
        assert!(done.out.is_empty(), "{args}");
    }
    let done = run(named("xbcrypt", dir, "-f other -a AES256"), b"x").expect(0);
    assert!(
        done.err
            .contains("the key has 16 bytes, so that the algorithm is AES128, not AES256"),
        "{}",
        done.err
    );
    let version = run(named("xbcrypt", dir, "-V"), b"").expect(0);
    assert!(version.text().starts_with("xbcrypt  Ver "));
}

/// r[compat-xbstream.extract.suffixes]
#[test]
fn streams_are_decrypted_as_they_are_extracted() {
    let root = scratch();
    let dir = root.path();
    let tree = files([
        ("ibdata1", &noise(400_000, 2)[..]),
        ("db/t.ibd", &[3; 200_000]),
        ("xtrabackup_info", b"i\n"),
    ]);
    write_tree(&dir.join("source"), &tree);
    write_tree(
        dir,
        &files([("key", KEY.as_bytes()), ("other", b"fedcba9876543210")]),
    );
    let stream = run(
        named(
            "xbpipe",
            dir,
            "create -q -C source --compress zstd --encrypt xbcrypt --encrypt-key-file key .",
        ),
        b"",
    )
    .expect(0)
    .out;
    let extract = |args: &str| {
        let target = tempfile::tempdir_in(dir).unwrap();
        let mut command = named("xbstream", dir, args);
        command.arg("--directory").arg(target.path());
        let done = run(command, &stream);
        (done, read_tree(target.path()))
    };
    // The command line of MyHoard.
    let (done, found) = extract(
        "--extract --decompress --decompress-threads 2 --decrypt AES256 --encrypt-key-file key \
         --encrypt-threads 2 --parallel 2 --verbose",
    );
    done.expect(0);
    assert_same(&found, &tree);
    let (done, found) = extract(&format!("-x --decompress -d AES256 -k {KEY}"));
    assert_eq!(done.expect(0).err, "");
    assert_same(&found, &tree);
    // Only what is asked for.
    let (done, found) = extract("-x --decompress");
    done.expect(0);
    assert!(found.contains_key(&b"db/t.ibd.zst.xbcrypt"[..]));
    let (done, found) = extract("-x --decrypt=AES256 -f key");
    done.expect(0);
    assert!(found.contains_key(&b"db/t.ibd.zst"[..]));
    let (done, found) = extract("-x --decrypt=NONE");
    done.expect(0);
    assert!(found.contains_key(&b"db/t.ibd.zst.xbcrypt"[..]));
    for (args, said) in [
        ("-x --decompress --decrypt=AES128 -f other", "wrong"),
        ("-x --decrypt=AES256", "no key is given"),
        ("-x --decrypt=AES256 -f missing", "missing"),
    ] {
        let (done, found) = extract(args);
        let done = done.expect(1);
        assert!(done.err.contains(said), "{args}: {}", done.err);
        assert!(!found.contains_key(&b"ibdata1"[..]), "{args}");
    }
}
