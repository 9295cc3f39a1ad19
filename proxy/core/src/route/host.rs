//! From a host to its virtual host: exact, then the longest suffix, then the longest prefix, then `*`.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::config::Domain;

type Names = HashMap<Box<str>, u32, FixedState>;

/// Virtual hosts by domain. The tables are only read, so a client cannot fill them with collisions.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: Names,
    /// By length, longest first.
    suffixes: Vec<(usize, Names)>,
    prefixes: Vec<(usize, Names)>,
    any: Option<u32>,
    ignore_port: bool,
}

impl HostIndex {
    pub(super) fn new<'a>(domains: impl Iterator<Item = (&'a Domain, u32)>, ignore_port: bool) -> Self {
        let mut index = Self { ignore_port, ..Self::default() };
        for (domain, host) in domains {
            match domain {
                Domain::Exact(name) => {
                    index.exact.insert(name.clone(), host);
                }
                Domain::Suffix(name) => insert_by_length(&mut index.suffixes, name, host),
                Domain::Prefix(name) => insert_by_length(&mut index.prefixes, name, host),
                Domain::Any => index.any = Some(host),
            }
        }
        index
    }

    /// The virtual host of an authority, whatever its case. Cost: one hash for an exact domain, then one for each length
    /// of wildcard; no allocation.
    pub(super) fn find(&self, authority: &[u8]) -> Option<u32> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let authority = if self.ignore_port { without_port(authority) } else { authority };
        // Host names end at 253 bytes (RFC 1035 §2.3.4); five digits of port and brackets come on top.
        let mut lower = [0_u8; 272];
        let lower = lower.get_mut(..authority.len())?;
        lower.copy_from_slice(authority);
        lower.make_ascii_lowercase();
        let Ok(host) = std::str::from_utf8(lower) else {
            return self.any;
        };
        self.exact
            .get(host)
            .or_else(|| {
                let shorter = self.suffixes.iter().filter(|(length, _)| *length < host.len());
                shorter.filter_map(|(length, names)| names.get(host.get(host.len() - length..)?)).next()
            })
            .or_else(|| {
                let shorter = self.prefixes.iter().filter(|(length, _)| *length < host.len());
                shorter.filter_map(|(length, names)| names.get(host.get(..*length)?)).next()
            })
            .copied()
            .or(self.any)
    }
}

fn insert_by_length(groups: &mut Vec<(usize, Names)>, name: &str, host: u32) {
    let at = groups.binary_search_by_key(&std::cmp::Reverse(name.len()), |(n, _)| std::cmp::Reverse(*n));
    let at = at.unwrap_or_else(|at| {
        groups.insert(at, (name.len(), Names::default()));
        at
    });
    groups[at].1.insert(name.into(), host);
}

/// The host without `:port`; the colons of an IPv6 address are not one.
pub(super) fn without_port(authority: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', authority) {
        Some(colon) if authority[colon + 1..].iter().all(u8::is_ascii_digit) => &authority[..colon],
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(ignore_port: bool) -> HostIndex {
        let domains = [
            Domain::Exact("shop.example.com".into()),
            Domain::Suffix(".example.com".into()),
            Domain::Suffix(".eu.example.com".into()),
            Domain::Prefix("shop.".into()),
            Domain::Prefix("shop.example.".into()),
            Domain::Any,
            Domain::Exact("[::1]".into()),
        ];
        HostIndex::new(domains.iter().zip(0..), ignore_port)
    }

    #[test]
    fn exact_beats_suffix_beats_prefix_beats_any_and_longer_beats_shorter() {
        let cases = [
            ("shop.example.com", 0),
            ("SHOP.Example.com", 0),
            ("a.example.com", 1),
            ("a.eu.example.com", 2),
            ("shop.eu.example.com", 2),
            ("shop.org", 3),
            ("shop.example.org", 4),
            ("example.com", 5),
            (".example.com", 5),
            ("shop.", 5),
            ("", 5),
            ("shop.example.com:80", 4),
        ];
        for (host, expected) in cases {
            assert_eq!(index(false).find(host.as_bytes()), Some(expected), "{host}");
        }
    }

    #[test]
    fn the_port_is_ignored_where_asked() {
        for (host, expected) in
            [("shop.example.com:8080", 0), ("a.example.com:1", 1), ("[::1]:80", 6), ("[::1]", 6)]
        {
            assert_eq!(index(true).find(host.as_bytes()), Some(expected), "{host}");
        }
    }

    #[test]
    fn a_host_beyond_any_name_matches_nothing() {
        assert_eq!(index(false).find(&[b'a'; 300]), None);
    }
}
