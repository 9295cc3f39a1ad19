//! From a path to the routes whose path condition it meets.
//!
//! Exact paths are hashed. Prefixes live in a radix trie; walking a path down the trie passes every prefix of it. Each
//! place holds route numbers in ascending order, cut after the first route without header conditions: behind that one,
//! nothing in the same place can win.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::config::PathMatch;

/// Routes at one place, ascending.
type RouteList = Vec<u32>;

#[derive(Debug, Default)]
pub(super) struct PathIndex {
    exact: HashMap<Box<[u8]>, RouteList, FixedState>,
    /// The root is node 0 and has an empty label.
    nodes: Vec<Node>,
    /// For requests without a path.
    connect: RouteList,
}

#[derive(Debug, Default)]
struct Node {
    label: Box<[u8]>,
    /// By first byte of their label.
    children: Vec<(u8, u32)>,
    prefix: RouteList,
    separated: RouteList,
}

impl PathIndex {
    /// `routes` in their order, each with whether it has no further condition.
    pub(super) fn new<'a>(routes: impl Iterator<Item = (&'a PathMatch, bool)>) -> Self {
        let mut index = Self { nodes: vec![Node::default()], ..Self::default() };
        // A list is closed once it holds a route that always matches.
        let mut closed: std::collections::HashSet<(u8, &[u8])> = std::collections::HashSet::new();
        for (number, (path, unconditional)) in (0..).zip(routes) {
            let (kind, text) = match path {
                PathMatch::Exact(text) => (0, text.as_bytes()),
                PathMatch::Prefix(text) => (1, text.as_bytes()),
                PathMatch::SeparatedPrefix(text) => (2, text.as_bytes()),
                PathMatch::Connect => (3, &b""[..]),
            };
            if closed.contains(&(kind, text)) {
                continue;
            }
            if unconditional {
                closed.insert((kind, text));
            }
            match kind {
                0 => index.exact.entry(text.into()).or_default().push(number),
                1 => index.node(text).prefix.push(number),
                3 => index.connect.push(number),
                _ => index.node(text).separated.push(number),
            }
        }
        index
    }

    /// The lowest-numbered route at the path for which `matches` holds. `path` has no query.
    ///
    /// Cost: one hash and one walk over the path's bytes; `matches` only for routes whose path condition is met.
    pub(super) fn first(&self, path: &[u8], mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut best = u32::MAX;
        let mut try_list = |list: &RouteList| {
            for route in list {
                if *route >= best {
                    break;
                }
                if matches(*route) {
                    best = *route;
                    break;
                }
            }
        };
        if path.is_empty() {
            try_list(&self.connect);
            return (best != u32::MAX).then_some(best);
        }
        if !self.exact.is_empty()
            && let Some(list) = self.exact.get(path)
        {
            try_list(list);
        }
        let mut at = 0_usize;
        let mut rest = path;
        while let Some(node) = self.nodes.get(at) {
            let Some(after) = rest.strip_prefix(&*node.label) else {
                break;
            };
            rest = after;
            try_list(&node.prefix);
            if matches!(rest.first(), None | Some(b'/')) {
                try_list(&node.separated);
            }
            let Some(first) = rest.first() else { break };
            let Ok(child) = node.children.binary_search_by_key(first, |(byte, _)| *byte) else {
                break;
            };
            at = node.children[child].1 as usize;
        }
        (best != u32::MAX).then_some(best)
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

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a route configuration of 2^32 prefixes exceeds every size limit before")
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
