//! `envoy-types`, generated from Envoy's own files, is the judge: every field of every message of the subset must mean
//! the same there, by number, by type and by name.

use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

/// Decodes with the oracle, returns its bytes and its debug text.
type Judge = fn(&[u8]) -> (Vec<u8>, String);

fn judge<M: Message + Default + std::fmt::Debug>(bytes: &[u8]) -> (Vec<u8>, String) {
    let message = M::decode(bytes).expect("the oracle decodes it");
    (message.encode_to_vec(), format!("{message:?}"))
}

/// Decodes and encodes with the type that this crate generated.
type Own = fn(&[u8]) -> Vec<u8>;

fn own<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).expect("our type decodes it").encode_to_vec()
}

macro_rules! messages {
    ($($($part:ident)::+ => $name:literal),* $(,)?) => {
        fn pair(name: &str) -> Option<(Judge, Own)> {
            match name {
                $($name => Some((judge::<envoy_types::pb::$($part)::+>, own::<xds_proto::$($part)::+>)),)*
                _ => None,
            }
        }
    };
}

messages! {
    envoy::admin::v3::UpdateFailureState => "envoy.admin.v3.UpdateFailureState",
    envoy::service::discovery::v3::DeltaDiscoveryRequest => "envoy.service.discovery.v3.DeltaDiscoveryRequest",
    envoy::service::discovery::v3::DeltaDiscoveryResponse => "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    envoy::service::discovery::v3::Resource => "envoy.service.discovery.v3.Resource",
    envoy::service::status::v3::client_config::GenericXdsConfig => "envoy.service.status.v3.ClientConfig.GenericXdsConfig",
    envoy::service::status::v3::ClientConfig => "envoy.service.status.v3.ClientConfig",
    envoy::service::status::v3::ClientStatusRequest => "envoy.service.status.v3.ClientStatusRequest",
    envoy::service::status::v3::ClientStatusResponse => "envoy.service.status.v3.ClientStatusResponse",
    envoy::config::accesslog::v3::AccessLog => "envoy.config.accesslog.v3.AccessLog",
    envoy::config::accesslog::v3::AccessLogFilter => "envoy.config.accesslog.v3.AccessLogFilter",
    envoy::config::accesslog::v3::AndFilter => "envoy.config.accesslog.v3.AndFilter",
    envoy::config::accesslog::v3::ComparisonFilter => "envoy.config.accesslog.v3.ComparisonFilter",
    envoy::config::accesslog::v3::DurationFilter => "envoy.config.accesslog.v3.DurationFilter",
    envoy::config::accesslog::v3::HeaderFilter => "envoy.config.accesslog.v3.HeaderFilter",
    envoy::config::accesslog::v3::OrFilter => "envoy.config.accesslog.v3.OrFilter",
    envoy::config::accesslog::v3::ResponseFlagFilter => "envoy.config.accesslog.v3.ResponseFlagFilter",
    envoy::config::accesslog::v3::StatusCodeFilter => "envoy.config.accesslog.v3.StatusCodeFilter",
    envoy::config::bootstrap::v3::Admin => "envoy.config.bootstrap.v3.Admin",
    envoy::config::bootstrap::v3::Bootstrap => "envoy.config.bootstrap.v3.Bootstrap",
    envoy::config::bootstrap::v3::bootstrap::DynamicResources => "envoy.config.bootstrap.v3.Bootstrap.DynamicResources",
    envoy::config::bootstrap::v3::bootstrap::StaticResources => "envoy.config.bootstrap.v3.Bootstrap.StaticResources",
    envoy::config::cluster::v3::circuit_breakers::Thresholds => "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
    envoy::config::cluster::v3::CircuitBreakers => "envoy.config.cluster.v3.CircuitBreakers",
    envoy::config::cluster::v3::Cluster => "envoy.config.cluster.v3.Cluster",
    envoy::config::cluster::v3::cluster::common_lb_config::LocalityWeightedLbConfig => "envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig",
    envoy::config::cluster::v3::cluster::CommonLbConfig => "envoy.config.cluster.v3.Cluster.CommonLbConfig",
    envoy::config::cluster::v3::cluster::CustomClusterType => "envoy.config.cluster.v3.Cluster.CustomClusterType",
    envoy::config::cluster::v3::cluster::EdsClusterConfig => "envoy.config.cluster.v3.Cluster.EdsClusterConfig",
    envoy::config::cluster::v3::cluster::lb_subset_config::LbSubsetSelector => "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector",
    envoy::config::cluster::v3::cluster::LbSubsetConfig => "envoy.config.cluster.v3.Cluster.LbSubsetConfig",
    envoy::config::cluster::v3::cluster::LeastRequestLbConfig => "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
    envoy::config::cluster::v3::cluster::OriginalDstLbConfig => "envoy.config.cluster.v3.Cluster.OriginalDstLbConfig",
    envoy::config::cluster::v3::cluster::RefreshRate => "envoy.config.cluster.v3.Cluster.RefreshRate",
    envoy::config::cluster::v3::cluster::RoundRobinLbConfig => "envoy.config.cluster.v3.Cluster.RoundRobinLbConfig",
    envoy::config::cluster::v3::cluster::TransportSocketMatch => "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
    envoy::config::cluster::v3::load_balancing_policy::Policy => "envoy.config.cluster.v3.LoadBalancingPolicy.Policy",
    envoy::config::cluster::v3::LoadBalancingPolicy => "envoy.config.cluster.v3.LoadBalancingPolicy",
    envoy::config::core::v3::Address => "envoy.config.core.v3.Address",
    envoy::config::core::v3::AggregatedConfigSource => "envoy.config.core.v3.AggregatedConfigSource",
    envoy::config::core::v3::ApiConfigSource => "envoy.config.core.v3.ApiConfigSource",
    envoy::config::core::v3::CidrRange => "envoy.config.core.v3.CidrRange",
    envoy::config::core::v3::ConfigSource => "envoy.config.core.v3.ConfigSource",
    envoy::config::core::v3::ControlPlane => "envoy.config.core.v3.ControlPlane",
    envoy::config::core::v3::DataSource => "envoy.config.core.v3.DataSource",
    envoy::config::core::v3::DnsResolverOptions => "envoy.config.core.v3.DnsResolverOptions",
    envoy::config::core::v3::grpc_service::EnvoyGrpc => "envoy.config.core.v3.GrpcService.EnvoyGrpc",
    envoy::config::core::v3::GrpcService => "envoy.config.core.v3.GrpcService",
    envoy::config::core::v3::HeaderValue => "envoy.config.core.v3.HeaderValue",
    envoy::config::core::v3::HeaderValueOption => "envoy.config.core.v3.HeaderValueOption",
    envoy::config::core::v3::HealthCheck => "envoy.config.core.v3.HealthCheck",
    envoy::config::core::v3::health_check::Payload => "envoy.config.core.v3.HealthCheck.Payload",
    envoy::config::core::v3::health_check::HttpHealthCheck => "envoy.config.core.v3.HealthCheck.HttpHealthCheck",
    envoy::config::core::v3::health_check::TcpHealthCheck => "envoy.config.core.v3.HealthCheck.TcpHealthCheck",
    envoy::config::core::v3::health_check::GrpcHealthCheck => "envoy.config.core.v3.HealthCheck.GrpcHealthCheck",
    envoy::config::core::v3::health_check::CustomHealthCheck => "envoy.config.core.v3.HealthCheck.CustomHealthCheck",
    envoy::config::core::v3::Http1ProtocolOptions => "envoy.config.core.v3.Http1ProtocolOptions",
    envoy::config::core::v3::Http2ProtocolOptions => "envoy.config.core.v3.Http2ProtocolOptions",
    envoy::config::core::v3::HttpProtocolOptions => "envoy.config.core.v3.HttpProtocolOptions",
    envoy::config::core::v3::KeepaliveSettings => "envoy.config.core.v3.KeepaliveSettings",
    envoy::config::core::v3::Locality => "envoy.config.core.v3.Locality",
    envoy::config::core::v3::Metadata => "envoy.config.core.v3.Metadata",
    envoy::config::core::v3::Node => "envoy.config.core.v3.Node",
    envoy::config::core::v3::PathConfigSource => "envoy.config.core.v3.PathConfigSource",
    envoy::config::core::v3::Pipe => "envoy.config.core.v3.Pipe",
    envoy::config::core::v3::ProxyProtocolConfig => "envoy.config.core.v3.ProxyProtocolConfig",
    envoy::config::core::v3::RuntimeDouble => "envoy.config.core.v3.RuntimeDouble",
    envoy::config::core::v3::RuntimeFractionalPercent => "envoy.config.core.v3.RuntimeFractionalPercent",
    envoy::config::core::v3::RuntimeUInt32 => "envoy.config.core.v3.RuntimeUInt32",
    envoy::config::core::v3::SocketAddress => "envoy.config.core.v3.SocketAddress",
    envoy::config::core::v3::SubstitutionFormatString => "envoy.config.core.v3.SubstitutionFormatString",
    envoy::config::core::v3::TransportSocket => "envoy.config.core.v3.TransportSocket",
    envoy::config::core::v3::TypedExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
    envoy::config::core::v3::WatchedDirectory => "envoy.config.core.v3.WatchedDirectory",
    envoy::config::endpoint::v3::cluster_load_assignment::Policy => "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
    envoy::config::endpoint::v3::cluster_load_assignment::policy::DropOverload => "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload",
    envoy::config::endpoint::v3::ClusterLoadAssignment => "envoy.config.endpoint.v3.ClusterLoadAssignment",
    envoy::config::endpoint::v3::endpoint::HealthCheckConfig => "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig",
    envoy::config::endpoint::v3::Endpoint => "envoy.config.endpoint.v3.Endpoint",
    envoy::config::endpoint::v3::LbEndpoint => "envoy.config.endpoint.v3.LbEndpoint",
    envoy::config::endpoint::v3::LocalityLbEndpoints => "envoy.config.endpoint.v3.LocalityLbEndpoints",
    envoy::config::listener::v3::ApiListener => "envoy.config.listener.v3.ApiListener",
    envoy::config::listener::v3::Filter => "envoy.config.listener.v3.Filter",
    envoy::config::listener::v3::FilterChain => "envoy.config.listener.v3.FilterChain",
    envoy::config::listener::v3::FilterChainMatch => "envoy.config.listener.v3.FilterChainMatch",
    envoy::config::listener::v3::Listener => "envoy.config.listener.v3.Listener",
    envoy::config::listener::v3::ListenerFilter => "envoy.config.listener.v3.ListenerFilter",
    envoy::config::route::v3::CookieMatcher => "envoy.config.route.v3.CookieMatcher",
    envoy::config::route::v3::Decorator => "envoy.config.route.v3.Decorator",
    envoy::config::route::v3::DirectResponseAction => "envoy.config.route.v3.DirectResponseAction",
    envoy::config::route::v3::FilterConfig => "envoy.config.route.v3.FilterConfig",
    envoy::config::route::v3::HeaderMatcher => "envoy.config.route.v3.HeaderMatcher",
    envoy::config::route::v3::QueryParameterMatcher => "envoy.config.route.v3.QueryParameterMatcher",
    envoy::config::route::v3::RedirectAction => "envoy.config.route.v3.RedirectAction",
    envoy::config::route::v3::Route => "envoy.config.route.v3.Route",
    envoy::config::route::v3::route_action::hash_policy::ConnectionProperties => "envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties",
    envoy::config::route::v3::route_action::hash_policy::Cookie => "envoy.config.route.v3.RouteAction.HashPolicy.Cookie",
    envoy::config::route::v3::route_action::hash_policy::CookieAttribute => "envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute",
    envoy::config::route::v3::route_action::hash_policy::Header => "envoy.config.route.v3.RouteAction.HashPolicy.Header",
    envoy::config::route::v3::route_action::hash_policy::QueryParameter => "envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter",
    envoy::config::route::v3::route_action::HashPolicy => "envoy.config.route.v3.RouteAction.HashPolicy",
    envoy::config::route::v3::route_action::MaxStreamDuration => "envoy.config.route.v3.RouteAction.MaxStreamDuration",
    envoy::config::route::v3::route_action::upgrade_config::ConnectConfig => "envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig",
    envoy::config::route::v3::route_action::UpgradeConfig => "envoy.config.route.v3.RouteAction.UpgradeConfig",
    envoy::config::route::v3::route_match::ConnectMatcher => "envoy.config.route.v3.RouteMatch.ConnectMatcher",
    envoy::config::route::v3::route_match::GrpcRouteMatchOptions => "envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions",
    envoy::config::route::v3::RouteAction => "envoy.config.route.v3.RouteAction",
    envoy::config::route::v3::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
    envoy::config::route::v3::RouteMatch => "envoy.config.route.v3.RouteMatch",
    envoy::config::route::v3::VirtualHost => "envoy.config.route.v3.VirtualHost",
    envoy::config::route::v3::weighted_cluster::ClusterWeight => "envoy.config.route.v3.WeightedCluster.ClusterWeight",
    envoy::config::route::v3::WeightedCluster => "envoy.config.route.v3.WeightedCluster",
    envoy::extensions::access_loggers::file::v3::FileAccessLog => "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    envoy::extensions::access_loggers::stream::v3::StderrAccessLog => "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    envoy::extensions::access_loggers::stream::v3::StdoutAccessLog => "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate => "envoy.extensions.clusters.dns.v3.DnsCluster.RefreshRate",
    envoy::extensions::clusters::dns::v3::DnsCluster => "envoy.extensions.clusters.dns.v3.DnsCluster",
    envoy::extensions::filters::http::grpc_web::v3::GrpcWeb => "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    envoy::extensions::filters::common::fault::v3::FaultDelay => "envoy.extensions.filters.common.fault.v3.FaultDelay",
    envoy::extensions::filters::http::fault::v3::FaultAbort => "envoy.extensions.filters.http.fault.v3.FaultAbort",
    envoy::extensions::filters::http::fault::v3::HttpFault => "envoy.extensions.filters.http.fault.v3.HTTPFault",
    envoy::extensions::filters::http::router::v3::Router => "envoy.extensions.filters.http.router.v3.Router",
    envoy::extensions::filters::listener::http_inspector::v3::HttpInspector => "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    envoy::extensions::filters::listener::original_dst::v3::OriginalDst => "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol => "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector => "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::SetCurrentClientCertDetails => "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails",
    envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::UpgradeConfig => "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig",
    envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager => "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    envoy::extensions::filters::network::http_connection_manager::v3::LocalReplyConfig => "envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig",
    envoy::extensions::filters::network::http_connection_manager::v3::Rds => "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
    envoy::extensions::filters::network::http_connection_manager::v3::ResponseMapper => "envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper",
    envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight => "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
    envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::WeightedCluster => "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster",
    envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy => "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::LocalityWeightedLbConfig => "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig",
    envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig => "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig",
    envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest => "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    envoy::extensions::load_balancing_policies::random::v3::Random => "envoy.extensions.load_balancing_policies.random.v3.Random",
    envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin => "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality => "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
    envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig => "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig => "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
    envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig => "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
    envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport => "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
    envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer => "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext => "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
    envoy::extensions::transport_sockets::tls::v3::common_tls_context::CombinedCertificateValidationContext => "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
    envoy::extensions::transport_sockets::tls::v3::CommonTlsContext => "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
    envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext => "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig => "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig",
    envoy::extensions::transport_sockets::tls::v3::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
    envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain => "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.TrustDomain",
    envoy::extensions::transport_sockets::tls::v3::SpiffeCertValidatorConfig => "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
    envoy::extensions::transport_sockets::tls::v3::SubjectAltNameMatcher => "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
    envoy::extensions::transport_sockets::tls::v3::TlsCertificate => "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
    envoy::extensions::transport_sockets::tls::v3::TlsParameters => "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
    envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext => "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    envoy::extensions::upstreams::http::v3::http_protocol_options::AutoHttpConfig => "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig",
    envoy::extensions::upstreams::http::v3::http_protocol_options::ExplicitHttpConfig => "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
    envoy::extensions::upstreams::http::v3::http_protocol_options::UseDownstreamHttpConfig => "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
    envoy::extensions::upstreams::http::v3::HttpProtocolOptions => "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    envoy::r#type::matcher::v3::regex_matcher::GoogleRe2 => "envoy.type.matcher.v3.RegexMatcher.GoogleRE2",
    envoy::r#type::matcher::v3::RegexMatchAndSubstitute => "envoy.type.matcher.v3.RegexMatchAndSubstitute",
    envoy::r#type::matcher::v3::RegexMatcher => "envoy.type.matcher.v3.RegexMatcher",
    envoy::r#type::matcher::v3::StringMatcher => "envoy.type.matcher.v3.StringMatcher",
    envoy::r#type::v3::FractionalPercent => "envoy.type.v3.FractionalPercent",
    envoy::r#type::v3::hash_policy::SourceIp => "envoy.type.v3.HashPolicy.SourceIp",
    envoy::r#type::v3::HashPolicy => "envoy.type.v3.HashPolicy",
    envoy::r#type::v3::Int64Range => "envoy.type.v3.Int64Range",
    envoy::r#type::v3::Percent => "envoy.type.v3.Percent",
    envoy::service::discovery::v3::DiscoveryRequest => "envoy.service.discovery.v3.DiscoveryRequest",
    envoy::service::discovery::v3::DiscoveryResponse => "envoy.service.discovery.v3.DiscoveryResponse",
    google::rpc::Status => "google.rpc.Status",
}

/// A value of the field that differs from its default, nested messages filled one level down.
fn sample(field: &FieldDescriptor, depth: usize) -> Value {
    if field.is_map() {
        let entry = field.kind();
        let entry = entry.as_message().expect("a map entry is a message");
        let value = single(&entry.map_entry_value_field(), depth);
        return Value::Map([(MapKey::String("key".into()), value)].into());
    }
    let value = single(field, depth);
    if field.is_list() { Value::List(vec![value.clone(), value]) } else { value }
}

fn single(field: &FieldDescriptor, depth: usize) -> Value {
    match field.kind() {
        Kind::Message(message) => Value::Message(filled(&message, depth + 1)),
        Kind::Enum(item) => Value::EnumNumber(item.values().map(|v| v.number()).max().expect("a value")),
        Kind::String => Value::String("text".into()),
        Kind::Bytes => Value::Bytes(vec![7].into()),
        Kind::Bool => Value::Bool(true),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(41),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(43),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(47),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(53),
        Kind::Double => Value::F64(0.5),
        Kind::Float => Value::F32(0.25),
    }
}

fn filled(message: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut value = DynamicMessage::new(message.clone());
    if depth < 4 {
        for field in message.fields() {
            value.set_field(&field, sample(&field, depth));
        }
    }
    value
}

/// A message that is neither empty nor from Google's or our own packages.
fn is_judged(message: &MessageDescriptor) -> bool {
    let name = message.full_name();
    !message.is_map_entry() && !name.starts_with("google.protobuf.") && !name.starts_with("weir.")
}

#[test]
fn every_field_round_trips_through_envoys_own_messages() {
    let mut fields = 0;
    for message in xds_proto::json::descriptor_pool().all_messages().filter(is_judged) {
        let name = message.full_name();
        let (judge, own) = pair(name).unwrap_or_else(|| panic!("{name} is missing from this test's table"));
        for field in message.fields() {
            let mut value = DynamicMessage::new(message.clone());
            value.set_field(&field, sample(&field, 0));
            let bytes = value.encode_to_vec();
            assert!(!bytes.is_empty(), "{}: the sample must not be the default", field.full_name());

            let (judged, text) = judge(&bytes);
            let back = DynamicMessage::decode(message.clone(), judged.as_slice())
                .expect("ours decodes the oracle's");
            assert_eq!(value, back, "{} is lost or changed by the oracle", field.full_name());
            let again =
                DynamicMessage::decode(message.clone(), own(&judged).as_slice()).expect("ours decodes ours");
            assert_eq!(value, again, "{} is lost or changed by our own type", field.full_name());

            let shown =
                field.containing_oneof().map_or(field.name().to_owned(), |oneof| oneof.name().to_owned());
            let shown = if shown == "match" || shown == "type" { format!("r#{shown}") } else { shown };
            let shown = shown.trim_start_matches("r#");
            assert!(text.contains(shown), "the oracle has no field named {shown} in {name}: {text}");
            fields += 1;
        }
    }
    assert!(fields > 100, "the subset has more than a hundred fields, {fields} were judged");
}

#[test]
fn every_enum_number_has_the_same_name_in_envoys_api() {
    use envoy_types::pb;
    macro_rules! name_of {
        ($enum:ty, $number:ident) => {
            <$enum>::try_from($number).ok().map(|value| value.as_str_name())
        };
    }
    for item in xds_proto::json::descriptor_pool().all_enums() {
        for value in item.values() {
            let number = value.number();
            let oracle = match item.full_name() {
                "envoy.config.accesslog.v3.ComparisonFilter.Op" =>
                    name_of!(pb::envoy::config::accesslog::v3::comparison_filter::Op, number),
                "envoy.config.cluster.v3.Cluster.DiscoveryType" =>
                    name_of!(pb::envoy::config::cluster::v3::cluster::DiscoveryType, number),
                "envoy.config.cluster.v3.Cluster.DnsLookupFamily" =>
                    name_of!(pb::envoy::config::cluster::v3::cluster::DnsLookupFamily, number),
                "envoy.config.cluster.v3.Cluster.LbPolicy" =>
                    name_of!(pb::envoy::config::cluster::v3::cluster::LbPolicy, number),
                "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetFallbackPolicy" =>
                    name_of!(pb::envoy::config::cluster::v3::cluster::lb_subset_config::LbSubsetFallbackPolicy, number),
                "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector.LbSubsetSelectorFallbackPolicy" =>
                    name_of!(pb::envoy::config::cluster::v3::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy, number),
                "envoy.config.core.v3.ApiConfigSource.ApiType" =>
                    name_of!(pb::envoy::config::core::v3::api_config_source::ApiType, number),
                "envoy.config.core.v3.ApiVersion" =>
                    name_of!(pb::envoy::config::core::v3::ApiVersion, number),
                "envoy.config.core.v3.HeaderValueOption.HeaderAppendAction" =>
                    name_of!(pb::envoy::config::core::v3::header_value_option::HeaderAppendAction, number),
                "envoy.config.core.v3.HealthStatus" =>
                    name_of!(pb::envoy::config::core::v3::HealthStatus, number),
                "envoy.config.core.v3.HttpProtocolOptions.HeadersWithUnderscoresAction" =>
                    name_of!(pb::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction, number),
                "envoy.config.core.v3.RequestMethod" =>
                    name_of!(pb::envoy::config::core::v3::RequestMethod, number),
                "envoy.type.v3.CodecClientType" =>
                    name_of!(pb::envoy::r#type::v3::CodecClientType, number),
                "envoy.config.core.v3.RoutingPriority" =>
                    name_of!(pb::envoy::config::core::v3::RoutingPriority, number),
                "envoy.config.core.v3.SocketAddress.Protocol" =>
                    name_of!(pb::envoy::config::core::v3::socket_address::Protocol, number),
                "envoy.config.core.v3.TrafficDirection" =>
                    name_of!(pb::envoy::config::core::v3::TrafficDirection, number),
                "envoy.config.route.v3.RedirectAction.RedirectResponseCode" =>
                    name_of!(pb::envoy::config::route::v3::redirect_action::RedirectResponseCode, number),
                "envoy.config.route.v3.RouteAction.ClusterNotFoundResponseCode" =>
                    name_of!(pb::envoy::config::route::v3::route_action::ClusterNotFoundResponseCode, number),
                "envoy.config.route.v3.VirtualHost.TlsRequirementType" =>
                    name_of!(pb::envoy::config::route::v3::virtual_host::TlsRequirementType, number),
                "envoy.extensions.clusters.common.dns.v3.DnsLookupFamily" =>
                    name_of!(pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily, number),
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.CodecType" =>
                    name_of!(pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::CodecType, number),
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.PathWithEscapedSlashesAction" =>
                    name_of!(pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::PathWithEscapedSlashesAction, number),
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ServerHeaderTransformation" =>
                    name_of!(pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ServerHeaderTransformation, number),
                "envoy.type.v3.FractionalPercent.DenominatorType" =>
                    name_of!(pb::envoy::r#type::v3::fractional_percent::DenominatorType, number),
                "envoy.config.core.v3.ProxyProtocolConfig.Version" =>
                    name_of!(pb::envoy::config::core::v3::proxy_protocol_config::Version, number),
                "envoy.config.listener.v3.FilterChainMatch.ConnectionSourceType" =>
                    name_of!(pb::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType, number),
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ForwardClientCertDetails" =>
                    name_of!(pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertDetails, number),
                "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.TrustChainVerification" =>
                    name_of!(pb::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification, number),
                "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher.SanType" =>
                    name_of!(pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType, number),
                "envoy.extensions.transport_sockets.tls.v3.TlsParameters.TlsProtocol" =>
                    name_of!(pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol, number),
                "envoy.admin.v3.ClientResourceStatus" =>
                    name_of!(pb::envoy::admin::v3::ClientResourceStatus, number),
                "envoy.service.status.v3.ConfigStatus" =>
                    name_of!(pb::envoy::service::status::v3::ConfigStatus, number),
                name if name.starts_with("google.protobuf.") || name.starts_with("weir.") => continue,
                name => panic!("{name} is missing from this test"),
            };
            assert_eq!(oracle, Some(value.name()), "{} {number}", item.full_name());
        }
    }
}

#[test]
fn a_full_sample_survives_the_gate() {
    let gate = xds_proto::gate::Gate::standard();
    for message in xds_proto::json::descriptor_pool().all_messages().filter(is_judged) {
        let mut value = filled(&message, 1);
        open_anys(&mut value);
        let bytes = value.encode_to_vec();
        if let Err(refusal) = gate.admit_message(message.full_name(), &bytes) {
            panic!("{refusal}");
        }
    }
}

/// The samples' `Any` values name no type; give them one.
fn open_anys(message: &mut DynamicMessage) {
    let fields: Vec<_> = message.descriptor().fields().collect();
    if message.descriptor().full_name() == "google.protobuf.Any" {
        message.set_field_by_name(
            "type_url",
            Value::String("type.googleapis.com/weir.split.v1.SplitPolicy".into()),
        );
        message.set_field_by_name("value", Value::Bytes(Vec::new().into()));
        return;
    }
    for field in fields {
        if !message.has_field(&field) {
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => open_anys(inner),
            Value::List(items) => items.iter_mut().filter_map(Value::as_message_mut).for_each(open_anys),
            Value::Map(items) => items.values_mut().filter_map(Value::as_message_mut).for_each(open_anys),
            _ => {}
        }
    }
}
