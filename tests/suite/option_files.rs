//! Our option file reader against the server's own `my_print_defaults`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use xbpipe::base::fsx;
use xbpipe::base::optfile::{Choice, OptionFiles};

/// Both answers for the groups `client` and `xbpipe`: ours, and theirs with whether they succeeded.
fn both(choice: &Choice) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let mut command = Command::new("my_print_defaults");
    command.env_clear();
    if let Some(home) = &choice.home {
        command.env("HOME", home);
    }
    if choice.no_defaults {
        command.arg("--no-defaults");
    }
    if let Some(file) = &choice.defaults_file {
        command.arg(format!("--defaults-file={}", file.display()));
    }
    if let Some(file) = &choice.defaults_extra_file {
        command.arg(format!("--defaults-extra-file={}", file.display()));
    }
    if let Some(suffix) = &choice.group_suffix {
        command.arg(format!("--defaults-group-suffix={suffix}"));
    }
    let output = command
        .args(["client", "xbpipe"])
        .output()
        .expect("my_print_defaults is needed for this test: install the MariaDB client programs");
    let theirs = output.status.success().then_some(output.stdout);
    let ours = OptionFiles::load(choice).ok().map(|files| {
        let mut text = Vec::new();
        for option in files.of(&["client", "xbpipe"]) {
            text.extend_from_slice(b"--");
            text.extend_from_slice(&option.key);
            if let Some(value) = &option.value {
                text.push(b'=');
                text.extend_from_slice(value);
            }
            text.push(b'\n');
        }
        text
    });
    (ours, theirs)
}

fn file(dir: &Path, name: &str, text: &str) -> Choice {
    fsx::write_small(dir.join(name), text.as_bytes()).unwrap();
    Choice {
        defaults_file: Some(dir.join(name)),
        ..Choice::default()
    }
}

fn agree(choice: &Choice, what: &str) {
    let (ours, theirs) = both(choice);
    let show = |o: Option<Vec<u8>>| o.map(|b| String::from_utf8_lossy(&b).into_owned());
    assert_eq!(show(ours), show(theirs), "{what}");
}

#[test]
fn grammar() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        "[client]\nuser=a#b\nhost = \"a#b\" # comment\nsocket='/a b/c'   \n",
        "# c\n; c\n\n[client] junk\r\na = b\r\nkey\nempty=\n  k  =  v  \nk k=1\n-k=2\n",
        "[client]\na='it''s'\nb=\"a\" b\nc='open # x\nd=\"\ne=\"\"\nf='\ng=a'#b\nh='a'#b\n",
        "[client]\na=\\b\\t\\n\\r\\s\\\\\\'\\\"\\q\\\nb='a\\'b'\nc=\"a\\\"#b\" # t\nd=\"a\\\" # b\n",
        "[client]\na\\ b=1\n\"c\"=2\nx#y=1\n#z\n;z=1\nq;=1\n",
        "[CLIENT]\na=1\n[mysqld]\na=2\n[ xbpipe ]\na=3\n[]\na=4\n[client_2]\na=5\n",
        "a=1\n[client]\nb=1\n",
        "[client\na=1\n",
        "[client]\n!unknown x\n!includefoo /x\n!\na=1\n",
        "[client]\na=1\n!include \n",
        "[client]\na=1\n!includedir\n",
        "[client]\nloose_a=1\nskip-b\nmax_c=2\nenable-d\n",
        "[client]\na=1",
        "",
    ];
    for text in cases {
        let mut choice = file(dir.path(), "a.cnf", text);
        agree(&choice, text);
        choice.group_suffix = Some("_2".to_owned());
        agree(&choice, text);
    }
    agree(
        &Choice {
            no_defaults: true,
            ..Choice::default()
        },
        "no defaults",
    );
}

#[test]
fn includes_order_and_permissions() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("d");
    fsx::create_dir_all(inside.join("dir.cnf")).unwrap();
    for name in ["b.cnf", "a.cnf", "B.cnf", ".h.cnf", "c.ini", "cnf"] {
        fsx::write_small(
            inside.join(name),
            format!("[client]\nf={name}\n").as_bytes(),
        )
        .unwrap();
    }
    fsx::write_small(inside.join("wrong.cnf"), b"[client]\nw=1\n[x\nw=2\n").unwrap();
    let text = |line: &str| format!("[client]\nbefore=1\n{line}\nafter=1\n");
    for line in [
        format!("!includedir {}", inside.display()),
        format!("  !include   {}/c.ini  ", inside.display()),
        format!("!include {}/c.ini # comment", inside.display()),
        format!("!include {}/missing", inside.display()),
        format!("!includedir {}/missing", inside.display()),
        format!("!include {}/self.cnf", dir.path().display()),
    ] {
        agree(&file(dir.path(), "self.cnf", &text(&line)), &line);
    }

    // The usual places, the extra file between them, and a file everybody may write.
    let mut choice = file(dir.path(), "extra.cnf", "[client]\na=extra\n");
    choice.defaults_extra_file = choice.defaults_file.take();
    choice.home = Some(dir.path().to_path_buf());
    agree(&choice, "without ~/.my.cnf");
    fsx::write_small(dir.path().join(".my.cnf"), b"[client]\na=home\n").unwrap();
    agree(&choice, "with ~/.my.cnf");
    let last = OptionFiles::load(&choice).unwrap().value(&["client"], "a");
    assert_eq!(last, Some("home".into()));

    let choice = file(dir.path(), "open.cnf", "[client]\na=1\n");
    let writable = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(dir.path().join("open.cnf"), writable).unwrap();
    agree(&choice, "world-writable");
    let warnings = OptionFiles::load(&choice).unwrap().warnings().to_vec();
    assert!(warnings[0].contains("world-writable"), "{warnings:?}");

    let choice = Choice {
        defaults_file: Some(dir.path().join("nothing")),
        ..Choice::default()
    };
    agree(&choice, "missing file");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Forty lines of hostile characters at a time. No line begins with `=`: for an empty key the
    /// real program prints bytes it has not meant to.
    #[test]
    fn any_lines(lines in prop::collection::vec("[a_=#;'\"\\\\ \tnsq!-]{0,16}", 40)) {
        let dir = tempfile::tempdir().unwrap();
        let named = lines.iter().filter(|line| !line.trim_start().starts_with('='));
        let text = named.fold("[client]\n".to_owned(), |text, line| text + line + "\n");
        let (ours, theirs) = both(&file(dir.path(), "a.cnf", &text));
        let show = |o: Option<Vec<u8>>| o.map(|b| String::from_utf8_lossy(&b).into_owned());
        prop_assert_eq!(show(ours), show(theirs));
    }
}
