//! Every golden vector of the archive format against the decoder, the tracker and the encoders.

use bytes::Bytes;
use xbpipe::xbstream::{
    Body, ChunkHead, CrcCheck, Event, Options, RemovePattern, SparseEntry, SparseMap, Step,
};

use crate::fuzzed::targets::{Reading, cut, read, write};
use crate::vec_file::{Direction, Vector, load, root, text};

fn step_word(step: Step) -> &'static str {
    match step {
        Step::Opened { replaces: false } => "opened",
        Step::Opened { replaces: true } => "replaced",
        Step::Continued => "continued",
        Step::Ended => "ended",
        Step::Empty => "empty",
        Step::Renamed => "renamed",
        Step::RenameUnknown => "rename-unknown",
        Step::Removed => "removed",
        Step::Ignored => "ignored",
    }
}

fn chunk_line(head: &ChunkHead) -> String {
    let kind = head.kind().to_string();
    let line = format!(
        "chunk {} {kind} {:?} flags=0x{:02x}",
        head.position, head.path, head.flags
    );
    match &head.body {
        Body::Payload { len, offset, crc } | Body::Ignored { len, offset, crc } => {
            format!("{line} len={len} offset={offset} crc=0x{crc:08x}")
        }
        Body::Sparse {
            map,
            len,
            offset,
            crc,
        } => {
            let entry = |SparseEntry { skip, len }: SparseEntry| format!("({skip},{len})");
            let map: String = SparseMap::iter(map).map(entry).collect();
            format!("{line} len={len} offset={offset} crc=0x{crc:08x} map={map}")
        }
        Body::Seek { offset } => format!("{line} offset={offset}"),
        Body::End => line,
        Body::Rename { to } => format!("{line} to={to:?}"),
        Body::Remove { pattern } => {
            let word = match pattern {
                RemovePattern::Exact(_) => "exact",
                RemovePattern::Prefix { .. } => "prefix",
            };
            format!("{line} {word}")
        }
    }
}

/// The transcript as vectors spell it.
fn transcript(reading: &Reading) -> Vec<String> {
    let mut steps = reading.steps.iter();
    let line = |event: &Event| match event {
        Event::Chunk(head) => {
            let step = steps.next().map_or("?", |step| step_word(*step));
            format!("{} -> {step}", chunk_line(head))
        }
        Event::Data { file_offset, bytes } => {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            format!("data {file_offset} {hex}")
        }
        Event::Hole { file_offset, len } => format!("hole {file_offset} {len}"),
        Event::ChunkEnd(_) => "chunk-end".to_owned(),
    };
    reading.events.iter().map(line).collect()
}

fn options(vector: &Vector, crc: CrcCheck) -> Options {
    let mut options = Options {
        crc,
        ..Options::default()
    };
    for name in &vector.options {
        match name.as_str() {
            "skip_ignorable" => options.skip_ignorable = true,
            other => panic!("{}: unknown option {other}", vector.name),
        }
    }
    options
}

/// What differs between the vector and the code; empty if nothing.
fn differences(vector: &Vector) -> Vec<String> {
    let mut wrong = Vec::new();
    let bytes = Bytes::from(vector.bytes.clone());
    let whole = read([bytes.clone()], options(vector, CrcCheck::Decoder), true);

    let got = transcript(&whole);
    if let Some(expected) = &vector.events
        && *expected != got
    {
        wrong.push(format!("events are\n  {}", got.join("\n  ")));
    }
    let error = whole
        .error
        .as_ref()
        .map(|e| (e.kind().word().to_owned(), e.position()));
    if error != vector.error {
        wrong.push(format!("outcome is {error:?}: {:?}", whole.error));
    }
    if let Some(expected) = &vector.message {
        let got = whole.error.as_ref().map(ToString::to_string);
        if got.as_ref() != Some(expected) {
            wrong.push(format!("message is {got:?}"));
        }
    }
    if vector.events.is_none() && vector.error.is_none() {
        wrong.push("vector expects nothing".to_owned());
    }

    let mut cuts: Vec<Vec<usize>> = vec![vec![1]];
    cuts.extend((1..bytes.len()).map(|n| vec![n, usize::MAX]));
    for crc in [CrcCheck::Decoder, CrcCheck::Caller] {
        for sizes in &cuts {
            if read(cut(&bytes, sizes), options(vector, crc), true) != whole {
                wrong.push(format!(
                    "cut into {sizes:?} with {crc:?} it reads otherwise"
                ));
            }
        }
    }
    if vector.direction != Direction::Decode && write(&whole.events) != vector.bytes {
        wrong.push("written again it differs".to_owned());
    }
    wrong
}

#[test]
fn xbstream_vectors_hold() {
    let mut failures = Vec::new();
    for vector in load("xbstream") {
        for wrong in differences(&vector) {
            failures.push(format!("{}: {wrong}", vector.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The table of bad input names vectors, and the outcome of each row is that of its vector.
#[test]
fn bad_input_table_tells_the_outcomes() {
    let document = text(&root().join("format-spec/xbstream.md"));
    let (_, table) = document.split_once("\nvectors: bad input\n").unwrap();
    let vectors = load("xbstream");
    let mut rows = 0;
    for line in table.lines().filter(|l| l.starts_with("| ")).skip(1) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, _, outcome, _, name, _] = cells[..] else {
            panic!("{line}");
        };
        let name = name.trim_matches('`');
        let vector = vectors.iter().find(|v| v.name == name);
        let vector = vector.unwrap_or_else(|| panic!("no vector {name}"));
        let word = outcome.split([' ', ',']).next().unwrap();
        let expected = vector.error.as_ref().map_or("accepted", |(kind, _)| kind);
        assert_eq!(word, expected, "{line}");
        rows += 1;
    }
    assert!(rows > 60, "only {rows} rows were found");
}

/// Vectors that must fail, run inverted: the way from a file to the last comparison can end in a failure.
#[test]
fn canaries_fail() {
    for canary in load("canary") {
        assert_ne!(
            differences(&canary),
            Vec::<String>::new(),
            "{}",
            canary.name
        );
    }
}

/// The net itself: a vector that is wrong in any part must be noticed.
#[test]
fn a_wrong_vector_is_noticed() {
    let good = || {
        load("xbstream")
            .into_iter()
            .find(|v| v.name == "mbstream-three-files")
            .unwrap()
    };
    assert_eq!(differences(&good()), Vec::<String>::new());
    let mut wrong = good();
    wrong.bytes[36] ^= 1;
    assert_ne!(differences(&wrong), Vec::<String>::new());
    let mut wrong = good();
    wrong.events.as_mut().unwrap().pop();
    assert_ne!(differences(&wrong), Vec::<String>::new());
    let mut wrong = good();
    wrong.error = Some(("Truncated".to_owned(), 0));
    assert_ne!(differences(&wrong), Vec::<String>::new());
}
