//! The same question answered the slow and obvious way, and a property test that both answers are equal.

use std::sync::Arc;

use proptest::prelude::*;

use super::{NoRoute, RequestView, RouteTable};
use crate::config::{
    Arm, Domain, FieldName, HeaderMatch, PathMatch, Predicate, Route, RouteConfiguration, RouteOptions,
    Split, VirtualHost, Weight,
};

#[derive(Debug, Clone)]
struct Request {
    method: String,
    authority: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl RequestView for Request {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }
    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }
    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }
    fn header<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(n, _)| n.to_lowercase().as_bytes() == name)
            .map(|(_, v)| v.as_bytes())
    }
}

/// Virtual host and route number, by trying everything in order.
fn linear(config: &RouteConfiguration, request: &Request) -> Option<(usize, Option<usize>)> {
    let mut host = request.authority.to_lowercase();
    if config.ignore_port_in_host_matching
        && let Some((name, port)) = host.rsplit_once(':')
        && port.chars().all(|c| c.is_ascii_digit())
    {
        host = name.to_owned();
    }
    let strength = |domain: &Domain| match domain {
        Domain::Exact(name) => (**name == host).then_some((3, name.len())),
        Domain::Suffix(name) => {
            (host.ends_with(&**name) && host.len() > name.len()).then_some((2, name.len()))
        }
        Domain::Prefix(name) => {
            (host.starts_with(&**name) && host.len() > name.len()).then_some((1, name.len()))
        }
        Domain::Any => Some((0, 0)),
    };
    let (_, virtual_host) = config
        .virtual_hosts
        .iter()
        .enumerate()
        .flat_map(|(i, h)| h.domains.iter().filter_map(strength).map(move |s| (s, i)))
        .max()?;
    let path = request.path.split('?').next().unwrap_or_default();
    let route = config.virtual_hosts[virtual_host].routes.iter().position(|route| {
        let path_matches = match &route.path {
            PathMatch::Connect => path.is_empty(),
            _ if path.is_empty() => false,
            PathMatch::Exact(text) => path == &**text,
            PathMatch::Prefix(text) => path.starts_with(&**text),
            PathMatch::SeparatedPrefix(text) => path == &**text || path.starts_with(&format!("{text}/")),
        };
        path_matches && route.headers.iter().all(|condition| linear_header(condition, request))
    });
    Some((virtual_host, route))
}

fn linear_header(condition: &HeaderMatch, request: &Request) -> bool {
    let values: Vec<&str> = match &condition.name {
        FieldName::Method => vec![&request.method],
        FieldName::Path => vec![&request.path],
        FieldName::Authority => vec![&request.authority],
        FieldName::Header(name) => request
            .headers
            .iter()
            .filter(|(n, _)| n.to_lowercase() == **name)
            .map(|(_, v)| v.as_str())
            .collect(),
    };
    match &condition.predicate {
        Predicate::Present => !values.is_empty(),
        Predicate::Absent => values.is_empty(),
        Predicate::Exact(expected) => values.iter().any(|value| **value == **expected),
    }
}

fn path_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["a", "b", "ab", "/", "/a"], 0..5)
        .prop_map(|parts| format!("/{}", parts.concat()))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    (path_text(), 0..4).prop_map(|(text, kind)| match kind {
        0 => PathMatch::Exact(text.into()),
        1 => PathMatch::Prefix(text.into()),
        2 => PathMatch::Connect,
        _ => PathMatch::SeparatedPrefix(text.trim_end_matches('/').into()),
    })
}

fn header_match() -> impl Strategy<Value = HeaderMatch> {
    let name = prop_oneof![
        "[xy]".prop_map(|n| FieldName::Header(n.into())),
        Just(FieldName::Method),
        Just(FieldName::Authority)
    ];
    let predicate = prop_oneof![
        Just(Predicate::Present),
        Just(Predicate::Absent),
        prop_oneof!["1", "2", "1,2", "GET"].prop_map(|v| Predicate::Exact(v.into())),
    ];
    (name, predicate).prop_map(|(name, predicate)| HeaderMatch { name, predicate })
}

fn route() -> impl Strategy<Value = Route> {
    (path_match(), proptest::collection::vec(header_match(), 0..3)).prop_map(|(path, headers)| Route {
        name: "".into(),
        path,
        headers,
        split: Split {
            arms: vec![Arm { name: "c".into(), cluster: "c".into(), weight: Weight(1) }],
            key: None,
        },
        options: RouteOptions::default(),
    })
}

fn host_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["a", "b", "[.]"], 1..5).prop_map(|parts| parts.concat())
}

fn configuration() -> impl Strategy<Value = RouteConfiguration> {
    let domain = (host_text(), 0..4).prop_map(|(text, kind)| match kind {
        0 => Domain::Exact(text.into()),
        1 => Domain::Suffix(text.into()),
        2 => Domain::Prefix(text.into()),
        _ => Domain::Any,
    });
    let host = (proptest::collection::vec(domain, 1..3), proptest::collection::vec(route(), 0..8));
    (proptest::collection::vec(host, 1..5), any::<bool>()).prop_map(|(hosts, ignore_port)| {
        let mut taken = std::collections::HashSet::new();
        let virtual_hosts = hosts.into_iter().enumerate().map(|(i, (domains, routes))| VirtualHost {
            name: format!("h{i}").into(),
            domains: domains.into_iter().filter(|d| taken.insert(d.clone())).collect(),
            routes,
        });
        RouteConfiguration {
            name: "r".into(),
            virtual_hosts: virtual_hosts.collect(),
            ignore_port_in_host_matching: ignore_port,
            validate_clusters: false,
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let header = (prop_oneof!["x", "y", "X", "z"], prop_oneof!["1", "2", ""]);
    let authority = (host_text(), prop_oneof!["", ":80"]).prop_map(|(host, port)| format!("{host}{port}"));
    (
        prop_oneof!["GET", "POST"],
        authority,
        (path_text(), prop_oneof!["", "[?]a=/b"]).prop_map(|(path, query)| format!("{path}{query}")),
        proptest::collection::vec(header, 0..4),
    )
        .prop_map(|(method, authority, path, headers)| Request { method, authority, path, headers })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_table_answers_as_the_linear_matcher(config in configuration(), requests in proptest::collection::vec(request(), 1..20)) {
        let table = RouteTable::compile(&config, &config.name, |_| 0);
        for request in &requests {
            let expected = linear(&config, request);
            let found = table.find(request);
            match (&expected, found) {
                (None, Err(NoRoute::NoVirtualHost)) => {}
                (Some((host, None)), Err(NoRoute::NoMatch { virtual_host })) => {
                    prop_assert_eq!(&virtual_host, &config.virtual_hosts[*host].name);
                }
                (Some((host, Some(route))), Ok((_, found))) => {
                    prop_assert_eq!(&found.label.virtual_host, &config.virtual_hosts[*host].name);
                    prop_assert_eq!(&found.label.route, &Arc::<str>::from(format!("#{route}")));
                }
                (expected, found) => prop_assert!(false, "linear: {:?}, table: {:?}, {:?}", expected, found, request),
            }
        }
    }
}
