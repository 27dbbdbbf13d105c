//! Readers of texts: indexes, manifests and the metadata files of a backup.

use xbpipe::metadata::binlog::BinlogPosition;
use xbpipe::metadata::checkpoints::Checkpoints;
use xbpipe::metadata::info::Info;
use xbpipe::metadata::my_cnf::MyCnf;
use xbpipe::metadata::slave::SlaveInfo;
use xbpipe::repository::index::{Line, Reader};
use xbpipe::repository::manifest::Manifest;
use xbpipe::xbstream::index::{IndexLine, IndexLineError, IndexLines};

/// The first byte says which text the rest is, and how it is cut.
pub fn texts_decode(data: &[u8]) {
    let Some((how, text)) = data.split_first() else {
        return;
    };
    let cut = 1 + usize::from(how >> 3);
    match how & 7 {
        0 => archive_index(text, cut),
        1 => repository_index(text, cut),
        2 => again(text, |t| Manifest::parse(t).ok(), |m| m.render().ok()),
        3 => again(
            text,
            |t| BinlogPosition::parse(t).ok(),
            |p| Some(p.render().into()),
        ),
        4 => again(
            text,
            |t| Checkpoints::parse(t).ok(),
            |c| Some(c.render().into()),
        ),
        5 => again(text, |t| Info::parse(t).ok(), |i| Some(i.render().into())),
        6 => again(text, |t| MyCnf::parse(t).ok(), |c| Some(c.render().into())),
        _ => again(
            text,
            |t| SlaveInfo::parse(t).ok(),
            |i| Some(i.render().into()),
        ),
    }
}

/// What was read is written so that it can be read, and is written as the same again.
fn again<T>(
    text: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
    render: impl Fn(&T) -> Option<Vec<u8>>,
) {
    let Some(rendered) = parse(text).and_then(|parsed| render(&parsed)) else {
        return;
    };
    let parsed = parse(&rendered);
    assert!(parsed.is_some(), "{}", rendered.escape_ascii());
    let again = parsed.and_then(|parsed| render(&parsed));
    assert_eq!(
        again.as_ref(),
        Some(&rendered),
        "{}",
        rendered.escape_ascii()
    );
}

fn archive_index(text: &[u8], cut: usize) {
    let read = |cut: usize| {
        let (mut reader, mut found) = (IndexLines::default(), Vec::new());
        let result = text.chunks(cut).try_for_each(|piece| {
            reader.feed::<IndexLineError>(piece, |line| {
                found.push(line);
                Ok(())
            })
        });
        (result.is_ok() && reader.is_complete(), found)
    };
    same_lines(text, cut, read, IndexLine::append_to);
    for line in text.split(|b| *b == b'\n') {
        IndexLine::parse(line).ok();
    }
}

/// That of a stored backup.
fn repository_index(text: &[u8], cut: usize) {
    let read = |cut: usize| {
        let (mut reader, mut found) = (Reader::default(), Vec::new());
        let result = text.chunks(cut).try_for_each(|piece| {
            reader.push(piece, &mut |line| {
                found.push(line);
                Ok(())
            })
        });
        (result.is_ok() && reader.finish().is_ok(), found)
    };
    same_lines(text, cut, read, Line::append_to);
    for line in text.split(|b| *b == b'\n') {
        Line::parse(line).ok();
    }
}

/// Lines are the same however the text is cut, and each has one spelling. `read` tells whether the text is complete as well.
fn same_lines<L: PartialEq + std::fmt::Debug>(
    text: &[u8],
    cut: usize,
    read: impl Fn(usize) -> (bool, Vec<L>),
    spell: impl Fn(&L, &mut Vec<u8>),
) {
    let whole = read(text.len().max(1));
    assert_eq!(read(cut), whole);
    let (complete, lines) = whole;
    let mut spelled = Vec::new();
    for line in &lines {
        spell(line, &mut spelled);
        assert!(text.starts_with(&spelled), "{line:?}");
    }
    assert!(!complete || spelled == text);
}
