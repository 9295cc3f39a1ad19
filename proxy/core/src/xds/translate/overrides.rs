//! `typed_per_filter_config`: what a route configuration, virtual host, route or arm says to a filter. The most specific
//! level that says something of a filter is heard, and only that.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use xds_proto::envoy::config::core::v3::CidrRange;
use xds_proto::envoy::config::route::v3::FilterConfig;
use xds_proto::prost_types::{Any, Struct};
use xds_proto::type_url;
use xds_proto::weir::limits::v1::HttpLimits;
use xds_proto::weir::r#match::v1::SourceMatch;
use xds_proto::weir::split::v1::SplitPolicy;

use super::access::json_value;
use super::fault::{At, Fault, Translated, each};
use super::{injection, unpack};
use crate::access::JsonValue;
use crate::config::{AddressRange, Condition, Labels, NodeMatch, RouteLimits};
use crate::fault::Injection;

/// How a split is decided.
pub(super) const SPLIT: &str = "weir.split";
/// Who may ask.
const MATCH: &str = "weir.match";
/// Bounds.
const LIMITS: &str = "weir.limits";
/// Faults on purpose, and how they depend on one another.
const FAULT: &str = "envoy.filters.http.fault";
const CORRELATION: &str = "weir.fault";
const KNOWN: [&str; 5] = [SPLIT, MATCH, LIMITS, FAULT, CORRELATION];

/// What one level, and those above it, say.
#[derive(Clone, Default)]
pub(super) struct Overrides {
    pub(super) split: Option<SplitPolicy>,
    pub(super) conditions: Vec<Condition>,
    pub(super) limits: Option<RouteLimits>,
    injection: Option<Injection>,
    /// Of delays and of aborts.
    correlation: (u32, u32),
    /// The filters of which this level says something.
    says: Vec<&'static str>,
}

impl Overrides {
    /// With what the level above says of other filters.
    pub(super) fn over(self, above: &Self) -> Self {
        let silent = |filter: &str| !self.says.contains(&filter);
        Self {
            split: if silent(SPLIT) { above.split.clone() } else { self.split },
            conditions: if silent(MATCH) { above.conditions.clone() } else { self.conditions },
            limits: if silent(LIMITS) { above.limits.clone() } else { self.limits },
            injection: if silent(FAULT) { above.injection.clone() } else { self.injection },
            correlation: if silent(CORRELATION) { above.correlation } else { self.correlation },
            says: self
                .says
                .into_iter()
                .chain(above.says.iter().copied().filter(|says| *says == FAULT))
                .collect(),
        }
    }

    pub(super) const fn says_anything(&self) -> bool {
        !self.says.is_empty()
    }

    /// Faults instead of the listener's; none where nobody says anything of them.
    pub(super) fn injection(&self) -> Translated<Option<Box<Injection>>> {
        if !self.says.contains(&FAULT) {
            return match self.correlation {
                (0, 0) => Ok(None),
                _ => Err(Fault::new(format!("goes with {FAULT} at the same level or above"))
                    .under(format_args!("typed_per_filter_config[{CORRELATION:?}]"))),
            };
        }
        let mut injection = self.injection.clone().unwrap_or_default();
        if let Some((_, chance)) = &mut injection.delay {
            chance.correlation = self.correlation.0;
        }
        if let Some((_, chance)) = &mut injection.abort {
            chance.correlation = self.correlation.1;
        }
        Ok(Some(Box::new(injection)))
    }
}

pub(super) fn read(config: &HashMap<String, Any>) -> Translated<Overrides> {
    let mut overrides = Overrides::default();
    // In a fixed order, so that of several faults always the same one is told.
    for (filter, any) in config.iter().collect::<BTreeMap<_, _>>() {
        one(&mut overrides, filter, any).at(format!("[{filter:?}]"))?;
    }
    Ok(overrides)
}

fn one(overrides: &mut Overrides, filter: &str, any: &Any) -> Translated<()> {
    let mut inner = None;
    if type_url::message_name(&any.type_url) == "envoy.config.route.v3.FilterConfig" {
        let FilterConfig { config, is_optional, disabled } = unpack(any)?;
        let known = KNOWN.contains(&filter);
        if is_optional && !known {
            return Ok(());
        }
        if !disabled {
            inner = Some(
                config.ok_or_else(|| Fault::new("is required, unless disabled is set").under("config"))?,
            );
        } else if !known {
            return Err(unknown());
        }
    } else {
        inner = Some(any.clone());
    }
    match filter {
        SPLIT => {
            overrides.says.push(SPLIT);
            overrides.split = inner.as_ref().map(unpack).transpose()?;
        }
        MATCH => {
            overrides.says.push(MATCH);
            overrides.conditions =
                inner.as_ref().map(unpack).transpose()?.map_or(Ok(Vec::new()), source_match)?;
        }
        LIMITS => {
            overrides.says.push(LIMITS);
            overrides.limits = inner.as_ref().map(unpack).transpose()?.map(route_limits).transpose()?;
        }
        FAULT => {
            overrides.says.push(FAULT);
            overrides.injection =
                inner.as_ref().map(unpack).transpose()?.map(injection::injection).transpose()?;
        }
        CORRELATION => {
            overrides.says.push(CORRELATION);
            let told = inner.as_ref().map(unpack).transpose()?.map(injection::correlation).transpose()?;
            overrides.correlation = told.unwrap_or_default();
        }
        _ => return Err(unknown()),
    }
    Ok(())
}

fn unknown() -> Fault {
    Fault::new(format!(
        "no such filter; {SPLIT}, {MATCH}, {LIMITS}, {FAULT} and {CORRELATION} are known here"
    ))
}

fn source_match(message: SourceMatch) -> Translated<Vec<Condition>> {
    let SourceMatch { addresses, labels, node_labels, node_metadata } = message;
    let mut conditions = Vec::new();
    if !addresses.is_empty() {
        conditions.push(Condition::SourceAddress(each("addresses", addresses, range)?));
    }
    if !labels.is_empty() {
        conditions.push(Condition::SourceLabels(self::labels(labels)));
    }
    if !node_labels.is_empty() || node_metadata.is_some() {
        let metadata = node_metadata.as_ref().map(flattened).unwrap_or_default();
        conditions.push(Condition::Node(NodeMatch { labels: self::labels(node_labels), metadata }));
    }
    if conditions.is_empty() {
        return Err(Fault::new("says nothing: addresses, labels, node_labels or node_metadata is required"));
    }
    Ok(conditions)
}

pub(super) fn range(message: CidrRange) -> Translated<AddressRange> {
    let CidrRange { address_prefix, prefix_len } = message;
    let address: IpAddr = address_prefix.parse().map_err(|_| {
        Fault::new(format!("{address_prefix:?} is not an IP address")).under("address_prefix")
    })?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match prefix_len.unwrap_or(0) {
        bits if bits <= most => Ok(AddressRange { address, bits: bits as u8 }),
        bits => Err(Fault::new(format!("{bits} is more than {most}")).under("prefix_len")),
    }
}

fn labels(map: HashMap<String, String>) -> Labels {
    map.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// The fields of a document by their path with dots, as text. Lists are left out.
pub fn flattened(document: &Struct) -> Labels {
    fn walk(path: &str, value: &JsonValue, out: &mut Labels) {
        match value {
            JsonValue::Object(members) => {
                for (name, value) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(&path, value, out);
                }
            }
            JsonValue::Text(text) | JsonValue::Number(text) => {
                drop(out.insert(path.into(), text.as_str().into()));
            }
            JsonValue::Bool(value) => drop(out.insert(path.into(), value.to_string().into())),
            JsonValue::Null | JsonValue::List(_) => {}
        }
    }
    let mut out = Labels::new();
    for (name, value) in &document.fields {
        walk(name, &json_value(value.clone()), &mut out);
    }
    out
}

/// The bounds that a route can set by itself.
fn route_limits(message: HttpLimits) -> Translated<RouteLimits> {
    let HttpLimits {
        max_uri_bytes,
        max_header_line_bytes,
        max_trailer_bytes,
        max_chunk_extension_bytes,
        body_idle_timeout,
        write_timeout,
        min_body_rate,
        min_body_rate_grace,
        tunnel_idle_timeout,
        max_connections_per_source,
    } = message;
    let counts = [
        ("max_uri_bytes", max_uri_bytes),
        ("max_header_line_bytes", max_header_line_bytes),
        ("max_trailer_bytes", max_trailer_bytes),
        ("max_chunk_extension_bytes", max_chunk_extension_bytes),
        ("min_body_rate", min_body_rate),
        ("max_connections_per_source", max_connections_per_source),
    ];
    let of_listener = counts.iter().find(|(_, count)| count.is_some()).map(|(field, _)| *field);
    let of_listener = of_listener.or(min_body_rate_grace.is_some().then_some("min_body_rate_grace"));
    if let Some(field) = of_listener {
        return Err(Fault::new("is for listeners: it holds before a route is known").under(field));
    }
    let mut limits = RouteLimits::default();
    for (field, set, time) in [
        ("body_idle_timeout", &mut limits.body_idle, body_idle_timeout),
        ("write_timeout", &mut limits.write, write_timeout),
        ("tunnel_idle_timeout", &mut limits.tunnel_idle, tunnel_idle_timeout),
    ] {
        *set = time.map(super::http::duration).transpose().at(field)?;
    }
    Ok(limits)
}
