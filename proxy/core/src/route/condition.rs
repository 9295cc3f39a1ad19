//! Whether a condition holds of a request.

use super::RequestView;
use super::request::{cookie, query_parameter};
use crate::config::{
    Condition, CookieMatch, FieldName, Fraction, HeaderMatch, Predicate, QueryMatch, TextForm, TextMatch,
};

/// Whether the condition holds. Cost: a comparison with each line of its header; no allocation, but for a header of
/// several lines.
pub(super) fn holds(condition: &Condition, request: &impl RequestView) -> bool {
    match condition {
        Condition::Header(condition) => header_holds(condition, request),
        Condition::Query(QueryMatch { name, predicate }) => {
            let value = query_parameter(request.path(), name.as_bytes());
            match predicate {
                Predicate::Present => value.is_some(),
                Predicate::Absent => value.is_none(),
                Predicate::Text(text) => value.is_some_and(|value| text_holds(text, value)),
                Predicate::Range(start, end) => value.is_some_and(|value| in_range(value, *start, *end)),
            }
        }
        Condition::Cookie(CookieMatch { name, value, inverted }) => {
            let found = cookie(request, name.as_bytes());
            found.is_some_and(|found| text_holds(value, found)) != *inverted
        }
        Condition::Grpc => is_grpc(request),
        Condition::Fraction(Fraction { millionths }) => request.draw() % 1_000_000 < u64::from(*millionths),
        Condition::SourceAddress(ranges) => {
            request.source().is_some_and(|source| ranges.iter().any(|range| range.contains(source)))
        }
        Condition::SourceLabels(wanted) => request
            .source_labels()
            .is_some_and(|labels| wanted.iter().all(|(name, value)| labels.get(name) == Some(value))),
        // A route that is not for this proxy is in no table.
        Condition::Node(_) => true,
    }
}

/// One content type, `application/grpc` or `application/grpc+…`.
fn is_grpc(request: &impl RequestView) -> bool {
    let mut lines = request.header(b"content-type");
    let rest = lines.next().and_then(|value| value.strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+', ..])) && lines.next().is_none()
}

/// Whether a condition on a header holds.
pub(crate) fn header_holds(condition: &HeaderMatch, request: &impl RequestView) -> bool {
    match &condition.name {
        FieldName::Header(name) => of_values(condition, request.header(name.as_bytes())),
        FieldName::Method => of_values(condition, [request.method()].into_iter()),
        FieldName::Path => of_values(condition, [request.path()].into_iter()),
        FieldName::Authority => of_values(condition, [request.authority()].into_iter()),
        FieldName::Scheme => of_values(condition, [request.scheme()].into_iter()),
    }
}

fn of_values<'a>(condition: &HeaderMatch, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
    let HeaderMatch { predicate, inverted, missing_is_empty, .. } = condition;
    let first = match values.next() {
        Some(first) => first,
        None if *missing_is_empty => b"",
        None => {
            // A value that is not there has no form, and has not another one either: as in Envoy, only presence can be
            // inverted here.
            return match predicate {
                Predicate::Present => *inverted,
                Predicate::Absent => !*inverted,
                Predicate::Text(_) | Predicate::Range(..) => false,
            };
        }
    };
    let holds = match predicate {
        Predicate::Present => true,
        Predicate::Absent => false,
        predicate => match values.next() {
            None => value_holds(predicate, first),
            Some(second) => any_or_joined(predicate, first, second, values),
        },
    };
    holds != *inverted
}

/// One line suffices; or all of them, joined.
fn any_or_joined<'a>(
    predicate: &Predicate,
    first: &'a [u8],
    second: &'a [u8],
    more: impl Iterator<Item = &'a [u8]>,
) -> bool {
    let lines: Vec<_> = [first, second].into_iter().chain(more).collect();
    lines.iter().any(|line| value_holds(predicate, line)) || value_holds(predicate, &lines.join(&b','))
}

fn value_holds(predicate: &Predicate, value: &[u8]) -> bool {
    match predicate {
        Predicate::Present => true,
        Predicate::Absent => false,
        Predicate::Text(text) => text_holds(text, value),
        Predicate::Range(start, end) => in_range(value, *start, *end),
    }
}

fn in_range(value: &[u8], start: i64, end: i64) -> bool {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.trim_ascii().parse::<i64>().ok());
    number.is_some_and(|number| (start..end).contains(&number))
}

/// Whether a condition on a text holds.
pub(crate) fn text_holds(condition: &TextMatch, value: &[u8]) -> bool {
    let TextMatch { form, ignores_case } = condition;
    let same = |value: &[u8], text: &str| match ignores_case {
        true => value.eq_ignore_ascii_case(text.as_bytes()),
        false => value == text.as_bytes(),
    };
    match form {
        TextForm::Exact(text) => same(value, text),
        TextForm::Prefix(text) => value.get(..text.len()).is_some_and(|start| same(start, text)),
        TextForm::Suffix(text) => {
            value.len().checked_sub(text.len()).is_some_and(|start| same(&value[start..], text))
        }
        TextForm::Contains(text) if *ignores_case => {
            text.is_empty() || value.windows(text.len()).any(|part| same(part, text))
        }
        TextForm::Contains(text) => memchr::memmem::find(value, text.as_bytes()).is_some(),
        TextForm::Regex(pattern) => pattern.matches(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(predicate: Predicate, values: &[&str]) -> bool {
        let condition = HeaderMatch::new(FieldName::Header("x".into()), predicate);
        of_values(&condition, values.iter().map(|v| v.as_bytes()))
    }

    fn exact(values: &[&str], expected: &str) -> bool {
        holds(Predicate::Text(TextMatch::exact(expected)), values)
    }

    #[test]
    fn of_several_lines_one_suffices_or_all_joined() {
        assert!(exact(&["a"], "a"));
        assert!(exact(&["a", "b"], "a"));
        assert!(exact(&["b", "a"], "a"));
        assert!(exact(&["a", "b"], "a,b"));
        assert!(!exact(&["a", "b"], "b,a"));
        assert!(!exact(&["a,b"], "a"));
        assert!(!exact(&["A"], "a"), "values have case");
        assert!(!exact(&[], ""), "an absent header equals nothing");
        assert!(exact(&[""], ""));
    }

    #[test]
    fn presence_is_a_line() {
        assert!(holds(Predicate::Present, &[""]));
        assert!(!holds(Predicate::Present, &[]));
        assert!(holds(Predicate::Absent, &[]));
        assert!(!holds(Predicate::Absent, &["a"]));
    }

    #[test]
    fn a_missing_header_may_count_as_empty() {
        let condition = |predicate, inverted, missing_is_empty| HeaderMatch {
            name: FieldName::Header("x".into()),
            predicate,
            inverted,
            missing_is_empty,
        };
        let none = || std::iter::empty::<&[u8]>();
        let empty = || Predicate::Text(TextMatch::exact(""));
        assert!(!of_values(&condition(empty(), false, false), none()));
        assert!(of_values(&condition(empty(), false, true), none()));
        assert!(!of_values(&condition(empty(), true, true), none()));
        // As Envoy 1.40 answers: a value that is missing fails either way, presence does not.
        let other = || Predicate::Text(TextMatch::exact("x"));
        assert!(!of_values(&condition(other(), true, false), none()));
        assert!(of_values(&condition(other(), true, true), none()));
        assert!(!of_values(&condition(Predicate::Range(0, 1), true, false), none()));
        assert!(of_values(&condition(Predicate::Present, true, false), none()));
        assert!(!of_values(&condition(Predicate::Present, true, true), none()));
        assert!(of_values(&condition(Predicate::Absent, true, true), none()));
    }

    #[test]
    fn numbers_are_whole_and_the_end_is_not_in_the_range() {
        let range = |value: &str| holds(Predicate::Range(-5, 10), &[value]);
        for (value, expected) in [
            ("-5", true),
            ("9", true),
            ("10", false),
            ("5.0", false),
            ("x", false),
            ("", false),
            ("0x5", false),
        ] {
            assert_eq!(range(value), expected, "{value}");
        }
    }

    #[test]
    fn texts_have_forms_with_and_without_case() {
        let text = |form, ignores_case| TextMatch { form, ignores_case };
        let cases = [
            (TextForm::Exact("abc".into()), false, true),
            (TextForm::Prefix("ab".into()), false, true),
            (TextForm::Suffix("bc".into()), false, true),
            (TextForm::Contains("b".into()), false, true),
            (TextForm::Contains("x".into()), false, false),
            (TextForm::Suffix("xabc".into()), false, false),
            (TextForm::Exact("ABC".into()), false, false),
            (TextForm::Exact("aBC".into()), true, true),
            (TextForm::Contains("Bc".into()), true, true),
        ];
        for (form, ignores_case, expected) in cases {
            let condition = text(form, ignores_case);
            assert_eq!(text_holds(&condition, b"abc"), expected, "{condition}");
        }
    }
}
