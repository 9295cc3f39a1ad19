//! What a proxy must know of gRPC: its status, how HTTP's becomes one, and its deadline (grpc:`doc/PROTOCOL-HTTP2.md`).

use std::time::Duration;

/// The status of a call (grpc:`doc/statuscodes.md`).
pub type Status = u8;

/// What stands for a failure that HTTP's status tells (grpc:`doc/http-grpc-status-mapping.md`; 413 and 504 as Envoy has
/// them).
pub const fn status_of(http: u16) -> Status {
    match http {
        200 => 0,
        // INTERNAL
        400 => 13,
        // UNAUTHENTICATED
        401 => 16,
        // PERMISSION_DENIED
        403 => 7,
        // UNIMPLEMENTED
        404 => 12,
        // DEADLINE_EXCEEDED
        408 | 504 => 4,
        // UNAVAILABLE
        429 | 502 | 503 => 14,
        // UNKNOWN
        _ => 2,
    }
}

/// Appends the lines `grpc-status` and `grpc-message`. What cannot stand in a message is percent-encoded.
pub fn write_status(status: Status, message: &[u8], lines: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    lines.extend_from_slice(b"grpc-status: ");
    if status >= 10 {
        lines.push(b'0' + status / 10);
    }
    lines.push(b'0' + status % 10);
    lines.extend_from_slice(b"\r\n");
    let message = message.trim_ascii();
    if message.is_empty() {
        return;
    }
    lines.extend_from_slice(b"grpc-message: ");
    for byte in message {
        match byte {
            b' '..=b'~' if *byte != b'%' => lines.push(*byte),
            byte => lines.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
    lines.extend_from_slice(b"\r\n");
}

/// The status that a line `grpc-status` tells; none where it tells none.
pub fn parse_status(value: &[u8]) -> Option<Status> {
    let text = std::str::from_utf8(value).ok()?;
    text.parse().ok().filter(|status| *status <= 16)
}

/// The status in a trailer section; none where it has none.
pub fn trailing_status(section: &[u8]) -> Option<Status> {
    let lines = section.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let (name, value) = line.split_at(memchr::memchr(b':', line)?);
            name.eq_ignore_ascii_case(b"grpc-status").then(|| parse_status(value[1..].trim_ascii()))?
        })
        .next()
}

/// The time in `grpc-timeout`: at most eight digits and a unit. None where it is something else.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_and_empty_ones_left_out() {
        let mut lines = Vec::new();
        write_status(14, "no way: 50 % of\nzürich".as_bytes(), &mut lines);
        assert_eq!(lines, b"grpc-status: 14\r\ngrpc-message: no way: 50 %25 of%0Az%C3%BCrich\r\n");
        lines.clear();
        write_status(0, b"", &mut lines);
        assert_eq!(lines, b"grpc-status: 0\r\n");
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        for (text, time) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("5n", Some(Duration::from_nanos(5))),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("1s", None),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), time, "{text}");
        }
    }

    #[test]
    fn statuses_are_numbers_of_the_list() {
        assert_eq!(parse_status(b"0"), Some(0));
        assert_eq!(parse_status(b"16"), Some(16));
        assert_eq!(trailing_status(b"x: y\r\nGrpc-Status: 7\r\n\r\n"), Some(7));
        assert_eq!(trailing_status(b"\r\n"), None);
        for wrong in [&b"17"[..], b"", b"-1", b"x"] {
            assert_eq!(parse_status(wrong), None);
        }
    }
}
