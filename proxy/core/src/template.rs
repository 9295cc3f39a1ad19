//! URI templates: paths by their segments, of which some have names (`envoy.path.match.uri_template`).
//!
//! `*` is something within a segment, `**` anything, `{name}` is `*` with a name and `{name=…}` a part of the path with one.

use std::sync::Arc;

use crate::pattern::{Pattern, PatternError, Substitution};

/// The most names in one template, as in Envoy.
const MAX_NAMES: usize = 5;
const LONGEST_NAME: usize = 16;
/// What a segment is made of (RFC 3986 §3.3), as the inside of a class.
const CHARACTERS: &str = r"A-Za-z0-9\-._~!$&'()*+,;:@=%";

/// A template. Two are equal if they are written alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: Arc<str>,
    pattern: Pattern,
    /// An expression with a group for each name.
    grouped: Arc<str>,
    names: Arc<[Box<str>]>,
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Its form is wrong.
    #[error("{text:?} is not a path template: {reason}")]
    Form {
        /// As written.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// It is too large.
    #[error("{0}")]
    Pattern(#[from] PatternError),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// It does not start with a slash, holds an operator beside other text in one segment, names something twice, or has
    /// something after `**` that is not the end of a name.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        let wrong = |reason: String| TemplateError::Form { text: text.to_owned(), reason };
        let mut reader = Reader {
            rest: text,
            names: Vec::new(),
            plain: String::new(),
            grouped: String::new(),
            glob: false,
        };
        reader.path(false).map_err(wrong)?;
        Ok(Self {
            text: text.into(),
            pattern: Pattern::new(&reader.plain)?,
            grouped: reader.grouped.into(),
            names: reader.names.into(),
        })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same as an expression.
    pub const fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// A rewrite of the paths that match, such as `/new/{name}`.
    ///
    /// # Errors
    /// It uses a name that the template lacks, or its form is wrong.
    pub fn rewrite(&self, text: &str) -> Result<TemplateRewrite, TemplateError> {
        let wrong = |reason: String| TemplateError::Form { text: text.to_owned(), reason };
        if !text.starts_with('/') {
            return Err(wrong("it must start with `/`".to_owned()));
        }
        if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic() || "?#".contains(*c)) {
            return Err(wrong(format!("`{odd}` cannot stand in a path")));
        }
        let mut substitution = String::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}', '*', '\\']) {
            substitution.push_str(&rest[..open]);
            let Some(inner) = rest[open..].strip_prefix('{') else {
                return Err(wrong(format!("`{}` cannot stand here", &rest[open..=open])));
            };
            let end = inner.find('}').ok_or_else(|| wrong("a `{` has no `}`".to_owned()))?;
            let name = &inner[..end];
            let group = self.names.iter().position(|known| **known == *name);
            let group = group.ok_or_else(|| wrong(format!("{:?} has no variable {name:?}", self.text)))?;
            substitution.push_str(&format!("\\{}", group + 1));
            rest = &inner[end + 1..];
        }
        substitution.push_str(rest);
        let grouped = format!("\\A(?:{})\\z", self.grouped);
        Ok(TemplateRewrite { text: text.into(), substitution: Substitution::new(&grouped, &substitution)? })
    }
}

/// A path put together from the named parts of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRewrite {
    text: Box<str>,
    substitution: Substitution,
}

impl TemplateRewrite {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Appends the new path of `path`, which has no query.
    pub fn write(&self, path: &[u8], out: &mut Vec<u8>) {
        self.substitution.write(path, out);
    }
}

struct Reader<'a> {
    rest: &'a str,
    names: Vec<Box<str>>,
    plain: String,
    grouped: String,
    /// A `**` was read.
    glob: bool,
}

impl Reader<'_> {
    /// A whole path, or the inside of a name, which need not start with a slash.
    fn path(&mut self, inside: bool) -> Result<(), String> {
        if !inside && !self.rest.starts_with('/') {
            return Err("it must start with `/`".to_owned());
        }
        loop {
            if self.take("/") {
                self.literal("/");
                if self.rest.starts_with('/') {
                    return Err("a segment is empty".to_owned());
                }
            }
            self.segment(inside)?;
            match self.rest.chars().next() {
                None if inside => return Err("a `{` has no `}`".to_owned()),
                None => return Ok(()),
                Some('}') if inside => return Ok(()),
                Some('/') => {}
                Some(_) => return Err("there are two operators in one segment".to_owned()),
            }
        }
    }

    /// Text, then perhaps an operator, then text.
    fn segment(&mut self, inside: bool) -> Result<(), String> {
        self.text()?;
        if self.take("**") {
            self.glob(|reader| {
                reader.glob = true;
                reader.both(&format!("[{CHARACTERS}/]*"));
            })?;
        } else if self.take("*") {
            self.glob(|reader| reader.both(&format!("[{CHARACTERS}]+")))?;
        } else if self.take("{") {
            if inside {
                return Err("a name cannot stand in a name".to_owned());
            }
            self.name()?;
        }
        self.text()
    }

    fn glob(&mut self, write: impl FnOnce(&mut Self)) -> Result<(), String> {
        if self.glob {
            return Err("no other operator can follow `**`".to_owned());
        }
        write(self);
        Ok(())
    }

    fn name(&mut self) -> Result<(), String> {
        let end = self.rest.find(['=', '}']).ok_or("a `{` has no `}`")?;
        let name = &self.rest[..end];
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        if !first
            || name.len() > LONGEST_NAME
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            return Err(format!(
                "{name:?} is not a name: up to {LONGEST_NAME} letters, digits and `_`, a letter first"
            ));
        }
        if self.names.iter().any(|known| **known == *name) {
            return Err(format!("{name:?} stands twice"));
        }
        if self.names.len() == MAX_NAMES {
            return Err(format!("there are more than {MAX_NAMES} names"));
        }
        self.names.push(name.into());
        self.rest = &self.rest[end..];
        self.grouped.push('(');
        if self.take("=") {
            self.path(true)?;
        } else {
            self.glob(|reader| reader.both(&format!("[{CHARACTERS}]+")))?;
        }
        self.grouped.push(')');
        if self.take("}") { Ok(()) } else { Err("a `{` has no `}`".to_owned()) }
    }

    /// What comes before the next slash or operator.
    fn text(&mut self) -> Result<(), String> {
        let end = self.rest.find(['/', '{', '}', '*']).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        if let Some(odd) =
            text.chars().find(|c| !c.is_ascii_alphanumeric() && !"-._~%!$&'()+,;=:@".contains(*c))
        {
            return Err(format!("`{odd}` cannot stand in a path"));
        }
        self.rest = rest;
        self.literal(text);
        Ok(())
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn literal(&mut self, text: &str) {
        for character in text.chars() {
            if !character.is_ascii_alphanumeric() && character != '/' {
                self.both("\\");
            }
            self.both(character.encode_utf8(&mut [0; 4]));
        }
    }

    fn both(&mut self, expression: &str) {
        self.plain.push_str(expression);
        self.grouped.push_str(expression);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching<'a>(template: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let template = Template::new(template).expect("valid");
        paths.iter().filter(|path| template.pattern().matches(path.as_bytes())).copied().collect()
    }

    #[test]
    fn a_template_matches_by_segments() {
        let paths = ["/a/b/c", "/a//c", "/a/b/c/", "/a", "/a/", "/a/x/y", "/a/f.m3u8", "/a/b%20d/c"];
        assert_eq!(matching("/a/{x=*}/c", &paths), ["/a/b/c", "/a/b%20d/c"]);
        assert_eq!(matching("/a/*/c", &paths), ["/a/b/c", "/a/b%20d/c"]);
        let below = ["/a/b/c", "/a//c", "/a/b/c/", "/a/", "/a/x/y", "/a/f.m3u8", "/a/b%20d/c"];
        assert_eq!(matching("/a/**", &paths), below);
        assert_eq!(matching("/a/{rest=**}", &paths), below);
        assert_eq!(matching("/a/**.m3u8", &paths), ["/a/f.m3u8"]);
        assert_eq!(matching("/a/*.m3u8", &paths), ["/a/f.m3u8"]);
        assert_eq!(
            matching("/a/**/c", &["/a/b/c", "/a//c", "/a/x//y/c", "/a/c"]),
            ["/a/b/c", "/a//c", "/a/x//y/c"]
        );
        assert_eq!(matching("/a/*", &["/a/<"]), [""; 0]);
        assert_eq!(matching("/a/{x}/{y=**}", &["/a/b/", "/a/b/c/d", "/a//c"]), ["/a/b/", "/a/b/c/d"]);
        assert_eq!(matching("/{x=a/*}/c", &["/a/b/c", "/b/b/c"]), ["/a/b/c"]);
    }

    #[test]
    fn named_parts_are_put_together_anew() {
        let template = Template::new("/a/{x}/b/{y=**}").expect("valid");
        let mut out = Vec::new();
        template.rewrite("/new/{y}/{x}").expect("valid").write(b"/a/1/b/2/3", &mut out);
        assert_eq!(out, b"/new/2/3/1");
        let error = template.rewrite("/{z}").expect_err("refused").to_string();
        assert_eq!(error, "\"/{z}\" is not a path template: \"/a/{x}/b/{y=**}\" has no variable \"z\"");
    }

    #[test]
    fn what_is_no_template_is_said_so() {
        for (text, reason) in [
            ("a", "must start with `/`"),
            ("/**/*", "can follow `**`"),
            ("/**/{x}", "can follow `**`"),
            ("/{x}/{x}", "stands twice"),
            ("/{x}{y}", "two operators"),
            ("/a//b", "a segment is empty"),
            ("/{x", "has no `}`"),
            ("/{1x}", "is not a name"),
            ("/{a={b}}", "cannot stand in a name"),
            ("/a b", "cannot stand in a path"),
        ] {
            let error = Template::new(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
