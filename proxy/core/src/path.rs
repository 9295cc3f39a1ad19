//! Path normalisation: once, before matching. What was matched is what is forwarded (RFC 3986 §6.2.2).
//!
//! Percent-encoded unreserved characters are decoded, `\` becomes `/`, dot segments are resolved, and, where asked for,
//! slashes are merged. The result is never longer than the input, so all of it happens in place; normalising twice
//! gives the same as once. The query is moved, never changed.

use crate::http1::{HeadError, RequestHead};

/// What is done to paths (`normalize_path`, `merge_slashes` and `path_with_escaped_slashes_action` of Envoy's HTTP
/// connection manager).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathRules {
    /// Decode, resolve dots, unify slashes. On where unset: a rule on `/admin` must not be passed by `/x/../admin`.
    pub normalize: bool,
    /// `//` is read as `/`.
    pub merge_slashes: bool,
    /// What becomes of `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

impl Default for PathRules {
    fn default() -> Self {
        Self { normalize: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep }
    }
}

/// What becomes of `%2F` and `%5C` in a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay as they are, and are not slashes.
    #[default]
    Keep,
    /// The request is refused.
    Reject,
    /// They are decoded, and the client is sent to the decoded path.
    Redirect,
    /// They are decoded.
    Forward,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalized {
    /// It was normal.
    Same,
    /// Its first so many bytes are the normal form, query included.
    Changed(usize),
    /// As `Changed`, and the client is to ask for that instead.
    Redirect(usize),
}

/// Normalises a path with its query in place.
///
/// Cost: one look at each byte of a path that is normal already.
///
/// # Errors
/// NUL, a percent sign without two hexadecimal digits, or an escaped slash where that is refused.
pub fn normalize(target: &mut [u8], rules: &PathRules) -> Result<Normalized, HeadError> {
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    if target.first() != Some(&b'/') || !needs_work(&target[..end], rules) {
        return Ok(Normalized::Same);
    }
    let (mut length, unescaped) = decode(&mut target[..end], rules)?;
    if rules.normalize {
        length = resolve_dots(&mut target[..length]);
    }
    if rules.merge_slashes {
        length = merge_slashes(&mut target[..length]);
    }
    if length == end && !unescaped {
        // Only single bytes may have changed: `\` to `/`.
        return Ok(Normalized::Changed(target.len()));
    }
    target.copy_within(end.., length);
    let total = length + target.len() - end;
    let redirect = unescaped && rules.escaped_slashes == EscapedSlashes::Redirect;
    if redirect && target.starts_with(b"//") {
        // As a location it would lead to another host.
        return Err(HeadError::EscapedPath);
    }
    Ok(if redirect { Normalized::Redirect(total) } else { Normalized::Changed(total) })
}

/// Why a request's target is not used as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetError {
    /// The client is to ask for the head's path instead, which is the normal form.
    Redirect,
    /// It is not accepted.
    Refused(HeadError),
}

/// Normalises the path of a request in its buffer: what is matched is what is forwarded.
///
/// # Errors
/// The path cannot be used as it is.
pub fn normalize_target(
    buffer: &mut [u8],
    head: &mut RequestHead,
    rules: &PathRules,
) -> Result<(), TargetError> {
    let Some(target) = buffer.get_mut(head.path.range()) else { return Ok(()) };
    match normalize(target, rules) {
        Ok(Normalized::Same) => Ok(()),
        Ok(Normalized::Changed(length)) => {
            head.path = head.path.prefix(length);
            Ok(())
        }
        Ok(Normalized::Redirect(length)) => {
            head.path = head.path.prefix(length);
            Err(TargetError::Redirect)
        }
        Err(error) => Err(TargetError::Refused(error)),
    }
}

fn needs_work(path: &[u8], rules: &PathRules) -> bool {
    let mut last = 0;
    for byte in path {
        match byte {
            b'%' | b'\\' => return true,
            b'.' if last == b'/' => return true,
            b'/' if last == b'/' && rules.merge_slashes => return true,
            _ => {}
        }
        last = *byte;
    }
    false
}

/// Decodes what may be decoded. Returns the new length and whether an escaped slash was among it.
fn decode(path: &mut [u8], rules: &PathRules) -> Result<(usize, bool), HeadError> {
    let (mut from, mut to) = (0, 0);
    let mut unescaped = false;
    while let Some(byte) = path.get(from).copied() {
        let mut out = byte;
        let mut width = 1;
        if byte == b'%' {
            match (path.get(from + 1).copied().and_then(hex), path.get(from + 2).copied().and_then(hex)) {
                (Some(high), Some(low)) => {
                    let decoded = high << 4 | low;
                    let slash = matches!(decoded, b'/' | b'\\');
                    match rules.escaped_slashes {
                        _ if decoded == 0 => return Err(HeadError::EscapedPath),
                        EscapedSlashes::Reject if slash => return Err(HeadError::EscapedPath),
                        EscapedSlashes::Redirect | EscapedSlashes::Forward if slash => {
                            (out, width, unescaped) = (decoded, 3, true);
                        }
                        _ if rules.normalize && is_unreserved(decoded) => (out, width) = (decoded, 3),
                        _ => {}
                    }
                }
                // What a lone percent sign means is guessed differently by everybody.
                _ if rules.normalize => return Err(HeadError::EscapedPath),
                _ => {}
            }
        }
        if out == b'\\' && rules.normalize {
            out = b'/';
        }
        path[to] = out;
        to += 1;
        from += width;
    }
    Ok((to, unescaped))
}

const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §5.2.4. What would climb above the root stays at the root.
fn resolve_dots(path: &mut [u8]) -> usize {
    // `path[..to]` is resolved and ends with the slash before the segment at `from`.
    let (mut from, mut to) = (1, 1);
    loop {
        let end = from + memchr::memchr(b'/', &path[from..]).unwrap_or(path.len() - from);
        let is_last = end == path.len();
        match &path[from..end] {
            b"." => {}
            b".." => to = memchr::memrchr(b'/', &path[..to - 1]).map_or(1, |slash| slash + 1),
            _ => {
                let next = if is_last { end } else { end + 1 };
                path.copy_within(from..next, to);
                to += next - from;
            }
        }
        if is_last {
            return to;
        }
        from = end + 1;
    }
}

fn merge_slashes(path: &mut [u8]) -> usize {
    let mut to = 0;
    for from in 0..path.len() {
        if path[from] != b'/' || to == 0 || path[to - 1] != b'/' {
            path[to] = path[from];
            to += 1;
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: PathRules =
        PathRules { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Forward };

    fn normal(path: &str, rules: &PathRules) -> Result<String, HeadError> {
        let mut bytes = path.as_bytes().to_vec();
        let length = match normalize(&mut bytes, rules)? {
            Normalized::Same => bytes.len(),
            Normalized::Changed(length) | Normalized::Redirect(length) => length,
        };
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    #[test]
    fn dot_segments_are_resolved_and_never_climb_above_the_root() {
        // The examples of RFC 3986 §5.2.4 and §5.4, and the ways around a rule on /admin.
        for (path, expected) in [
            ("/a/b/c/./../../g", "/a/g"),
            ("/mid/content=5/../6", "/mid/6"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/...", "/..."),
            ("/a/..b/.c", "/a/..b/.c"),
            ("/x/../admin?q=/../x", "/admin?q=/../x"),
            ("/x/%2e%2E/admin", "/admin"),
            ("/x\\..\\admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/a%20b%C3%bc", "/a%20b%C3%bc"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("*", "*"),
        ] {
            assert_eq!(normal(path, &PathRules::default()).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn slashes_are_merged_only_where_asked_for() {
        assert_eq!(normal("//a///b/?x=//", &ALL).as_deref(), Ok("/a/b/?x=//"));
        assert_eq!(normal("//a", &PathRules::default()).as_deref(), Ok("//a"));
    }

    #[test]
    fn escaped_slashes_follow_their_rule() {
        let with = |escaped_slashes| PathRules { escaped_slashes, ..PathRules::default() };
        for path in ["/a%2fb", "/a%2Fb", "/a%5Cb", "/a%5cb"] {
            assert_eq!(normal(path, &with(EscapedSlashes::Keep)).as_deref(), Ok(path));
            assert_eq!(normal(path, &with(EscapedSlashes::Reject)), Err(HeadError::EscapedPath));
            assert_eq!(normal(path, &with(EscapedSlashes::Forward)).as_deref(), Ok("/a/b"));
            let mut bytes = path.as_bytes().to_vec();
            let redirected = normalize(&mut bytes, &with(EscapedSlashes::Redirect));
            assert_eq!(redirected, Ok(Normalized::Redirect(4)), "{path}");
        }
        assert_eq!(normal("/x%2f..%2fadmin", &ALL).as_deref(), Ok("/admin"));
        for elsewhere in ["/%2fevil.example/", "/%5Cevil.example", "/x/..%2f%2fevil.example"] {
            let refused = normal(elsewhere, &with(EscapedSlashes::Redirect));
            assert_eq!(refused, Err(HeadError::EscapedPath), "{elsewhere}");
        }
    }

    #[test]
    fn nul_and_lone_percent_signs_are_refused() {
        let off = PathRules { normalize: false, ..PathRules::default() };
        assert_eq!(normal("/a%00b", &PathRules::default()), Err(HeadError::EscapedPath));
        assert_eq!(normal("/a%00b", &off), Err(HeadError::EscapedPath));
        assert_eq!(normal("/100%", &PathRules::default()), Err(HeadError::EscapedPath));
        assert_eq!(normal("/%2%65", &PathRules::default()), Err(HeadError::EscapedPath));
        assert_eq!(normal("/100%/../x", &off).as_deref(), Ok("/100%/../x"));
        assert_eq!(normal("/a?b=%00%zz", &PathRules::default()).as_deref(), Ok("/a?b=%00%zz"));
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(path in "/[a-c./%25\\\\?2eEfF0]{0,24}", merge: bool, forward: bool) {
            let escaped_slashes = if forward { EscapedSlashes::Forward } else { EscapedSlashes::Keep };
            let rules = PathRules { normalize: true, merge_slashes: merge, escaped_slashes };
            if let Ok(once) = normal(&path, &rules) {
                prop_assert!(once.starts_with('/'), "{once}");
                let bare = once.split('?').next().unwrap_or_default();
                prop_assert!(!bare.split('/').any(|s| s == "." || s == ".."), "{path} became {once}");
                // A slash that was decoded just now may have been escaped twice only as "%252f", which stays.
                let twice = normal(&once, &rules);
                prop_assert_eq!(twice.as_deref(), Ok(once.as_str()));
            }
        }
    }
}
