//! Which arm of a route takes a request.

use super::RequestView;
use super::request::{cookie, query_parameter};
use super::table::{Choice, CompiledRoute};
use crate::config::{
    ArmName, HashPolicy, HashSource, KeyCookie, KeySource, Split, SplitBy, SplitKey, Unavailable,
};
use crate::split::{self, Rendezvous};

/// What decided, and what it decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The arm by index; none where its turn decides.
    pub arm: Option<usize>,
    /// What decided.
    pub way: Way,
    /// The hash of the user's key, where the user decided.
    user: Option<u64>,
    /// Cookies that the response brings.
    pub cookies: Vec<NewUser>,
}

/// What decided which arm takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// There is only one that takes requests.
    Only,
    /// A header named it.
    Override,
    /// The user, by the key.
    User,
    /// The user's cookie names an arm that is being drained.
    Draining,
    /// Envoy's hash of the request, or the number in a header.
    Number(u64),
    /// The exact sequence.
    Turn,
}

/// A cookie to be set: who the user is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// The part of the value that is the user.
    pub id: Box<[u8]>,
    /// The arm that the cookie names so far.
    named: Option<Box<[u8]>>,
    /// Which of the route's cookies it is: that of the key, or of this hash policy.
    pub policy: Option<usize>,
}

impl Chosen {
    const fn of(arm: Option<usize>, way: Way) -> Self {
        Self { arm, way, user: None, cookies: Vec::new() }
    }
}

/// Between the user and the arm in a cookie's value.
const SEPARATOR: u8 = b'.';

impl CompiledRoute {
    /// The arm that takes a request, as far as the request decides it. Cost: at most a look at the headers, and a hash; no
    /// allocation but for a cookie.
    pub fn choose(&self, split: &Split, request: &impl RequestView) -> Chosen {
        if let Choice::Only(arm) = self.choice {
            return Chosen::of(Some(arm), Way::Only);
        }
        if let Some(header) = &split.override_header {
            let named = request.header(header.as_bytes()).find_map(|value| arm_named(split, value));
            if named.is_some() {
                return Chosen::of(named, Way::Override);
            }
        }
        match (&self.choice, &split.by) {
            (Choice::Keyed(rendezvous), SplitBy::User(key)) => by_user(rendezvous, split, key, request),
            (_, SplitBy::Number(header)) => {
                let mut lines = request.header(header.as_bytes());
                let value = lines.next().filter(|_| lines.next().is_none());
                let number =
                    value.and_then(|value| std::str::from_utf8(value).ok()?.trim_ascii().parse().ok());
                by_number(split, number)
            }
            (_, SplitBy::Hash(policies)) => {
                let (hash, cookies) = hash(policies, request);
                Chosen { cookies, ..by_number(split, hash) }
            }
            _ => Chosen::of(None, Way::Turn),
        }
    }

    /// Another arm than the one that was chosen, which has no usable endpoint: the user's next one of those that do. Nothing
    /// where turns decide, or where no arm may or can take the request.
    pub fn spill(&self, split: &Split, chosen: &Chosen, usable: impl Fn(usize) -> bool) -> Option<usize> {
        match (&self.choice, chosen.user) {
            (Choice::Keyed(rendezvous), Some(user)) if split.unavailable == Unavailable::Spill => {
                rendezvous.pick_among(user, usable)
            }
            _ => None,
        }
    }
}

fn arm_named(split: &Split, name: &[u8]) -> Option<usize> {
    split.arms.iter().position(|arm| arm.name.as_str().as_bytes() == name)
}

fn by_number(split: &Split, number: Option<u64>) -> Chosen {
    match number {
        Some(number) => Chosen::of(split::cumulative(&split.arms, number), Way::Number(number)),
        None => Chosen::of(None, Way::Turn),
    }
}

fn by_user(rendezvous: &Rendezvous, split: &Split, key: &SplitKey, request: &impl RequestView) -> Chosen {
    let stays = |user: &[u8], cookie: Option<NewUser>| {
        let user = rendezvous.hash(user);
        let arm = Some(rendezvous.pick_hashed(user));
        Chosen { arm, way: Way::User, user: Some(user), cookies: cookie.into_iter().collect() }
    };
    let user = match &key.source {
        KeySource::Header(name) => request.header(name.as_bytes()).next(),
        KeySource::Query(name) => query_parameter(request.path(), name.as_bytes()),
        KeySource::SourceIp => {
            return match request.source() {
                Some(address) => stays(address.to_canonical().to_string().as_bytes(), None),
                None => Chosen::of(None, Way::Turn),
            };
        }
        KeySource::Cookie(KeyCookie { name, ttl, .. }) => {
            let value = cookie(request, name.as_bytes()).filter(|value| !value.is_empty());
            match (value, ttl) {
                (value, None) => value,
                (None, Some(_)) => {
                    let id: Box<[u8]> = format!("{:016x}", request.draw()).into_bytes().into();
                    return stays(&id.clone(), Some(NewUser { id, named: None, policy: None }));
                }
                (Some(value), Some(_)) => {
                    let (id, named) = match memchr::memchr(SEPARATOR, value) {
                        Some(at) => (&value[..at], Some(&value[at + 1..])),
                        None => (value, None),
                    };
                    let holds = |name: &ArmName| named.is_some_and(|named| *named == *cookie_text(name));
                    if let Some(arm) = split.arms.iter().position(|arm| arm.drains && holds(&arm.name)) {
                        let user = Some(rendezvous.hash(id));
                        return Chosen { arm: Some(arm), way: Way::Draining, user, cookies: Vec::new() };
                    }
                    let mut chosen = stays(id, None);
                    let is_named = chosen.arm.is_some_and(|arm| holds(&split.arms[arm].name));
                    if !is_named {
                        let named = named.map(Into::into);
                        chosen.cookies.push(NewUser { id: id.into(), named, policy: None });
                    }
                    return chosen;
                }
            }
        }
    };
    match user {
        Some(user) => stays(user, None),
        None => Chosen::of(None, Way::Turn),
    }
}

/// Envoy's hash of a request, and the cookies that have to be made for it.
fn hash(policies: &[HashPolicy], request: &impl RequestView) -> (Option<u64>, Vec<NewUser>) {
    let mut hash: Option<u64> = None;
    let mut made = Vec::new();
    for (number, HashPolicy { source, terminal }) in policies.iter().enumerate() {
        let new = match source {
            HashSource::Header(name, rewrite) => {
                let mut lines: Vec<_> = request.header(name.as_bytes()).collect();
                lines.sort_unstable();
                let rewritten: Vec<Vec<u8>> = match rewrite {
                    Some(rewrite) => lines
                        .iter()
                        .map(|line| {
                            let mut out = Vec::new();
                            rewrite.write(line, &mut out);
                            out
                        })
                        .collect(),
                    None => Vec::new(),
                };
                if !rewritten.is_empty() {
                    lines = rewritten.iter().map(Vec::as_slice).collect();
                }
                split::envoy_hash(&lines)
            }
            HashSource::Query(name) => {
                query_parameter(request.path(), name.as_bytes()).and_then(|value| split::envoy_hash(&[value]))
            }
            HashSource::SourceIp => {
                request.source().and_then(|address| split::envoy_hash(&[address.to_string().as_bytes()]))
            }
            HashSource::Cookie(KeyCookie { name, ttl, .. }, _) => {
                match (cookie(request, name.as_bytes()).filter(|value| !value.is_empty()), ttl) {
                    (Some(value), _) => split::envoy_hash(&[value]),
                    (None, Some(_)) => {
                        let id: Box<[u8]> = format!("{:016x}", request.draw()).into_bytes().into();
                        let hash = split::envoy_hash(&[&id]);
                        made.push(NewUser { id, named: None, policy: Some(number) });
                        hash
                    }
                    (None, None) => None,
                }
            }
        };
        if let Some(new) = new {
            hash = Some(hash.map_or(0, |old| old.rotate_left(1)) ^ new);
        }
        if *terminal && hash.is_some() {
            break;
        }
    }
    (hash, made)
}

/// An arm's name as it can stand in a cookie's value (RFC 6265 §4.1.1).
fn cookie_text(name: &ArmName) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in name.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~!#$&'*+^`|/:@#.".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

/// Appends the `Set-Cookie` line of a user whose requests `arm` takes. Nothing if the cookie says so already.
pub fn set_cookie(split: &Split, user: &NewUser, arm: usize, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let NewUser { id, named, policy } = user;
    let none = Vec::new();
    let (KeyCookie { name, ttl, path }, attributes) = match (&split.by, policy) {
        (SplitBy::User(SplitKey { source: KeySource::Cookie(cookie), .. }), None) => (cookie, &none),
        (SplitBy::Hash(policies), Some(policy)) => match policies.get(*policy).map(|policy| &policy.source) {
            Some(HashSource::Cookie(cookie, attributes)) => (cookie, attributes),
            _ => return,
        },
        _ => return,
    };
    let arm = (policy.is_none()).then(|| cookie_text(&split.arms[arm].name));
    if arm.is_some() && arm.as_deref() == named.as_deref() {
        return;
    }
    out.extend_from_slice(b"set-cookie: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    out.extend_from_slice(id);
    if let Some(arm) = arm {
        out.push(SEPARATOR);
        out.extend_from_slice(&arm);
    }
    out.push(b'"');
    if let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) {
        let _ = write!(out, "; Max-Age={}", ttl.as_secs());
    }
    if !path.is_empty() {
        let _ = write!(out, "; Path={path}");
    }
    for (name, value) in attributes {
        let _ = if value.is_empty() { write!(out, "; {name}") } else { write!(out, "; {name}={value}") };
    }
    out.extend_from_slice(b"; HttpOnly\r\n");
}
