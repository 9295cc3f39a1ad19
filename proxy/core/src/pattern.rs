//! Regular expressions as configuration writes them: RE2's syntax and meaning, matched against the whole value.

use std::fmt;
use std::sync::Arc;

use regex_automata::meta::{BuildError, Config, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

/// Bytes that the compiled form of one expression may take; a few hundred states of ordinary expressions.
const SIZE_LIMIT: usize = 256 << 10;
/// The same for a set of expressions that are tried at once.
const SET_SIZE_LIMIT: usize = 256 << 10;

/// A regular expression. Two are equal if they are written alike.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    whole: Regex,
}

/// An expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a regular expression that can be used: {reason}")]
pub struct PatternError {
    text: String,
    reason: String,
}

impl Pattern {
    /// Compiles an expression. Time and memory of a match are linear in the value's length, whatever the expression.
    ///
    /// # Errors
    /// It is not one, or its compiled form is larger than 256 KiB.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        check(text)?;
        let whole = build(&[&anchored(text)], SIZE_LIMIT).map_err(|error| refusal(text, &error))?;
        Ok(Self { text: text.into(), whole })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches all of `value`.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.whole.is_match(Input::new(value).anchored(Anchored::Yes))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl std::hash::Hash for Pattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// Several expressions, of which one walk over a value finds the first that matches all of it.
#[derive(Debug)]
pub struct PatternSet {
    all: Regex,
}

impl PatternSet {
    /// Compiles them together. Nothing where that would be too large: they then have to be tried one by one.
    pub fn new(patterns: &[&Pattern]) -> Option<Self> {
        let texts: Vec<_> = patterns.iter().map(|pattern| anchored(pattern.as_str())).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        build(&texts, SET_SIZE_LIMIT).ok().map(|all| Self { all })
    }

    /// The number of the first expression that matches all of `value`.
    pub fn first(&self, value: &[u8]) -> Option<usize> {
        let input = Input::new(value).anchored(Anchored::Yes);
        // All of them start at the start and end at the end, so that of those that match the first is preferred.
        self.all.search_half(&input).map(|found| found.pattern().as_usize())
    }
}

/// An expression and what takes the place of whatever it matches (`RegexMatchAndSubstitute`).
#[derive(Clone)]
pub struct Substitution {
    text: Arc<str>,
    parts: Arc<[Part]>,
    anywhere: Regex,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    Group(usize),
}

impl Substitution {
    /// Compiles an expression and its substitution, in which `\1` to `\9` are groups, `\0` is all that matched and `\\` is a
    /// backslash.
    ///
    /// # Errors
    /// As [`Pattern::new`]; and a group that the expression lacks.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, PatternError> {
        let anywhere = build(&[pattern], SIZE_LIMIT).map_err(|error| refusal(pattern, &error))?;
        let groups = anywhere.group_info().group_len(regex_automata::PatternID::ZERO);
        let parts = parts(substitution, groups)
            .map_err(|reason| PatternError { text: substitution.to_owned(), reason })?;
        Ok(Self { text: format!("{pattern} → {substitution}").into(), parts: parts.into(), anywhere })
    }

    /// Appends `value` with every match replaced. Allocates: rewriting by expression is the slow way.
    pub fn write(&self, value: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        for found in self.anywhere.captures_iter(value) {
            let Some(whole) = found.get_match() else { continue };
            out.extend_from_slice(&value[at..whole.start()]);
            for part in &*self.parts {
                match part {
                    Part::Literal(text) => out.extend_from_slice(text),
                    Part::Group(group) => {
                        out.extend_from_slice(
                            found.get_group(*group).map_or(b"", |span| &value[span.range()]),
                        );
                    }
                }
            }
            at = whole.end();
        }
        out.extend_from_slice(&value[at..]);
    }
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Substitution {}

impl fmt::Debug for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// By itself it must be an expression as well: `a)(b` becomes one only within parentheses.
fn check(text: &str) -> Result<(), PatternError> {
    let syntax = syntax::Config::new().utf8(false);
    syntax::parse_with(text, &syntax).map(drop).map_err(|error| told(text, &error.to_string()))
}

fn anchored(text: &str) -> String {
    format!("(?:{text})\\z")
}

/// In RE2 `\d`, `\w`, `\s` and `\b` are about ASCII, and so is an expression without Unicode here. One that names Unicode
/// classes needs it.
fn build(texts: &[&str], limit: usize) -> Result<Regex, BuildError> {
    let config = Config::new()
        .nfa_size_limit(Some(limit))
        .onepass_size_limit(Some(limit / 4))
        .hybrid_cache_capacity(limit.min(1 << 20));
    let ascii = syntax::Config::new().unicode(false).utf8(false);
    Regex::builder().configure(config.clone()).syntax(ascii).build_many(texts).or_else(|_| {
        let unicode = syntax::Config::new().utf8(false);
        Regex::builder().configure(config).syntax(unicode).build_many(texts)
    })
}

fn refusal(text: &str, error: &BuildError) -> PatternError {
    let reason = match (error.size_limit(), error.syntax_error()) {
        (Some(limit), _) => format!("compiled it is larger than {limit} bytes"),
        (None, Some(syntax)) => return told(text, &syntax.to_string()),
        (None, None) => error.to_string(),
    };
    PatternError { text: text.to_owned(), reason }
}

/// The parser draws the place below the text; its last line says what is wrong.
fn told(text: &str, syntax: &str) -> PatternError {
    let reason = syntax.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    PatternError { text: text.to_owned(), reason }
}

fn parts(substitution: &str, groups: usize) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut rest = substitution.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            literal.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                let group = usize::from(digit - b'0');
                if group >= groups {
                    return Err(format!("there is no group {group} in the expression"));
                }
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Group(group));
            }
            _ => return Err("after a backslash a digit or another backslash must follow".to_owned()),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).expect("a pattern")
    }

    #[test]
    fn the_whole_value_is_matched() {
        assert!(pattern("/a|/ab").matches(b"/ab"));
        assert!(!pattern("/a").matches(b"/ab"));
        assert!(!pattern("b").matches(b"ab"));
        assert!(pattern("").matches(b""));
        assert!(!pattern("a").matches(b"a\n"));
    }

    #[test]
    fn classes_are_of_ascii_as_in_re2() {
        assert!(pattern(r"\d+").matches(b"42"));
        assert!(!pattern(r"\d").matches("\u{661}".as_bytes()));
        assert!(pattern(r"\p{Greek}").matches("α".as_bytes()));
        assert!(pattern("caf.+").matches("café".as_bytes()));
    }

    #[test]
    fn what_is_no_expression_is_said_so() {
        let error = Pattern::new("a(b").expect_err("refused").to_string();
        assert_eq!(error, "\"a(b\" is not a regular expression that can be used: unclosed group");
        let error = Pattern::new("((a{100}){100}){100}").expect_err("refused").to_string();
        assert!(error.contains("larger than"), "{error}");
        assert!(Pattern::new("(?=a)").is_err());
    }

    #[test]
    fn of_a_set_the_first_that_matches_is_found() {
        let patterns = [pattern("/a/.*"), pattern("/a/b"), pattern("/.*")];
        let set = PatternSet::new(&patterns.iter().collect::<Vec<_>>()).expect("small");
        for (value, first) in [("/a/b", Some(0)), ("/a", Some(2)), ("/b", Some(2)), ("x", None)] {
            assert_eq!(set.first(value.as_bytes()), first, "{value}");
        }
        let patterns = [pattern("/ab"), pattern("/a.*"), pattern("/ab?c?")];
        let set = PatternSet::new(&patterns.iter().collect::<Vec<_>>()).expect("small");
        for (value, first) in [("/ab", Some(0)), ("/abc", Some(1)), ("/a", Some(1))] {
            assert_eq!(set.first(value.as_bytes()), first, "{value}");
        }
    }

    #[test]
    fn a_substitution_replaces_every_match() {
        let rewrite = |pattern, substitution, value: &str| {
            let mut out = Vec::new();
            Substitution::new(pattern, substitution).expect("valid").write(value.as_bytes(), &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(
            rewrite("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api"),
            "/v1/api/instance/foo"
        );
        assert_eq!(rewrite("one", "two", "/xxx/one/yyy/one/zzz"), "/xxx/two/yyy/two/zzz");
        assert_eq!(rewrite("a", r"\\\0", "bab"), r"b\ab");
        assert!(Substitution::new("a", r"\1").is_err());
        assert!(Substitution::new("a", r"\x").is_err());
    }
}
