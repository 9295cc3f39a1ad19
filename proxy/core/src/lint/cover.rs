//! Whether one route takes every request that another one could.

use crate::config::{Condition, Fraction, PathMatch, Route};

/// Whether `first`, where it is tried before `second`, leaves nothing for it. `false` where that is not certain.
pub(super) fn covers(first: &Route, second: &Route) -> bool {
    let always = |condition: &Condition| matches!(condition, Condition::Fraction(Fraction { millionths }) if *millionths >= 1_000_000);
    let mut conditions = first.conditions.iter().filter(|condition| !always(condition));
    // What `first` asks for, `second` asks for as well.
    conditions.all(|condition| !is_random(condition) && second.conditions.contains(condition))
        && paths(first, second)
}

/// Two draws of one request are the same, but nobody writes the same fraction twice to mean that.
const fn is_random(condition: &Condition) -> bool {
    matches!(condition, Condition::Fraction(_))
}

fn paths(first: &Route, second: &Route) -> bool {
    let starts = |start: &str, text: &str| {
        text.get(..start.len()).is_some_and(|head| match first.ignores_path_case {
            true => head.eq_ignore_ascii_case(start),
            // Where the second ignores the case, it takes what the first does not, unless there are no letters.
            false => head == start && (!second.ignores_path_case || !has_letters(start)),
        })
    };
    let same = |a: &str, b: &str| a.len() == b.len() && starts(a, b);
    let below = |start: &str, text: &str| {
        same(start, text) || (starts(start, text) && text.as_bytes().get(start.len()) == Some(&b'/'))
    };
    match (&first.path, &second.path) {
        (PathMatch::Connect, PathMatch::Connect) => true,
        (PathMatch::Connect, _) | (_, PathMatch::Connect) => false,
        (
            PathMatch::Prefix(start),
            PathMatch::Prefix(text) | PathMatch::SeparatedPrefix(text) | PathMatch::Exact(text),
        ) => starts(start, text),
        // Templates begin with a slash, and so do all paths but that of `OPTIONS *`.
        (PathMatch::Prefix(start), PathMatch::Template(_)) => &**start == "/",
        (PathMatch::Prefix(start), PathMatch::Regex(pattern)) => &**start == "/" && !pattern.matches(b"*"),
        (PathMatch::SeparatedPrefix(start), PathMatch::SeparatedPrefix(text) | PathMatch::Exact(text)) => {
            below(start, text)
        }
        (PathMatch::SeparatedPrefix(start), PathMatch::Prefix(text)) => {
            starts(start, text) && text.as_bytes().get(start.len()) == Some(&b'/')
        }
        (PathMatch::Exact(first), PathMatch::Exact(second)) => same(first, second),
        (PathMatch::Regex(pattern), PathMatch::Exact(text)) => {
            !second.ignores_path_case && pattern.matches(text.as_bytes())
        }
        (PathMatch::Regex(first), PathMatch::Regex(second)) => first == second,
        (PathMatch::Template(template), PathMatch::Exact(text)) => {
            !second.ignores_path_case && template.pattern().matches(text.as_bytes())
        }
        (PathMatch::Template(first), PathMatch::Template(second)) => first == second,
        _ => false,
    }
}

fn has_letters(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_alphabetic())
}
