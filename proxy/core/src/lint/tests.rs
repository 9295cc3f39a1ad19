use super::*;
use crate::config::FieldName;
use crate::config::Weight;
use crate::pattern::Pattern;

fn route(path: PathMatch, conditions: Vec<Condition>) -> Route {
    Route::forwarding(path, conditions, vec![Arm::new("a", "a", 1)])
}

fn header(name: &str, value: &str) -> Condition {
    Condition::Header(HeaderMatch::new(
        FieldName::Header(name.into()),
        Predicate::Text(TextMatch::exact(value)),
    ))
}

fn findings(routes: Vec<Route>) -> Vec<String> {
    let host = VirtualHost::new("h", vec![Domain::Any], routes);
    let told = lint_routes(&RouteConfiguration::new("r", vec![host]));
    told.into_iter().map(|finding| format!("{}: {finding}", finding.spot.path)).collect()
}

#[test]
fn a_route_behind_one_that_takes_everything_is_told_of() {
    let prefix = |text: &str| PathMatch::Prefix(text.into());
    assert_eq!(
        findings(vec![route(prefix("/"), vec![]), route(prefix("/shop"), vec![])]),
        [
            "virtual_hosts[0].routes[1].match: route \"h/#1\" never matches: route \"h/#0\" before it takes all of its requests; \
          move it up, or remove it"
        ]
    );
    let separated = |text: &str| PathMatch::SeparatedPrefix(text.into());
    let exact = |text: &str| PathMatch::Exact(text.into());
    let regex = |text: &str| PathMatch::Regex(Pattern::new(text).expect("valid"));
    for (first, second, covered) in [
        (prefix("/a"), exact("/ab"), true),
        (prefix("/a"), separated("/a"), true),
        (separated("/a"), prefix("/a"), false),
        (separated("/a"), prefix("/a/"), true),
        (separated("/a"), exact("/a"), true),
        (separated("/a"), exact("/ab"), false),
        (exact("/a"), exact("/a"), true),
        (exact("/a"), prefix("/a"), false),
        (prefix("/"), regex("/a[0-9]"), true),
        (prefix("/"), regex(".*x?"), false),
        (prefix("/a"), regex("/a[0-9]"), false),
        (regex("/[a-z]+"), exact("/ab"), true),
        (PathMatch::Connect, prefix("/"), false),
        (prefix("/"), PathMatch::Connect, false),
    ] {
        let told = findings(vec![route(first.clone(), vec![]), route(second.clone(), vec![])]);
        let told = told.iter().any(|finding| finding.contains("never matches"));
        assert_eq!(told, covered, "{first} before {second}");
    }
}

#[test]
fn conditions_of_the_first_must_be_among_those_of_the_second() {
    let all = || PathMatch::Prefix("/".into());
    let narrow = vec![header("x", "1"), header("y", "2")];
    assert!(
        findings(vec![route(all(), vec![header("x", "1")]), route(all(), narrow.clone())])[0]
            .contains("never")
    );
    assert!(findings(vec![route(all(), narrow), route(all(), vec![header("x", "1")])]).is_empty());
    let share = |millionths| Condition::Fraction(Fraction { millionths });
    assert!(findings(vec![route(all(), vec![share(500_000)]), route(all(), vec![])]).is_empty());
    assert!(findings(vec![route(all(), vec![share(1_000_000)]), route(all(), vec![])])[0].contains("never"));
    assert!(
        findings(vec![route(all(), vec![share(0)])])[0]
            .contains("never matches: it asks for a draw of 0.0000 %")
    );
}

#[test]
fn the_case_of_a_path_counts() {
    let lower =
        |ignores_path_case| Route { ignores_path_case, ..route(PathMatch::Prefix("/a".into()), vec![]) };
    assert_eq!(findings(vec![lower(false), lower(true)]).len(), 0, "/A is left for the second");
    assert_eq!(findings(vec![lower(true), lower(false)]).len(), 1);
}

#[test]
fn domains_that_meet_are_told_of() {
    let host = |name: &str, domain: Domain| {
        VirtualHost::new(name, vec![domain], vec![route(PathMatch::Prefix("/".into()), vec![])])
    };
    let hosts = vec![
        host("a", Domain::Prefix("shop.".into())),
        host("b", Domain::Suffix(".example".into())),
        host("c", Domain::Exact("x.org:8080".into())),
        host("d", Domain::Exact("x.org".into())),
    ];
    let mut routes = RouteConfiguration::new("r", hosts);
    let told: Vec<_> = lint_routes(&routes).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with(
        "domains overlap: hosts such as \"shop.x.example\" fit \"shop.*\" of virtual host \"a\""
    ));
    assert!(told[1].contains("depends on whether the client sends the port"), "{told:?}");
    routes.ignore_port_in_host_matching = true;
    let told: Vec<_> = lint_routes(&routes).iter().map(ToString::to_string).collect();
    assert!(told[1].contains("never matches: ignore_port_in_host_matching"), "{told:?}");
}

#[test]
fn arms_that_nobody_reaches_are_told_of() {
    let mut arms = vec![Arm::new("a", "a", 1), Arm::new("b", "b", 0)];
    let told = findings(vec![Route::forwarding(PathMatch::Prefix("/".into()), vec![], arms.clone())]);
    assert!(told[0].contains("clusters[1]: arm \"b\" of route \"h/#0\" is never seen"), "{told:?}");
    arms[1].weight = Weight(1);
    assert!(findings(vec![Route::forwarding(PathMatch::Prefix("/".into()), vec![], arms)]).is_empty());
    let host = VirtualHost::new("h", vec![Domain::Any], vec![route(PathMatch::Prefix("/".into()), vec![])]);
    let mut linter =
        Linter { clusters: &BTreeMap::new(), is_part: false, findings: Vec::new(), choices: BTreeMap::new() };
    linter.configuration(&RouteConfiguration::new("r", vec![host]), None);
    assert!(linter.findings[0].to_string().contains("leads to cluster \"a\", which does not exist"));
}
