//! Header conditions.

use super::RequestView;
use crate::config::{FieldName, HeaderMatch, Predicate};

/// Whether the condition holds. Cost: one comparison with each header line; no allocation.
pub(crate) fn holds(condition: &HeaderMatch, request: &impl RequestView) -> bool {
    match &condition.name {
        FieldName::Header(name) => of_values(&condition.predicate, request.header(name.as_bytes())),
        FieldName::Method => of_values(&condition.predicate, [request.method()].into_iter()),
        FieldName::Path => of_values(&condition.predicate, [request.path()].into_iter()),
        FieldName::Authority => of_values(&condition.predicate, [request.authority()].into_iter()),
    }
}

fn of_values<'a>(predicate: &Predicate, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
    match predicate {
        Predicate::Present => values.next().is_some(),
        Predicate::Absent => values.next().is_none(),
        Predicate::Exact(expected) => joined_equals(values, expected.as_bytes()),
    }
}

/// Whether the values, joined with commas, are `expected`. A header that is absent equals nothing.
fn joined_equals<'a>(mut values: impl Iterator<Item = &'a [u8]>, expected: &[u8]) -> bool {
    let Some(first) = values.next() else { return false };
    let Some(mut rest) = expected.strip_prefix(first) else {
        return false;
    };
    for value in values {
        match rest.strip_prefix(b",").and_then(|r| r.strip_prefix(value)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(values: &[&str], expected: &str) -> bool {
        of_values(&Predicate::Exact(expected.into()), values.iter().map(|v| v.as_bytes()))
    }

    #[test]
    fn several_lines_count_as_one_value() {
        assert!(exact(&["a"], "a"));
        assert!(exact(&["a", "b"], "a,b"));
        assert!(!exact(&["a", "b"], "a"));
        assert!(!exact(&["a"], "a,b"));
        assert!(!exact(&["A"], "a"), "values have case");
        assert!(!exact(&[], ""), "an absent header equals nothing");
        assert!(exact(&[""], ""));
    }

    #[test]
    fn presence_is_a_line() {
        let none: [&[u8]; 0] = [];
        assert!(of_values(&Predicate::Present, [&b""[..]].into_iter()));
        assert!(!of_values(&Predicate::Present, none.into_iter()));
        assert!(of_values(&Predicate::Absent, none.into_iter()));
    }
}
