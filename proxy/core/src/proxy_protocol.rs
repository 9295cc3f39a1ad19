//! The PROXY protocol: who the client is, told before the first byte by whoever stands between (versions 1 and 2).

use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult as _, v1, v2};

use crate::config::ProxyProtocol;

/// The longest header that is taken. Version 2 allows 64 KiB of additions, of which none are looked at.
pub const MAX_HEADER: usize = 4 << 10;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// More bytes are needed.
    Partial,
    /// Nothing: they are not a header, and need not be.
    Nothing,
    /// Who the client is and whom it wanted, if the header says so; so many bytes are the header.
    Header {
        /// The client's address, then the one that it wanted. None: the connection is the teller's own, such as a health
        /// check.
        addresses: Option<(SocketAddr, SocketAddr)>,
        /// Bytes of the header.
        length: usize,
    },
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyProtocolError {
    /// The first bytes are no header, and one is required.
    #[error("the PROXY protocol's header is missing or malformed")]
    Malformed,
    /// The header is of a version that is not taken here.
    #[error("the PROXY protocol's version is not accepted here")]
    Version,
    /// The header is longer than [`MAX_HEADER`].
    #[error("the PROXY protocol's header is too long")]
    TooLong,
}

/// Reads the header at the start of `bytes`.
///
/// # Errors
/// The connection must end.
pub fn read(bytes: &[u8], rules: &ProxyProtocol) -> Result<Told, ProxyProtocolError> {
    // What cannot be a header is none, whatever follows.
    let could_be = |prefix: &[u8]| {
        let common = prefix.len().min(bytes.len());
        prefix[..common] == bytes[..common]
    };
    if !could_be(v2::PROTOCOL_PREFIX) && !could_be(v1::PROTOCOL_PREFIX.as_bytes()) {
        return if rules.is_optional { Ok(Told::Nothing) } else { Err(ProxyProtocolError::Malformed) };
    }
    if bytes.len() < v2::PROTOCOL_PREFIX.len() && !bytes.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        return Ok(Told::Partial);
    }
    // A line of version 1 is whole or it is not, whatever it says.
    const MAX_LINE: usize = 107;
    let is_v1 = bytes.starts_with(v1::PROTOCOL_PREFIX.as_bytes());
    let line = memchr::memmem::find(&bytes[..bytes.len().min(MAX_LINE)], b"\r\n");
    match line {
        None if is_v1 && bytes.len() >= MAX_LINE => return Err(ProxyProtocolError::Malformed),
        None if is_v1 => return Ok(Told::Partial),
        Some(_) | None => {}
    }
    let parsed = HeaderResult::parse(bytes);
    if parsed.is_incomplete() && is_v1 {
        return Err(ProxyProtocolError::Malformed);
    }
    if parsed.is_incomplete() {
        return if bytes.len() < MAX_HEADER { Ok(Told::Partial) } else { Err(ProxyProtocolError::TooLong) };
    }
    match parsed {
        HeaderResult::V1(Ok(header)) if rules.v1 => {
            let addresses = match header.addresses {
                v1::Addresses::Unknown => None,
                v1::Addresses::Tcp4(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                v1::Addresses::Tcp6(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
            };
            Ok(Told::Header { addresses, length: header.header.len() })
        }
        HeaderResult::V2(Ok(header)) if rules.v2 => {
            if header.len() > MAX_HEADER {
                return Err(ProxyProtocolError::TooLong);
            }
            let is_told = header.command == v2::Command::Proxy && header.protocol == v2::Protocol::Stream;
            let addresses = match header.addresses {
                v2::Addresses::IPv4(ip) if is_told => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                v2::Addresses::IPv6(ip) if is_told => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                _ => None,
            };
            Ok(Told::Header { addresses, length: header.len() })
        }
        HeaderResult::V1(Ok(_)) | HeaderResult::V2(Ok(_)) => Err(ProxyProtocolError::Version),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(ProxyProtocolError::Malformed),
    }
}

/// The header that tells an endpoint who the client is and whom it wanted. Without addresses, or with two of different
/// families, it says that nothing is known.
pub fn write(is_v2: bool, addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let addresses = addresses.filter(|(from, to)| from.is_ipv4() == to.is_ipv4());
    if !is_v2 {
        return match addresses {
            Some((from, to)) => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                let (source, destination) = (from.ip(), to.ip());
                format!("PROXY {family} {source} {destination} {} {}\r\n", from.port(), to.port())
                    .into_bytes()
            }
            None => b"PROXY UNKNOWN\r\n".to_vec(),
        };
    }
    let version = v2::Version::Two;
    let header = match addresses {
        Some(addresses) => {
            let command = version | v2::Command::Proxy;
            v2::Builder::with_addresses(command, v2::Protocol::Stream, addresses).build()
        }
        None => {
            let command = version | v2::Command::Local;
            v2::Builder::with_addresses(command, v2::Protocol::Unspecified, v2::Addresses::Unspecified)
                .build()
        }
    };
    header.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: ProxyProtocol = ProxyProtocol { is_optional: false, v1: true, v2: true };

    fn pair(from: &str, to: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((from.parse().expect("an address"), to.parse().expect("an address")))
    }

    #[test]
    fn what_is_written_is_read() {
        for addresses in [pair("192.0.2.1:5", "198.51.100.2:443"), pair("[2001:db8::1]:5", "[::1]:443"), None]
        {
            for is_v2 in [false, true] {
                let mut bytes = write(is_v2, addresses);
                let length = bytes.len();
                for cut in 0..length {
                    assert_eq!(
                        read(&bytes[..cut], &RULES),
                        Ok(Told::Partial),
                        "{is_v2} {addresses:?} cut at {cut}"
                    );
                }
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
                assert_eq!(read(&bytes, &RULES), Ok(Told::Header { addresses, length }));
            }
        }
        assert_eq!(write(false, pair("192.0.2.1:5", "[::1]:443")), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn what_is_no_header_is_refused_unless_it_need_not_be_one() {
        let optional = ProxyProtocol { is_optional: true, ..RULES };
        assert_eq!(read(b"GET / HTTP/1.1\r\n", &RULES), Err(ProxyProtocolError::Malformed));
        assert_eq!(read(b"GET / HTTP/1.1\r\n", &optional), Ok(Told::Nothing));
        assert_eq!(read(b"PROXY TCP4 nonsense\r\n", &optional), Err(ProxyProtocolError::Malformed));
        assert_eq!(read(b"P", &optional), Ok(Told::Partial));
        assert_eq!(read(b"POST / HTTP/1.1\r\n", &optional), Ok(Told::Nothing));
        let only_v2 = ProxyProtocol { v1: false, ..RULES };
        let v1 = write(false, pair("192.0.2.1:5", "198.51.100.2:443"));
        assert_eq!(read(&v1, &only_v2), Err(ProxyProtocolError::Version));
        let mut long = v2::PROTOCOL_PREFIX.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        long.resize(MAX_HEADER, 0);
        assert_eq!(read(&long, &RULES), Err(ProxyProtocolError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), start in 0..3) {
            let start: &[u8] = match start { 0 => b"PROXY ", 1 => v2::PROTOCOL_PREFIX, _ => b"" };
            let all = [start, &bytes].concat();
            if let Ok(Told::Header { length, .. }) = read(&all, &RULES) {
                prop_assert!(length <= all.len());
            }
        }
    }
}
