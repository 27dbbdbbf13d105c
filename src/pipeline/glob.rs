//! Patterns for paths, as `tar --wildcards` users know them.
//!
//! `*` stands for any bytes, `?` for one, both also for `/`; `[abc]`, `[a-z]` and `[!abc]` for one byte of a set; a backslash takes
//! the meaning of the next byte away. A pattern that matches a directory stands for everything in it.

/// A pattern. Any bytes are one: what cannot be a set is taken literally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<u8>);

/// What stands for one byte or many in a pattern.
enum Item<'p> {
    Any,
    One,
    Set { negated: bool, set: &'p [u8] },
    Literal(u8),
}

impl Glob {
    /// A pattern of these bytes.
    #[must_use]
    pub fn new(pattern: &[u8]) -> Self {
        Self(pattern.to_vec())
    }

    /// Whether anything in it is more than itself.
    #[must_use]
    pub fn is_pattern(text: &[u8]) -> bool {
        text.iter().any(|b| matches!(b, b'*' | b'?' | b'['))
    }

    /// Whether `path`, or a directory that it is in, matches as a whole.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut ends = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        ends.any(|end| match_whole(&self.0, path.get(..end).unwrap_or_default()))
    }

    /// Whether the path matches from the beginning of any of its components on.
    #[must_use]
    pub fn matches_anywhere(&self, path: &[u8]) -> bool {
        self.matches(path)
            || path
                .iter()
                .enumerate()
                .filter(|(_, b)| **b == b'/')
                .any(|(at, _)| self.matches(path.get(at + 1..).unwrap_or_default()))
    }
}

/// Matches everything with everything. Only the last star is ever tried again, so it takes at most the product of both lengths.
fn match_whole(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (pattern, text);
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match (next(p), t.split_first()) {
            (Some((Item::Any, rest)), _) => {
                star = Some((rest, t));
                p = rest;
                continue;
            }
            (None, None) => return true,
            (Some((item, rest)), Some((byte, text))) if item.is(*byte) => Some((rest, text)),
            _ => None,
        };
        (p, t) = match (step, star) {
            (Some(step), _) => step,
            (None, Some((rest, from))) => {
                let Some((_, from)) = from.split_first() else {
                    return false;
                };
                star = Some((rest, from));
                (rest, from)
            }
            (None, None) => return false,
        };
    }
}

/// The first item of a pattern, and the rest.
fn next(pattern: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (first, rest) = pattern.split_first()?;
    Some(match (first, rest) {
        (b'*', _) => (Item::Any, rest),
        (b'?', _) => (Item::One, rest),
        (b'\\', [literal, rest @ ..]) => (Item::Literal(*literal), rest),
        (b'[', _) => {
            let (negated, body) = match rest {
                [b'!' | b'^', body @ ..] => (true, body),
                _ => (false, rest),
            };
            // A bracket that comes first is one of the set.
            let end = body
                .iter()
                .skip(1)
                .position(|b| *b == b']')
                .map(|at| at + 1);
            match end.and_then(|end| body.split_at_checked(end)) {
                Some((set, [_, rest @ ..])) => (Item::Set { negated, set }, rest),
                _ => (Item::Literal(b'['), rest),
            }
        }
        (literal, _) => (Item::Literal(*literal), rest),
    })
}

impl Item<'_> {
    fn is(&self, byte: u8) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Literal(literal) => *literal == byte,
            Self::Set { negated, set } => has(set, byte) != *negated,
        }
    }
}

fn has(mut set: &[u8], byte: u8) -> bool {
    loop {
        set = match set {
            [] => return false,
            [first, b'-', last, rest @ ..] => {
                if (*first..=*last).contains(&byte) {
                    return true;
                }
                rest
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return true;
                }
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_tar_does() {
        for (pattern, yes, no) in [
            (
                "*.ibd",
                &["a.ibd", "sakila/film.ibd", "d.ibd/x"][..],
                &["a.ibd.zst", "ibd"][..],
            ),
            (
                "sakila/*",
                &["sakila/a", "sakila/d/e"],
                &["sakila", "sakila2/a", "x/sakila/a"],
            ),
            ("sakila", &["sakila", "sakila/a"], &["sakila2", "x/sakila"]),
            ("t?.frm", &["t1.frm", "t/.frm"], &["t.frm", "t12.frm"]),
            ("[a-cx].y", &["a.y", "c.y", "x.y"], &["d.y", "-.y"]),
            ("[!a-c]", &["d", "d/e"], &["a", "dd"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a", &["[a"], &["a"]),
            ("\\*", &["*"], &["a"]),
            ("a*b*c", &["abc", "aXbYc", "abbcbc"], &["ab", "aXcYb"]),
            ("*", &["a", "a/b"], &[]),
            ("", &[], &["a"]),
        ] {
            let glob = Glob::new(pattern.as_bytes());
            for path in yes {
                assert!(glob.matches(path.as_bytes()), "{pattern} {path}");
            }
            for path in no {
                assert!(!glob.matches(path.as_bytes()), "{pattern} {path}");
            }
        }
        let glob = Glob::new(b"sakila");
        assert!(glob.matches_anywhere(b"x/sakila/a") && !glob.matches_anywhere(b"x/sakila2"));
    }

    #[test]
    fn many_stars_take_no_time() {
        let glob = Glob::new(&b"a*".repeat(200));
        assert!(!glob.matches(&[&b"a".repeat(199)[..], &[b'b'; 300]].concat()));
    }
}
