//! The walk over wire bytes (<https://protobuf.dev/programming-guides/encoding/>).

use std::collections::BTreeSet;

use super::refusal::Problem;
use crate::schema::{FieldSchema, Kind, MessageSchema, Schema};
use crate::type_url;

/// A problem and, innermost first, the fields that lead to it.
pub(super) struct Failure {
    pub(super) problem: Problem,
    segments: Vec<String>,
}

impl Failure {
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for segment in self.segments.iter().rev() {
            if !path.is_empty() && !segment.starts_with('[') {
                path.push('.');
            }
            path.push_str(segment);
        }
        path
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { problem, segments: Vec::new() }
    }
}

const fn malformed(reason: &'static str) -> Problem {
    Problem::Malformed { reason }
}

pub(super) struct Walker<'a> {
    schema: &'a Schema,
    depth_limit: usize,
    /// `(message, field)` of every ignorable field seen.
    ignored: &'a mut BTreeSet<(usize, usize)>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        schema: &'a Schema,
        depth_limit: usize,
        ignored: &'a mut BTreeSet<(usize, usize)>,
    ) -> Self {
        Self { schema, depth_limit, ignored }
    }

    pub(super) fn message(&mut self, message: usize, bytes: &[u8], depth: usize) -> Result<(), Failure> {
        if depth >= self.depth_limit {
            return Err(Problem::TooDeep { limit: self.depth_limit }.into());
        }
        let schema = &self.schema.messages[message];
        if schema.is_any {
            return self.any(bytes, depth);
        }
        let mut reader = Reader { rest: bytes };
        // Singular messages seen. Decoders merge a repeated one, so that its parts, each harmless, could add up to
        // something that was never looked at.
        let mut once = 0_u128;
        while !reader.rest.is_empty() {
            let start = bytes.len() - reader.rest.len();
            let (number, wire_type) = reader.tag()?;
            let Some((at, field)) = schema.field(number) else {
                let name = schema.unsupported_name(number).map(str::to_owned);
                return Err(Problem::UnknownField { message: schema.name.clone(), number, name }.into());
            };
            if matches!(field.kind, Kind::Message(_)) && !field.repeated {
                let bit = 1_u128.checked_shl(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0);
                if once & bit != 0 {
                    let mut failure = Failure::from(malformed("a singular field occurs twice"));
                    failure.segments.push(field.name.clone());
                    return Err(failure);
                }
                once |= bit;
            }
            if field.ignorable {
                self.ignored.insert((message, at));
            }
            self.field(field, wire_type, &mut reader, depth).map_err(|mut failure| {
                if field.is_map && failure.segments.last().is_some_and(|s| s == "value") {
                    failure.segments.pop();
                }
                failure.segments.push(segment(schema, field, bytes, start));
                failure
            })?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &FieldSchema,
        wire_type: WireType,
        reader: &mut Reader<'_>,
        depth: usize,
    ) -> Result<(), Failure> {
        match (field.kind, wire_type) {
            (Kind::Varint, WireType::Varint) => reader.varint().map(drop)?,
            (Kind::Enum(at), WireType::Varint) => self.enum_number(at, reader.varint()?)?,
            (Kind::Fixed32, WireType::Fixed32) => reader.take(4).map(drop)?,
            (Kind::Fixed64, WireType::Fixed64) => reader.take(8).map(drop)?,
            (Kind::String, WireType::Length) => {
                let text = reader.length_delimited()?;
                std::str::from_utf8(text).map_err(|_| malformed("a string is not UTF-8"))?;
            }
            (Kind::Bytes, WireType::Length) => reader.length_delimited().map(drop)?,
            (Kind::Message(at), WireType::Length) => {
                self.message(at, reader.length_delimited()?, depth + 1)?;
            }
            (kind, WireType::Length) if field.repeated => self.packed(kind, reader.length_delimited()?)?,
            _ => return Err(malformed("the wire type does not fit the field").into()),
        }
        Ok(())
    }

    fn packed(&self, kind: Kind, bytes: &[u8]) -> Result<(), Problem> {
        let mut reader = Reader { rest: bytes };
        while !reader.rest.is_empty() {
            match kind {
                Kind::Varint => reader.varint().map(drop)?,
                Kind::Enum(at) => self.enum_number(at, reader.varint()?)?,
                Kind::Fixed32 => reader.take(4).map(drop)?,
                Kind::Fixed64 => reader.take(8).map(drop)?,
                Kind::String | Kind::Bytes | Kind::Message(_) => unreachable!("these are never packed"),
            }
        }
        Ok(())
    }

    fn enum_number(&self, at: usize, value: u64) -> Result<(), Problem> {
        let schema = &self.schema.enums[at];
        // An enum is an int32 on the wire, sign-extended to 64 bits.
        let number = value.cast_signed();
        if i32::try_from(number).is_ok_and(|n| schema.numbers.contains(&n)) {
            Ok(())
        } else {
            Err(Problem::UnknownEnumNumber { name: schema.name.clone(), number })
        }
    }

    /// Opens an `Any`: its content must be of a known type and pass as well.
    fn any(&mut self, bytes: &[u8], depth: usize) -> Result<(), Failure> {
        let (mut type_name, mut value): (&str, &[u8]) = ("", &[]);
        let mut reader = Reader { rest: bytes };
        while !reader.rest.is_empty() {
            match reader.tag()? {
                (1, WireType::Length) => {
                    let url = std::str::from_utf8(reader.length_delimited()?)
                        .map_err(|_| malformed("a type URL is not UTF-8"))?;
                    type_name = type_url::message_name(url);
                }
                (2, WireType::Length) => value = reader.length_delimited()?,
                _ => return Err(malformed("an Any holds only type_url and value").into()),
            }
        }
        let Some(message) = self.schema.message(type_name) else {
            return Err(Problem::UnknownType { name: type_name.to_owned() }.into());
        };
        self.message(message, value, depth + 1).map_err(|mut failure| {
            failure.segments.push(format!("[{type_name}]"));
            failure
        })
    }
}

/// The path element of `field` at offset `start` of its message: the index is counted only now, when something failed.
fn segment(schema: &MessageSchema, field: &FieldSchema, bytes: &[u8], start: usize) -> String {
    if field.is_map {
        let mut reader = Reader { rest: &bytes[start..] };
        let key = reader.tag().and_then(|_| reader.length_delimited()).ok().and_then(first_string);
        return format!("{}[{:?}]", field.name, key.unwrap_or_default());
    }
    if !field.repeated {
        return field.name.clone();
    }
    let mut reader = Reader { rest: &bytes[..start] };
    let mut index = 0;
    while !reader.rest.is_empty() {
        let Ok((number, wire_type)) = reader.tag() else {
            break;
        };
        if reader.skip(wire_type).is_err() {
            break;
        }
        index += usize::from(schema.field(number).is_some_and(|(_, f)| f.number == field.number));
    }
    format!("{}[{index}]", field.name)
}

/// Field 1 of a message, if it is a string: where every xDS resource has its name, and a map entry its key.
pub(super) fn first_string(bytes: &[u8]) -> Option<String> {
    let mut reader = Reader { rest: bytes };
    while !reader.rest.is_empty() {
        match reader.tag().ok()? {
            (1, WireType::Length) => {
                return String::from_utf8(reader.length_delimited().ok()?.to_vec()).ok();
            }
            (_, wire_type) => reader.skip(wire_type).ok()?,
        }
    }
    None
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WireType {
    Varint,
    Fixed64,
    Length,
    Fixed32,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn tag(&mut self) -> Result<(u32, WireType), Problem> {
        let key = u32::try_from(self.varint()?).map_err(|_| malformed("a field number is too large"))?;
        let wire_type = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Length,
            5 => WireType::Fixed32,
            _ => return Err(malformed("groups and reserved wire types are not used by xDS")),
        };
        match key >> 3 {
            0 => Err(malformed("field number 0")),
            number => Ok((number, wire_type)),
        }
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0_u64;
        for (i, byte) in self.rest.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if i == 9 && bits > 1 {
                return Err(malformed("a varint is longer than 64 bits"));
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(malformed("a varint has no end"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(malformed("a field is longer than its message"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn length_delimited(&mut self) -> Result<&'a [u8], Problem> {
        let length = usize::try_from(self.varint()?).map_err(|_| malformed("a length is too large"))?;
        self.take(length)
    }

    fn skip(&mut self, wire_type: WireType) -> Result<(), Problem> {
        match wire_type {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.take(8).map(drop),
            WireType::Length => self.length_delimited().map(drop),
            WireType::Fixed32 => self.take(4).map(drop),
        }
    }
}
