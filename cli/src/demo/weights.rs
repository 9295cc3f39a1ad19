//! `v1=90,v2=10`, and the resources it stands for.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::str::FromStr;

/// Versions and their weights, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weights(Vec<(String, u32)>);

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights: Vec<(String, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is not name=weight"))?;
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err(format!("{name:?} is not a name of letters, digits and -"));
            }
            let weight = weight.parse().ok().filter(|w| *w <= 1_000_000);
            let weight =
                weight.ok_or_else(|| format!("the weight of {name} is not a number from 0 to 1,000,000"))?;
            if weights.iter().any(|(n, _)| n == name) {
                return Err(format!("{name} occurs twice"));
            }
            weights.push((name.to_owned(), weight));
        }
        if weights.iter().all(|(_, weight)| *weight == 0) {
            return Err("at least one weight must be above 0".to_owned());
        }
        Ok(Self(weights))
    }
}

impl Weights {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.iter().map(|(name, weight)| (name.as_str(), *weight))
    }

    /// The version that the header rule leads to.
    pub(crate) fn last(&self) -> &str {
        self.0.last().map_or("", |(name, _)| name)
    }

    /// Of `requests`, the exact part of a weight.
    pub(crate) fn expected(&self, weight: u32, requests: u64) -> f64 {
        let total: u64 = self.0.iter().map(|(_, w)| u64::from(*w)).sum();
        requests as f64 * f64::from(weight) / total as f64
    }

    /// An `HTTPRoute` with the header rule in front, and a `Backend` for each version.
    pub(crate) fn to_yaml(&self, backends: &[(String, SocketAddr)]) -> String {
        let canary = self.last();
        let mut text = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop }}
spec:
  rules:
  - matches: [{{ headers: [{{ name: x-canary, value: {canary} }}] }}]
    backendRefs: [{{ name: {canary} }}]
  - backendRefs:
"
        );
        for (name, weight) in &self.0 {
            let _ = writeln!(text, "    - {{ name: {name}, weight: {weight} }}");
        }
        for (name, address) in backends {
            let _ = write!(
                text,
                "---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{ name: {name}, labels: {{ app: shop, version: {name} }} }}
spec: {{ endpoints: [{{ address: \"{address}\" }}] }}
"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Weights;

    #[test]
    fn weights_are_read_or_refused_with_a_reason() {
        let weights: Weights = "v1=95,v2=5".parse().expect("valid");
        assert_eq!(weights.iter().collect::<Vec<_>>(), [("v1", 95), ("v2", 5)]);
        assert!((weights.expected(5, 2_000) - 100.0).abs() < 1e-9);
        for (text, part) in [
            ("v1", "not name=weight"),
            ("v1=x", "not a number"),
            ("v1=-1", "not a number"),
            ("v1=0,v2=0", "above 0"),
            ("v1=1,v1=2", "twice"),
            ("a b=1", "not a name"),
            ("", "not name=weight"),
        ] {
            let error = text.parse::<Weights>().expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
