//! Which filter chain serves a connection.
//!
//! What is set is compared in a fixed order, as in Envoy: the port that the client wanted, the address, the server name, the
//! transport protocol, the application protocol, where the connection comes from, how far away the client is, its address and
//! its port. At each step only the most specific of the chains that are left stay; there is no way back, but to the default
//! chain.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::{AddressRange, ChainMatch, FilterChain, ServerName, SourceKind, TransportProtocol};

/// What is known of a connection before a chain is chosen.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectionFacts<'a> {
    /// The address and port that the client wanted; none of a Unix socket.
    pub destination: Option<(IpAddr, u16)>,
    /// The name that it asked for by SNI, in lower case.
    pub server_name: Option<&'a str>,
    /// Whether it begins with TLS.
    pub is_tls: bool,
    /// What it offers by ALPN, or what its first bytes are.
    pub application_protocols: &'a [&'a str],
    /// Where the connection really comes from.
    pub direct_source: Option<IpAddr>,
    /// The client's address and port.
    pub source: Option<(IpAddr, u16)>,
}

/// How well a chain fits a connection in one respect; none where it does not.
type Step<'a> = dyn Fn(&ChainMatch) -> Option<usize> + 'a;

/// The chain that serves a connection, by its index. Cost: one look at each chain for each step.
pub fn choose(chains: &[FilterChain], facts: &ConnectionFacts<'_>) -> Option<usize> {
    let default = chains.iter().position(|chain| chain.matching.is_none());
    if let [FilterChain { matching: None, .. }] = chains {
        return default;
    }
    let mut left: Vec<(usize, &ChainMatch)> =
        chains.iter().enumerate().filter_map(|(i, chain)| Some((i, chain.matching.as_ref()?))).collect();
    let steps: [&Step<'_>; 9] = [
        &|m| any_or(m.destination_port, |port| facts.destination.is_some_and(|(_, wanted)| wanted == port)),
        &|m| within(&m.destinations, facts.destination.map(|(address, _)| address)),
        &|m| named(&m.server_names, facts.server_name),
        &|m| any_or(m.transport, |transport| facts.is_tls == (transport == TransportProtocol::Tls)),
        &|m| offered(&m.application_protocols, facts.application_protocols),
        &|m| within(&m.direct_sources, facts.direct_source),
        &|m| any_or((m.source_kind != SourceKind::Any).then_some(m.source_kind), |kind| is_of(kind, facts)),
        &|m| within(&m.sources, facts.source.map(|(address, _)| address)),
        &|m| one_of(&m.source_ports, |wanted| facts.source.is_some_and(|(_, port)| port == *wanted)),
    ];
    for step in steps {
        let ranked: Vec<_> = left.iter().filter_map(|chain| Some((step(chain.1)?, *chain))).collect();
        let best = ranked.iter().map(|(rank, _)| *rank).max();
        left = ranked.into_iter().filter(|(rank, _)| Some(*rank) == best).map(|(_, chain)| chain).collect();
    }
    left.first().map(|(index, _)| *index).or(default)
}

/// The first two of these matches that some connection fits equally well, by their numbers: which of them served it
/// would depend on their order alone.
pub fn overlap<'a>(matches: impl IntoIterator<Item = &'a ChainMatch>) -> Option<(usize, usize)> {
    let mut by_name: HashMap<Option<&ServerName>, Vec<(usize, &ChainMatch)>> = HashMap::new();
    for (number, matching) in matches.into_iter().enumerate() {
        let names = matching.server_names.iter().map(Some);
        let unnamed = matching.server_names.is_empty().then_some(None);
        for name in names.chain(unnamed) {
            let others = by_name.entry(name).or_default();
            if let Some((other, _)) =
                others.iter().find(|(other, m)| *other != number && is_ambiguous(m, matching))
            {
                return Some((*other, number));
            }
            others.push((number, matching));
        }
    }
    None
}

/// Whether two matches are equally specific, beside their names, for some connection.
fn is_ambiguous(one: &ChainMatch, other: &ChainMatch) -> bool {
    fn share<T: PartialEq>(one: &[T], other: &[T]) -> bool {
        (one.is_empty() && other.is_empty()) || one.iter().any(|item| other.contains(item))
    }
    fn share_ranges(one: &[AddressRange], other: &[AddressRange]) -> bool {
        let everything =
            |ranges: &[AddressRange]| ranges.is_empty() || ranges.iter().any(|range| range.bits == 0);
        (everything(one) && everything(other))
            || one.iter().any(|range| range.bits > 0 && other.contains(range))
    }
    one.destination_port == other.destination_port
        && one.transport == other.transport
        && one.source_kind == other.source_kind
        && share_ranges(&one.destinations, &other.destinations)
        && share_ranges(&one.direct_sources, &other.direct_sources)
        && share_ranges(&one.sources, &other.sources)
        && share(&one.application_protocols, &other.application_protocols)
        && share(&one.source_ports, &other.source_ports)
}

/// Nothing wanted is the least specific; what is wanted must hold.
fn any_or<T>(wanted: Option<T>, holds: impl Fn(T) -> bool) -> Option<usize> {
    match wanted {
        None => Some(0),
        Some(wanted) => holds(wanted).then_some(1),
    }
}

fn one_of<T>(wanted: &[T], holds: impl Fn(&T) -> bool) -> Option<usize> {
    match wanted {
        [] => Some(0),
        wanted => wanted.iter().any(holds).then_some(1),
    }
}

/// The protocol that the client likes best among those that some chain is for.
fn offered(wanted: &[Box<str>], offers: &[&str]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    let best = offers.iter().position(|offer| wanted.iter().any(|wanted| **wanted == **offer))?;
    Some(offers.len() - best)
}

/// The longest range that holds the address. One that holds all of them says as little as none.
fn within(ranges: &[AddressRange], address: Option<IpAddr>) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    let address = address?;
    ranges.iter().filter(|range| range.contains(address)).map(|range| usize::from(range.bits)).max()
}

/// The exact name before the longest suffix.
fn named(names: &[ServerName], asked: Option<&str>) -> Option<usize> {
    if names.is_empty() {
        return Some(0);
    }
    let asked = asked?;
    let rank = |name: &ServerName| match name {
        ServerName::Exact(name) => (**name == *asked).then_some(usize::MAX),
        ServerName::Suffix(suffix) => {
            (asked.len() > suffix.len() && asked.ends_with(&**suffix)).then_some(suffix.len())
        }
    };
    names.iter().filter_map(rank).max()
}

fn is_of(kind: SourceKind, facts: &ConnectionFacts<'_>) -> bool {
    let source = facts.source.map(|(address, _)| address);
    let is_local = match (source, facts.destination) {
        (None, _) => true,
        (Some(source), destination) => {
            source.is_loopback() || destination.is_some_and(|(address, _)| address == source)
        }
    };
    match kind {
        SourceKind::Any => true,
        SourceKind::Local => is_local,
        SourceKind::External => !is_local,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{HttpOptions, Patience, RouteSource, Serves};

    fn chains(matches: Vec<Option<ChainMatch>>) -> Vec<FilterChain> {
        let chain = |matching| FilterChain {
            name: "".into(),
            matching,
            tls: None,
            handshake_timeout: None,
            routes: RouteSource::Rds("r".into(), Patience::default()),
            http: Arc::new(HttpOptions::ingress()),
            serves: Serves::Http,
        };
        matches.into_iter().map(chain).collect()
    }

    fn any() -> ChainMatch {
        ChainMatch::default()
    }

    fn names(names: &[&str]) -> ChainMatch {
        let name = |name: &&str| match name.strip_prefix('*') {
            Some(suffix) => ServerName::Suffix(suffix.into()),
            None => ServerName::Exact((*name).into()),
        };
        ChainMatch { server_names: names.iter().map(name).collect(), ..any() }
    }

    fn range(text: &str) -> AddressRange {
        let (address, bits) = text.split_once('/').expect("a range");
        AddressRange { address: address.parse().expect("an address"), bits: bits.parse().expect("a number") }
    }

    #[test]
    fn the_most_specific_name_wins_and_what_is_left_goes_to_the_default() {
        let chains = chains(vec![
            Some(names(&["*.example.com"])),
            Some(names(&["a.example.com", "b.example.com"])),
            Some(names(&["*.c.example.com"])),
            None,
        ]);
        let to = |name: Option<&str>| {
            choose(&chains, &ConnectionFacts { server_name: name, is_tls: true, ..Default::default() })
        };
        for (name, chain) in [
            (Some("a.example.com"), 1),
            (Some("x.example.com"), 0),
            (Some("x.c.example.com"), 2),
            (Some("c.example.com"), 0),
            (Some("example.com"), 3),
            (None, 3),
        ] {
            assert_eq!(to(name), Some(chain), "{name:?}");
        }
    }

    #[test]
    fn plaintext_and_tls_are_told_apart_on_one_port() {
        let transport = |transport| Some(ChainMatch { transport: Some(transport), ..any() });
        let chains = chains(vec![transport(TransportProtocol::Tls), transport(TransportProtocol::RawBuffer)]);
        let with = |is_tls| choose(&chains, &ConnectionFacts { is_tls, ..Default::default() });
        assert_eq!((with(true), with(false)), (Some(0), Some(1)));
    }

    #[test]
    fn there_is_no_way_back_once_a_step_has_chosen() {
        // The exact name wins although only the wildcard's chain has the protocol.
        let chains = chains(vec![
            Some(ChainMatch { application_protocols: vec!["h2".into()], ..names(&["*.example.com"]) }),
            Some(ChainMatch { application_protocols: vec!["http/1.1".into()], ..names(&["a.example.com"]) }),
        ]);
        let facts = ConnectionFacts {
            server_name: Some("a.example.com"),
            is_tls: true,
            application_protocols: &["h2"],
            ..Default::default()
        };
        assert_eq!(choose(&chains, &facts), None);
    }

    #[test]
    fn addresses_ports_and_distance_count() {
        let chains = chains(vec![
            Some(ChainMatch { destination_port: Some(443), ..any() }),
            Some(ChainMatch { destinations: vec![range("10.0.0.0/8")], ..any() }),
            Some(ChainMatch { destinations: vec![range("10.1.0.0/16")], source_ports: vec![7], ..any() }),
            Some(ChainMatch { source_kind: SourceKind::Local, ..any() }),
            Some(ChainMatch { sources: vec![range("192.0.2.0/24")], ..any() }),
        ]);
        let to = |destination: &str, port, source: &str, source_port| {
            let destination = Some((destination.parse().expect("an address"), port));
            let source = Some((source.parse().expect("an address"), source_port));
            choose(&chains, &ConnectionFacts { destination, source, ..Default::default() })
        };
        assert_eq!(to("10.1.0.1", 443, "192.0.2.1", 1), Some(0));
        assert_eq!(to("10.2.0.1", 80, "192.0.2.1", 1), Some(1));
        assert_eq!(to("10.1.0.1", 80, "192.0.2.1", 7), Some(2));
        assert_eq!(to("10.1.0.1", 80, "192.0.2.1", 8), None, "the longer range was chosen first");
        assert_eq!(to("198.51.100.1", 80, "127.0.0.1", 8), Some(3));
        assert_eq!(to("198.51.100.1", 80, "198.51.100.1", 8), Some(3));
        assert_eq!(to("198.51.100.1", 80, "192.0.2.1", 8), Some(4));
    }

    #[test]
    fn a_chain_without_conditions_is_no_default() {
        let tls =
            ChainMatch { destination_port: Some(8443), transport: Some(TransportProtocol::Tls), ..any() };
        let facts = ConnectionFacts {
            destination: Some(("10.0.0.1".parse().expect("an address"), 8443)),
            ..Default::default()
        };
        assert_eq!(
            choose(&chains(vec![Some(tls.clone()), Some(any())]), &facts),
            None,
            "the port was chosen first"
        );
        assert_eq!(choose(&chains(vec![Some(tls), Some(any()), None]), &facts), Some(2));
    }

    #[test]
    fn the_clients_order_of_protocols_counts() {
        let speaks =
            |protocol: &str| Some(ChainMatch { application_protocols: vec![protocol.into()], ..any() });
        let chains = chains(vec![speaks("http/1.1"), speaks("h2")]);
        let to = |offers: &[&str]| {
            choose(&chains, &ConnectionFacts { application_protocols: offers, ..Default::default() })
        };
        assert_eq!(to(&["h2", "http/1.1"]), Some(1));
        assert_eq!(to(&["http/1.1", "h2"]), Some(0));
        assert_eq!(to(&["spdy"]), None);
    }

    #[test]
    fn matches_that_only_their_order_tells_apart_are_found() {
        let between = |one: ChainMatch, other: ChainMatch| overlap([&one, &other]);
        assert_eq!(between(names(&["a", "b"]), names(&["b"])), Some((0, 1)));
        assert_eq!(between(names(&["a", "b"]), names(&["*.b"])), None);
        assert_eq!(between(any(), any()), Some((0, 1)));
        let everywhere = ChainMatch { sources: vec![range("0.0.0.0/0")], ..any() };
        assert_eq!(between(any(), everywhere), Some((0, 1)));
        let ports = |ports: &[u16]| ChainMatch { source_ports: ports.to_vec(), ..any() };
        assert_eq!(between(ports(&[1, 2]), ports(&[2, 3])), Some((0, 1)));
        assert_eq!(between(ports(&[1, 2]), ports(&[3])), None);
        assert_eq!(between(ports(&[1, 2]), any()), None, "one says more");
    }
}
