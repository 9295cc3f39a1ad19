use super::*;

const CONTROL: &str = "static_resources: { clusters: [ { name: xds, http2_protocol_options: {}, load_assignment: { \
    cluster_name: xds, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, \
    port_value: 18000 } } } } ] } ] } } ] }";
const ADS: &str = "ads_config: { api_type: GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] }";

fn read(text: &str) -> Result<Bootstrap, String> {
    Bootstrap::from_yaml(text).map_err(|e| e.to_string())
}

#[test]
fn an_envoy_bootstrap_is_understood() {
    let text = format!(
        "node: {{ id: n, cluster: c }}\nadmin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 9901 }} }} }}\n\
         dynamic_resources: {{ {ADS}, lds_config: {{ ads: {{}} }}, cds_config: {{ ads: {{}} }} }}\n{CONTROL}\n"
    );
    let bootstrap = read(&text).expect("valid");
    let [server] = bootstrap.control_plane.servers.as_slice() else { panic!("one server") };
    let EndpointSource::Static(endpoints) = &server.endpoints else { panic!("an address") };
    let addresses: Vec<_> = endpoints.endpoints().map(|endpoint| endpoint.address.clone()).collect();
    assert_eq!(addresses, [Address::Socket(([127, 0, 0, 1], 18_000).into())]);
    assert_eq!(
        bootstrap.subscriptions,
        Subscriptions {
            listeners: Some(Origin::Ads),
            clusters: Some(Origin::Ads),
            variant: Variant::StateOfTheWorld
        }
    );
    assert_eq!(bootstrap.resources.clusters().count(), 0, "the way to the control plane serves no traffic");
    assert_eq!(bootstrap.node.user_agent_name, "weir");
}

#[test]
fn keys_outside_resources_warn_and_inside_they_are_refused() {
    let bootstrap =
        read("node: { id: n }\nlayered_runtime: { layers: [] }\nadmin: { access_log_path: /dev/null }\n")
            .expect("valid");
    assert_eq!(bootstrap.warnings, ["layered_runtime", "admin.access_log_path"]);
    let error =
        read("static_resources: { clusters: [ { name: c, lb_polcy: RANDOM } ] }").expect_err("refused");
    assert_eq!(
        error,
        "1:44: static_resources.clusters[0].lb_polcy: Cluster has no field `lb_polcy`, did you mean `lb_policy`?"
    );
}

#[test]
fn what_cannot_be_used_is_said_in_one_sentence() {
    let dynamic = |rest: &str| format!("node: {{ id: n }}\ndynamic_resources: {{ {rest} }}\n{CONTROL}\n");
    let cases = [
        ("node: [".to_owned(), "1:7: "),
        (
            "admin: { address: { socket_address: { address: x, port_value: 1 } } }".to_owned(),
            "admin.address: \"x\" is not an IP address",
        ),
        (dynamic("lds_config: { ads: {} }"), "dynamic_resources.ads_config: is required"),
        (dynamic(&ADS.replace("GRPC", "REST")), "api_type must be GRPC"),
        (dynamic(&ADS.replace("V3", "AUTO")), "transport_api_version must be V3"),
        (dynamic(&ADS.replace("xds", "other")), "static_resources has no cluster \"other\""),
        (dynamic(ADS).replace("id: n", "cluster: c"), "node.id: is required"),
        (
            "static_resources: { clusters: [ { name: c, lb_policy: MAGLEV, load_assignment: { cluster_name: c } } ] }".to_owned(),
            "Cluster \"c\": lb_policy: MAGLEV is not supported",
        ),
        (
            "static_resources: { clusters: [ { name: c, lb_policy: LEAST_REQEST } ] }".to_owned(),
            "clusters[0].lb_policy: `LEAST_REQEST` is not a LbPolicy, did you mean `LEAST_REQUEST`?",
        ),
        (
            "static_resources: { clusters: [ { name: c, connect_timeout: soon } ] }".to_owned(),
            "1:44: static_resources.clusters[0].connect_timeout: invalid value: string \"soon\"",
        ),
    ];
    for (text, part) in cases {
        let error = read(&text).expect_err(part);
        assert!(error.contains(part), "{error:?} lacks {part:?}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Bootstrap::from_file(Path::new("/nowhere/b.yaml")).expect_err("missing").to_string();
    assert!(error.starts_with("/nowhere/b.yaml: No such file"), "{error}");
}
