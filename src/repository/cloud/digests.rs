//! The list of digests: a line for each chunk, written with the backup and compared with it when it is fetched.
//! `r[cloud-layout.md5]`

use super::layout::{DIGITS, digests_key, parse};
use crate::base::error::{Error, Kind, Result};
use crate::store::{Class, Fault, Store};
use crate::xbstream::limits::PATH_LEN_MAX;

/// The MD5 of an object.
pub(super) type Digest = [u8; 16];

/// Bytes of the list that are read at once.
const READ_LEN: u64 = 1 << 20;

/// Bytes of the longest line: digest, two spaces, path, number, newline.
const LINE_LEN_MAX: usize = 32 + 2 + PATH_LEN_MAX + 1 + DIGITS + 1;

/// The line of the chunk `name`.
pub(super) fn line(digest: Digest, name: &str) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}  {name}\n")
}

/// Digest, file and number of a chunk from its line without the newline.
fn parse_line(line: &[u8]) -> Option<(Digest, &str, u64)> {
    let (hex, name) = std::str::from_utf8(line).ok()?.split_once("  ")?;
    let is_hex = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let digest = u128::from_str_radix(hex, 16).ok().filter(|_| is_hex)?;
    let (path, index) = parse(name)?;
    Some((digest.to_be_bytes(), path, index))
}

/// Passes each line of the list of the backup `name` on: digest, file and number of a chunk. Tells whether there is a list.
pub(super) fn read(
    store: &dyn Store,
    name: &str,
    mut each: impl FnMut(Digest, &str, u64) -> Result<()>,
) -> Result<bool> {
    let key = digests_key(name);
    let object = match store.head(&key) {
        Err(Fault {
            class: Class::NotFound,
            ..
        }) => return Ok(false),
        object => object?,
    };
    let mut rest = Vec::new();
    let mut position = 0;
    while position < object.len {
        let len = (object.len - position).min(READ_LEN);
        let begin = rest.len();
        rest.resize(begin + usize::try_from(len).unwrap_or(0), 0);
        let room = rest.get_mut(begin..).unwrap_or_default();
        store.read(&key, position, room, &mut 0, Some(&object.etag))?;
        let mut read = 0;
        while let Some(len) =
            (rest.get(read..)).and_then(|rest| rest.iter().position(|b| *b == b'\n'))
        {
            let line = rest.get(read..read + len).and_then(parse_line);
            let (digest, path, index) = line.ok_or_else(|| bad(store, &key))?;
            each(digest, path, index)?;
            read += len + 1;
        }
        rest.drain(..read);
        if rest.len() > LINE_LEN_MAX {
            return Err(bad(store, &key));
        }
        position += len;
    }
    match rest.is_empty() {
        true => Ok(true),
        false => Err(bad(store, &key)),
    }
}

fn bad(store: &dyn Store, key: &str) -> Error {
    Error::new(Kind::Checksum, "a line is no digest of a chunk in")
        .path(format!("{}/{key}", store.url()))
        .hint("without --md5 the chunks are compared with their own checksums only")
}

#[cfg(test)]
mod tests {
    use super::*;

    // r[cloud-layout.md5]
    #[test]
    fn lines_are_read_as_they_are_written() {
        let digest = *b"0123456789abcdef";
        let name = "db/a  b.ibd.00000000000000000007";
        let text = line(digest, name);
        assert_eq!(text, format!("30313233343536373839616263646566  {name}\n"));
        let line = text.trim_end().as_bytes();
        assert_eq!(parse_line(line), Some((digest, "db/a  b.ibd", 7)));
        for end in [0, 31, 33, line.len() - 1] {
            assert_eq!(parse_line(&line[..end]), None);
        }
        assert_eq!(parse_line(&line[1..]), None);
    }
}
