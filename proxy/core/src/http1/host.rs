//! `uri-host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2.2).

/// Whether `host` is what a Host header or an authority may be. User information is refused: it hides which host is
/// meant.
pub fn is_valid(host: &[u8]) -> bool {
    let (name, port) = match host.first() {
        None => return false,
        Some(b'[') => {
            let Some(end) = memchr::memchr(b']', host) else {
                return false;
            };
            let inner = &host[1..end];
            let address = inner.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
            if inner.is_empty() || !address {
                return false;
            }
            (&host[..=end], &host[end + 1..])
        }
        Some(_) => {
            let end = memchr::memchr(b':', host).unwrap_or(host.len());
            let name = &host[..end];
            if name.is_empty() || !name.iter().all(|b| NAME[usize::from(*b)]) {
                return false;
            }
            (name, &host[end..])
        }
    };
    name.len() <= 255 && is_port(port)
}

/// Empty, or a colon and up to five digits that are a port.
fn is_port(text: &[u8]) -> bool {
    match text.split_first() {
        None => true,
        Some((b':', digits)) => {
            digits.len() <= 5
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0, |n: u32, d| n * 10 + u32::from(d - b'0')) <= 65_535
        }
        Some(_) => false,
    }
}

/// reg-name: unreserved and sub-delims. Percent-encoding is left out: no name service has such names, and whoever decodes
/// one sees another host.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let allowed = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=";
    let mut i = 0;
    while i < allowed.len() {
        table[allowed[i] as usize] = true;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn hosts_with_and_without_port_are_valid() {
        for host in
            ["a", "example.com", "example.com:80", "10.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "a_b", "x:"]
        {
            assert!(is_valid(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn user_info_letter_ports_and_separators_are_not() {
        for host in [
            "",
            "user@host",
            "host:8o",
            "host:123456",
            "host:70000",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "[::1",
            "[x]",
            "[]",
            "a,b/",
            "a%2fb",
            "a\\b",
            ":80",
        ] {
            assert!(!is_valid(host.as_bytes()), "{host}");
        }
    }
}
