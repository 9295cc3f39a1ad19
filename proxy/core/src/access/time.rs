//! Times as text, written by hand: a formatter would cost more than the rest of the line.

/// A moment as calendar and clock show it, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) year: u32,
    /// 1 to 12.
    pub(super) month: u32,
    /// 1 to 31.
    pub(super) day: u32,
    pub(super) hour: u32,
    pub(super) minute: u32,
    pub(super) second: u32,
    pub(super) micros: u32,
    /// Days since Sunday.
    pub(super) weekday: u32,
    /// Seconds since the epoch.
    pub(super) unix: u64,
}

pub(super) const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
pub(super) const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

impl Moment {
    /// From microseconds since the Unix epoch. Days become a date by the era arithmetic of Howard Hinnant's
    /// "chrono-compatible low-level date algorithms".
    pub(super) const fn of(unix_micros: u64) -> Self {
        let unix = unix_micros / 1_000_000;
        let (days, seconds) = (unix / 86_400, (unix % 86_400) as u32);
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
        Self {
            year: year as u32,
            month: month as u32,
            day: day as u32,
            hour: seconds / 3_600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            micros: (unix_micros % 1_000_000) as u32,
            weekday: ((days + 4) % 7) as u32,
            unix,
        }
    }
}

/// Appends `value` with at least `width` digits.
pub(super) fn push_digits(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let mut rest = value;
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    at = at.min(digits.len() - width.min(digits.len()));
    out.extend_from_slice(&digits[at..]);
}

/// `2026-11-21T08:09:10.123Z`
pub(super) fn push_rfc3339(out: &mut Vec<u8>, unix_micros: u64) {
    let m = Moment::of(unix_micros);
    let two = |n: u32| [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
    let (century, years) = (two(m.year / 100 % 100), two(m.year % 100));
    let millis = m.micros / 1_000;
    let [month, day, hour, minute, second] = [m.month, m.day, m.hour, m.minute, m.second].map(two);
    let text = [
        century[0],
        century[1],
        years[0],
        years[1],
        b'-',
        month[0],
        month[1],
        b'-',
        day[0],
        day[1],
        b'T',
        hour[0],
        hour[1],
        b':',
        minute[0],
        minute[1],
        b':',
        second[0],
        second[1],
        b'.',
        b'0' + (millis / 100) as u8,
        b'0' + (millis / 10 % 10) as u8,
        b'0' + (millis % 10) as u8,
        b'Z',
    ];
    out.extend_from_slice(&text);
}

/// The value of a `Date` header (RFC 9110 §5.6.7) for microseconds since the Unix epoch.
pub fn http_date(unix_micros: u64) -> [u8; 29] {
    let m = Moment::of(unix_micros);
    let mut text = *b"Sun, 00 Jan 0000 00:00:00 GMT";
    text[..3].copy_from_slice(WEEKDAYS[m.weekday as usize % 7].as_bytes());
    text[8..11].copy_from_slice(MONTHS[(m.month as usize + 11) % 12].as_bytes());
    let places = [
        (5, m.day),
        (12, m.year / 100 % 100),
        (14, m.year % 100),
        (17, m.hour),
        (20, m.minute),
        (23, m.second),
    ];
    for (at, number) in places {
        text[at] = b'0' + (number / 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // RFC 9110 §5.6.7 has this date, 784,111,777 seconds after the epoch.
        let date = |micros| String::from_utf8_lossy(&http_date(micros)).into_owned();
        assert_eq!(date(784_111_777_000_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(951_782_400_000_000), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(date(4_107_542_399_000_000), "Sun, 28 Feb 2100 23:59:59 GMT");
        let mut out = Vec::new();
        push_rfc3339(&mut out, 1_795_250_414_007_900);
        assert_eq!(String::from_utf8_lossy(&out), "2026-11-21T08:40:14.007Z");
    }

    #[test]
    fn digits_are_padded() {
        let text = |value, width| {
            let mut out = Vec::new();
            push_digits(&mut out, value, width);
            String::from_utf8(out).expect("digits")
        };
        assert_eq!(text(0, 1), "0");
        assert_eq!(text(7, 3), "007");
        assert_eq!(text(u64::MAX, 1), "18446744073709551615");
    }
}
