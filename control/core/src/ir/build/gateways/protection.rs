//! What protects the connections of a listener: its certificates, what clients must show, and whether plaintext is taken.

use super::super::backends::{BUNDLE_KIND, Unresolved, bundle};
use super::super::grants::{From, Grants};
use super::Ports;
use crate::ir::{Certificate, ClientValidation, Condition, Termination};
use crate::model::{
    self, FrontendMode, FrontendValidation, GatewaySpec, Kind, Listener, ListenerTls, ObjectKey, PeerMode,
    Protocol, Resource,
};

impl Ports<'_> {
    /// How TLS ends at a listener. What cannot be used is said in the conditions, of acceptance and of references.
    pub(super) fn termination(
        &mut self,
        owner: usize,
        gateway: &GatewaySpec,
        (listener, tls): (&Listener, &ListenerTls),
        from: From<'_>,
        grants: &Grants<'_>,
        (accepted, resolved): &mut (&mut Condition, &mut Condition),
    ) -> Termination {
        if let Some(option) = tls.options.keys().next() {
            let message = format!("tls.options: {option:?} is not known");
            **accepted = Condition::fails("Accepted", "UnsupportedValue", message);
        }
        let mut names = Vec::new();
        for reference in &tls.certificate_refs {
            match self.certificate(from, reference, grants) {
                Ok(name) => names.push(name),
                Err((reason, message)) => **resolved = Condition::fails("ResolvedRefs", reason, message),
            }
        }
        if tls.certificate_refs.is_empty() {
            let message = "a listener that ends TLS needs a certificate";
            **resolved = Condition::fails("ResolvedRefs", "InvalidCertificateRef", message);
        }
        let is_sidecar = self.owners[owner].sidecar.is_some();
        let clients =
            frontend(gateway, listener.port).filter(|_| is_sidecar || listener.protocol == Protocol::Https);
        let of_gateway = self.owners[owner].key.clone();
        let clients = clients.map(|validation| self.clients(&of_gateway, validation, grants, resolved));
        let clients = match clients {
            Some(Ok(clients)) => Some(clients),
            Some(Err((reason, message))) => {
                **accepted = Condition::fails("Accepted", reason, message);
                None
            }
            None => None,
        };
        Termination { certificates: names, clients }
    }

    /// What a `PeerAuthentication` says of a listener of a sidecar. One that would have to take mutual TLS alone and cannot is
    /// not accepted: nobody is served in clear by mistake.
    pub(super) fn peer_mode(
        &self,
        owner: usize,
        listener: &Listener,
        termination: Option<&Termination>,
        accepted: &mut Condition,
    ) -> PeerMode {
        let mode = self.owners[owner].sidecar.and_then(|sidecar| self.peers.mode(sidecar, listener.port));
        let Some((mode, policy)) = mode else { return PeerMode::Unset };
        if mode == PeerMode::Strict && termination.is_none_or(|termination| termination.clients.is_none()) {
            let message = format!(
                "PeerAuthentication {policy} wants mutual TLS: a listener of the protocol HTTPS or TLS with a certificate, and \
                 spec.tls.frontend of its gateway"
            );
            *accepted = Condition::fails("Accepted", "UnsupportedValue", message);
        } else if mode == PeerMode::Permissive && termination.is_none() {
            accepted.message = format!(
                "PeerAuthentication {policy} lets plaintext and mutual TLS in; without a certificate there is plaintext alone"
            );
        }
        mode
    }

    /// A chain and its key.
    fn certificate(
        &mut self,
        from: From<'_>,
        reference: &model::ObjectReference,
        grants: &Grants<'_>,
    ) -> Result<String, Unresolved> {
        let is_secret = reference.kind.as_deref().is_none_or(|kind| kind == "Secret")
            && reference.group.as_deref().is_none_or(|group| group.is_empty() || group == "core");
        if !is_secret {
            let kind = reference.kind.as_deref().unwrap_or_default();
            return Err((
                "InvalidCertificateRef",
                format!("a {kind} holds no certificate: a Secret is wanted"),
            ));
        }
        let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
        let key = ObjectKey::new(Kind::Secret, namespace, &reference.name);
        if !grants.allow(from, Kind::Secret, namespace, &reference.name) {
            let message = format!("{key} is in another namespace, and no ReferenceGrant there allows it");
            return Err(("RefNotPermitted", message));
        }
        let Some(Resource::Secret(secret)) = self.objects.get(&key).map(|resource| &**resource) else {
            return Err(("InvalidCertificateRef", format!("there is no {key}")));
        };
        let (chain, private) = (secret.text("tls.crt"), secret.text("tls.key"));
        let (Some(chain), Some(private)) = (chain, private) else {
            return Err(("InvalidCertificateRef", format!("{key} lacks tls.crt or tls.key")));
        };
        if !chain.contains("-----BEGIN CERTIFICATE-----") || !private.contains("PRIVATE KEY-----") {
            return Err(("InvalidCertificateRef", format!("{key} holds no PEM certificate and key")));
        }
        let name = format!("{namespace}/{}", reference.name);
        self.certificates.insert(name.clone(), Certificate { chain, key: private });
        Ok(name)
    }

    /// What clients must show. A bundle that cannot be used is told of; only if none can, nobody is served.
    fn clients(
        &self,
        gateway: &ObjectKey,
        validation: &FrontendValidation,
        grants: &Grants<'_>,
        resolved: &mut Condition,
    ) -> Result<ClientValidation, Unresolved> {
        if validation.mode == FrontendMode::AllowInsecureFallback {
            return Err(("UnsupportedValue", "AllowInsecureFallback is not supported".to_owned()));
        }
        let from = From { kind: Kind::Gateway, namespace: &gateway.namespace };
        let mut roots = String::new();
        for reference in &validation.ca_certificate_refs {
            let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
            let kind = match reference.kind.as_deref() {
                Some("Secret") => Kind::Secret,
                _ => Kind::ConfigMap,
            };
            let found = match grants.allow(from, kind, namespace, &reference.name) {
                true => bundle(self.objects, from.namespace, reference),
                false => {
                    let message = format!("{kind} {namespace}/{} needs a ReferenceGrant", reference.name);
                    Err(("RefNotPermitted", message))
                }
            };
            match found {
                Ok(bundle) => roots.push_str(&bundle),
                Err((reason, message)) => {
                    let reason = if reason == BUNDLE_KIND { "InvalidCACertificateKind" } else { reason };
                    *resolved = Condition::fails("ResolvedRefs", reason, message);
                }
            }
        }
        match roots.is_empty() {
            true => Err(("NoValidCACertificate", "no reference leads to a certificate".to_owned())),
            false => Ok(ClientValidation { roots, is_optional: false }),
        }
    }
}

/// What clients must show on a port.
fn frontend(gateway: &GatewaySpec, port: u16) -> Option<&FrontendValidation> {
    let frontend = gateway.tls.as_ref()?.frontend.as_ref()?;
    let of_port = frontend.per_port.iter().find(|of| of.port == port).map(|of| &of.tls);
    of_port.unwrap_or(&frontend.default).validation.as_ref()
}
