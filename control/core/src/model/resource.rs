//! A resource of any kind, and all of them together.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Backend, BackendTlsPolicy, ConfigMap, EndpointSlice, FlowRule, Gateway, GatewayClass, GrpcRoute,
    HttpRoute, Kind, ListenerSet, Metadata, Namespace, ObjectKey, PeerAuthentication, ReferenceGrant, Secret,
    Service, TcpRoute, TlsRoute, TrafficPolicy, UserGroup,
};

/// Reads a value of whatever type it is asked for, from a document.
pub(super) trait Read {
    /// What is said of a document that is not such a value.
    type Error;

    /// Reads it.
    fn read<T: DeserializeOwned>(&self) -> Result<T, Self::Error>;
}

impl Read for Value {
    type Error = serde_json::Error;

    fn read<T: DeserializeOwned>(&self) -> Result<T, Self::Error> {
        T::deserialize(self)
    }
}

macro_rules! kinds {
    ($($kind:ident of $list:ident),* $(,)?) => {
        /// A resource of any kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is named as its kind")]
        pub enum Resource {
            $($kind($kind),)*
        }

        impl Resource {
            /// Its kind.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Its name, and what is said of it.
            pub const fn metadata(&self) -> &Metadata {
                match self { $(Self::$kind(value) => &value.metadata,)* }
            }

            /// The same, to be changed.
            pub const fn metadata_mut(&mut self) -> &mut Metadata {
                match self { $(Self::$kind(value) => &mut value.metadata,)* }
            }

            /// As JSON: what was read, with the defaults that it left out.
            ///
            /// # Errors
            /// None that is known: maps have text as keys.
            pub fn to_value(&self) -> Result<Value, serde_json::Error> {
                match self { $(Self::$kind(value) => serde_json::to_value(value),)* }
            }

            pub(super) fn read_as<R: Read>(kind: Kind, from: &R) -> Result<Self, R::Error> {
                match kind { $(Kind::$kind => from.read().map(Self::$kind),)* }
            }
        }

        impl Objects {
            $(
                #[doc = concat!("Those of the kind `", stringify!($kind), "`, by namespace and name.")]
                pub fn $list(&self) -> impl Iterator<Item = &$kind> {
                    self.of_kind(Kind::$kind).filter_map(|(_, resource)| match &**resource {
                        Resource::$kind(value) => Some(value),
                        _ => None,
                    })
                }
            )*
        }

        $(
            impl From<$kind> for Resource {
                fn from(value: $kind) -> Self {
                    Self::$kind(value)
                }
            }
        )*
    };
}

kinds! {
    GatewayClass of gateway_classes,
    Gateway of gateways,
    ListenerSet of listener_sets,
    HttpRoute of http_routes,
    GrpcRoute of grpc_routes,
    TlsRoute of tls_routes,
    TcpRoute of tcp_routes,
    BackendTlsPolicy of backend_tls_policies,
    ReferenceGrant of reference_grants,
    Namespace of namespaces,
    Service of services,
    EndpointSlice of endpoint_slices,
    Secret of secrets,
    ConfigMap of config_maps,
    Backend of backends,
    TrafficPolicy of traffic_policies,
    UserGroup of user_groups,
    FlowRule of flow_rules,
    PeerAuthentication of peer_authentications,
}

impl Resource {
    /// What it is called.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey::new(self.kind(), &metadata.namespace, &metadata.name)
    }

    /// From JSON, as [`Resource::to_value`] writes it.
    ///
    /// # Errors
    /// It is not a resource of that kind.
    pub fn from_value(kind: Kind, value: &Value) -> Result<Self, serde_json::Error> {
        let mut resource = Self::read_as(kind, value)?;
        if !kind.is_namespaced() {
            resource.metadata_mut().namespace.clear();
        }
        Ok(resource)
    }
}

/// Resources by kind, namespace and name. Cheap to copy: they are shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects(BTreeMap<ObjectKey, Arc<Resource>>);

impl Objects {
    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The one that is called so.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Resource>> {
        self.0.get(key)
    }

    /// Puts one in its place.
    pub fn put(&mut self, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        self.0.insert(resource.key(), resource)
    }

    /// Takes one away.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Resource>> {
        self.0.remove(key)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<Resource>)> {
        self.0.iter()
    }

    /// Those of a kind, by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Arc<Resource>)> {
        let first = ObjectKey { kind, namespace: String::new(), name: String::new() };
        self.0.range(first..).take_while(move |(key, _)| key.kind == kind)
    }
}

impl FromIterator<Arc<Resource>> for Objects {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        Self(resources.into_iter().map(|resource| (resource.key(), resource)).collect())
    }
}
