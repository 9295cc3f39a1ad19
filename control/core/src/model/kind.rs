//! The kinds of resources, and how each is called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xds_proto::json::did_you_mean;

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is named as in its API group's reference")]
pub enum Kind {
    GatewayClass,
    Gateway,
    ListenerSet,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    BackendTlsPolicy,
    ReferenceGrant,
    Namespace,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Backend,
    TrafficPolicy,
    UserGroup,
    FlowRule,
    PeerAuthentication,
}

/// The API group of a kind.
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const WEIR: &str = "weir.dev";

/// What is said of a kind.
struct Names {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    group: &'static str,
    /// The first is the one that is written.
    versions: &'static [&'static str],
}

impl Kind {
    /// All of them. What is referred to comes before what refers to it.
    pub const ALL: [Self; 19] = [
        Self::Namespace,
        Self::Secret,
        Self::ConfigMap,
        Self::Service,
        Self::EndpointSlice,
        Self::Backend,
        Self::UserGroup,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::GatewayClass,
        Self::Gateway,
        Self::ListenerSet,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::TrafficPolicy,
        Self::FlowRule,
        Self::PeerAuthentication,
    ];

    const fn names(self) -> Names {
        const fn names(
            kind: &'static str,
            plural: &'static str,
            short: &'static str,
            group: &'static str,
            versions: &'static [&'static str],
        ) -> Names {
            Names { kind, plural, short, group, versions }
        }
        const BETA: &[&str] = &["v1", "v1beta1"];
        const ALPHA: &[&str] = &["v1", "v1alpha3", "v1alpha2"];
        match self {
            Self::GatewayClass => names("GatewayClass", "gatewayclasses", "gc", GATEWAY_API, BETA),
            Self::Gateway => names("Gateway", "gateways", "gtw", GATEWAY_API, BETA),
            Self::ListenerSet => names("ListenerSet", "listenersets", "lset", GATEWAY_API, &["v1"]),
            Self::HttpRoute => names("HTTPRoute", "httproutes", "route", GATEWAY_API, BETA),
            Self::GrpcRoute => names("GRPCRoute", "grpcroutes", "grpc", GATEWAY_API, ALPHA),
            Self::TlsRoute => names("TLSRoute", "tlsroutes", "tls", GATEWAY_API, ALPHA),
            Self::TcpRoute => names("TCPRoute", "tcproutes", "tcp", GATEWAY_API, ALPHA),
            Self::BackendTlsPolicy => {
                names("BackendTLSPolicy", "backendtlspolicies", "btls", GATEWAY_API, ALPHA)
            }
            Self::ReferenceGrant => {
                names("ReferenceGrant", "referencegrants", "refgrant", GATEWAY_API, &["v1", "v1beta1"])
            }
            Self::Namespace => names("Namespace", "namespaces", "ns", "", &["v1"]),
            Self::Service => names("Service", "services", "svc", "", &["v1"]),
            Self::EndpointSlice => {
                names("EndpointSlice", "endpointslices", "eps", "discovery.k8s.io", &["v1"])
            }
            Self::Secret => names("Secret", "secrets", "secret", "", &["v1"]),
            Self::ConfigMap => names("ConfigMap", "configmaps", "cm", "", &["v1"]),
            Self::Backend => names("Backend", "backends", "be", WEIR, &["v1"]),
            Self::TrafficPolicy => names("TrafficPolicy", "trafficpolicies", "tp", WEIR, &["v1"]),
            Self::UserGroup => names("UserGroup", "usergroups", "ug", WEIR, &["v1"]),
            Self::PeerAuthentication => {
                names("PeerAuthentication", "peerauthentications", "pa", WEIR, &["v1"])
            }
            Self::FlowRule => names("FlowRule", "flowrules", "fr", WEIR, &["v1"]),
        }
    }

    /// As documents spell it: `HTTPRoute`.
    pub const fn as_str(self) -> &'static str {
        self.names().kind
    }

    /// As paths and commands spell it: `httproutes`.
    pub const fn plural(self) -> &'static str {
        self.names().plural
    }

    /// Its API group; empty for Kubernetes' core.
    pub const fn group(self) -> &'static str {
        self.names().group
    }

    /// The `apiVersion` that is written.
    pub fn api_version(self) -> String {
        let Names { group, versions, .. } = self.names();
        if group.is_empty() { versions[0].to_owned() } else { format!("{group}/{}", versions[0]) }
    }

    /// Whether a document with this `apiVersion` is read.
    pub fn reads(self, api_version: &str) -> bool {
        let Names { group, versions, .. } = self.names();
        let (of, version) = api_version.split_once('/').unwrap_or(("", api_version));
        of == group && versions.contains(&version)
    }

    /// Whether its names are within a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::GatewayClass | Self::Namespace)
    }

    /// By the word that documents use.
    pub fn by_name(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not a kind of resource{hint}")]
pub struct UnknownKind {
    word: String,
    hint: String,
}

impl FromStr for Kind {
    type Err = UnknownKind;

    /// As people type it: `httproute`, `httproutes`, `route`, in any case.
    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        let lower = word.to_ascii_lowercase();
        let found = Self::ALL.into_iter().find(|kind| {
            let names = kind.names();
            lower == names.plural || lower == names.short || lower == names.kind.to_ascii_lowercase()
        });
        found.ok_or_else(|| UnknownKind {
            word: word.to_owned(),
            hint: did_you_mean(&lower, Self::ALL.map(Self::plural)),
        })
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::by_name(&word).ok_or_else(|| serde::de::Error::custom(format!("{word:?} is not a kind")))
    }
}

/// What a resource is called: unique among all that is served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty where its kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// Of a kind, in a namespace.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// `HTTPRoute shop`; with the namespace unless that is `default`.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" | "default" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_what_people_type() {
        for word in ["HTTPRoute", "httproutes", "route", "httproute"] {
            assert_eq!(word.parse(), Ok(Kind::HttpRoute), "{word}");
        }
        let unknown = "httprout".parse::<Kind>().expect_err("unknown").to_string();
        assert_eq!(unknown, "\"httprout\" is not a kind of resource, did you mean `httproutes`?");
        for kind in Kind::ALL {
            assert_eq!(Kind::by_name(kind.as_str()), Some(kind));
            assert_eq!(kind.plural().parse(), Ok(kind));
            assert!(kind.reads(&kind.api_version()));
        }
    }
}
