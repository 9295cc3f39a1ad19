//! Paths, hosts and locations as a route rewrites them. Each function appends to a buffer and allocates nothing beside it,
//! but where an expression rewrites.

use crate::config::{PathMatch, PathRewrite, Redirect, RedirectPath};

/// Path and query apart; the query has its `?`.
fn parts(target: &[u8]) -> (&[u8], &[u8]) {
    let at = memchr::memchr(b'?', target).unwrap_or(target.len());
    target.split_at(at)
}

/// Appends the target that takes the place of `target`, for a route that matched it by `matched`. The query stays. `false`,
/// with nothing appended, where the target stays as it is.
pub fn path(rewrite: &PathRewrite, matched: &PathMatch, target: &[u8], out: &mut Vec<u8>) -> bool {
    let (path, query) = parts(target);
    let start = out.len();
    match rewrite {
        PathRewrite::Keep => return false,
        PathRewrite::Prefix(text) => {
            let length = match matched {
                PathMatch::Prefix(prefix) | PathMatch::SeparatedPrefix(prefix) => {
                    prefix.len().min(path.len())
                }
                // All of it was matched.
                PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Template(_) | PathMatch::Connect => {
                    path.len()
                }
            };
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(&path[length..]);
        }
        PathRewrite::Regex(substitution) => substitution.write(path, out),
        PathRewrite::Template(template) => template.write(path, out),
    }
    if out.len() == start {
        return false;
    }
    if out[start] != b'/' {
        // What does not start with a slash is no path (RFC 9112 §3.2.1).
        out.insert(start, b'/');
    }
    out.extend_from_slice(query);
    true
}

/// What a redirect starts from.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// `http` or `https`.
    pub scheme: &'a [u8],
    /// Host and port.
    pub authority: &'a [u8],
    /// Path and query.
    pub target: &'a [u8],
}

/// Appends where a redirect leads.
pub fn location(redirect: &Redirect, matched: &PathMatch, here: &Here<'_>, out: &mut Vec<u8>) {
    let scheme = redirect.scheme.as_deref().map_or(here.scheme, str::as_bytes);
    out.extend_from_slice(scheme);
    out.extend_from_slice(b"://");
    let (host, port) = host_and_port(here.authority);
    match (&redirect.host, redirect.port) {
        (Some(host), _) => out.extend_from_slice(host.as_bytes()),
        (None, Some(_)) => out.extend_from_slice(host),
        // The port that the old scheme has anyway is not one of the new scheme.
        (None, None) if scheme != here.scheme && port == default_port(here.scheme) => {
            out.extend_from_slice(host);
        }
        (None, None) => out.extend_from_slice(here.authority),
    }
    if let Some(port) = redirect.port {
        out.extend_from_slice(format!(":{port}").as_bytes());
    }
    let (path, query) = parts(here.target);
    let query = if redirect.strips_query { b"" } else { query };
    match &redirect.path {
        RedirectPath::Replace(text) => {
            if !text.starts_with('/') {
                out.push(b'/');
            }
            out.extend_from_slice(text.as_bytes());
            // A query of its own stands for the request's.
            if !text.contains('?') {
                out.extend_from_slice(query);
            }
        }
        RedirectPath::Rewrite(rewrite) => {
            if !self::path(rewrite, matched, path, out) {
                out.extend_from_slice(path);
            }
            out.extend_from_slice(query);
        }
        RedirectPath::Keep => {
            out.extend_from_slice(path);
            out.extend_from_slice(query);
        }
    }
}

/// Where a client is sent that should have come over TLS (`require_tls`).
pub fn to_tls(here: &Here<'_>) -> Vec<u8> {
    let redirect = Redirect {
        status: 301,
        scheme: Some("https".into()),
        host: None,
        port: None,
        path: RedirectPath::Keep,
        strips_query: false,
    };
    let mut out = Vec::new();
    location(&redirect, &PathMatch::Connect, here, &mut out);
    out
}

fn default_port(scheme: &[u8]) -> &'static [u8] {
    if scheme == b"https" { b"443" } else { b"80" }
}

/// The parts of an authority; the port is empty where there is none.
fn host_and_port(authority: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memrchr(b':', authority) {
        Some(at) if authority[at + 1..].iter().all(u8::is_ascii_digit) => {
            (&authority[..at], &authority[at + 1..])
        }
        _ => (authority, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{Pattern, Substitution};

    fn rewritten(text: &str, matched: &PathMatch, target: &str) -> String {
        let mut out = Vec::new();
        path(&PathRewrite::Prefix(text.into()), matched, target.as_bytes(), &mut out);
        String::from_utf8(out).expect("text")
    }

    /// As Envoy 1.40 answers.
    #[test]
    fn what_was_matched_is_replaced() {
        let prefix = |text: &str| PathMatch::Prefix(text.into());
        for (matched, text, target, expected) in [
            (prefix("/a"), "/b", "/a", "/b"),
            (prefix("/a"), "/b", "/a/x", "/b/x"),
            (prefix("/a"), "/b", "/ab", "/bb"),
            (prefix("/a"), "/b", "/a?q", "/b?q"),
            (prefix("/a/"), "/", "/a/x", "/x"),
            (prefix("/a"), "/", "/a/x", "//x"),
            (PathMatch::Exact("/a".into()), "/b", "/a?q=1", "/b?q=1"),
            (PathMatch::SeparatedPrefix("/a".into()), "/", "/a", "/"),
            (PathMatch::Regex(Pattern::new("/a/.*").expect("valid")), "/z", "/a/1/x?q=1", "/z?q=1"),
            (prefix("/a"), "b", "/a/x", "/b/x"),
        ] {
            assert_eq!(rewritten(text, &matched, target), expected, "{target}");
        }
    }

    #[test]
    fn an_expression_rewrites_the_path_and_leaves_the_query() {
        let rewrite = PathRewrite::Regex(Substitution::new("o", "0").expect("valid"));
        let mut out = Vec::new();
        assert!(path(&rewrite, &PathMatch::Prefix("/".into()), b"/foo/boo?o=o", &mut out));
        assert_eq!(out, b"/f00/b00?o=o");
        let nothing = PathRewrite::Regex(Substitution::new(".*", "").expect("valid"));
        assert!(!path(&nothing, &PathMatch::Prefix("/".into()), b"/a", &mut Vec::new()));
    }

    fn redirect() -> Redirect {
        Redirect {
            status: 301,
            scheme: None,
            host: None,
            port: None,
            path: RedirectPath::Keep,
            strips_query: false,
        }
    }

    fn located(redirect: &Redirect, scheme: &str, authority: &str) -> String {
        let here = Here { scheme: scheme.as_bytes(), authority: authority.as_bytes(), target: b"/a/b?q=1" };
        let mut out = Vec::new();
        location(redirect, &PathMatch::Prefix("/a".into()), &here, &mut out);
        String::from_utf8(out).expect("text")
    }

    /// As Envoy 1.40 answers.
    #[test]
    fn a_location_keeps_what_is_not_redirected() {
        let to = |scheme: &str| Redirect { scheme: Some(scheme.into()), ..redirect() };
        assert_eq!(located(&redirect(), "http", "h"), "http://h/a/b?q=1");
        for (redirect, scheme, authority, expected) in [
            (to("https"), "http", "a.com:80", "https://a.com/a/b?q=1"),
            (to("https"), "http", "a.com:8080", "https://a.com:8080/a/b?q=1"),
            (to("https"), "http", "[::1]:80", "https://[::1]/a/b?q=1"),
            (to("http"), "http", "a.com:443", "http://a.com:443/a/b?q=1"),
            (to("http"), "https", "a.com:443", "http://a.com/a/b?q=1"),
            (
                Redirect { host: Some("new.com".into()), ..redirect() },
                "http",
                "a:1",
                "http://new.com/a/b?q=1",
            ),
            (Redirect { port: Some(443), ..redirect() }, "http", "a:1", "http://a:443/a/b?q=1"),
            (Redirect { strips_query: true, ..redirect() }, "http", "a", "http://a/a/b"),
            (
                Redirect { path: RedirectPath::Replace("/n".into()), ..redirect() },
                "http",
                "a",
                "http://a/n?q=1",
            ),
            (
                Redirect { path: RedirectPath::Replace("/n?z=1".into()), ..redirect() },
                "http",
                "a",
                "http://a/n?z=1",
            ),
            (
                Redirect { path: RedirectPath::Rewrite(PathRewrite::Prefix("/n".into())), ..redirect() },
                "http",
                "a",
                "http://a/n/b?q=1",
            ),
        ] {
            assert_eq!(located(&redirect, scheme, authority), expected);
        }
    }
}
