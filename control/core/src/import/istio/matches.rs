//! Matches of a rule, and whether the order of rules would be another one here.

use std::collections::BTreeMap;

use super::documents::{Match, StringMatch};
use super::refuse;
use crate::import::NotImported;
use crate::model::{HeaderMatch, HttpRouteMatch, PathMatch, PathMatchType, ValueMatchType};

/// Whether an earlier rule, which wins there, would lose here against a later one for requests that both match.
pub(super) fn shadows(earlier: &[HttpRouteMatch], later: &[HttpRouteMatch]) -> bool {
    let rank = |m: &HttpRouteMatch| {
        let path = m.path.as_ref().map_or((0, 1), |path| match path.kind {
            PathMatchType::Exact => (2, path.value.len()),
            PathMatchType::RegularExpression => (1, path.value.len()),
            PathMatchType::PathPrefix => (0, path.value.len()),
        });
        (path, m.method.is_some(), m.headers.len(), m.query_params.len())
    };
    let every = [HttpRouteMatch::default()];
    let all = |matches: &[HttpRouteMatch]| if matches.is_empty() { every.to_vec() } else { matches.to_vec() };
    all(earlier).iter().any(|a| all(later).iter().any(|b| rank(b) > rank(a) && overlap(a, b)))
}

/// Whether a request can match both, as far as that is easily seen.
fn overlap(a: &HttpRouteMatch, b: &HttpRouteMatch) -> bool {
    let paths = match (beginning(a), beginning(b)) {
        (Some((a, true)), Some((b, true))) => a == b,
        (Some((a, false)), Some((b, true))) => b.starts_with(&a),
        (Some((a, true)), Some((b, false))) => a.starts_with(&b),
        (Some((a, false)), Some((b, false))) => a.starts_with(&b) || b.starts_with(&a),
        _ => true,
    };
    let methods = a.method.is_none() || b.method.is_none() || a.method == b.method;
    let differs = |x: &HeaderMatch| {
        let same = b.headers.iter().find(|y| y.name.eq_ignore_ascii_case(&x.name));
        same.is_some_and(|y| x.kind == ValueMatchType::Exact && y.kind == x.kind && x.value != y.value)
    };
    paths && methods && !a.headers.iter().any(differs)
}

/// How the paths of a match begin, and whether that is all of them; none where an expression says it.
fn beginning(conditions: &HttpRouteMatch) -> Option<(String, bool)> {
    let Some(path) = &conditions.path else { return Some((String::new(), false)) };
    match path.kind {
        PathMatchType::Exact => Some((path.value.clone(), true)),
        PathMatchType::PathPrefix => Some((path.value.clone(), false)),
        PathMatchType::RegularExpression => {
            // What a prefix of characters became.
            let text: String = path.value.strip_suffix(".*")?.chars().filter(|c| *c != '\\').collect();
            (format!("{}.*", crate::ir::literal(&text)) == path.value).then_some((text, false))
        }
    }
}

pub(super) fn one_match(at: &str, written: &Match) -> Result<HttpRouteMatch, NotImported> {
    refuse(
        at,
        &[
            ("authority", written.authority.is_some()),
            ("scheme", written.scheme.is_some()),
            ("port", written.port.is_some()),
            ("sourceLabels", written.source_labels.is_some()),
            ("sourceNamespace", written.source_namespace.is_some()),
            ("gateways", written.gateways.is_some()),
            ("ignoreUriCase", written.ignore_uri_case.is_some()),
            ("withoutHeaders", written.without_headers.is_some()),
        ],
    )?;
    let _ = &written.name;
    let path = written.uri.as_ref().map(|uri| match uri {
        StringMatch { exact: Some(path), .. } => Ok((PathMatchType::Exact, path.clone())),
        // A prefix there is one of characters: only one that ends with an element is one of elements.
        StringMatch { prefix: Some(path), .. } if path.ends_with('/') => {
            Ok((PathMatchType::PathPrefix, path.clone()))
        }
        StringMatch { prefix: Some(path), .. } => {
            Ok((PathMatchType::RegularExpression, format!("{}.*", crate::ir::literal(path))))
        }
        StringMatch { regex: Some(path), .. } => Ok((PathMatchType::RegularExpression, path.clone())),
        _ => Err(NotImported::new(format!("{at}.uri: one of exact, prefix and regex is wanted"))),
    });
    let path = path.transpose()?.map(|(kind, value)| PathMatch { kind, value });
    let method = match &written.method {
        None => None,
        Some(StringMatch { exact: Some(method), .. }) => Some(method.clone()),
        Some(_) => {
            return Err(NotImported::new(format!("{at}.method: only exact has an equal in this version")));
        }
    };
    let values = |field: &str, of: &BTreeMap<String, StringMatch>| {
        let value = |(name, text): (&String, &StringMatch)| {
            let (kind, value) = match text {
                StringMatch { exact: Some(value), .. } => (ValueMatchType::Exact, value.clone()),
                StringMatch { prefix: Some(value), .. } => {
                    (ValueMatchType::RegularExpression, format!("{}.*", crate::ir::literal(value)))
                }
                StringMatch { regex: Some(value), .. } => (ValueMatchType::RegularExpression, value.clone()),
                // There it asks that it is there at all.
                _ if field == "headers" => (ValueMatchType::RegularExpression, ".*".to_owned()),
                _ => {
                    return Err(NotImported::new(format!(
                        "{at}.{field}[{name:?}]: one of exact, prefix and regex is wanted"
                    )));
                }
            };
            Ok(HeaderMatch { kind, name: name.clone(), value })
        };
        of.iter().map(value).collect::<Result<Vec<_>, _>>()
    };
    Ok(HttpRouteMatch {
        path,
        headers: values("headers", &written.headers)?,
        query_params: values("queryParams", &written.query_params)?,
        method,
    })
}
