//! What a route asks of a request beside its path.

use std::fmt;
use std::net::IpAddr;

use super::route::Labels;
use crate::pattern::Pattern;

/// One condition. All of a route's must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// On a header.
    Header(HeaderMatch),
    /// On a query parameter.
    Query(QueryMatch),
    /// On a cookie.
    Cookie(CookieMatch),
    /// The request is gRPC, by its content type.
    Grpc,
    /// A share of all requests, drawn at random.
    Fraction(Fraction),
    /// The client's address lies in one of these.
    SourceAddress(Vec<AddressRange>),
    /// The endpoint that has the client's address has these labels.
    SourceLabels(Labels),
    /// This proxy is one of those that are meant. Decided when the table is compiled.
    Node(NodeMatch),
}

/// What a route asks of the proxy that serves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeMatch {
    /// Labels of its node.
    pub labels: Labels,
    /// Fields of its node's metadata, by their path with dots.
    pub metadata: Labels,
}

/// What is known of the proxy itself: the fields of its node's metadata by their path with dots, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts(pub Labels);

impl NodeFacts {
    /// Whether this proxy is one of those that are meant.
    pub fn fit(&self, wanted: &NodeMatch) -> bool {
        // Istio writes them in capitals.
        let label =
            |name: &str| ["labels", "LABELS"].iter().find_map(|at| self.0.get(&*format!("{at}.{name}")));
        wanted.labels.iter().all(|(name, value)| label(name) == Some(value))
            && wanted.metadata.iter().all(|(path, value)| self.0.get(path) == Some(value))
    }
}

/// A condition on a header.
///
/// Of several lines of one header one suffices, as in Envoy 1.40; or all of them, joined with commas, as the proto says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Which header.
    pub name: FieldName,
    /// What holds of it.
    pub predicate: Predicate,
    /// Whether it must not hold.
    pub inverted: bool,
    /// Whether a header that is not there is one without a value; else nothing but its absence holds of it.
    pub missing_is_empty: bool,
}

impl HeaderMatch {
    /// A plain condition.
    pub const fn new(name: FieldName, predicate: Predicate) -> Self {
        Self { name, predicate, inverted: false, missing_is_empty: false }
    }
}

/// A header, or a part of the request that xDS addresses like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldName {
    /// A header, in lower case.
    Header(Box<str>),
    /// `:method`
    Method,
    /// `:path`, query included.
    Path,
    /// `:authority`
    Authority,
    /// `:scheme`
    Scheme,
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// Its text.
    Text(TextMatch),
    /// It is a whole number from the first to before the second.
    Range(i64, i64),
}

/// A condition on a text (`envoy.type.matcher.v3.StringMatcher`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TextMatch {
    /// What holds of it.
    pub form: TextForm,
    /// Whether its case plays no part. Not for expressions.
    pub ignores_case: bool,
}

impl TextMatch {
    /// Exactly this.
    pub fn exact(text: impl Into<Box<str>>) -> Self {
        Self { form: TextForm::Exact(text.into()), ignores_case: false }
    }
}

/// What holds of a text. In lower case where the case plays no part.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextForm {
    /// It is this.
    Exact(Box<str>),
    /// It starts with this.
    Prefix(Box<str>),
    /// It ends with this.
    Suffix(Box<str>),
    /// It holds this.
    Contains(Box<str>),
    /// All of it matches this.
    Regex(Pattern),
}

/// A condition on the first query parameter of a name, as it is written: nothing is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name. Case matters.
    pub name: Box<str>,
    /// What holds of it; [`Predicate::Range`] is not used here.
    pub predicate: Predicate,
}

/// A condition on a cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieMatch {
    /// Its name. Case matters.
    pub name: Box<str>,
    /// What holds of its value.
    pub value: TextMatch,
    /// Whether it must not hold.
    pub inverted: bool,
}

/// A share, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// Of a million.
    pub millionths: u32,
}

/// Addresses that share their first bits (`envoy.config.core.v3.CidrRange`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// Any address of the range.
    pub address: IpAddr,
    /// How many bits are shared.
    pub bits: u8,
}

impl AddressRange {
    /// Whether an address lies in it. IPv4 addresses in IPv6 form count as what they are.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                (range.to_bits() ^ address.to_bits())
                    .checked_shr(32 - u32::from(self.bits.min(32)))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let differing = range.to_bits() ^ address.to_bits();
                differing.checked_shr(128 - u32::from(self.bits.min(128))).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header(name) => name,
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Authority => ":authority",
            Self::Scheme => ":scheme",
        })
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            TextForm::Exact(text) => write!(f, "is {text:?}"),
            TextForm::Prefix(text) => write!(f, "starts with {text:?}"),
            TextForm::Suffix(text) => write!(f, "ends with {text:?}"),
            TextForm::Contains(text) => write!(f, "contains {text:?}"),
            TextForm::Regex(pattern) => write!(f, "matches {:?}", pattern.as_str()),
        }?;
        if self.ignores_case { f.write_str(" in any case") } else { Ok(()) }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("is present"),
            Self::Absent => f.write_str("is absent"),
            Self::Text(text) => text.fmt(f),
            Self::Range(start, end) => write!(f, "is a number from {start} to before {end}"),
        }
    }
}

impl fmt::Display for Condition {
    /// What is asked, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |inverted: bool| if inverted { "not: " } else { "" };
        match self {
            Self::Header(HeaderMatch { name, predicate, inverted, .. }) => {
                write!(f, "{}header {name} {predicate}", not(*inverted))
            }
            Self::Query(QueryMatch { name, predicate }) => write!(f, "query parameter {name} {predicate}"),
            Self::Cookie(CookieMatch { name, value, inverted }) => {
                write!(f, "{}cookie {name} {value}", not(*inverted))
            }
            Self::Grpc => f.write_str("the request is gRPC"),
            Self::Fraction(Fraction { millionths }) => {
                write!(f, "a draw of {}.{:04} %", millionths / 10_000, millionths % 10_000)
            }
            Self::SourceAddress(ranges) => {
                f.write_str("the client's address is in ")?;
                for (i, range) in ranges.iter().enumerate() {
                    write!(f, "{}{range}", if i > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::SourceLabels(labels) => {
                f.write_str("the client's endpoint has labels ")?;
                for (i, (name, value)) in labels.iter().enumerate() {
                    write!(f, "{}{name}={value}", if i > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::Node(NodeMatch { labels, metadata }) => {
                f.write_str("this proxy's node has ")?;
                let labels = labels.iter().map(|(name, value)| format!("label {name}={value}"));
                let metadata = metadata.iter().map(|(path, value)| format!("{path}={value}"));
                f.write_str(&labels.chain(metadata).collect::<Vec<_>>().join(", "))
            }
        }
    }
}
