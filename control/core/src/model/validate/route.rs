//! Routes.

use super::{Checked, Flaw, MAX_WEIGHT, expression, header_name, hostname, hostnames, optional_duration};
use crate::model::{
    BackendRef, ConnectionRule, FilterType, GrpcMethodMatch, GrpcRouteSpec, HeaderMatch, HeaderModifier,
    HttpRouteFilter, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, PathMatch, PathMatchType, PathModifier,
    PathModifierType, ValueMatchType,
};

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

pub(super) fn http(spec: &HttpRouteSpec) -> Checked {
    hostnames(&spec.hostnames)?;
    rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()))?;
    spec.rules.iter().enumerate().try_for_each(|(i, rule)| http_rule(&format!("spec.rules[{i}]"), rule))
}

pub(super) fn grpc(spec: &GrpcRouteSpec) -> Checked {
    hostnames(&spec.hostnames)?;
    rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()))?;
    for (i, rule) in spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        for (j, conditions) in rule.matches.iter().enumerate() {
            let at = format!("{at}.matches[{j}]");
            values(&format!("{at}.headers"), &conditions.headers, true)?;
            conditions
                .method
                .as_ref()
                .map_or(Ok(()), |method| grpc_method(&format!("{at}.method"), method))?;
        }
        filters(&at, &rule.filters, true, true)?;
        backend_refs(&at, &rule.backend_refs, true)?;
    }
    Ok(())
}

pub(super) fn connections(rules: &[ConnectionRule]) -> Checked {
    if rules.len() != 1 {
        return Err(Flaw::new("spec.rules", format!("exactly one is wanted, not {}", rules.len())));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        if rule.backend_refs.is_empty() {
            return Err(Flaw::new(format!("{at}.backendRefs"), "one is wanted"));
        }
        if let Some(j) = rule.backend_refs.iter().position(|backend| !backend.filters.is_empty()) {
            return Err(Flaw::new(format!("{at}.backendRefs[{j}].filters"), "connections have none"));
        }
        backend_refs(&at, &rule.backend_refs, false)?;
    }
    Ok(())
}

fn rule_names<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Checked {
    let mut seen = Vec::new();
    for (i, name) in names.enumerate() {
        let Some(name) = name else { continue };
        if seen.contains(&name) {
            return Err(Flaw::new(
                format!("spec.rules[{i}].name"),
                format!("another rule is named {name:?}"),
            ));
        }
        seen.push(name);
    }
    Ok(())
}

fn http_rule(at: &str, rule: &HttpRouteRule) -> Checked {
    for (j, conditions) in rule.matches.iter().enumerate() {
        http_match(&format!("{at}.matches[{j}]"), conditions)?;
    }
    // A prefix can be replaced only where there is one.
    let prefixes_only = rule
        .matches
        .iter()
        .all(|conditions| conditions.path.as_ref().is_none_or(|path| path.kind == PathMatchType::PathPrefix));
    filters(at, &rule.filters, false, prefixes_only)?;
    for (j, backend) in rule.backend_refs.iter().enumerate() {
        filters(&format!("{at}.backendRefs[{j}]"), &backend.filters, false, prefixes_only)?;
    }
    let redirects = |filter: &HttpRouteFilter| filter.kind == FilterType::RequestRedirect;
    if rule.filters.iter().any(redirects) && !rule.backend_refs.is_empty() {
        return Err(Flaw::new(format!("{at}.backendRefs"), "a rule that redirects has none"));
    }
    backend_refs(at, &rule.backend_refs, true)?;
    if let Some(timeouts) = &rule.timeouts {
        let request = optional_duration(&format!("{at}.timeouts.request"), timeouts.request.as_ref())?;
        let path = format!("{at}.timeouts.backendRequest");
        let attempt = optional_duration(&path, timeouts.backend_request.as_ref())?;
        if let (Some(request), Some(attempt)) = (request, attempt)
            && !request.is_zero()
            && attempt > request
        {
            return Err(Flaw::new(path, "is longer than the whole request may take"));
        }
    }
    Ok(())
}

fn http_match(at: &str, conditions: &HttpRouteMatch) -> Checked {
    conditions.path.as_ref().map_or(Ok(()), |path| path_match(&format!("{at}.path.value"), path))?;
    values(&format!("{at}.headers"), &conditions.headers, true)?;
    values(&format!("{at}.queryParams"), &conditions.query_params, false)?;
    match conditions.method.as_deref() {
        Some(method) if !METHODS.contains(&method) => {
            Err(Flaw::new(format!("{at}.method"), format!("{method:?} is none of {}", METHODS.join(", "))))
        }
        _ => Ok(()),
    }
}

fn path_match(at: &str, path: &PathMatch) -> Checked {
    let value = &path.value;
    if path.kind == PathMatchType::RegularExpression {
        return expression(at, value);
    }
    // What can never match a request's path is refused here, not silently unreachable.
    let odd =
        value.contains("//") || value.contains(['?', '#']) || !value.bytes().all(|b| b.is_ascii_graphic());
    if !value.starts_with('/') || odd || value.split('/').any(|element| matches!(element, "." | "..")) {
        return Err(Flaw::new(at, format!("{value:?} is not a plain absolute path")));
    }
    Ok(())
}

fn values(at: &str, matches: &[HeaderMatch], are_headers: bool) -> Checked {
    for (k, value) in matches.iter().enumerate() {
        if are_headers {
            header_name(format!("{at}[{k}].name"), &value.name)?;
        } else if value.name.is_empty() {
            return Err(Flaw::new(format!("{at}[{k}].name"), "a name is missing"));
        }
        if value.kind == ValueMatchType::RegularExpression {
            expression(format!("{at}[{k}].value"), &value.value)?;
        }
    }
    Ok(())
}

fn grpc_method(at: &str, method: &GrpcMethodMatch) -> Checked {
    let fields = [("service", &method.service), ("method", &method.method)];
    if fields.iter().all(|(_, value)| value.as_deref().is_none_or(str::is_empty)) {
        return Err(Flaw::new(at, "one of service and method is wanted"));
    }
    for (field, value) in fields {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else { continue };
        let at = format!("{at}.{field}");
        if method.kind == ValueMatchType::RegularExpression {
            expression(at, value)?;
        } else if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b)) {
            return Err(Flaw::new(at, format!("{value:?} is not the name of a {field}")));
        }
    }
    Ok(())
}

fn backend_refs(at: &str, references: &[BackendRef], names_are_unique: bool) -> Checked {
    for (i, reference) in references.iter().enumerate() {
        let at = format!("{at}.backendRefs[{i}]");
        if reference.weight > MAX_WEIGHT {
            return Err(Flaw::new(
                format!("{at}.weight"),
                format!("{} is more than {MAX_WEIGHT}", reference.weight),
            ));
        }
        let same = |other: &BackendRef| {
            let key = |r: &BackendRef| (r.kind.clone(), r.namespace.clone(), r.name.clone(), r.port);
            key(other) == key(reference)
        };
        if names_are_unique && references[..i].iter().any(same) {
            return Err(Flaw::new(at, format!("{} is already an arm of this rule", reference.name)));
        }
    }
    Ok(())
}

fn filters(at: &str, filters: &[HttpRouteFilter], is_grpc: bool, prefixes_only: bool) -> Checked {
    for (i, filter) in filters.iter().enumerate() {
        let at = format!("{at}.filters[{i}]");
        let once = matches!(
            filter.kind,
            FilterType::RequestHeaderModifier
                | FilterType::ResponseHeaderModifier
                | FilterType::RequestRedirect
                | FilterType::UrlRewrite
        );
        if once && filters[..i].iter().any(|earlier| earlier.kind == filter.kind) {
            return Err(Flaw::new(format!("{at}.type"), "comes a second time"));
        }
        the_named_field(&at, filter)?;
        if is_grpc && matches!(filter.kind, FilterType::RequestRedirect | FilterType::UrlRewrite) {
            return Err(Flaw::new(format!("{at}.type"), "a GRPCRoute has no such filter"));
        }
        for (field, modifier) in [
            ("requestHeaderModifier", &filter.request_header_modifier),
            ("responseHeaderModifier", &filter.response_header_modifier),
        ] {
            modifier
                .as_ref()
                .map_or(Ok(()), |modifier| header_modifier(&format!("{at}.{field}"), modifier))?;
        }
        if let Some(redirect) = &filter.request_redirect {
            let at = format!("{at}.requestRedirect");
            if ![301, 302, 303, 307, 308].contains(&redirect.status_code) {
                let reason = format!("{} is none of 301, 302, 303, 307 and 308", redirect.status_code);
                return Err(Flaw::new(format!("{at}.statusCode"), reason));
            }
            if let Some(scheme) = redirect.scheme.as_deref().filter(|s| !["http", "https"].contains(s)) {
                return Err(Flaw::new(
                    format!("{at}.scheme"),
                    format!("{scheme:?} is neither http nor https"),
                ));
            }
            new_place(&at, redirect.hostname.as_deref(), redirect.path.as_ref(), prefixes_only)?;
        }
        if let Some(rewrite) = &filter.url_rewrite {
            let at = format!("{at}.urlRewrite");
            new_place(&at, rewrite.hostname.as_deref(), rewrite.path.as_ref(), prefixes_only)?;
        }
    }
    let has = |kind| filters.iter().any(|filter| filter.kind == kind);
    if has(FilterType::RequestRedirect) && has(FilterType::UrlRewrite) {
        return Err(Flaw::new(format!("{at}.filters"), "a redirect and a rewrite exclude each other"));
    }
    Ok(())
}

/// `type` and the field that it names must agree.
fn the_named_field(at: &str, filter: &HttpRouteFilter) -> Checked {
    let fields = [
        (
            FilterType::RequestHeaderModifier,
            "requestHeaderModifier",
            filter.request_header_modifier.is_some(),
        ),
        (
            FilterType::ResponseHeaderModifier,
            "responseHeaderModifier",
            filter.response_header_modifier.is_some(),
        ),
        (FilterType::RequestRedirect, "requestRedirect", filter.request_redirect.is_some()),
        (FilterType::UrlRewrite, "urlRewrite", filter.url_rewrite.is_some()),
        (FilterType::RequestMirror, "requestMirror", filter.request_mirror.is_some()),
        (FilterType::Cors, "cors", filter.cors.is_some()),
        (FilterType::ExternalAuth, "externalAuth", filter.external_auth.is_some()),
        (FilterType::ExtensionRef, "extensionRef", filter.extension_ref.is_some()),
    ];
    for (kind, field, is_set) in fields {
        if is_set != (kind == filter.kind) {
            let reason = if is_set { "is not what `type` says" } else { "is missing" };
            return Err(Flaw::new(format!("{at}.{field}"), reason));
        }
    }
    Ok(())
}

/// Lines that frame a message or belong to a hop, and the host, which a rewrite changes.
const NOT_OURS: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
];

fn header_modifier(at: &str, modifier: &HeaderModifier) -> Checked {
    let added = [("set", &modifier.set), ("add", &modifier.add)];
    let names = added.iter().flat_map(|(field, lines)| lines.iter().map(move |line| (*field, &line.name)));
    for (field, name) in names.chain(modifier.remove.iter().map(|name| ("remove", name))) {
        if NOT_OURS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(Flaw::new(format!("{at}.{field}"), format!("{name} is the proxy's own to write")));
        }
    }
    for (field, lines) in [("set", &modifier.set), ("add", &modifier.add)] {
        for (i, line) in lines.iter().enumerate() {
            header_name(format!("{at}.{field}[{i}].name"), &line.name)?;
            if line.value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
                return Err(Flaw::new(format!("{at}.{field}[{i}].value"), "a header line has one line"));
            }
        }
    }
    modifier
        .remove
        .iter()
        .enumerate()
        .try_for_each(|(i, name)| header_name(format!("{at}.remove[{i}]"), name))
}

fn new_place(at: &str, host: Option<&str>, path: Option<&PathModifier>, prefixes_only: bool) -> Checked {
    if let Some(host) = host {
        hostname(format!("{at}.hostname"), host)?;
    }
    let Some(path) = path else { return Ok(()) };
    let at = format!("{at}.path");
    match path.kind {
        PathModifierType::ReplaceFullPath if path.replace_full_path.is_none() => {
            Err(Flaw::new(format!("{at}.replaceFullPath"), "is missing"))
        }
        PathModifierType::ReplacePrefixMatch if path.replace_prefix_match.is_none() => {
            Err(Flaw::new(format!("{at}.replacePrefixMatch"), "is missing"))
        }
        PathModifierType::ReplacePrefixMatch if !prefixes_only => {
            Err(Flaw::new(at, "ReplacePrefixMatch goes with matches of type PathPrefix only"))
        }
        PathModifierType::ReplaceFullPath | PathModifierType::ReplacePrefixMatch => {
            let new = path.replace_full_path.as_ref().or(path.replace_prefix_match.as_ref());
            match new.filter(|new| !new.bytes().all(|b| b.is_ascii_graphic())) {
                Some(new) => Err(Flaw::new(at, format!("{new:?} is no path"))),
                None => Ok(()),
            }
        }
    }
}
