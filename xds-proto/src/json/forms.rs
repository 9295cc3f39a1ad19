//! Messages whose JSON is not an object of their fields: `Any`, durations, and values of any shape.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::did_you_mean;
use super::writer::{MessageSeed, Step, Writer};
use crate::schema::Form;
use crate::type_url;

/// What is packed, with `@type`.
pub(super) struct AnyVisitor<'w> {
    pub(super) writer: &'w Writer,
}

impl<'de> Visitor<'de> for AnyVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message with its @type")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some(first) = map.next_key::<String>()? else { return Ok(()) };
        if first == "@type" {
            let url = map.next_value_seed(TypeUrl(self.writer))?;
            return self.content(&url, map);
        }
        // It comes later: the fields wait for it.
        let mut fields = Map::new();
        fields.insert(first, map.next_value()?);
        while let Some((key, value)) = map.next_entry()? {
            fields.insert(key, value);
        }
        let Some(Value::String(url)) = fields.remove("@type") else {
            return Err(A::Error::custom("`@type` is missing: which message is this?"));
        };
        known_type(self.writer, &url).map_err(A::Error::custom)?;
        let fields = serde::de::value::MapDeserializer::<_, serde_json::Error>::new(fields.into_iter());
        self.content(&url, fields).map_err(A::Error::custom)
    }
}

impl AnyVisitor<'_> {
    /// Writes type and content; the type is known.
    fn content<'de, A: MapAccess<'de>>(self, url: &str, mut map: A) -> Result<(), A::Error> {
        let Self { writer } = self;
        let message = known_type(writer, url).map_err(A::Error::custom)?;
        writer.text(1, url.as_bytes());
        let seed = MessageSeed { writer, message, is_strict: true };
        writer.nested(2, || match writer.message(message).form {
            Form::Fields => seed.fields(map),
            // What is not an object stands under `value`.
            _ => {
                while let Some(key) = map.next_key::<String>()? {
                    if key != "value" {
                        return Err(A::Error::custom(format!(
                            "only `value` stands beside this @type, not `{key}`"
                        )));
                    }
                    writer.at(Step::Field("value"), || map.next_value_seed(seed))?;
                }
                Ok(())
            }
        })
    }
}

fn known_type(writer: &Writer, url: &str) -> Result<usize, String> {
    let name = type_url::message_name(url);
    writer.schema.message(name).ok_or_else(|| {
        let names = writer.schema.messages.iter().map(|message| message.name.as_str());
        format!("unknown type {name}{}", did_you_mean(name, names.filter(|name| !name.is_empty())))
    })
}

/// Reads a type's name, which must be known: where it stands is what is told otherwise.
struct TypeUrl<'w>(&'w Writer);

impl<'de> DeserializeSeed<'de> for TypeUrl<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for TypeUrl<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a message")
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<String, E> {
        known_type(self.0, url).map_err(E::custom)?;
        Ok(url.to_owned())
    }
}

/// `30s`, `0.25s`
pub(super) struct DurationVisitor<'w> {
    pub(super) writer: &'w Writer,
}

/// Ten thousand years, as protobuf has it.
const MOST_SECONDS: u64 = 315_576_000_000;

impl Visitor<'_> for DurationVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration, which is written like 30s or 0.25s")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let wrong = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
        let number = text.strip_suffix('s').ok_or_else(wrong)?;
        let (number, sign) = match number.strip_prefix('-') {
            Some(number) => (number, -1),
            None => (number, 1),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
            return Err(wrong());
        }
        let seconds: u64 = whole.parse().map_err(|_| wrong())?;
        if seconds > MOST_SECONDS {
            return Err(wrong());
        }
        let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        for (number, value) in [(1, sign * seconds.cast_signed()), (2, sign * nanos)] {
            if value != 0 {
                self.writer.tag(number, 0);
                self.writer.varint(value.cast_unsigned());
            }
        }
        Ok(())
    }
}

/// A `google.protobuf.Struct`: any object.
pub(super) struct StructVisitor<'w> {
    pub(super) writer: &'w Writer,
}

impl<'de> Visitor<'de> for StructVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { writer } = self;
        while let Some(key) = map.next_key::<String>()? {
            writer.at(Step::Key(key.clone()), || {
                writer.nested(1, || {
                    writer.text(1, key.as_bytes());
                    writer.nested(2, || map.next_value_seed(ValueVisitor { writer }))
                })
            })?;
        }
        Ok(())
    }
}

/// A `google.protobuf.ListValue`: any list.
pub(super) struct ValueListVisitor<'w> {
    pub(super) writer: &'w Writer,
}

impl<'de> Visitor<'de> for ValueListVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(ListItem(self.writer))?.is_some() {}
        Ok(())
    }
}

struct ListItem<'w>(&'w Writer);

impl<'de> DeserializeSeed<'de> for ListItem<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.0.nested(1, || ValueVisitor { writer: self.0 }.deserialize(from))
    }
}

/// A `google.protobuf.Value`: anything.
pub(super) struct ValueVisitor<'w> {
    pub(super) writer: &'w Writer,
}

impl<'de> DeserializeSeed<'de> for ValueVisitor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl ValueVisitor<'_> {
    fn number(&self, value: f64) {
        self.writer.tag(2, 1);
        self.writer.raw(&value.to_le_bytes());
    }
}

impl<'de> Visitor<'de> for ValueVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.writer.tag(1, 0);
        self.writer.varint(0);
        Ok(())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.writer.tag(4, 0);
        self.writer.varint(value.into());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.number(value as f64);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.number(value as f64);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.number(value);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.writer.text(3, text.as_bytes());
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.writer.nested(5, || StructVisitor { writer: self.writer }.visit_map(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        self.writer.nested(6, || ValueListVisitor { writer: self.writer }.visit_seq(items))
    }
}
