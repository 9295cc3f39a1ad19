//! Applies header edits to a head that was parsed: lines are dropped in place, new ones are written beside it.

use std::borrow::Cow;

use crate::access::Record;
use crate::config::{Append, EditList, HeaderAddition, HeaderText};
use crate::http1::HeaderSpan;

/// A head whose lines are edited.
pub struct Lines<'a> {
    /// Lines of the parsed head.
    pub headers: &'a mut [HeaderSpan],
    /// The bytes that it was parsed from.
    pub buffer: &'a [u8],
    /// Lines that are added, each with its end.
    pub added: &'a mut Vec<u8>,
}

impl Lines<'_> {
    /// Whether a line of this name, in lower case, will leave.
    fn has(&self, name: &[u8]) -> bool {
        let kept = self.headers.iter().any(|line| !line.dropped && is(line, self.buffer, name));
        kept || added_lines(self.added).any(|line| names(line, name))
    }

    /// Takes away every line of this name.
    fn remove(&mut self, name: &[u8]) {
        for line in self.headers.iter_mut().filter(|line| is(line, self.buffer, name)) {
            line.dropped = true;
        }
        if added_lines(self.added).any(|line| names(line, name)) {
            let kept: Vec<u8> =
                added_lines(self.added).filter(|line| !names(line, name)).flatten().copied().collect();
            *self.added = kept;
        }
    }

    fn push(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, b": ", value, b"\r\n"] {
            self.added.extend_from_slice(part);
        }
    }

    /// Takes lines away, and then adds what `values` has for each addition of the list; nothing where it was decided not to.
    /// Those that replace come first, as in Envoy.
    pub fn apply(&mut self, list: &EditList, values: &[Option<Cow<'_, [u8]>>]) {
        let replaces = |append: Append| matches!(append, Append::Overwrite | Append::OverwriteIfPresent);
        for (addition, value) in list.add.iter().zip(values) {
            if let Some(value) = value
                && replaces(addition.append)
            {
                self.remove(addition.name.as_bytes());
                self.push(addition.name.as_bytes(), value);
            }
        }
        for (addition, value) in list.add.iter().zip(values) {
            if let Some(value) = value
                && !replaces(addition.append)
            {
                self.push(addition.name.as_bytes(), value);
            }
        }
    }

    /// Takes away the lines that a list wants gone.
    pub fn take_away(&mut self, list: &EditList) {
        list.remove.iter().for_each(|name| self.remove(name.as_bytes()));
    }

    /// Which additions of a list are meant, as the lines are now.
    pub fn wanted<'l>(&self, list: &'l EditList) -> impl Iterator<Item = bool> + use<'_, 'l> {
        list.add.iter().map(|addition| match addition.append {
            Append::Append | Append::Overwrite => true,
            Append::AddIfAbsent => !self.has(addition.name.as_bytes()),
            Append::OverwriteIfPresent => self.has(addition.name.as_bytes()),
        })
    }
}

/// The values of a list's additions, as `record` tells of the request. One that is not wanted, or is empty where that is not
/// meant, or would break the head, is none.
pub fn values<'l>(
    list: &'l EditList,
    wanted: impl Iterator<Item = bool>,
    record: &Record<'_>,
) -> Vec<Option<Cow<'l, [u8]>>> {
    let value = |(addition, wanted): (&'l HeaderAddition, bool)| {
        let value = match &addition.value {
            _ if !wanted => return None,
            HeaderText::Fixed(text) => Cow::Borrowed(text.as_bytes()),
            HeaderText::Format(format) => {
                let mut value = Vec::new();
                format.write(record, &mut value);
                Cow::Owned(value)
            }
        };
        let breaks = value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        (!breaks && (addition.keeps_empty || !value.is_empty())).then_some(value)
    };
    list.add.iter().zip(wanted).map(value).collect()
}

fn is(line: &HeaderSpan, buffer: &[u8], name: &[u8]) -> bool {
    line.name.len() == name.len() && line.name.slice(buffer).eq_ignore_ascii_case(name)
}

/// Lines with their ends.
fn added_lines(added: &[u8]) -> impl Iterator<Item = &[u8]> {
    added.split_inclusive(|byte| *byte == b'\n')
}

fn names(line: &[u8], name: &[u8]) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b":"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HeaderAddition;
    use crate::http1::{RequestHead, RequestRules, parse_request};

    fn addition(name: &str, value: &str, append: Append) -> HeaderAddition {
        HeaderAddition {
            name: name.into(),
            value: HeaderText::Fixed(value.into()),
            append,
            keeps_empty: false,
        }
    }

    /// What is left of `x: c`, and what was added.
    fn edited(remove: &[&str], add: Vec<HeaderAddition>) -> (bool, String) {
        let text = b"GET / HTTP/1.1\r\nhost: a\r\nX: c\r\n\r\n";
        let mut head = RequestHead::default();
        assert_eq!(parse_request(text, &RequestRules::default(), &mut head), Ok(true));
        let list = EditList { remove: remove.iter().map(|name| (*name).into()).collect(), add };
        let mut added = b"x-hop: 1\r\n".to_vec();
        let mut lines = Lines { headers: &mut head.headers, buffer: text, added: &mut added };
        lines.take_away(&list);
        let values = values(&list, lines.wanted(&list).collect::<Vec<_>>().into_iter(), &Record::default());
        lines.apply(&list, &values);
        (!head.headers[1].dropped, String::from_utf8(added).expect("text"))
    }

    #[test]
    fn lines_are_added_replaced_and_taken_away() {
        use Append::{AddIfAbsent, Append as Add, Overwrite, OverwriteIfPresent};
        let hop = "x-hop: 1\r\n";
        let cases = [
            (vec![], vec![addition("x", "1", Add)], (true, format!("{hop}x: 1\r\n"))),
            (vec![], vec![addition("x", "1", AddIfAbsent)], (true, hop.to_owned())),
            (vec![], vec![addition("y", "1", AddIfAbsent)], (true, format!("{hop}y: 1\r\n"))),
            (vec![], vec![addition("x", "1", Overwrite)], (false, format!("{hop}x: 1\r\n"))),
            (vec![], vec![addition("y", "1", OverwriteIfPresent)], (true, hop.to_owned())),
            (vec!["x"], vec![addition("x", "1", OverwriteIfPresent)], (false, hop.to_owned())),
            (vec!["x-hop"], vec![], (true, String::new())),
            (vec![], vec![addition("x-hop", "2", Overwrite)], (true, "x-hop: 2\r\n".to_owned())),
            (vec![], vec![addition("x", "", Overwrite)], (true, hop.to_owned())),
            // As Envoy 1.40: what replaces comes before what is added.
            (
                vec![],
                vec![addition("x", "1", Add), addition("x", "2", Overwrite), addition("x", "3", Add)],
                (false, format!("{hop}x: 2\r\nx: 1\r\nx: 3\r\n")),
            ),
        ];
        for (remove, add, expected) in cases {
            let told = format!("{remove:?} {add:?}");
            assert_eq!(edited(&remove, add), expected, "{told}");
        }
    }
}
