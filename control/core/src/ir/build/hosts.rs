//! From entries to the virtual hosts of a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::http::Entry;
use crate::ir::{Host, Route};

/// The entries of one listener, by hostname; the empty one is every host.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    by_name: BTreeMap<String, Vec<Entry>>,
}

impl Hosts {
    /// A host that is served even if nothing is there: its requests are nobody else's.
    pub(super) fn claim(&mut self, hostname: &str) {
        self.by_name.entry(hostname.to_owned()).or_default();
    }

    pub(super) fn add(&mut self, hostname: &str, entries: &[Entry]) {
        self.by_name.entry(hostname.to_owned()).or_default().extend_from_slice(entries);
    }

    /// A list for each hostname, with every entry whose hostname covers it: the more specific hostname first, then by
    /// rank. What `first` says of the host's own entries comes before all of them.
    pub(super) fn finish(&self, first: impl Fn(&[Entry]) -> Vec<Arc<Route>>) -> Vec<Host> {
        let host = |name: &String| {
            let mut routes = Vec::new();
            for covering in covering(name) {
                let mut entries: Vec<_> = self.by_name.get(&covering).into_iter().flatten().collect();
                entries.sort_by_key(|entry| std::cmp::Reverse(entry.rank));
                routes.extend(entries.into_iter().map(|entry| entry.route.clone()));
            }
            let mut all = first(self.by_name.get(name).map(Vec::as_slice).unwrap_or_default());
            all.extend(routes);
            let hostname = if name.is_empty() { "*".to_owned() } else { name.clone() };
            Host { hostname, routes: all }
        };
        self.by_name.keys().map(host).collect()
    }
}

/// The names that every request for a name is also for, the most specific first.
pub(super) fn covering(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let mut rest = name.strip_prefix("*.").unwrap_or(name);
    while let Some((_, parent)) = rest.split_once('.') {
        let wildcard = format!("*.{parent}");
        if wildcard != name {
            names.push(wildcard);
        }
        rest = parent;
    }
    // `*.example.com` covers itself before `*.com`.
    if name.starts_with("*.") {
        names.retain(|n| n == name || n.len() < name.len());
    }
    if !name.is_empty() {
        names.push(String::new());
    }
    names
}

/// The hostname that both let through, the more specific one; the empty one is every host.
pub(super) fn intersection(listener: &str, route: &str) -> Option<String> {
    let covers = |wide: &str, narrow: &str| covering(narrow).iter().any(|name| name == wide);
    if covers(listener, route) {
        Some(route.to_owned())
    } else if covers(route, listener) {
        Some(listener.to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_covered_by_its_wildcards_and_by_all() {
        assert_eq!(
            covering("a.b.example.com"),
            ["a.b.example.com", "*.b.example.com", "*.example.com", "*.com", ""]
        );
        assert_eq!(covering("*.example.com"), ["*.example.com", "*.com", ""]);
        assert_eq!(covering(""), [""]);
    }

    #[test]
    fn the_narrower_of_two_names_is_what_both_let_through() {
        for (listener, route, both) in [
            ("", "a.com", Some("a.com")),
            ("*.a.com", "x.a.com", Some("x.a.com")),
            ("x.a.com", "*.a.com", Some("x.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "*.x.a.com", Some("*.x.a.com")),
            ("a.com", "b.com", None),
            ("*.a.com", "*.b.com", None),
            ("*.a.com", "", Some("*.a.com")),
        ] {
            assert_eq!(intersection(listener, route).as_deref(), both, "{listener} {route}");
        }
    }
}
