//! The gate's promises: what is not understood is refused by name and place, and nothing is lost on the way.

use prost::Message;
use prost_types::Any;
use xds_proto::Schema;
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteConfiguration, RouteMatch, VirtualHost, header_matcher::HeaderMatchSpecifier,
};
use xds_proto::gate::{Gate, Limits, Problem};
use xds_proto::type_url;

/// A varint field with a number and a value, on the wire.
fn varint_field(number: u32, value: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3), &mut bytes);
    bytes.push(value);
    bytes
}

fn embed(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut bytes);
    prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
    bytes.extend_from_slice(inner);
    bytes
}

#[test]
fn a_known_resource_passes() {
    let cluster = Cluster { name: "shop".into(), ..Cluster::default() };
    assert!(Gate::standard().admit(&type_url::pack(&cluster)).expect("admitted").ignored.is_empty());
}

#[test]
fn an_ignorable_field_passes_and_is_reported() {
    let cluster = Cluster { name: "shop".into(), alt_stat_name: "s".into(), ..Cluster::default() };
    let admitted = Gate::standard().admit(&type_url::pack(&cluster)).expect("admitted");
    assert_eq!(admitted.ignored.len(), 1);
    assert_eq!(admitted.ignored[0].field, "alt_stat_name");
}

#[test]
fn an_unknown_field_is_named_with_type_resource_and_path() {
    // A StringMatcher with custom (8), in the second header of the first route of the second virtual host.
    let mut odd = HeaderMatcher { name: "x".into(), ..HeaderMatcher::default() }.encode_to_vec();
    odd.extend(embed(13, &embed(8, b"")));
    let fine = HeaderMatcher {
        name: "y".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    };
    let mut matches = RouteMatch::default().encode_to_vec();
    matches.extend(embed(6, &fine.encode_to_vec()));
    matches.extend(embed(6, &odd));
    let route = embed(1, &matches);
    let host = [embed(1, b"second"), embed(3, &route)].concat();
    let first =
        VirtualHost { name: "first".into(), routes: vec![Route::default()], ..VirtualHost::default() };
    let mut bytes =
        RouteConfiguration { name: "shop".into(), ..RouteConfiguration::default() }.encode_to_vec();
    bytes.extend(embed(2, &first.encode_to_vec()));
    bytes.extend(embed(2, &host));

    let any = Any { type_url: type_url::ROUTE_CONFIGURATION.into(), value: bytes };
    let refusal = Gate::standard().admit(&any).expect_err("refused");
    assert_eq!(
        refusal.to_string(),
        "envoy.config.route.v3.RouteConfiguration \"shop\": virtual_hosts[1].routes[0].match.headers[1].string_match: \
         field `custom` of envoy.type.matcher.v3.StringMatcher is not supported"
    );
}

#[test]
fn a_field_nobody_knows_is_named_by_its_number() {
    let mut bytes = Cluster { name: "shop".into(), ..Cluster::default() }.encode_to_vec();
    bytes.extend(varint_field(999, 1));
    let any = Any { type_url: type_url::CLUSTER.into(), value: bytes };
    let text = Gate::standard().admit(&any).expect_err("refused").to_string();
    assert_eq!(
        text,
        "envoy.config.cluster.v3.Cluster \"shop\": unknown field 999 of envoy.config.cluster.v3.Cluster is not supported"
    );
}

#[test]
fn an_unknown_enum_number_is_refused() {
    let any = Any { type_url: type_url::CLUSTER.into(), value: varint_field(6, 99) };
    let refusal = Gate::standard().admit(&any).expect_err("refused");
    assert_eq!(refusal.path, "lb_policy");
    assert_eq!(
        refusal.problem,
        Problem::UnknownEnumNumber { name: "envoy.config.cluster.v3.Cluster.LbPolicy".into(), number: 99 }
    );
}

#[test]
fn an_unknown_type_in_an_any_is_refused_with_the_key_it_hangs_on() {
    let lua = Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua".into(),
        value: vec![],
    };
    let route = Route { typed_per_filter_config: [("lua".into(), lua)].into(), ..Route::default() };
    let host = VirtualHost { routes: vec![route], ..VirtualHost::default() };
    let config =
        RouteConfiguration { name: "r".into(), virtual_hosts: vec![host], ..RouteConfiguration::default() };
    let refusal = Gate::standard().admit(&type_url::pack(&config)).expect_err("refused");
    assert_eq!(refusal.path, "virtual_hosts[0].routes[0].typed_per_filter_config[\"lua\"]");
    assert_eq!(
        refusal.problem,
        Problem::UnknownType { name: "envoy.extensions.filters.http.lua.v3.Lua".into() }
    );
}

#[test]
fn an_unknown_resource_type_is_refused() {
    let any = Any {
        type_url: "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration".into(),
        value: vec![],
    };
    assert!(matches!(
        Gate::standard().admit(&any).expect_err("refused").problem,
        Problem::UnknownType { .. }
    ));
}

/// The hole that the gate exists for. Envoy's RBAC policy is narrowed by `condition`; to a decoder without that field
/// the narrow policy reads as "allow any principal".
#[test]
fn an_rbac_condition_that_a_plain_decoder_loses_is_refused() {
    use envoy_types::pb::envoy::config::rbac::v3::{
        Permission, Policy, Principal, Rbac, permission, principal,
    };
    use envoy_types::pb::google::api::expr::v1alpha1::Expr;

    let policy = Policy {
        permissions: vec![Permission { rule: Some(permission::Rule::Any(true)) }],
        principals: vec![Principal { identifier: Some(principal::Identifier::Any(true)) }],
        condition: Some(Expr { id: 7, expr_kind: None }),
        ..Policy::default()
    };
    let rbac = Rbac { policies: [("narrow".to_owned(), policy)].into(), ..Rbac::default() };
    let bytes = rbac.encode_to_vec();

    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("rbac.proto"),
        r#"syntax = "proto3";
        package envoy.config.rbac.v3;
        message Permission { oneof rule { bool any = 3; } }
        message Principal { oneof identifier { bool any = 3; } }
        message Policy { repeated Permission permissions = 1; repeated Principal principals = 2; }
        message RBAC { map<string, Policy> policies = 2; }"#,
    )
    .expect("written");
    let set = protox::compile(["rbac.proto"], [folder.path()]).expect("compiled");

    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(set.clone()).expect("a pool");
    let descriptor = pool.get_message_by_name("envoy.config.rbac.v3.RBAC").expect("RBAC");
    let plain = prost_reflect::DynamicMessage::decode(descriptor, bytes.as_slice())
        .expect("a plain decoder is content");
    let known: Vec<_> = plain.fields().collect();
    assert_eq!(known.len(), 1, "and reads a policy for any principal, without the condition");

    let gate = Gate::new(Schema::new(&set, &[]), Limits::default());
    let refusal = gate.admit_message("envoy.config.rbac.v3.RBAC", &bytes).expect_err("refused");
    assert_eq!(refusal.path, "policies[\"narrow\"]");
    assert_eq!(
        refusal.problem,
        Problem::UnknownField { message: "envoy.config.rbac.v3.Policy".into(), number: 3, name: None }
    );
}

/// Decoders merge the two: what each part hides from the gate would be read as one message.
#[test]
fn a_singular_message_that_occurs_twice_is_refused() {
    let bytes = [embed(3, &[]), embed(3, &[])].concat();
    let refusal =
        Gate::standard().admit_message("envoy.config.cluster.v3.Cluster", &bytes).expect_err("refused");
    assert_eq!(refusal.path, "eds_cluster_config");
    assert_eq!(refusal.problem, Problem::Malformed { reason: "a singular field occurs twice" });
}

#[test]
fn nesting_beyond_the_limit_is_refused() {
    // google.protobuf.Struct nests in itself: Value { list_value { values { ... } } }.
    let mut value = embed(6, &[]);
    for _ in 0..200 {
        value = embed(6, &embed(1, &value));
    }
    let refusal = Gate::standard().admit_message("google.protobuf.Value", &value).expect_err("refused");
    assert_eq!(refusal.problem, Problem::TooDeep { limit: Limits::default().depth });
}

#[test]
fn size_beyond_the_limit_is_refused() {
    let set = prost_types::FileDescriptorSet::decode(xds_proto::DESCRIPTORS).expect("descriptors");
    let gate = Gate::new(Schema::new(&set, &[]), Limits { depth: 32, bytes: 100 });
    let cluster = Cluster { name: "c".repeat(200), ..Cluster::default() };
    let refusal = gate.admit(&type_url::pack(&cluster)).expect_err("refused");
    assert!(matches!(refusal.problem, Problem::TooLarge { limit: 100, .. }));
}

proptest::proptest! {
    /// Whatever the bytes: an answer, never a panic; and what the gate admits, prost decodes without loss.
    #[test]
    fn arbitrary_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        if Gate::standard().admit_message("envoy.config.cluster.v3.Cluster", &bytes).is_ok() {
            Cluster::decode(bytes.as_slice()).expect("what passes the gate decodes");
        }
    }
}
