//! From a path to the routes whose path condition it meets.
//!
//! Exact paths are hashed. Prefixes live in a radix trie; walking a path down the trie passes every prefix of it. Each
//! place holds route numbers in ascending order, cut after the first route without further conditions: behind that one,
//! nothing in the same place can win. Expressions are tried at once.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::fields::Fields;
use crate::config::{Condition, FieldName, HeaderMatch, PathMatch, Predicate, Route, TextForm};
use crate::pattern::{Pattern, PatternSet};

/// Whether the condition on a path holds. `path` has no query.
pub(super) fn holds(condition: &PathMatch, ignores_case: bool, path: &[u8]) -> bool {
    let starts = |text: &str| {
        path.get(..text.len()).is_some_and(|start| match ignores_case {
            true => start.eq_ignore_ascii_case(text.as_bytes()),
            false => start == text.as_bytes(),
        })
    };
    match condition {
        PathMatch::Connect => path.is_empty(),
        _ if path.is_empty() => false,
        PathMatch::Prefix(text) => starts(text),
        PathMatch::SeparatedPrefix(text) => starts(text) && matches!(path.get(text.len()), None | Some(b'/')),
        PathMatch::Exact(text) => path.len() == text.len() && starts(text),
        PathMatch::Regex(pattern) => pattern.matches(path),
        PathMatch::Template(template) => template.pattern().matches(path),
    }
}

/// How many routes in one place are looked at one by one before they are found by the value of a header.
const FEW: usize = 8;

/// What is asked of a route, or of a request, while the index is searched.
pub(super) trait Search {
    /// Whether the route's conditions hold.
    fn matches(&self, route: u32) -> bool;
    /// Whether the header with this bit is there.
    fn has(&self, bit: u8) -> bool;
    /// The values of a header in lower case.
    fn values(&self, header: &str, take: impl FnMut(&[u8]));
}

/// Routes at one place.
#[derive(Debug, Default)]
struct RouteList {
    /// Ascending.
    routes: Box<[u32]>,
    /// Those of many that want a header to have one value.
    keyed: Option<Box<Keyed>>,
}

type Keyed = Vec<ByValue>;

/// Routes that want a header to have one value.
#[derive(Debug)]
struct ByValue {
    header: Box<str>,
    /// The header's bit among those that are looked for at once.
    bit: Option<u8>,
    /// By that value, ascending.
    routes: HashMap<Box<[u8]>, Vec<u32>, FixedState>,
}

#[derive(Debug, Default)]
pub(super) struct PathIndex {
    exact: HashMap<Box<[u8]>, RouteList, FixedState>,
    /// The root is node 0 and has an empty label.
    nodes: Vec<Node>,
    /// For requests without a path.
    connect: RouteList,
    expressions: Option<Box<Expressions>>,
    /// Routes for which the case of the path plays no part, in lower case.
    any_case: Option<Box<Self>>,
}

#[derive(Debug, Default)]
struct Node {
    label: Box<[u8]>,
    /// By first byte of their label.
    children: Vec<(u8, u32)>,
    prefix: RouteList,
    separated: RouteList,
}

/// Routes with expressions, in their order.
#[derive(Debug)]
struct Expressions {
    routes: Vec<(u32, Pattern)>,
    /// Each [`AT_ONCE`] of them at once, unless that is too large.
    sets: Vec<Option<PatternSet>>,
}

/// Expressions that are tried at once. More would be faster still; but what a search may need to remember grows with their
/// number times their size.
const AT_ONCE: usize = 16;

/// A kind of condition and its text.
type Place = (u8, Box<[u8]>);

/// Routes as they are put together.
#[derive(Default)]
struct Builder<'a> {
    lists: HashMap<Place, Vec<(u32, &'a Route)>>,
    order: Vec<Place>,
    expressions: Vec<(u32, Pattern)>,
}

impl<'a> Builder<'a> {
    fn add(&mut self, number: u32, route: &'a Route, lower: bool) {
        let (kind, text) = match &route.path {
            PathMatch::Exact(text) => (0, text.as_bytes()),
            PathMatch::Prefix(text) => (1, text.as_bytes()),
            PathMatch::SeparatedPrefix(text) => (2, text.as_bytes()),
            PathMatch::Connect => (3, &b""[..]),
            PathMatch::Regex(pattern) => return self.expressions.push((number, pattern.clone())),
            PathMatch::Template(template) => {
                return self.expressions.push((number, template.pattern().clone()));
            }
        };
        let text = if lower { text.to_ascii_lowercase() } else { text.to_vec() };
        let key = (kind, text.into_boxed_slice());
        let list = self.lists.entry(key.clone()).or_default();
        if list.is_empty() {
            self.order.push(key);
        }
        // A list is closed once it holds a route that always matches.
        if list.last().is_none_or(|(_, last)| !last.conditions.is_empty()) {
            list.push((number, route));
        }
    }

    fn finish(mut self, any_case: Option<Box<PathIndex>>, fields: &Fields) -> PathIndex {
        let mut index = PathIndex { nodes: vec![Node::default()], any_case, ..PathIndex::default() };
        for key in self.order {
            let list = RouteList::new(&self.lists.remove(&key).unwrap_or_default(), fields);
            let (kind, text) = key;
            match kind {
                0 => drop(index.exact.insert(text, list)),
                1 => index.node(&text).prefix = list,
                2 => index.node(&text).separated = list,
                _ => index.connect = list,
            }
        }
        index.nodes.shrink_to_fit();
        index.expressions = Expressions::new(self.expressions).map(Box::new);
        index
    }
}

impl PathIndex {
    /// Over those of `routes` that `serves` wants, in their order. `fields` knows the headers that they want.
    pub(super) fn new(routes: &[Route], fields: &Fields, serves: impl Fn(u32) -> bool) -> Self {
        let (mut exact_case, mut any_case) = (Builder::default(), None);
        for (number, route) in (0..).zip(routes).filter(|(number, _)| serves(*number)) {
            let is_text =
                !matches!(route.path, PathMatch::Regex(_) | PathMatch::Template(_) | PathMatch::Connect);
            if route.ignores_path_case && is_text {
                any_case.get_or_insert_with(Builder::default).add(number, route, true);
            } else {
                exact_case.add(number, route, false);
            }
        }
        exact_case.finish(any_case.map(|builder| Box::new(builder.finish(None, fields))), fields)
    }

    /// The lowest-numbered route at the path whose conditions hold. `path` has no query.
    ///
    /// Cost: one hash and one walk over the path's bytes, one more for expressions; conditions only of routes whose path
    /// condition is met.
    pub(super) fn first(&self, path: &[u8], search: &impl Search) -> Option<u32> {
        let mut best = u32::MAX;
        if path.is_empty() {
            self.connect.first(search, &mut best);
        } else {
            self.walk(path, search, &mut best);
            if let Some(any_case) = &self.any_case {
                any_case.walk(&path.to_ascii_lowercase(), search, &mut best);
            }
        }
        (best != u32::MAX).then_some(best)
    }

    fn walk(&self, path: &[u8], search: &impl Search, best: &mut u32) {
        if !self.exact.is_empty()
            && let Some(list) = self.exact.get(path)
        {
            list.first(search, best);
        }
        let mut at = 0_usize;
        let mut rest = path;
        while let Some(node) = self.nodes.get(at) {
            let Some(after) = rest.strip_prefix(&*node.label) else {
                break;
            };
            rest = after;
            node.prefix.first(search, best);
            if matches!(rest.first(), None | Some(b'/')) {
                node.separated.first(search, best);
            }
            let Some(first) = rest.first() else { break };
            let Ok(child) = node.children.binary_search_by_key(first, |(byte, _)| *byte) else {
                break;
            };
            at = node.children[child].1 as usize;
        }
        if let Some(expressions) = &self.expressions {
            expressions.first(path, search, best);
        }
    }

    /// The node for exactly `text`, made where it is missing.
    fn node(&mut self, text: &[u8]) -> &mut Node {
        let mut at = 0;
        let mut rest = text;
        loop {
            let shared = shared_prefix(&self.nodes[at].label, rest);
            if shared < self.nodes[at].label.len() {
                self.split(at, shared);
            }
            rest = &rest[shared..];
            let Some(first) = rest.first() else {
                return &mut self.nodes[at];
            };
            match self.nodes[at].children.binary_search_by_key(first, |(byte, _)| *byte) {
                Ok(child) => at = self.nodes[at].children[child].1 as usize,
                Err(place) => {
                    let new = self.nodes.len();
                    self.nodes.push(Node { label: rest.into(), ..Node::default() });
                    self.nodes[at].children.insert(place, (*first, index(new)));
                    return &mut self.nodes[new];
                }
            }
        }
    }

    /// Cuts a node's label at `keep`: what followed becomes its only child.
    fn split(&mut self, at: usize, keep: usize) {
        let below = self.nodes.len();
        let node = &mut self.nodes[at];
        let lower = Node {
            label: node.label[keep..].into(),
            children: std::mem::take(&mut node.children),
            prefix: std::mem::take(&mut node.prefix),
            separated: std::mem::take(&mut node.separated),
        };
        node.label = node.label[..keep].into();
        node.children.push((lower.label[0], index(below)));
        self.nodes.push(lower);
    }
}

impl RouteList {
    fn new(routes: &[(u32, &Route)], fields: &Fields) -> Self {
        let all = || routes.iter().map(|(number, _)| *number);
        if routes.len() <= FEW {
            return Self { routes: all().collect(), keyed: None };
        }
        let header_of =
            |route: &Route| route.conditions.iter().find_map(exact_header).map(|(name, _)| name.to_owned());
        let mut wanted: HashMap<String, usize, FixedState> = HashMap::default();
        for (_, route) in routes {
            if let Some(header) = header_of(route) {
                *wanted.entry(header).or_default() += 1;
            }
        }
        // Few routes of one header are passed over by its bit, where it has one.
        let is_keyed = |header: &str| {
            let count = wanted.get(header).copied().unwrap_or(0);
            count > FEW || fields.bit(header).is_none()
        };
        let mut plain = Vec::new();
        let mut keyed = Keyed::new();
        for (number, route) in routes {
            let exact = route.conditions.iter().find_map(exact_header).filter(|(header, _)| is_keyed(header));
            let Some((header, value)) = exact else {
                plain.push(*number);
                continue;
            };
            let at = keyed.iter().position(|part| *part.header == *header).unwrap_or_else(|| {
                keyed.push(ByValue {
                    header: header.into(),
                    bit: fields.bit(header),
                    routes: HashMap::default(),
                });
                keyed.len() - 1
            });
            keyed[at].routes.entry(value.as_bytes().into()).or_default().push(*number);
        }
        Self { routes: plain.into(), keyed: (!keyed.is_empty()).then(|| Box::new(keyed)) }
    }

    /// Lowers `best` to the first of these routes that matches.
    #[inline]
    fn first(&self, search: &impl Search, best: &mut u32) {
        first_of(&self.routes, search, best);
        if let Some(keyed) = &self.keyed {
            for ByValue { header, bit, routes } in &**keyed {
                if bit.is_some_and(|bit| !search.has(bit)) {
                    continue;
                }
                search.values(header, |value| {
                    if let Some(routes) = routes.get(value) {
                        first_of(routes, search, best);
                    }
                });
            }
        }
    }
}

#[inline]
fn first_of(routes: &[u32], search: &impl Search, best: &mut u32) {
    for route in routes {
        if *route >= *best {
            break;
        }
        if search.matches(*route) {
            *best = *route;
            break;
        }
    }
}

/// A header that must have exactly one value.
fn exact_header(condition: &Condition) -> Option<(&str, &str)> {
    match condition {
        Condition::Header(HeaderMatch {
            name: FieldName::Header(name),
            predicate: Predicate::Text(text),
            inverted: false,
            missing_is_empty: false,
        }) if !text.ignores_case => match &text.form {
            TextForm::Exact(value) => Some((name, value)),
            _ => None,
        },
        _ => None,
    }
}

impl Expressions {
    fn new(routes: Vec<(u32, Pattern)>) -> Option<Self> {
        if routes.is_empty() {
            return None;
        }
        // One alone is its own set.
        let set = |part: &[(u32, Pattern)]| {
            let patterns: Vec<_> = part.iter().map(|(_, pattern)| pattern).collect();
            if patterns.len() > 1 { PatternSet::new(&patterns) } else { None }
        };
        let sets = routes.chunks(AT_ONCE).map(set).collect();
        Some(Self { routes, sets })
    }

    fn first(&self, path: &[u8], search: &impl Search, best: &mut u32) {
        for (part, set) in self.routes.chunks(AT_ONCE).zip(&self.sets) {
            if part.first().is_none_or(|(route, _)| *route >= *best) {
                return;
            }
            let mut rest = part;
            if let Some(set) = set {
                let Some(first) = set.first(path) else { continue };
                let (route, _) = &part[first];
                if *route >= *best {
                    return;
                }
                if search.matches(*route) {
                    *best = *route;
                    return;
                }
                // Its other conditions failed: those behind it are tried one by one.
                rest = &part[first + 1..];
            }
            for (route, pattern) in rest {
                if *route >= *best {
                    return;
                }
                if pattern.matches(path) && search.matches(*route) {
                    *best = *route;
                    return;
                }
            }
        }
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a route configuration of 2^32 prefixes exceeds every size limit before")
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
