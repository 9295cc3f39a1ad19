//! From values of a document to the bytes of a message.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::forms::{AnyVisitor, DurationVisitor, StructVisitor, ValueListVisitor, ValueVisitor};
use super::scalar::ScalarSeed;
use super::{CANNOT_STAND, did_you_mean};
use crate::schema::{FieldSchema, Form, Kind, MessageSchema, Schema};

/// Inside these, an unknown key may be a security setting that nobody would enforce.
const RESOURCES: &[&str] = &["envoy.config.listener.v3.Listener", "envoy.config.cluster.v3.Cluster"];

/// The bytes as far as they are written, and the path to where the document is being read.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) schema: &'static Schema,
    out: RefCell<Vec<u8>>,
    /// Left as it is when something fails: it then leads to the failure.
    path: RefCell<Vec<Step>>,
    unknown: RefCell<Vec<String>>,
}

#[derive(Debug)]
pub(super) enum Step {
    Field(&'static str),
    Index(usize),
    Key(String),
    Unknown(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Key(key) => write!(f, "[{key:?}]"),
            Self::Unknown(name) => write!(f, ".{name}"),
        }
    }
}

impl Writer {
    pub(super) fn new(schema: &'static Schema, capacity: usize) -> Self {
        Self {
            schema,
            out: RefCell::new(Vec::with_capacity(capacity)),
            path: RefCell::new(Vec::new()),
            unknown: RefCell::new(Vec::new()),
        }
    }

    /// The bytes, and the paths of unknown keys.
    pub(super) fn finish(self) -> (Vec<u8>, Vec<String>) {
        (self.out.into_inner(), self.unknown.into_inner())
    }

    /// Forgets what was written.
    pub(super) fn restart(&self) {
        self.out.borrow_mut().clear();
        self.path.borrow_mut().clear();
        self.unknown.borrow_mut().clear();
    }

    /// Where the document is being read.
    pub(super) fn path(&self) -> String {
        let path: String = self.path.borrow().iter().map(ToString::to_string).collect();
        path.strip_prefix('.').map_or_else(|| path.clone(), str::to_owned)
    }

    pub(super) fn message(&self, at: usize) -> &'static MessageSchema {
        &self.schema.messages[at]
    }

    /// Does something at a place below. The path stays there if that fails.
    pub(super) fn at<T, E>(&self, step: Step, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().push(step);
        let done = work()?;
        self.path.borrow_mut().pop();
        Ok(done)
    }

    pub(super) fn varint(&self, mut value: u64) {
        let mut out = self.out.borrow_mut();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    pub(super) fn tag(&self, number: u32, wire_type: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire_type));
    }

    pub(super) fn raw(&self, bytes: &[u8]) {
        self.out.borrow_mut().extend_from_slice(bytes);
    }

    pub(super) fn text(&self, number: u32, text: &[u8]) {
        self.tag(number, 2);
        self.varint(text.len() as u64);
        self.raw(text);
    }

    /// Writes a part whose length stands before it.
    pub(super) fn nested<T, E>(&self, number: u32, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.tag(number, 2);
        let start = self.out.borrow().len();
        let done = work()?;
        let length = self.out.borrow().len() - start;
        self.varint(length as u64);
        self.out.borrow_mut()[start..].rotate_right(varint_length(length));
        Ok(done)
    }
}

const fn varint_length(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Reads a message, without a length before it.
#[derive(Clone, Copy)]
pub(super) struct MessageSeed<'w> {
    pub(super) writer: &'w Writer,
    pub(super) message: usize,
    pub(super) is_strict: bool,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Self { writer, message, .. } = self;
        match writer.message(message).form {
            Form::Fields => from.deserialize_map(self),
            Form::Any => from.deserialize_map(AnyVisitor { writer }),
            Form::Duration => from.deserialize_any(DurationVisitor { writer }),
            Form::Wrapper => {
                let field = &writer.message(message).fields[0];
                ScalarSeed { writer, field, is_kept: false }.deserialize(from)
            }
            Form::Struct => from.deserialize_map(StructVisitor { writer }),
            Form::Value => from.deserialize_any(ValueVisitor { writer }),
            Form::List => from.deserialize_seq(ValueListVisitor { writer }),
        }
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the fields of a {}", short(&self.writer.message(self.message).name))
    }

    /// A text where a message should be may be a key: it is not repeated.
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(E::invalid_type(serde::de::Unexpected::Other("a text"), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.fields(map)
    }
}

pub(super) fn short(full_name: &str) -> &str {
    full_name.rsplit('.').next().unwrap_or(full_name)
}

impl MessageSeed<'_> {
    /// Reads the entries of an object as fields.
    pub(super) fn fields<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let schema = self.writer.message(self.message);
        let is_strict = self.is_strict || RESOURCES.contains(&&*schema.name);
        let mut given = 0_u128;
        let mut choices: Vec<(usize, &str)> = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed { message: self, is_strict })? {
            let Some(at) = key else {
                map.next_value::<IgnoredAny>()?;
                self.writer.path.borrow_mut().pop();
                continue;
            };
            let field = &schema.fields[at];
            self.writer.at(Step::Field(&field.name), || {
                let bit = 1_u128.checked_shl(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0);
                if given & bit != 0 {
                    return Err(A::Error::custom("is given twice"));
                }
                given |= bit;
                let is_given = map.next_value_seed(FieldSeed { writer: self.writer, field, is_strict })?;
                if let Some(choice) = field.oneof.filter(|_| is_given) {
                    if let Some((_, other)) = choices.iter().find(|(taken, _)| *taken == choice) {
                        return Err(A::Error::custom(format!(
                            "{CANNOT_STAND} `{other}`: one of them is wanted"
                        )));
                    }
                    choices.push((choice, &field.name));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Reads the name of a field. The place of one that is not known, and may be passed over, is on the path.
struct KeySeed<'w> {
    message: MessageSeed<'w>,
    is_strict: bool,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<usize>, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Option<usize>, E> {
        let MessageSeed { writer, message, .. } = self.message;
        let schema = writer.message(message);
        if let Some(at) = schema.place_of(key) {
            return Ok(Some(at));
        }
        writer.path.borrow_mut().push(Step::Unknown(key.to_owned()));
        if self.is_strict {
            return Err(E::custom(unknown_key(key, schema)));
        }
        writer.unknown.borrow_mut().push(writer.path());
        Ok(None)
    }
}

fn unknown_key(key: &str, schema: &MessageSchema) -> String {
    let name = short(&schema.name);
    if schema.unsupported.iter().any(|(_, unsupported)| unsupported == key) {
        return format!("field `{key}` of {name} is not supported");
    }
    let hint = did_you_mean(key, schema.fields.iter().map(|field| field.name.as_str()));
    format!("{name} has no field `{key}`{hint}")
}

/// Reads a field's value. Whether there is one: `null` is none.
struct FieldSeed<'w> {
    writer: &'w Writer,
    field: &'static FieldSchema,
    is_strict: bool,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        let Self { writer, field, is_strict } = self;
        match field.kind {
            _ if field.is_map => from.deserialize_map(Entries { writer, field, is_strict })?,
            _ if field.repeated => from.deserialize_seq(Items { writer, field, is_strict })?,
            Kind::Message(message) => {
                let seed = MessageSeed { writer, message, is_strict };
                writer.nested(field.number, || seed.deserialize(from))?;
            }
            _ => ScalarSeed { writer, field, is_kept: field.oneof.is_some() }.deserialize(from)?,
        }
        Ok(true)
    }
}

/// Reads a list.
struct Items<'w> {
    writer: &'w Writer,
    field: &'static FieldSchema,
    is_strict: bool,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { writer, field, is_strict } = self;
        let mut index = 0;
        loop {
            let item = ItemSeed { writer, field, is_strict };
            // One step is replaced by the next: most lists are long and right.
            let found = writer.at(Step::Index(index), || items.next_element_seed(item))?;
            if found.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }
}

struct ItemSeed<'w> {
    writer: &'w Writer,
    field: &'static FieldSchema,
    is_strict: bool,
}

impl<'de> DeserializeSeed<'de> for ItemSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Self { writer, field, is_strict } = self;
        match field.kind {
            Kind::Message(message) => {
                let seed = MessageSeed { writer, message, is_strict };
                writer.nested(field.number, || seed.deserialize(from))
            }
            _ => ScalarSeed { writer, field, is_kept: true }.deserialize(from),
        }
    }
}

/// Reads an object as a map.
struct Entries<'w> {
    writer: &'w Writer,
    field: &'static FieldSchema,
    is_strict: bool,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { writer, field, is_strict } = self;
        let Kind::Message(entry) = field.kind else { return Ok(()) };
        let [key_field, value_field] = writer.message(entry).fields.as_slice() else { return Ok(()) };
        let mut keys = std::collections::BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            writer.at(Step::Key(key.clone()), || {
                if !keys.insert(key.clone()) {
                    return Err(A::Error::custom("is given twice"));
                }
                writer.nested(field.number, || {
                    writer.text(key_field.number, key.as_bytes());
                    let item = ItemSeed { writer, field: value_field, is_strict };
                    map.next_value_seed(item)
                })
            })?;
        }
        Ok(())
    }
}
