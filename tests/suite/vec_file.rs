//! Golden vectors: small text files under `format-spec/vectors/`, described in
//! `format-spec/README.md`.

use std::fs;
use std::path::{Path, PathBuf};

/// Root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether generated parts of the specification are to be written anew instead of compared.
pub(crate) fn update_spec() -> bool {
    std::env::var_os("UPDATE_SPEC").is_some()
}

/// Every file below `directory` whose name ends in `suffix`, sorted.
pub(crate) fn files_below(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, suffix));
        } else if path.to_str().unwrap().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Reads a text file of the repository.
pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Directions in which a vector is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Decode,
    Encode,
    Both,
}

/// One vector.
#[derive(Debug)]
pub(crate) struct Vector {
    /// File name without `.vec`.
    pub(crate) name: String,
    pub(crate) rules: Vec<String>,
    pub(crate) origin: String,
    pub(crate) direction: Direction,
    /// Reader options that are on.
    pub(crate) options: Vec<String>,
    pub(crate) bytes: Vec<u8>,
    /// Expected transcript, before the error if there is one.
    pub(crate) events: Option<Vec<String>>,
    /// Kind and byte offset.
    pub(crate) error: Option<(String, u64)>,
    /// The whole text of the error.
    pub(crate) message: Option<String>,
}

/// All vectors of one area.
pub(crate) fn load(area: &str) -> Vec<Vector> {
    let directory = root().join("format-spec/vectors").join(area);
    let files = files_below(&directory, ".vec");
    assert!(!files.is_empty(), "no vectors in {}", directory.display());
    files
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap();
            parse(name, &text(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        })
        .collect()
}

fn parse(name: &str, text: &str) -> Result<Vector, String> {
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(' ') {
            let (_, lines) = fields.last_mut().ok_or("indented line before any field")?;
            lines.push(line.trim().to_owned());
            continue;
        }
        let (key, value) = line
            .split_once(':')
            .ok_or(format!("no field in {line:?}"))?;
        if fields.iter().any(|(k, _)| k == key) {
            return Err(format!("field {key} twice"));
        }
        let value = value.trim();
        let lines = if value.is_empty() {
            vec![]
        } else {
            vec![value.to_owned()]
        };
        fields.push((key.to_owned(), lines));
    }
    let mut take = |key: &str| {
        let at = fields.iter().position(|(k, _)| k == key)?;
        Some(fields.remove(at).1)
    };
    let words = |lines: Vec<String>| -> Vec<String> {
        lines
            .join(" ")
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let vector = Vector {
        name: name.to_owned(),
        rules: words(take("rules").ok_or("no rules")?),
        origin: take("origin").ok_or("no origin")?.join("\n"),
        direction: match take("direction").ok_or("no direction")?.join(" ").as_str() {
            "decode" => Direction::Decode,
            "encode" => Direction::Encode,
            "both" => Direction::Both,
            other => return Err(format!("direction {other:?}")),
        },
        options: words(take("options").unwrap_or_default()),
        bytes: hex(&take("bytes").ok_or("no bytes")?)?,
        events: take("events"),
        error: match take("error") {
            None => None,
            Some(lines) => {
                let line = lines.join(" ");
                let (kind, offset) = line.split_once(' ').ok_or("error: KIND OFFSET")?;
                Some((kind.to_owned(), offset.parse().map_err(|e| format!("{e}"))?))
            }
        },
        message: take("message").map(|lines| lines.join(" ")),
    };
    if let Some((key, _)) = fields.first() {
        return Err(format!("unknown field {key}"));
    }
    if vector.origin.is_empty() || vector.rules.is_empty() {
        return Err("rules and origin must say something".into());
    }
    Ok(vector)
}

/// Hex pairs; `HH*N` is a byte N times; `#` begins a comment.
pub(crate) fn hex(lines: &[String]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for line in lines {
        let code = line.split('#').next().unwrap_or_default();
        for word in code.split_whitespace() {
            let (digits, count) = match word.split_once('*') {
                Some((digits, count)) => (digits, count.parse().map_err(|e| format!("{e}"))?),
                None => (word, 1),
            };
            if digits.len() % 2 != 0 {
                return Err(format!("odd digits in {word:?}"));
            }
            let bytes: Vec<u8> = (0..digits.len() / 2)
                .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16))
                .collect::<Result<_, _>>()
                .map_err(|e| format!("{word:?}: {e}"))?;
            out.extend(bytes.repeat(count));
        }
    }
    Ok(out)
}
