//! Expressions that say what a plain comparison says as well.

use regex_syntax::hir::{Class, Hir, HirKind};

/// The parts of an expression that is made of plain text and `.*`.
enum Part {
    Text(String),
    Anything,
}

/// What to write instead of an expression on a path.
pub(super) fn plain_path(expression: &str) -> Option<String> {
    // The one form that is neither: `/shop(/.*)?`
    if let Some(text) = expression.strip_suffix("(/.*)?").or_else(|| expression.strip_suffix("(?:/.*)?"))
        && let [Part::Text(text)] = parts(text)?.as_slice()
        && text.len() > 1
        && !text.ends_with('/')
    {
        return Some(format!("path_separated_prefix: {text:?}"));
    }
    match parts(expression)?.as_slice() {
        [Part::Text(text)] => Some(format!("path: {text:?}")),
        [Part::Text(text), Part::Anything] => Some(format!("prefix: {text:?}")),
        _ => None,
    }
}

/// What to write instead of an expression on a value.
pub(super) fn plain_text(expression: &str) -> Option<String> {
    let parts = parts(expression)?;
    let (form, text) = match parts.as_slice() {
        [Part::Text(text)] => ("exact", text),
        [Part::Text(text), Part::Anything] => ("prefix", text),
        [Part::Anything, Part::Text(text)] => ("suffix", text),
        [Part::Anything, Part::Text(text), Part::Anything] => ("contains", text),
        _ => return None,
    };
    Some(format!("{{ {form}: {text:?} }}"))
}

fn parts(expression: &str) -> Option<Vec<Part>> {
    let hir = regex_syntax::Parser::new().parse(expression).ok()?;
    match hir.kind() {
        HirKind::Concat(all) => all.iter().map(part).collect(),
        _ => Some(vec![part(&hir)?]),
    }
}

fn part(hir: &Hir) -> Option<Part> {
    match hir.kind() {
        HirKind::Literal(literal) => Some(Part::Text(String::from_utf8(literal.0.to_vec()).ok()?)),
        HirKind::Repetition(repetition) if repetition.min == 0 && repetition.max.is_none() => {
            let HirKind::Class(Class::Unicode(class)) = repetition.sub.kind() else { return None };
            // Neither paths nor headers hold line breaks, so `.` is anything.
            let mut left_out = class.clone();
            left_out.negate();
            let is_anything = left_out.iter().all(|range| range.start() == '\n' && range.end() == '\n');
            is_anything.then_some(Part::Anything)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_expressions_are_known() {
        for (expression, plain) in [
            ("/shop", Some("path: \"/shop\"")),
            ("/shop/.*", Some("prefix: \"/shop/\"")),
            (r"/a\.b", Some("path: \"/a.b\"")),
            ("/shop(/.*)?", Some("path_separated_prefix: \"/shop\"")),
            ("/shop/.+", None),
            ("/a.b", None),
            ("/item/[0-9]+", None),
            ("(?i)/shop", None),
            ("/a|/b", None),
            ("/a[^/]*", None),
            (".*", None),
        ] {
            assert_eq!(plain_path(expression).as_deref(), plain, "{expression}");
        }
        for (expression, plain) in [
            (".*canary.*", Some("{ contains: \"canary\" }")),
            (".*-canary", Some("{ suffix: \"-canary\" }")),
            ("v2.*", Some("{ prefix: \"v2\" }")),
            ("v2", Some("{ exact: \"v2\" }")),
            ("v[12]", None),
        ] {
            assert_eq!(plain_text(expression).as_deref(), plain, "{expression}");
        }
    }
}
