//! What a hop says about the client, and whom it believes (RFC 7239 §8, RFC 9110 §7.6.3).
//!
//! At the edge (`use_remote_address`) clients are strangers: what they say about themselves is replaced, and words that
//! only proxies use among themselves are not passed on. Elsewhere the hop before is trusted and only gaps are filled.
//! Lines that the client's `Connection` nominated are gone before anything is added here.

use crate::http1::{HeaderId, HeaderSpan, RequestHead};

/// How this hop treats the headers that speak about hops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopRules {
    /// Clients are strangers, and their address is the connection's (`use_remote_address`).
    pub is_edge: bool,
    /// Proxies of our own between the client and us (`xff_num_trusted_hops`).
    pub trusted_hops: u32,
    /// Whether the peer's address joins `X-Forwarded-For` at the edge (`skip_xff_append`).
    pub appends_forwarded_for: bool,
    /// Whether a request without an id gets one (`generate_request_id`).
    pub generates_request_id: bool,
    /// Whether a stranger may bring its own id (`preserve_external_request_id`).
    pub keeps_external_request_id: bool,
    /// What becomes of `x-forwarded-client-cert`.
    pub client_certificate: ClientCertificate,
    /// The value of a `Via` line that is added both ways; none where empty.
    pub via: Box<str>,
}

impl Default for HopRules {
    fn default() -> Self {
        Self {
            is_edge: false,
            trusted_hops: 0,
            appends_forwarded_for: true,
            generates_request_id: true,
            keeps_external_request_id: false,
            client_certificate: ClientCertificate::default(),
            via: "".into(),
        }
    }
}

/// What becomes of `x-forwarded-client-cert` (`forward_client_cert_details`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// What a client says there.
    pub rule: ForwardedCertificate,
    /// What is told of the client's certificate (`set_current_client_cert_details`).
    pub details: CertificateDetails,
}

/// `ForwardClientCertDetails`. All but the last hold for connections on which the client has shown a certificate; on others
/// the header is taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedCertificate {
    /// It is taken away.
    #[default]
    Sanitize,
    /// It is passed on.
    ForwardOnly,
    /// Ours is added to it.
    Append,
    /// Ours takes its place.
    Set,
    /// It is passed on, whoever says it.
    AlwaysForward,
}

/// `SetCurrentClientCertDetails`. The hash, and the URI of our own certificate, are always told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CertificateDetails {
    /// `Subject`
    pub subject: bool,
    /// `Cert`, in PEM
    pub certificate: bool,
    /// `Chain`, in PEM
    pub chain: bool,
    /// `DNS`
    pub dns: bool,
    /// `URI`
    pub uri: bool,
}

/// Who is connected.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer<'a> {
    /// The address as text; empty for a Unix socket.
    pub address: &'a str,
    /// Whether the connection is protected.
    pub is_tls: bool,
    /// What `x-forwarded-client-cert` says of the certificate that it has shown; none where it has shown none.
    pub certificate: Option<&'a str>,
}

impl<'a> Peer<'a> {
    /// One on a connection that nothing protects.
    pub const fn plain(address: &'a str) -> Self {
        Self { address, is_tls: false, certificate: None }
    }
}

/// A request id: a version 4 UUID as text (RFC 9562 §5.4).
pub type RequestId = [u8; 36];

/// Writes an id from 128 random bits.
pub fn request_id(high: u64, low: u64) -> RequestId {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits =
        (u128::from(high) << 64 | u128::from(low)) & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let bytes = bits.to_be_bytes();
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    text
}

/// Drops the lines that are not believed and writes into `added` the lines that this hop adds, each with its line end.
/// `fresh_id` is asked at most once.
///
/// Cost: one look at each line, and a copy of what is added. No allocation once `added` has grown.
pub fn apply(
    rules: &HopRules,
    peer: Peer<'_>,
    buffer: &[u8],
    head: &mut RequestHead,
    fresh_id: impl FnOnce() -> RequestId,
    added: &mut Vec<u8>,
) {
    added.clear();
    let strangers = rules.is_edge && rules.trusted_hops == 0;
    let (mut has_id, mut has_proto, mut has_host) = (false, false, false);
    let appends = rules.is_edge && rules.appends_forwarded_for && !peer.address.is_empty();
    let mut forwarded_for = false;
    let keeps_certificate = keeps_certificate(rules.client_certificate.rule, peer);
    // Before its lines go: what is kept of them stands in one line with ours.
    add_certificate(rules.client_certificate.rule, peer, buffer, head, added);
    for line in &mut head.headers {
        if line.dropped {
            continue;
        }
        match line.id {
            HeaderId::XRequestId => {
                line.dropped = has_id || (rules.is_edge && !rules.keeps_external_request_id);
                has_id |= !line.dropped;
            }
            HeaderId::XForwardedProto => {
                line.dropped = strangers || has_proto;
                has_proto |= !line.dropped;
            }
            HeaderId::XForwardedHost => {
                line.dropped = strangers || has_host;
                has_host |= !line.dropped;
            }
            // All lines and the peer become one, in order.
            HeaderId::XForwardedFor if appends => {
                added.extend_from_slice(if forwarded_for { b", " } else { b"x-forwarded-for: " });
                added.extend_from_slice(line.value.slice(buffer));
                forwarded_for = true;
                line.dropped = true;
            }
            HeaderId::XForwardedClientCert => match rules.client_certificate.rule {
                // Written above, in one line with ours.
                ForwardedCertificate::Append => line.dropped = true,
                _ => line.dropped = !keeps_certificate,
            },
            HeaderId::Internal => line.dropped = rules.is_edge,
            _ => {}
        }
    }
    if appends {
        added.extend_from_slice(if forwarded_for { b", " } else { b"x-forwarded-for: " });
        added.extend_from_slice(peer.address.as_bytes());
        added.extend_from_slice(b"\r\n");
    }
    if !has_proto {
        added.extend_from_slice(match peer.is_tls {
            true => b"x-forwarded-proto: https\r\n",
            false => b"x-forwarded-proto: http\r\n",
        });
    }
    if strangers && !head.authority.is_empty() {
        added.extend_from_slice(b"x-forwarded-host: ");
        added.extend_from_slice(head.authority.slice(buffer));
        added.extend_from_slice(b"\r\n");
    }
    if !has_id && rules.generates_request_id {
        added.extend_from_slice(b"x-request-id: ");
        added.extend_from_slice(&fresh_id());
        added.extend_from_slice(b"\r\n");
    }
    if !rules.via.is_empty() {
        added.extend_from_slice(b"via: ");
        added.extend_from_slice(rules.via.as_bytes());
        added.extend_from_slice(b"\r\n");
    }
}

/// Whether what a client says of a certificate stays.
const fn keeps_certificate(rule: ForwardedCertificate, peer: Peer<'_>) -> bool {
    match rule {
        ForwardedCertificate::Sanitize | ForwardedCertificate::Set => false,
        ForwardedCertificate::ForwardOnly | ForwardedCertificate::Append => peer.certificate.is_some(),
        ForwardedCertificate::AlwaysForward => true,
    }
}

/// Adds what is told of the peer's own certificate, after what those before it have said where that is kept.
fn add_certificate(
    rule: ForwardedCertificate,
    peer: Peer<'_>,
    buffer: &[u8],
    head: &RequestHead,
    added: &mut Vec<u8>,
) {
    let tells = matches!(rule, ForwardedCertificate::Append | ForwardedCertificate::Set);
    let Some(certificate) = peer.certificate.filter(|_| tells) else { return };
    added.extend_from_slice(b"x-forwarded-client-cert: ");
    if rule == ForwardedCertificate::Append {
        let kept = |line: &&HeaderSpan| line.id == HeaderId::XForwardedClientCert && !line.dropped;
        for line in head.headers.iter().filter(kept) {
            added.extend_from_slice(line.value.slice(buffer));
            added.push(b',');
        }
    }
    added.extend_from_slice(certificate.as_bytes());
    added.extend_from_slice(b"\r\n");
}

/// The address of the client itself, as far as it can be believed: the peer's at the edge; behind trusted hops, or where
/// the hop before is trusted, the entry that the outermost trusted hop wrote into `X-Forwarded-For`.
pub fn client_address<'a>(
    rules: &HopRules,
    peer: &'a str,
    buffer: &'a [u8],
    head: &'a RequestHead,
) -> &'a str {
    // At the edge our own entry, the peer, is not in the list yet; a trusted hop's own is.
    let skip = match (rules.is_edge, rules.trusted_hops) {
        (true, 0) => return peer,
        (true, hops) => hops - 1,
        (false, hops) => hops,
    };
    let lines = head.headers.iter().rev().filter(|line| line.id == HeaderId::XForwardedFor);
    let entries = lines.flat_map(|line| line.value.slice(buffer).rsplit(|b| *b == b','));
    let entry = entries.map(<[u8]>::trim_ascii).nth(skip as usize);
    let text = entry.and_then(|entry| std::str::from_utf8(entry).ok());
    text.filter(|text| text.parse::<std::net::IpAddr>().is_ok()).unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{RequestEdits, RequestRules, parse_request, write_request};

    const EDGE: fn() -> HopRules = || HopRules { is_edge: true, ..HopRules::default() };

    fn forwarded(rules: &HopRules, lines: &str) -> String {
        let text = format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n");
        let mut head = RequestHead::default();
        assert_eq!(parse_request(text.as_bytes(), &RequestRules::default(), &mut head), Ok(true));
        let (mut added, mut out) = (Vec::new(), Vec::new());
        apply(rules, Peer::plain("192.0.2.7"), text.as_bytes(), &mut head, || request_id(1, 2), &mut added);
        let edits = RequestEdits { added: &added, ..RequestEdits::default() };
        write_request(&mut out, text.as_bytes(), &head, &edits);
        String::from_utf8(out).expect("text")
    }

    fn with_certificate(rule: ForwardedCertificate, certificate: Option<&str>, lines: &str) -> Vec<String> {
        let mut rules = EDGE();
        rules.client_certificate.rule = rule;
        let text = format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n");
        let mut head = RequestHead::default();
        assert_eq!(parse_request(text.as_bytes(), &RequestRules::default(), &mut head), Ok(true));
        let (mut added, mut out) = (Vec::new(), Vec::new());
        let peer = Peer { certificate, ..Peer::plain("192.0.2.7") };
        apply(&rules, peer, text.as_bytes(), &mut head, || request_id(1, 2), &mut added);
        let edits = RequestEdits { added: &added, ..RequestEdits::default() };
        write_request(&mut out, text.as_bytes(), &head, &edits);
        let out = String::from_utf8(out).expect("text");
        let line =
            |line: &str| line.to_lowercase().strip_prefix("x-forwarded-client-cert: ").map(str::to_owned);
        out.lines().filter_map(line).collect()
    }

    #[test]
    fn what_a_client_says_of_certificates_is_believed_by_rule() {
        use ForwardedCertificate::{AlwaysForward, Append, ForwardOnly, Sanitize, Set};

        const SAID: &str = "X-Forwarded-Client-Cert: hash=a\r\nx-forwarded-client-cert: hash=b\r\n";
        for (rule, with, without) in [
            (Sanitize, vec![], vec![]),
            (ForwardOnly, vec!["hash=a", "hash=b"], vec![]),
            (Append, vec!["hash=a,hash=b,hash=own"], vec![]),
            (Set, vec!["hash=own"], vec![]),
            (AlwaysForward, vec!["hash=a", "hash=b"], vec!["hash=a", "hash=b"]),
        ] {
            assert_eq!(with_certificate(rule, Some("hash=own"), SAID), with, "{rule:?}, with a certificate");
            assert_eq!(with_certificate(rule, None, SAID), without, "{rule:?}, without one");
        }
        let nominated = format!("Connection: x-forwarded-client-cert\r\n{SAID}");
        assert_eq!(with_certificate(Append, Some("hash=own"), &nominated), ["hash=own"]);
    }

    fn client(rules: &HopRules, lines: &str) -> String {
        let text = format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n");
        let mut head = RequestHead::default();
        assert_eq!(parse_request(text.as_bytes(), &RequestRules::default(), &mut head), Ok(true));
        client_address(rules, "192.0.2.7", text.as_bytes(), &head).to_owned()
    }

    #[test]
    fn an_id_is_a_version_4_uuid() {
        assert_eq!(&request_id(u64::MAX, u64::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(&request_id(0, 0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(
            &request_id(0x0123_4567_89ab_cdef, 0x0f1e_2d3c_4b5a_6978),
            b"01234567-89ab-4def-8f1e-2d3c4b5a6978"
        );
    }

    #[test]
    fn at_the_edge_a_stranger_cannot_say_who_it_is() {
        let out = forwarded(
            &EDGE(),
            "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
             X-Request-Id: mine\r\nX-Envoy-Max-Retries: 9\r\nx-weir-arm: v2\r\n",
        );
        assert!(out.contains("x-forwarded-for: 10.0.0.1, 192.0.2.7\r\n"), "{out}");
        assert!(out.contains("x-forwarded-proto: http\r\n") && !out.contains("https"), "{out}");
        assert!(out.contains("x-forwarded-host: shop\r\n") && !out.contains("evil"), "{out}");
        assert!(out.contains("x-request-id: 00000000-0000-4001-") && !out.contains("mine"), "{out}");
        assert!(!out.to_lowercase().contains("x-envoy") && !out.contains("x-weir"), "{out}");
    }

    #[test]
    fn inside_what_the_hop_before_says_stands() {
        let lines =
            "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nX-Envoy-A: b\r\n";
        let out = forwarded(&HopRules::default(), lines);
        assert_eq!(out, format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n"));
    }

    #[test]
    fn a_nominated_line_goes_before_ours_is_added() {
        let lines =
            "X-Forwarded-For: 10.0.0.1\r\nX-Request-Id: a\r\nConnection: x-forwarded-for, x-request-id\r\n";
        let out = forwarded(&EDGE(), lines);
        assert!(out.contains("x-forwarded-for: 192.0.2.7\r\n"), "{out}");
        assert!(forwarded(&HopRules::default(), lines).contains("x-request-id: 0000"), "{out}");
    }

    #[test]
    fn the_client_is_found_behind_trusted_hops() {
        let behind = |trusted_hops| HopRules { trusted_hops, ..EDGE() };
        let inside = |trusted_hops| HopRules { trusted_hops, ..HopRules::default() };
        let lines = "X-Forwarded-For: 6.6.6.6, 198.51.100.1\r\nX-Forwarded-For: 10.0.0.9\r\n";
        assert_eq!(client(&EDGE(), lines), "192.0.2.7");
        assert_eq!(client(&behind(1), lines), "10.0.0.9");
        assert_eq!(client(&behind(2), lines), "198.51.100.1");
        assert_eq!(client(&behind(9), lines), "192.0.2.7", "not enough entries");
        assert_eq!(client(&inside(0), lines), "10.0.0.9");
        assert_eq!(client(&inside(1), lines), "198.51.100.1");
        assert_eq!(client(&inside(0), "X-Forwarded-For: nonsense\r\n"), "192.0.2.7");
    }

    #[test]
    fn via_is_added_to_what_is_there() {
        let rules = HopRules { via: "1.1 weir".into(), ..HopRules::default() };
        let out = forwarded(&rules, "Via: 1.0 old\r\n");
        assert!(out.contains("Via: 1.0 old\r\n") && out.contains("via: 1.1 weir\r\n"), "{out}");
    }
}
