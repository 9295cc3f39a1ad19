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
        Predicate::Exact(expected) => values.any(|value| value == expected.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(values: &[&str], expected: &str) -> bool {
        of_values(&Predicate::Exact(expected.into()), values.iter().map(|v| v.as_bytes()))
    }

    #[test]
    fn of_several_lines_one_suffices_and_none_is_taken_apart() {
        // As Envoy 1.40 answers.
        assert!(exact(&["a"], "a"));
        assert!(exact(&["a", "b"], "a"));
        assert!(exact(&["b", "a"], "a"));
        assert!(!exact(&["a", "b"], "a,b"));
        assert!(!exact(&["a,b"], "a"));
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
