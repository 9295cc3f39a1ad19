//! Places in a document.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A line and a column, both from 1. As text: `12:3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The character in it.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

pub(super) fn of_yaml_error(error: &serde_saphyr::Error) -> Option<Place> {
    error.location().map(|at| Place { line: at.line(), column: at.column() })
}

/// Where the token starts after which the error was found.
pub(super) fn of_json_error(text: &str, error: &serde_json::Error) -> Option<Place> {
    let before_line: usize =
        text.split_inclusive('\n').take(error.line().checked_sub(1)?).map(str::len).sum();
    let end = (before_line + error.column()).min(text.len());
    let bytes = &text.as_bytes()[..end];
    let is_escaped = |at: usize| bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
    let blank = |byte: &u8| b" \t\r\n".contains(byte);
    let last = bytes.iter().rposition(|byte| !blank(byte));
    let start = match last.map(|last| (last, bytes[last])) {
        // A map or a list was given up before anything in it was read.
        Some((last, b'{' | b'[')) => last,
        Some((last, b'"')) => {
            (0..last).rev().find(|at| bytes[*at] == b'"' && !is_escaped(*at)).unwrap_or(last)
        }
        // A number is known to end by what follows.
        Some((last, _)) => {
            let token = bytes[..=last].iter().rposition(|byte| !b", \t\r\n}]".contains(byte)).unwrap_or(last);
            let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(*byte);
            token + 1 - bytes[..=token].iter().rev().take_while(is_part).count().max(1)
        }
        None => 0,
    };
    let line_start = bytes[..start].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Some(Place {
        line: bytes[..start].iter().filter(|byte| **byte == b'\n').count() as u64 + 1,
        column: String::from_utf8_lossy(&bytes[line_start..start]).chars().count() as u64 + 1,
    })
}

/// One part of a path such as `virtual_hosts[0].typed_per_filter_config["weir.split"]`.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The parts of a path, without those that only say which message was packed.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        rest = rest.trim_start_matches('.');
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let Some(end) = quoted.find("\"]") else { break };
            steps.push(Step::Key(&quoted[..end]));
            rest = &quoted[end + 2..];
        } else if let Some(inner) = rest.strip_prefix('[') {
            let Some(end) = inner.find(']') else { break };
            if let Ok(index) = inner[..end].parse() {
                steps.push(Step::Index(index));
            }
            rest = &inner[end + 1..];
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end == 0 {
                break;
            }
            steps.push(Step::Key(&rest[..end]));
            rest = &rest[end..];
        }
    }
    steps
}

/// Where a path leads in a document; where it does not lead all the way, the last place on it. Cost: the document is read
/// once for each part of the path that is missing.
pub fn place_of(text: &str, path: &str) -> Option<Place> {
    let steps = steps(path);
    (1..=steps.len()).rev().find_map(|length| find(text, &steps[..length]))
}

fn find(text: &str, steps: &[Step<'_>]) -> Option<Place> {
    let seed = Finder { steps };
    if text.trim_start().starts_with('{') {
        match seed.deserialize(&mut serde_json::Deserializer::from_str(text)) {
            Err(error) if error.to_string().contains(FOUND) => return of_json_error(text, &error),
            Err(error) if error.is_syntax() || error.is_eof() => {}
            Err(_) | Ok(()) => return None,
        }
    }
    match super::yaml(text, |deserializer| seed.deserialize(deserializer)) {
        Err(error) if super::yaml_message(&error).contains(FOUND) => of_yaml_error(&error),
        Err(_) | Ok(()) => None,
    }
}

/// The error that is no error.
const FOUND: &str = "the place was found";

/// Walks along a path, and fails at its end: errors are what knows where they are.
#[derive(Clone, Copy)]
struct Finder<'a> {
    steps: &'a [Step<'a>],
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.steps.is_empty() { FOUND } else { "another step" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.steps.split_first() else { return Err(A::Error::custom(FOUND)) };
        while let Some(is_it) = map.next_key_seed(KeyFinder { wanted: first, is_last: rest.is_empty() })? {
            if is_it {
                map.next_value_seed(Finder { steps: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.steps.split_first() else { return Err(A::Error::custom(FOUND)) };
        let Step::Index(wanted) = first else { return Err(A::Error::custom("another step")) };
        for _ in 0..*wanted {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        items.next_element_seed(Finder { steps: rest })?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

struct KeyFinder<'a> {
    wanted: &'a Step<'a>,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for KeyFinder<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyFinder<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        let same = |wanted: &str| {
            // `lowerCamelCase` is the same name.
            wanted == key || wanted.split('_').collect::<String>().eq_ignore_ascii_case(key)
        };
        let is_it = matches!(self.wanted, Step::Key(wanted) if same(wanted));
        if is_it && self.is_last { Err(E::custom(FOUND)) } else { Ok(is_it) }
    }
}
