//! The bootstrap file: an Envoy v3 bootstrap in YAML or JSON.
//!
//! Keys outside resources that this proxy does not know are warned about, as Envoy's bootstrap has many; inside a
//! listener or cluster they are refused.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;
use proxy_core::config::{
    Address, Cluster, EndpointSource, Listener, ListenerName, NodeFacts, UpstreamProtocol,
};
use proxy_core::snapshot::{CompileError, Snapshot};
use proxy_core::xds::translate::{self, Accepted};
use proxy_core::xds::{Held, Origin, Rejection, Resources, StaticConflict, Subscriptions, Variant};
use xds_proto::envoy::config::bootstrap::v3 as bootstrap_proto;
use xds_proto::envoy::config::bootstrap::v3::bootstrap::{DynamicResources, StaticResources};
use xds_proto::envoy::config::cluster::v3 as cluster_proto;
use xds_proto::envoy::config::core::v3::api_config_source::ApiType;
use xds_proto::envoy::config::core::v3::grpc_service::TargetSpecifier;
use xds_proto::envoy::config::core::v3::node::UserAgentVersionType;
use xds_proto::envoy::config::core::v3::{ApiConfigSource, ApiVersion, ConfigSource, Node};
use xds_proto::json::{self, Place, ReadError};
use xds_proto::prost_types::Any;
use xds_proto::type_url;

use crate::xds::ControlPlane;

/// What a proxy needs to start.
#[derive(Debug)]
pub struct Bootstrap {
    /// Who this proxy is to its control plane.
    pub(crate) node: Node,
    /// Where the read-only admin port listens; none where unset.
    pub(crate) admin: Option<Address>,
    /// Where the control planes are; none where there are none.
    pub(crate) control_plane: ControlPlane,
    pub(crate) subscriptions: Subscriptions,
    /// Static resources.
    pub(crate) resources: Resources,
    /// Paths of keys that were not understood and do not concern this proxy.
    pub warnings: Vec<String>,
    /// The file or flag that all of it is from, and its text.
    pub(crate) document: Option<(String, String)>,
    /// The names of the static listeners, in the order of the document.
    pub(crate) listener_names: Vec<String>,
}

/// A bootstrap that cannot be used. The text is one sentence with the place.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a bootstrap.
    #[error("{source}")]
    Document {
        /// With line and column.
        #[from]
        source: ReadError,
    },
    /// A static resource is not supported or makes no sense.
    #[error("static_resources: {rejection}")]
    Resource {
        /// What is wrong.
        rejection: Box<Rejection>,
        /// The list that it is in, and its number there.
        list: &'static str,
        /// Its number there.
        index: usize,
    },
    /// Two static resources share a name.
    #[error("{conflict}")]
    Conflict {
        /// Which.
        conflict: StaticConflict,
        /// Where the second one is.
        path: String,
    },
    /// A setting makes no sense.
    #[error("{path}: {reason}")]
    Setting {
        /// The key.
        path: &'static str,
        /// Why.
        reason: String,
    },
    /// The static resources contradict one another.
    #[error("static_resources: {0}")]
    Compile(#[from] CompileError),
    /// A file that it names cannot be used.
    #[error("{0}")]
    File(String),
    /// The same, in the text of `--config-yaml` or in a file.
    #[error("{origin}:{} {source}", place.map_or_else(String::new, |place| format!("{place}:")))]
    In {
        /// The file, or the flag.
        origin: String,
        /// Where in it, if that is known.
        place: Option<Place>,
        /// What is wrong there.
        source: Box<BootstrapError>,
    },
}

impl BootstrapError {
    /// Says where in a text it is.
    fn within(self, origin: String, text: &str) -> Self {
        let place_of = |path: &str| json::place_of(text, path);
        let (place, source) = match self {
            Self::Document { source } => {
                let place = source.place;
                (place, Self::Document { source: ReadError { place: None, ..source } })
            }
            Self::Resource { rejection, list, index } => {
                let path = format!("static_resources.{list}[{index}].{}", rejection.path);
                (place_of(&path), Self::Resource { rejection, list, index })
            }
            Self::Setting { path, reason } => (place_of(path), Self::Setting { path, reason }),
            Self::Conflict { conflict, path } => (place_of(&path), Self::Conflict { conflict, path }),
            other => (None, other),
        };
        Self::In { origin, place, source: Box::new(source) }
    }
}

fn setting(path: &'static str, reason: impl Into<String>) -> BootstrapError {
    BootstrapError::Setting { path, reason: reason.into() }
}

/// Where a bootstrap comes from, in the order in which its parts are merged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sources<'a> {
    /// A file.
    pub path: Option<&'a Path>,
    /// Text that is merged over the file: lists are joined, single values replaced.
    pub yaml: Option<&'a str>,
    /// The node's id instead.
    pub node_id: Option<&'a str>,
    /// The node's cluster instead.
    pub node_cluster: Option<&'a str>,
}

impl Bootstrap {
    /// Reads a file.
    ///
    /// # Errors
    /// One sentence that names the file and the place in it.
    pub fn from_file(path: &Path) -> Result<Self, BootstrapError> {
        Self::read(&Sources { path: Some(path), ..Sources::default() })
    }

    /// Reads and merges everything that there is.
    ///
    /// # Errors
    /// One sentence that names the source and the place in it.
    pub fn read(sources: &Sources<'_>) -> Result<Self, BootstrapError> {
        let mut message = bootstrap_proto::Bootstrap::default();
        let mut warnings = Vec::new();
        let mut origin = String::new();
        let mut text = String::new();
        if let Some(path) = sources.path {
            origin = path.display().to_string();
            text = std::fs::read_to_string(path)
                .map_err(|source| BootstrapError::Unreadable { path: path.to_owned(), source })?;
            (message, warnings) = json::read(&text)
                .map_err(|error| BootstrapError::from(error).within(origin.clone(), &text))?;
        }
        if let Some(over_text) = sources.yaml {
            let flag = || "--config-yaml".to_owned();
            let (over, more) = json::read::<bootstrap_proto::Bootstrap>(over_text)
                .map_err(|error| BootstrapError::from(error).within(flag(), over_text))?;
            // What protobuf calls merging: later single values win, lists are joined.
            let merged = message.merge(over.encode_to_vec().as_slice());
            merged.map_err(|error| setting("--config-yaml", error.to_string()))?;
            warnings.extend(more);
            if sources.path.is_none() {
                (origin, text) = (flag(), over_text.to_owned());
            }
        }
        if sources.node_id.is_some() || sources.node_cluster.is_some() {
            let node = message.node.get_or_insert_default();
            sources.node_id.iter().for_each(|id| node.id = (*id).to_owned());
            sources.node_cluster.iter().for_each(|cluster| node.cluster = (*cluster).to_owned());
        }
        let is_one = sources.path.is_none() || sources.yaml.is_none();
        match Self::of(message, warnings) {
            Ok(bootstrap) => Ok(Self { document: is_one.then_some((origin, text)), ..bootstrap }),
            Err(error) if is_one => Err(error.within(origin, &text)),
            // Nobody knows which of the two it is from.
            Err(error) => Err(error),
        }
    }

    /// Whether listeners or clusters come from a control plane.
    pub(crate) fn follows_control_plane(&self) -> bool {
        let Subscriptions { listeners, clusters, variant: _ } = &self.subscriptions;
        [listeners, clusters].contains(&&Some(Origin::Ads))
    }

    /// Reads the text of a file, whose name is for what is said of it.
    ///
    /// # Errors
    /// As [`Bootstrap::from_file`].
    pub fn from_text(name: &str, text: String) -> Result<Self, BootstrapError> {
        let within = |error: BootstrapError| error.within(name.to_owned(), &text);
        let (message, warnings) = json::read(&text).map_err(|error| within(error.into()))?;
        let bootstrap = Self::of(message, warnings).map_err(within)?;
        Ok(Self { document: Some((name.to_owned(), text)), ..bootstrap })
    }

    /// Compiles what the static resources say, as serving them would.
    ///
    /// # Errors
    /// They contradict one another.
    pub fn validate(&self) -> Result<(), BootstrapError> {
        Snapshot::default().next(&self.resources.config(), |_| false).map_err(|error| {
            let CompileError::MissingCluster { listener, path, .. } = &error;
            let (listener, path) = (listener.clone(), format!("{OWN_ROUTES}.{path}"));
            self.located(&listener, &path, error.into())
        })?;
        let mut owners: HashMap<&Address, &str> = HashMap::new();
        for listener in self.resources.listeners() {
            let Listener { name, address, .. } = &*listener.value;
            if let Some(owner) = owners.insert(address, name.as_str()) {
                let reason = format!("listener \"{name}\": listener \"{owner}\" already has {address}");
                return Err(self.located(name, "address", setting("static_resources", reason)));
            }
        }
        Ok(())
    }

    /// Says where in the document the `path` of a static listener is.
    fn located(&self, listener: &ListenerName, path: &str, error: BootstrapError) -> BootstrapError {
        let Some((origin, text)) = &self.document else { return error };
        let number = self.listener_names.iter().position(|name| name == listener.as_str());
        let place = number
            .and_then(|number| json::place_of(text, &format!("static_resources.listeners[{number}].{path}")));
        BootstrapError::In { origin: origin.clone(), place, source: Box::new(error) }
    }

    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// As [`Bootstrap::from_file`], without the file.
    pub fn from_yaml(text: &str) -> Result<Self, BootstrapError> {
        let (message, warnings) = json::read::<bootstrap_proto::Bootstrap>(text)?;
        Self::of(message, warnings)
    }

    fn of(message: bootstrap_proto::Bootstrap, warnings: Vec<String>) -> Result<Self, BootstrapError> {
        let bootstrap_proto::Bootstrap { node, static_resources, dynamic_resources, admin } = message;
        let StaticResources { listeners, clusters } = static_resources.unwrap_or_default();
        let DynamicResources { lds_config, cds_config, ads_config } = dynamic_resources.unwrap_or_default();

        let mut subscriptions = Subscriptions {
            listeners: origin("dynamic_resources.lds_config", lds_config)?,
            clusters: origin("dynamic_resources.cds_config", cds_config)?,
            variant: Variant::default(),
        };
        let (control_plane, lead_there) = match ads_config {
            Some(ads) => control_plane(&ads, &clusters)?,
            None if [&subscriptions.listeners, &subscriptions.clusters].contains(&&Some(Origin::Ads)) => {
                return Err(setting(
                    "dynamic_resources.ads_config",
                    "is required where lds_config or cds_config says ads",
                ));
            }
            None => Default::default(),
        };
        subscriptions.variant = control_plane.variant;
        let mut node = node.unwrap_or_default();
        if !control_plane.servers.is_empty() && node.id.is_empty() {
            return Err(setting("node.id", "is required to follow a control plane"));
        }
        node.user_agent_name = "weir".to_owned();
        node.user_agent_version_type =
            Some(UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").to_owned()));
        let admin = match admin.and_then(|a| a.address) {
            Some(address) => {
                Some(translate::address(address).map_err(|reason| setting("admin.address", reason))?)
            }
            None => None,
        };
        let in_list = |list| {
            move |(index, rejection)| BootstrapError::Resource { rejection: Box::new(rejection), list, index }
        };
        let listener_names: Vec<_> = listeners.iter().map(|message| message.name.clone()).collect();
        let cluster_names: Vec<_> = clusters.iter().map(|message| message.name.clone()).collect();
        let listeners = held_all(&listeners, &[], held_listener).map_err(in_list("listeners"))?;
        let clusters = held_all(&clusters, &lead_there, held_cluster).map_err(in_list("clusters"))?;
        let mut resources = Resources::with_static(listeners, clusters).map_err(|conflict| {
            let names = if conflict.kind == "listener" { &listener_names } else { &cluster_names };
            let index = names.iter().rposition(|name| *name == conflict.name).unwrap_or(0);
            let path = format!("static_resources.{}s[{index}]", conflict.kind);
            BootstrapError::Conflict { conflict, path }
        })?;
        let metadata = node.metadata.as_ref().map(translate::flattened);
        resources.set_node(NodeFacts(metadata.unwrap_or_default()));
        Ok(Self {
            node,
            admin,
            control_plane,
            subscriptions,
            resources,
            warnings,
            document: None,
            listener_names,
        })
    }
}

/// All resources of a list but some, or the number of the first that is refused.
fn held_all<M: prost::Message + prost::Name, T>(
    messages: &[M],
    without: &[usize],
    held: impl Fn(Any) -> Result<T, Rejection>,
) -> Result<Vec<T>, (usize, Rejection)> {
    let wanted = messages.iter().enumerate().filter(|(index, _)| !without.contains(index));
    wanted.map(|(index, message)| held(type_url::pack(message)).map_err(|error| (index, error))).collect()
}

/// The path of the route configuration within a static listener.
pub(crate) fn own_routes(listener: usize) -> String {
    format!("static_resources.listeners[{listener}].{OWN_ROUTES}")
}

/// The path of the route configuration within a listener.
pub(crate) const OWN_ROUTES: &str = "filter_chains[0].filters[0].typed_config.route_config";

fn held_listener(raw: Any) -> Result<Held<Listener>, Rejection> {
    let Accepted { value, .. } = translate::listener(&raw)?;
    Ok(Held { raw: Arc::new(raw), version: String::new(), value: Arc::new(value) })
}

fn held_cluster(raw: Any) -> Result<Held<Cluster>, Rejection> {
    let Accepted { value, .. } = translate::cluster(&raw)?;
    Ok(Held { raw: Arc::new(raw), version: String::new(), value: Arc::new(value) })
}

fn origin(path: &'static str, source: Option<ConfigSource>) -> Result<Option<Origin>, BootstrapError> {
    source.map(|source| translate::origin(source).map_err(|reason| setting(path, reason))).transpose()
}

/// The control planes, and the numbers of the clusters that lead there: they speak HTTP/2 and serve no traffic.
fn control_plane(
    ads: &ApiConfigSource,
    clusters: &[cluster_proto::Cluster],
) -> Result<(ControlPlane, Vec<usize>), BootstrapError> {
    const PATH: &str = "dynamic_resources.ads_config";
    let ApiConfigSource { api_type, grpc_services, transport_api_version, set_node_on_first_message_only: _ } =
        ads;
    let variant = match ApiType::try_from(*api_type) {
        Ok(ApiType::Grpc) => Variant::StateOfTheWorld,
        Ok(ApiType::DeltaGrpc) => Variant::Delta,
        _ => return Err(setting(PATH, "api_type must be GRPC or DELTA_GRPC")),
    };
    if *transport_api_version != ApiVersion::V3 as i32 {
        return Err(setting(PATH, "transport_api_version must be V3"));
    }
    if grpc_services.is_empty() {
        return Err(setting(PATH, "grpc_services is required"));
    }
    let mut servers = Vec::new();
    let mut numbers = Vec::new();
    for (number, service) in grpc_services.iter().enumerate() {
        let Some(TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
            return Err(setting(PATH, format!("grpc_services[{number}].envoy_grpc is required")));
        };
        let Some(at) = clusters.iter().position(|cluster| cluster.name == target.cluster_name) else {
            let reason = format!("static_resources has no cluster {:?}", target.cluster_name);
            return Err(setting(PATH, reason));
        };
        let refused = |rejection| BootstrapError::Resource {
            rejection: Box::new(rejection),
            list: "clusters",
            index: at,
        };
        let mut cluster = translate::cluster(&type_url::pack(&clusters[at])).map_err(refused)?.value;
        // gRPC is HTTP/2, whatever the cluster says.
        cluster.connections.protocol = UpstreamProtocol::Http2;
        let has_endpoints = match &cluster.endpoints {
            EndpointSource::Static(assignment) => assignment.endpoints().next().is_some(),
            EndpointSource::Dns(targets) => !targets.names.is_empty(),
            EndpointSource::Eds(..) | EndpointSource::EdsFile(..) | EndpointSource::OriginalDst { .. } => {
                false
            }
        };
        if !has_endpoints {
            let reason =
                format!("cluster {:?} must have endpoints, by address or by name", target.cluster_name);
            return Err(setting(PATH, reason));
        }
        servers.push(Arc::new(cluster));
        numbers.push(at);
    }
    Ok((ControlPlane { servers, variant }, numbers))
}

#[cfg(test)]
mod tests;
