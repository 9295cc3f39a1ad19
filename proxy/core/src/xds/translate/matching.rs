//! What a route asks of a request.

use xds_proto::envoy::config::core::v3::{RuntimeFractionalPercent, TypedExtensionConfig};
use xds_proto::envoy::config::route::v3 as route_proto;
use xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use xds_proto::envoy::config::route::v3::route_match::{
    ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier,
};
use xds_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds_proto::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use xds_proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use xds_proto::envoy::r#type::v3::{FractionalPercent, Int64Range};

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, each, required};
use super::{named, unpack};
use crate::config::{
    Condition, CookieMatch, FieldName, Fraction, HeaderMatch, PathMatch, Predicate, QueryMatch, TextForm,
    TextMatch,
};
use crate::pattern::{Pattern, Substitution};
use crate::template::Template;

/// A route's conditions.
pub(super) struct Matched {
    pub(super) path: PathMatch,
    pub(super) ignores_path_case: bool,
    pub(super) conditions: Vec<Condition>,
}

pub(super) fn route_match(message: route_proto::RouteMatch) -> Translated<Matched> {
    let route_proto::RouteMatch {
        case_sensitive,
        headers,
        query_parameters,
        grpc,
        runtime_fraction,
        cookies,
        path_specifier,
    } = message;
    let path = required(
        "prefix, path, path_separated_prefix, safe_regex, path_match_policy or connect_matcher",
        path_specifier,
    )?;
    let mut conditions = each("headers", headers, |m| header_match(m).map(Condition::Header))?;
    conditions.extend(each("query_parameters", query_parameters, |m| query_match(m).map(Condition::Query))?);
    conditions.extend(each("cookies", cookies, |m| cookie_match(m).map(Condition::Cookie))?);
    if let Some(GrpcRouteMatchOptions {}) = grpc {
        conditions.push(Condition::Grpc);
    }
    if let Some(fraction) = runtime_fraction {
        // runtime_key: ignorable, as there is no runtime layer
        let RuntimeFractionalPercent { default_value, runtime_key: _ } = fraction;
        let share =
            required("default_value", default_value).and_then(|v| self::fraction(v).at("default_value"));
        conditions.push(Condition::Fraction(Fraction { millionths: share.at("runtime_fraction")? }));
    }
    Ok(Matched {
        path: path_match(path)?,
        // Expressions and templates say themselves which case they mean.
        ignores_path_case: !case_sensitive.unwrap_or(true),
        conditions,
    })
}

fn path_match(path: PathSpecifier) -> Translated<PathMatch> {
    Ok(match path {
        PathSpecifier::Prefix(text) => PathMatch::Prefix(text.into()),
        PathSpecifier::Path(text) => PathMatch::Exact(text.into()),
        PathSpecifier::ConnectMatcher(ConnectMatcher {}) => PathMatch::Connect,
        PathSpecifier::SafeRegex(matcher) => PathMatch::Regex(pattern(matcher).at("safe_regex")?),
        PathSpecifier::PathSeparatedPrefix(text) => {
            // As in Envoy: "/" or "/a/" would say nothing that `prefix` does not.
            if !text.starts_with('/') || text.ends_with('/') || text.contains(['?', '#']) {
                let reason =
                    format!("{text:?} must start with `/`, not end with it and hold neither `?` nor `#`");
                return Err(Fault::new(reason).under("path_separated_prefix"));
            }
            PathMatch::SeparatedPrefix(text.into())
        }
        PathSpecifier::PathMatchPolicy(TypedExtensionConfig { name: _, typed_config }) => {
            let at = "path_match_policy.typed_config";
            let any = required(at, typed_config)?;
            let UriTemplateMatchConfig { path_template } = unpack(&any).at(at)?;
            let template = Template::new(&path_template).map_err(|error| Fault::new(error.to_string()));
            PathMatch::Template(template.at("path_template").at(at)?)
        }
    })
}

/// A regular expression.
pub(super) fn pattern(message: RegexMatcher) -> Translated<Pattern> {
    let RegexMatcher { regex, engine_type: _ } = message; // engine_type: ignorable
    if regex.is_empty() {
        return Err(Fault::new("is required").under("regex"));
    }
    Pattern::new(&regex).map_err(|error| Fault::new(error.to_string()).under("regex"))
}

/// A regular expression and what takes the place of its matches.
pub(super) fn substitution(message: RegexMatchAndSubstitute) -> Translated<Substitution> {
    let RegexMatchAndSubstitute { pattern, substitution } = message;
    let RegexMatcher { regex, engine_type: _ } = required("pattern", pattern)?; // engine_type: ignorable
    if regex.is_empty() {
        return Err(Fault::new("is required").under("pattern.regex"));
    }
    if let Some(odd) = substitution.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(Fault::new(format!("{odd:?} cannot stand in a path or header")).under("substitution"));
    }
    Substitution::new(&regex, &substitution).map_err(|error| Fault::new(error.to_string()))
}

pub(super) fn header_match(message: route_proto::HeaderMatcher) -> Translated<HeaderMatch> {
    let route_proto::HeaderMatcher {
        name,
        invert_match: inverted,
        treat_missing_header_as_empty: missing_is_empty,
        header_match_specifier,
    } = message;
    named(&name)?;
    let lower = name.to_ascii_lowercase();
    let name = match lower.as_str() {
        ":method" => FieldName::Method,
        ":path" => FieldName::Path,
        ":authority" | "host" => FieldName::Authority,
        ":scheme" => FieldName::Scheme,
        other if is_token(other) => FieldName::Header(other.into()),
        other => return Err(Fault::new(format!("{other:?} is not a header name")).under("name")),
    };
    let text = |form: fn(Box<str>) -> TextForm, text: String| {
        Predicate::Text(TextMatch { form: form(text.into()), ignores_case: false })
    };
    let part = |form, value: String, field| match value.as_str() {
        "" => Err(Fault::new("is required").under(field)),
        _ => Ok(text(form, value)),
    };
    let predicate = match header_match_specifier {
        None | Some(HeaderMatchSpecifier::PresentMatch(true)) => Predicate::Present,
        Some(HeaderMatchSpecifier::PresentMatch(false)) => Predicate::Absent,
        Some(HeaderMatchSpecifier::ExactMatch(value)) => text(TextForm::Exact, value),
        Some(HeaderMatchSpecifier::PrefixMatch(value)) => part(TextForm::Prefix, value, "prefix_match")?,
        Some(HeaderMatchSpecifier::SuffixMatch(value)) => part(TextForm::Suffix, value, "suffix_match")?,
        Some(HeaderMatchSpecifier::ContainsMatch(value)) => {
            part(TextForm::Contains, value, "contains_match")?
        }
        Some(HeaderMatchSpecifier::SafeRegexMatch(matcher)) => {
            let pattern = pattern(matcher).at("safe_regex_match")?;
            Predicate::Text(TextMatch { form: TextForm::Regex(pattern), ignores_case: false })
        }
        Some(HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })) => Predicate::Range(start, end),
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            Predicate::Text(text_match(matcher).at("string_match")?)
        }
    };
    Ok(HeaderMatch { name, predicate, inverted, missing_is_empty })
}

pub(super) fn text_match(message: StringMatcher) -> Translated<TextMatch> {
    let StringMatcher { ignore_case: ignores_case, match_pattern } = message;
    let cased = |text: String| if ignores_case { text.to_ascii_lowercase().into() } else { text.into() };
    let part = |text: String, field| match text.as_str() {
        "" => Err(Fault::new("is required").under(field)),
        _ => Ok(cased(text)),
    };
    let form = match required("exact, prefix, suffix, contains or safe_regex", match_pattern)? {
        MatchPattern::Exact(text) => TextForm::Exact(cased(text)),
        MatchPattern::Prefix(text) => TextForm::Prefix(part(text, "prefix")?),
        MatchPattern::Suffix(text) => TextForm::Suffix(part(text, "suffix")?),
        MatchPattern::Contains(text) => TextForm::Contains(part(text, "contains")?),
        MatchPattern::SafeRegex(_) if ignores_case => {
            let reason = "has no effect on safe_regex; write (?i) at its start";
            return Err(Fault::new(reason).under("ignore_case"));
        }
        MatchPattern::SafeRegex(matcher) => TextForm::Regex(pattern(matcher).at("safe_regex")?),
    };
    Ok(TextMatch { form, ignores_case })
}

fn query_match(message: route_proto::QueryParameterMatcher) -> Translated<QueryMatch> {
    let route_proto::QueryParameterMatcher { name, query_parameter_match_specifier } = message;
    named(&name)?;
    let predicate = match query_parameter_match_specifier {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => Predicate::Present,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => Predicate::Absent,
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            Predicate::Text(text_match(matcher).at("string_match")?)
        }
    };
    Ok(QueryMatch { name: name.into(), predicate })
}

fn cookie_match(message: route_proto::CookieMatcher) -> Translated<CookieMatch> {
    let route_proto::CookieMatcher { name, string_match, invert_match } = message;
    named(&name)?;
    let value = required("string_match", string_match).and_then(|m| text_match(m).at("string_match"))?;
    Ok(CookieMatch { name: name.into(), value, inverted: invert_match })
}

/// A share, in millionths.
pub(super) fn fraction(message: FractionalPercent) -> Translated<u32> {
    let FractionalPercent { numerator, denominator } = message;
    let (whole, each) = match enum_value(denominator).at("denominator")? {
        DenominatorType::Hundred => (100, 10_000),
        DenominatorType::TenThousand => (10_000, 100),
        DenominatorType::Million => (1_000_000, 1),
    };
    // More than all is all.
    Ok(numerator.min(whole) * each)
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
