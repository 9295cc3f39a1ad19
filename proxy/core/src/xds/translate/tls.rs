//! Transport sockets: what protects a connection, and whom it trusts. Nothing is read here.

use std::sync::Arc;

use prost::Name as _;
use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::data_source::Specifier;
use xds_proto::envoy::config::core::v3::proxy_protocol_config::Version as ProxyVersion;
use xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use xds_proto::envoy::config::core::v3::{TransportSocket, TypedExtensionConfig};
use xds_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls_proto;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::secret;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use xds_proto::prost_types::Any;
use xds_proto::type_url;

use super::cluster::{config_source, enum_value};
use super::fault::{At, Fault, Translated, each, required};
use super::matching::text_match;
use super::{named, unpack};
use crate::config::{
    CertificateSource, CommonTls, DownstreamTls, Material, NameKind, NameMatch, Secret, TlsCertificate,
    TlsVersions, UpstreamTls, UpstreamTransport, Validation, ValidationSource,
};
use crate::xds::Origin;

fn typed_config(socket: TransportSocket) -> Translated<Any> {
    let TransportSocket { name: _, config_type } = socket; // the name only labels the type
    let ConfigType::TypedConfig(any) = required("typed_config", config_type)?;
    Ok(any)
}

/// What protects a client's connection; none where nothing does.
pub(super) fn downstream(socket: TransportSocket) -> Translated<Option<DownstreamTls>> {
    let any = typed_config(socket)?;
    let translated = if type_url::message_name(&any.type_url) == RawBuffer::full_name() {
        unpack(&any).map(|RawBuffer {}| None)
    } else {
        unpack(&any).and_then(downstream_context).map(Some)
    };
    translated.at("typed_config")
}

fn downstream_context(message: tls_proto::DownstreamTlsContext) -> Translated<DownstreamTls> {
    let tls_proto::DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption,
        session_ticket_keys_type,
    } = message;
    let context = required("common_tls_context", common_tls_context)?;
    let common = common(context).at("common_tls_context")?;
    if common.certificates.is_empty() {
        let reason = "a certificate is required: tls_certificates or tls_certificate_sds_secret_configs";
        return Err(Fault::new(reason).under("common_tls_context"));
    }
    let requires_client_certificate = require_client_certificate.unwrap_or(false);
    if requires_client_certificate && common.validation == ValidationSource::None {
        let reason = "a client certificate that is required must be held against something: \
                      validation_context is missing";
        return Err(Fault::new(reason).under("require_client_certificate"));
    }
    let tickets = !matches!(
        session_ticket_keys_type,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true))
    );
    Ok(DownstreamTls {
        common,
        requires_client_certificate,
        requires_sni: require_sni.unwrap_or(false),
        tickets,
        sessions: !disable_stateful_session_resumption,
    })
}

/// What carries connections to endpoints.
pub(super) fn upstream(socket: TransportSocket) -> Translated<UpstreamTransport> {
    upstream_within(socket, true)
}

fn upstream_within(socket: TransportSocket, may_tell: bool) -> Translated<UpstreamTransport> {
    let any = typed_config(socket)?;
    let name = type_url::message_name(&any.type_url);
    let translated = if name == RawBuffer::full_name() {
        unpack(&any).map(|RawBuffer {}| UpstreamTransport::default())
    } else if may_tell && name == ProxyProtocolUpstreamTransport::full_name() {
        unpack(&any).and_then(|ProxyProtocolUpstreamTransport { config, transport_socket }| {
            let core_proto::ProxyProtocolConfig { version } = config.unwrap_or_default();
            let inner = required("transport_socket", transport_socket)?;
            let inner = upstream_within(inner, false).at("transport_socket")?;
            let version: ProxyVersion = enum_value(version).at("config.version")?;
            let is_v2 = version == ProxyVersion::V2;
            Ok(UpstreamTransport { proxy_protocol_v2: Some(is_v2), ..inner })
        })
    } else {
        unpack(&any)
            .and_then(upstream_context)
            .map(|tls| UpstreamTransport { tls: Some(Arc::new(tls)), proxy_protocol_v2: None })
    };
    translated.at("typed_config")
}

fn upstream_context(message: tls_proto::UpstreamTlsContext) -> Translated<UpstreamTls> {
    let tls_proto::UpstreamTlsContext {
        common_tls_context,
        sni,
        max_session_keys,
        auto_host_sni,
        auto_sni_san_validation,
    } = message;
    let common = common(common_tls_context.unwrap_or_default()).at("common_tls_context")?;
    if !sni.is_empty() && !is_host(&sni) {
        return Err(Fault::new(format!("{sni:?} is no host name")).under("sni"));
    }
    let has_roots = common.validation != ValidationSource::None;
    if auto_sni_san_validation && !has_roots {
        let reason = "a name is only worth something in a certificate that somebody trusted issued: \
                      validation_context is missing";
        return Err(Fault::new(reason).under("auto_sni_san_validation"));
    }
    Ok(UpstreamTls {
        common,
        sni: sni.into(),
        auto_host_sni,
        validates_sni: auto_sni_san_validation,
        max_sessions: max_session_keys.unwrap_or(1),
    })
}

fn common(message: tls_proto::CommonTlsContext) -> Translated<CommonTls> {
    let tls_proto::CommonTlsContext {
        tls_params,
        tls_certificates,
        alpn_protocols,
        tls_certificate_sds_secret_configs,
        validation_context_type,
    } = message;
    let tls_proto::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
    } = tls_params.unwrap_or_default();
    let versions = versions(tls_minimum_protocol_version, tls_maximum_protocol_version).at("tls_params")?;
    let mut certificates =
        each("tls_certificates", tls_certificates, |c| certificate(c).map(CertificateSource::Inline))?;
    certificates.extend(each(
        "tls_certificate_sds_secret_configs",
        tls_certificate_sds_secret_configs,
        |config| {
            Ok(match sds(config)? {
                (name, Origin::File(path)) => CertificateSource::SdsFile(name, path),
                (name, Origin::Ads) => CertificateSource::Sds(name),
            })
        },
    )?);
    let validation = match validation_context_type {
        None => ValidationSource::None,
        Some(ValidationContextType::ValidationContext(context)) => {
            ValidationSource::Inline(whole_validation(context).at("validation_context")?)
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            secret_validation(Validation::default(), config).at("validation_context_sds_secret_config")?
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined_validation(combined).at("combined_validation_context")?
        }
    };
    let protocol = |protocol: String| match protocol.len() {
        1..=255 => Ok(protocol.into()),
        _ => Err(Fault::new("is not from 1 to 255 bytes long")),
    };
    Ok(CommonTls {
        versions,
        cipher_suites: cipher_suites.into_iter().map(Into::into).collect(),
        curves: ecdh_curves.into_iter().map(Into::into).collect(),
        certificates,
        validation,
        alpn: each("alpn_protocols", alpn_protocols, protocol)?,
    })
}

fn combined_validation(message: CombinedCertificateValidationContext) -> Translated<ValidationSource> {
    let CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
    } = message;
    let default = default_validation_context
        .map(validation)
        .transpose()
        .at("default_validation_context")?
        .unwrap_or_default();
    let config = required("validation_context_sds_secret_config", validation_context_sds_secret_config)?;
    secret_validation(default, config).at("validation_context_sds_secret_config")
}

fn secret_validation(beside: Validation, config: tls_proto::SdsSecretConfig) -> Translated<ValidationSource> {
    Ok(match sds(config)? {
        (name, Origin::File(path)) => ValidationSource::SdsFile(beside, name, path),
        (name, Origin::Ads) => ValidationSource::Sds(beside, name),
    })
}

/// Versions without forward secrecy or with broken ciphers are not spoken, whatever is asked for.
fn versions(least: i32, most: i32) -> Translated<TlsVersions> {
    let least: TlsProtocol = enum_value(least).at("tls_minimum_protocol_version")?;
    let most: TlsProtocol = enum_value(most).at("tls_maximum_protocol_version")?;
    let versions = TlsVersions {
        v1_2: least != TlsProtocol::TlSv13,
        v1_3: matches!(most, TlsProtocol::TlsAuto | TlsProtocol::TlSv13),
    };
    if matches!(most, TlsProtocol::TlSv10 | TlsProtocol::TlSv11) {
        let reason = format!("{} is not spoken: TLS 1.2 and 1.3 are", most.as_str_name());
        return Err(Fault::new(reason).under("tls_maximum_protocol_version"));
    }
    if matches!(least, TlsProtocol::TlSv10 | TlsProtocol::TlSv11) {
        let reason = format!("{} is not spoken: TLS 1.2 and 1.3 are", least.as_str_name());
        return Err(Fault::new(reason).under("tls_minimum_protocol_version"));
    }
    if !versions.v1_2 && !versions.v1_3 {
        return Err(
            Fault::new("is less than tls_minimum_protocol_version").under("tls_maximum_protocol_version")
        );
    }
    Ok(versions)
}

fn certificate(message: tls_proto::TlsCertificate) -> Translated<TlsCertificate> {
    // Files are looked at again and again, whichever folder is replaced.
    let tls_proto::TlsCertificate { certificate_chain, private_key, watched_directory } = message;
    watched(watched_directory)?;
    Ok(TlsCertificate {
        chain: required("certificate_chain", certificate_chain)
            .and_then(|m| material(m).at("certificate_chain"))?,
        key: required("private_key", private_key).and_then(|m| material(m).at("private_key"))?,
    })
}

fn watched(directory: Option<core_proto::WatchedDirectory>) -> Translated<()> {
    match directory {
        Some(core_proto::WatchedDirectory { path }) if path.is_empty() => {
            Err(Fault::new("is required").under("watched_directory.path"))
        }
        Some(_) | None => Ok(()),
    }
}

fn validation(message: tls_proto::CertificateValidationContext) -> Translated<Validation> {
    let tls_proto::CertificateValidationContext {
        trusted_ca,
        verify_certificate_hash,
        verify_certificate_spki,
        crl,
        match_subject_alt_names,
        trust_chain_verification,
        watched_directory,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        match_typed_subject_alt_names,
        suppress_client_ca_list,
    } = message;
    watched(watched_directory)?;
    if enum_value(trust_chain_verification) == Ok(TrustChainVerification::AcceptUntrusted) {
        let reason = "a certificate that nobody trusts is never accepted";
        return Err(Fault::new(reason).under("trust_chain_verification"));
    }
    let trust_domains = custom_validator_config.map(spiffe).transpose().at("custom_validator_config")?;
    if trusted_ca.is_some() && trust_domains.is_some() {
        let reason = "stands beside custom_validator_config, which has roots of its own";
        return Err(Fault::new(reason).under("trusted_ca"));
    }
    let mut names = each("match_typed_subject_alt_names", match_typed_subject_alt_names, typed_name)?;
    names.extend(each("match_subject_alt_names", match_subject_alt_names, |matcher| {
        Ok(NameMatch { kind: None, text: text_match(matcher)? })
    })?);
    Ok(Validation {
        trusted_ca: trusted_ca.map(material).transpose().at("trusted_ca")?,
        trust_domains: trust_domains.unwrap_or_default(),
        crl: crl.map(material).transpose().at("crl")?,
        only_leaf_crl: only_verify_leaf_cert_crl,
        names,
        key_pins: each("verify_certificate_spki", verify_certificate_spki, |pin| base64_pin(&pin))?,
        certificate_pins: each("verify_certificate_hash", verify_certificate_hash, |pin| hex_pin(&pin))?,
        hides_authorities: suppress_client_ca_list,
    })
}

/// A context that nothing is added to: names and revocations need an authority.
fn whole_validation(message: tls_proto::CertificateValidationContext) -> Translated<Validation> {
    let validation = validation(message)?;
    let has_roots = validation.trusted_ca.is_some() || !validation.trust_domains.is_empty();
    if !has_roots && (!validation.names.is_empty() || validation.crl.is_some()) {
        let reason = "is required: names and revocations mean nothing without an authority";
        return Err(Fault::new(reason).under("trusted_ca"));
    }
    Ok(validation)
}

fn typed_name(message: tls_proto::SubjectAltNameMatcher) -> Translated<NameMatch> {
    let tls_proto::SubjectAltNameMatcher { san_type, matcher } = message;
    let kind = match enum_value(san_type).at("san_type")? {
        SanType::Dns => NameKind::Dns,
        SanType::Uri => NameKind::Uri,
        SanType::IpAddress => NameKind::Ip,
        SanType::Email => NameKind::Email,
        SanType::Unspecified => return Err(Fault::new("is required").under("san_type")),
        SanType::OtherName => return Err(Fault::new("OTHER_NAME is not supported").under("san_type")),
    };
    let text = required("matcher", matcher).and_then(|matcher| text_match(matcher).at("matcher"))?;
    Ok(NameMatch { kind: Some(kind), text })
}

fn spiffe(extension: TypedExtensionConfig) -> Translated<Vec<(Box<str>, Material)>> {
    let TypedExtensionConfig { name: _, typed_config } = extension; // the name only labels the type
    let any = required("typed_config", typed_config)?;
    let tls_proto::SpiffeCertValidatorConfig { trust_domains } = unpack(&any).at("typed_config")?;
    if trust_domains.is_empty() {
        return Err(Fault::new("is required").under("typed_config.trust_domains"));
    }
    let mut seen = std::collections::HashSet::new();
    each("trust_domains", trust_domains, |TrustDomain { name, trust_bundle }| {
        named(&name)?;
        if !seen.insert(name.clone()) {
            return Err(Fault::new(format!("{name:?} is there twice")).under("name"));
        }
        let bundle = required("trust_bundle", trust_bundle)?;
        Ok((name.into(), material(bundle).at("trust_bundle")?))
    })
    .at("typed_config")
}

fn material(source: core_proto::DataSource) -> Translated<Material> {
    let core_proto::DataSource { specifier, watched_directory } = source;
    watched(watched_directory)?;
    let empty = |field| Err(Fault::new("is required").under(field));
    match required("filename, inline_string, inline_bytes or environment_variable", specifier)? {
        Specifier::Filename(path) if path.is_empty() => empty("filename"),
        Specifier::Filename(path) => Ok(Material::File(path.into())),
        Specifier::InlineBytes(bytes) => Ok(Material::Inline(bytes.into())),
        Specifier::InlineString(text) => Ok(Material::Inline(text.into_bytes().into())),
        Specifier::EnvironmentVariable(name) if name.is_empty() => empty("environment_variable"),
        Specifier::EnvironmentVariable(name) => Ok(Material::Environment(name.into())),
    }
}

/// A secret's name, and where it comes from.
fn sds(message: tls_proto::SdsSecretConfig) -> Translated<(Box<str>, Origin)> {
    let tls_proto::SdsSecretConfig { name, sds_config } = message;
    named(&name)?;
    let (origin, _) = config_source(sds_config).at("sds_config")?;
    Ok((name.into(), origin))
}

/// A secret and its name.
pub(super) fn secret(message: tls_proto::Secret) -> Translated<Secret> {
    let tls_proto::Secret { name, r#type } = message;
    named(&name)?;
    match required("tls_certificate or validation_context", r#type)? {
        secret::Type::TlsCertificate(message) => {
            certificate(message).at("tls_certificate").map(Secret::Certificate)
        }
        secret::Type::ValidationContext(message) => {
            validation(message).at("validation_context").map(Secret::Validation)
        }
    }
}

/// 32 bytes in hexadecimal, with or without colons.
fn hex_pin(text: &str) -> Translated<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Option<Vec<u8>> =
        digits.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(*pair.get(1)?)?) as u8)).collect();
    let pin = bytes.and_then(|bytes| bytes.try_into().ok());
    pin.ok_or_else(|| Fault::new(format!("{text:?} is not 32 bytes in hexadecimal")))
}

/// 32 bytes in base64.
fn base64_pin(text: &str) -> Translated<[u8; 32]> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
    let pin = bytes.and_then(|bytes| bytes.try_into().ok());
    pin.ok_or_else(|| Fault::new(format!("{text:?} is not 32 bytes in base64")))
}

/// Whether a text can be asked for by SNI: a host name, or an address, for which none is asked.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    text.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_label))
}
