//! The same question answered the slow and obvious way, and a property test that both answers are equal.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::{NoRoute, RequestView, RouteTable};
use crate::config::{
    Action, AddressRange, Condition, CookieMatch, DirectResponse, Domain, FieldName, Fraction, HeaderEdits,
    HeaderMatch, Labels, NodeFacts, NodeMatch, PathMatch, Predicate, QueryMatch, Route, RouteConfiguration,
    TextForm, TextMatch, VirtualHost,
};
use crate::pattern::Pattern;
use crate::template::Template;

#[derive(Debug, Clone)]
struct Request {
    method: String,
    authority: String,
    path: String,
    headers: Vec<(String, String)>,
    source: IpAddr,
    labels: Labels,
    draw: u64,
    scheme: &'static str,
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
    fn each_name(&self, mut take: impl FnMut(&[u8])) {
        self.headers.iter().for_each(|(name, _)| take(name.as_bytes()));
    }
    fn source(&self) -> Option<IpAddr> {
        Some(self.source)
    }
    fn source_labels(&self) -> Option<&Labels> {
        Some(&self.labels)
    }
    fn draw(&self) -> u64 {
        self.draw
    }
    fn scheme(&self) -> &[u8] {
        self.scheme.as_bytes()
    }
}

fn text_holds(text: &TextMatch, value: &str) -> bool {
    let (value, lower) = (value.to_owned(), value.to_lowercase());
    let value = if text.ignores_case { lower } else { value };
    match &text.form {
        TextForm::Exact(wanted) => value == **wanted,
        TextForm::Prefix(wanted) => value.starts_with(&**wanted),
        TextForm::Suffix(wanted) => value.ends_with(&**wanted),
        TextForm::Contains(wanted) => value.contains(&**wanted),
        TextForm::Regex(pattern) => whole(pattern.as_str(), &value),
    }
}

/// By another engine than the one under test: one that backtracks, over the expressions of this test.
fn whole(pattern: &str, value: &str) -> bool {
    let value = value.as_bytes();
    match pattern {
        "/a/.*" => value.starts_with(b"/a/"),
        "(/[ab])+" => {
            value.len() >= 2 && value.chunks(2).all(|c| c.len() == 2 && c[0] == b'/' && b"ab".contains(&c[1]))
        }
        "[12]+" => !value.is_empty() && value.iter().all(|b| b"12".contains(b)),
        ".*b" => value.ends_with(b"b"),
        other => panic!("{other} is not one of the test's"),
    }
}

fn value_holds(predicate: &Predicate, value: &str) -> bool {
    match predicate {
        Predicate::Present => true,
        Predicate::Absent => false,
        Predicate::Text(text) => text_holds(text, value),
        Predicate::Range(start, end) => value.trim().parse::<i64>().is_ok_and(|n| *start <= n && n < *end),
    }
}

fn header_holds(condition: &HeaderMatch, request: &Request) -> bool {
    let values: Vec<String> = match &condition.name {
        FieldName::Header(name) => request
            .headers
            .iter()
            .filter(|(n, _)| n.to_lowercase() == **name)
            .map(|(_, value)| value.clone())
            .collect(),
        FieldName::Method => vec![request.method.clone()],
        FieldName::Path => vec![request.path.clone()],
        FieldName::Authority => vec![request.authority.clone()],
        FieldName::Scheme => vec![request.scheme.to_owned()],
    };
    let values = if values.is_empty() && condition.missing_is_empty { vec![String::new()] } else { values };
    if values.is_empty() {
        return match condition.predicate {
            Predicate::Present => condition.inverted,
            Predicate::Absent => !condition.inverted,
            Predicate::Text(_) | Predicate::Range(..) => false,
        };
    }
    let holds = values.iter().any(|value| value_holds(&condition.predicate, value))
        || (values.len() > 1 && value_holds(&condition.predicate, &values.join(",")));
    holds != condition.inverted
}

fn holds(condition: &Condition, request: &Request, node: &NodeFacts) -> bool {
    match condition {
        Condition::Header(condition) => header_holds(condition, request),
        Condition::Query(QueryMatch { name, predicate }) => {
            let query = request.path.split_once('?').map(|(_, query)| query);
            let pairs = query.into_iter().flat_map(|query| query.split('&'));
            let mut values = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            match values.find(|(key, _)| **key == **name) {
                Some((_, value)) => value_holds(predicate, value),
                None => *predicate == Predicate::Absent,
            }
        }
        Condition::Cookie(CookieMatch { name, value, inverted }) => {
            let lines = request.headers.iter().filter(|(n, _)| n.to_lowercase() == "cookie");
            let mut pairs = lines
                .flat_map(|(_, line)| line.split(';'))
                .filter_map(|pair| pair.trim_start().split_once('='));
            let found = pairs.find(|(key, _)| **key == **name);
            found.is_some_and(|(_, found)| text_holds(value, found)) != *inverted
        }
        Condition::Grpc => {
            let types: Vec<_> =
                request.headers.iter().filter(|(n, _)| n.to_lowercase() == "content-type").collect();
            matches!(types.as_slice(), [(_, value)] if value == "application/grpc" || value.starts_with("application/grpc+"))
        }
        Condition::Fraction(Fraction { millionths }) => request.draw % 1_000_000 < u64::from(*millionths),
        Condition::SourceAddress(ranges) => ranges.iter().any(|range| range.contains(request.source)),
        Condition::SourceLabels(labels) => labels.iter().all(|(k, v)| request.labels.get(k) == Some(v)),
        Condition::Node(wanted) => node.fit(wanted),
    }
}

fn path_holds(route: &Route, path: &str) -> bool {
    let lower = |text: &str| if route.ignores_path_case { text.to_lowercase() } else { text.to_owned() };
    match &route.path {
        PathMatch::Connect => path.is_empty(),
        _ if path.is_empty() => false,
        PathMatch::Exact(text) => lower(path) == lower(text),
        PathMatch::Prefix(text) => lower(path).starts_with(&lower(text)),
        PathMatch::SeparatedPrefix(text) => lower(path)
            .strip_prefix(&lower(text))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Regex(pattern) => whole(pattern.as_str(), path),
        PathMatch::Template(template) => match template.as_str() {
            "/a/*" => path.strip_prefix("/a/").is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
            "/{x}/**" => {
                path[1..].split_once('/').is_some_and(|(first, _)| !first.is_empty()) && path.starts_with('/')
            }
            other => panic!("{other} is not one of the test's"),
        },
    }
}

/// Virtual host and route number, by trying everything in order.
fn linear(
    config: &RouteConfiguration,
    node: &NodeFacts,
    request: &Request,
) -> Result<(usize, Option<usize>), NoRoute> {
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
        .max()
        .ok_or(NoRoute::NoVirtualHost)?;
    let host = &config.virtual_hosts[virtual_host];
    if host.requires_tls && request.scheme != "https" {
        return Err(NoRoute::TlsRequired);
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let route = host.routes.iter().position(|route| {
        path_holds(route, path) && route.conditions.iter().all(|condition| holds(condition, request, node))
    });
    Ok((virtual_host, route))
}

fn path_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["/", "a", "b", "ab", "A"], 1..6)
        .prop_map(|parts| format!("/{}", parts.concat()))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let text = (path_text(), 0..3).prop_map(|(text, kind)| match kind {
        0 => PathMatch::Exact(text.into()),
        1 => PathMatch::Prefix(text.into()),
        _ => PathMatch::SeparatedPrefix(text.trim_end_matches('/').into()),
    });
    let pattern = |text: &'static str| PathMatch::Regex(Pattern::new(text).expect("valid"));
    let template = |text: &'static str| PathMatch::Template(Template::new(text).expect("valid"));
    prop_oneof![
        6 => text,
        2 => Just(PathMatch::Prefix("/".into())),
        1 => Just(PathMatch::Connect),
        2 => prop_oneof![Just(pattern("/a/.*")), Just(pattern("(/[ab])+")), Just(pattern(".*b"))],
        1 => prop_oneof![Just(template("/a/*")), Just(template("/{x}/**"))],
    ]
}

fn text_match() -> impl Strategy<Value = TextMatch> {
    let form = prop_oneof![
        3 => prop_oneof!["1", "2", "1,2", "GET", "a"].prop_map(|t| TextForm::Exact(t.into())),
        1 => prop_oneof!["1", "a"].prop_map(|t| TextForm::Prefix(t.into())),
        1 => prop_oneof!["2", "b"].prop_map(|t| TextForm::Suffix(t.into())),
        1 => prop_oneof![",", "a"].prop_map(|t| TextForm::Contains(t.into())),
        1 => Just(TextForm::Regex(Pattern::new("[12]+").expect("valid"))),
    ];
    (form, any::<bool>()).prop_map(|(form, any_case)| {
        let can = !matches!(form, TextForm::Regex(_) | TextForm::Exact(_));
        TextMatch { form, ignores_case: any_case && can }
    })
}

fn header_match() -> impl Strategy<Value = HeaderMatch> {
    let name = prop_oneof![
        4 => "[xy]".prop_map(|n| FieldName::Header(n.into())),
        1 => Just(FieldName::Method),
        1 => Just(FieldName::Authority),
        1 => Just(FieldName::Path),
        1 => Just(FieldName::Scheme),
    ];
    let predicate = prop_oneof![
        1 => Just(Predicate::Present),
        1 => Just(Predicate::Absent),
        4 => text_match().prop_map(Predicate::Text),
        1 => (-1_i64..3, 0_i64..4).prop_map(|(start, end)| Predicate::Range(start, end)),
    ];
    (name, predicate, prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
        |(name, predicate, inverted, missing_is_empty)| HeaderMatch {
            name,
            predicate,
            inverted,
            missing_is_empty,
        },
    )
}

fn labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map("[ef]".prop_map(Box::from), "[12]".prop_map(Box::from), 0..3)
}

fn condition() -> impl Strategy<Value = Condition> {
    let range = prop_oneof![Just((0x7f00_0000, 8_u8)), Just((0x0a00_0001, 32)), Just((0x0a00_0000, 24))];
    prop_oneof![
        8 => header_match().prop_map(Condition::Header),
        2 => ("[qr]", prop_oneof![Just(Predicate::Present), Just(Predicate::Absent), text_match().prop_map(Predicate::Text)])
            .prop_map(|(name, predicate)| Condition::Query(QueryMatch { name: name.into(), predicate })),
        2 => ("[cd]", text_match(), any::<bool>())
            .prop_map(|(name, value, inverted)| Condition::Cookie(CookieMatch { name: name.into(), value, inverted })),
        1 => Just(Condition::Grpc),
        1 => (0_u32..1_000_000).prop_map(|millionths| Condition::Fraction(Fraction { millionths })),
        1 => range.prop_map(|(address, bits)| {
            Condition::SourceAddress(vec![AddressRange { address: IpAddr::V4(address.into()), bits }])
        }),
        1 => labels().prop_map(Condition::SourceLabels),
        1 => labels().prop_map(|labels| Condition::Node(NodeMatch { labels, metadata: Labels::new() })),
    ]
}

fn route() -> impl Strategy<Value = Route> {
    let conditions = prop_oneof![
        3 => proptest::collection::vec(condition(), 0..3),
        // Many of one header, so that they are found by its value.
        2 => "[12]".prop_map(|value| {
            let predicate = Predicate::Text(TextMatch::exact(value));
            vec![Condition::Header(HeaderMatch::new(FieldName::Header("x".into()), predicate))]
        }),
    ];
    (path_match(), conditions, prop::bool::weighted(0.2)).prop_map(|(path, conditions, ignores_path_case)| {
        Route {
            name: "".into(),
            path,
            ignores_path_case,
            conditions,
            action: Action::Respond(DirectResponse { status: 200, body: "".into(), format: None }),
            edits: HeaderEdits::default(),
        }
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
    let host = (
        proptest::collection::vec(domain, 1..3),
        proptest::collection::vec(route(), 0..24),
        prop::bool::weighted(0.1),
    );
    (proptest::collection::vec(host, 1..4), any::<bool>()).prop_map(|(hosts, ignore_port)| {
        let mut taken = std::collections::HashSet::new();
        let virtual_hosts =
            hosts.into_iter().enumerate().map(|(i, (domains, routes, requires_tls))| VirtualHost {
                name: format!("h{i}").into(),
                domains: domains.into_iter().filter(|d| taken.insert(d.clone())).collect(),
                routes,
                requires_tls,
                edits: HeaderEdits::default(),
                counts_attempts: false,
                answers_attempts: false,
            });
        RouteConfiguration {
            name: "r".into(),
            virtual_hosts: virtual_hosts.collect(),
            ignore_port_in_host_matching: ignore_port,
            validate_clusters: false,
            edits: HeaderEdits::default(),
            most_specific_wins: false,
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let plain = (prop_oneof!["x", "y", "X", "z"], prop_oneof!["1", "2", "", "a", "12"]);
    let cookie = prop_oneof!["c=1", "c=2; d=a", "d=b;c=1"].prop_map(|value| ("cookie".to_owned(), value));
    let grpc = prop_oneof!["application/grpc", "application/grpc[+]proto", "application/grpc-web"]
        .prop_map(|value| ("Content-Type".to_owned(), value));
    let header = prop_oneof![6 => plain, 2 => cookie, 1 => grpc];
    let authority = (host_text(), prop_oneof!["", ":80"]).prop_map(|(host, port)| format!("{host}{port}"));
    let query = prop_oneof!["", "[?]q=1", "[?]r=/b&q", "[?]q=2&q=1"];
    (
        prop_oneof!["GET", "POST"],
        authority,
        prop_oneof![9 => (path_text(), query).prop_map(|(path, query)| format!("{path}{query}")), 1 => Just(String::new())],
        proptest::collection::vec(header, 0..4),
        prop_oneof![Just([127_u8, 0, 0, 1]), Just([10, 0, 0, 1]), Just([10, 0, 1, 1])],
        labels(),
        any::<u64>(),
        prop_oneof![Just("http"), Just("https")],
    )
        .prop_map(|(method, authority, path, headers, source, labels, draw, scheme)| Request {
            method,
            authority,
            path,
            headers,
            source: source.into(),
            labels,
            draw,
            scheme,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_table_answers_as_the_linear_matcher(
        config in configuration(),
        node in labels(),
        requests in proptest::collection::vec(request(), 1..20),
    ) {
        let config = Arc::new(config);
        let node = NodeFacts(node.into_iter().map(|(name, value)| (format!("labels.{name}").into(), value)).collect());
        let table = RouteTable::compile(&config, &config.name, &node, |_| 0);
        for request in &requests {
            let expected = linear(&config, &node, request);
            let found = table.find(request);
            match (&expected, found) {
                (Err(expected), Err(found)) => prop_assert_eq!(expected, &found),
                (Ok((host, None)), Err(NoRoute::NoMatch { virtual_host })) => {
                    prop_assert_eq!(&virtual_host, &config.virtual_hosts[*host].name);
                }
                (Ok((host, Some(route))), Ok((_, found))) => {
                    prop_assert_eq!(&found.label.virtual_host, &config.virtual_hosts[*host].name);
                    prop_assert_eq!(&found.label.route, &Arc::<str>::from(format!("#{route}")));
                }
                (expected, found) => prop_assert!(false, "linear: {:?}, table: {:?}, {:?}", expected, found, request),
            }
        }
    }
}
