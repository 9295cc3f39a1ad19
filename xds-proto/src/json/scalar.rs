//! Numbers, texts, words of enums.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_types::field_descriptor_proto::Type;
use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};

use super::did_you_mean;
use super::writer::{Writer, short};
use crate::schema::{EnumSchema, FieldSchema, Kind};

/// Base64 with or without padding (RFC 4648 §4, §5).
const BASE64: [GeneralPurpose; 2] = {
    const FORM: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [GeneralPurpose::new(&alphabet::STANDARD, FORM), GeneralPurpose::new(&alphabet::URL_SAFE, FORM)]
};

/// Reads a scalar with its tag.
#[derive(Clone, Copy)]
pub(super) struct ScalarSeed<'w> {
    pub(super) writer: &'w Writer,
    pub(super) field: &'static FieldSchema,
    /// Whether a default is written as well.
    pub(super) is_kept: bool,
}

impl<'de> DeserializeSeed<'de> for ScalarSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.field.kind {
            // What looks like a number is a text where one is wanted.
            Kind::String | Kind::Bytes => from.deserialize_str(self),
            _ => from.deserialize_any(self),
        }
    }
}

impl ScalarSeed<'_> {
    fn words(&self) -> Option<&'static EnumSchema> {
        match self.field.kind {
            Kind::Enum(at) => Some(&self.writer.schema.enums[at]),
            _ => None,
        }
    }

    fn write_varint(&self, value: u64) {
        if value != 0 || self.is_kept {
            self.writer.tag(self.field.number, 0);
            self.writer.varint(value);
        }
    }

    /// A whole number, in the width and form of the field.
    fn whole<E: Error>(&self, value: i128) -> Result<(), E> {
        let range = range(self.field.scalar).unwrap_or(i32::MIN.into()..=i32::MAX.into());
        if !range.contains(&value) {
            return Err(E::custom(format!(
                "{value} is not a whole number from {} to {}",
                range.start(),
                range.end()
            )));
        }
        // Two's complement, sign-extended to 64 bits.
        let bits = value as u64;
        match self.field.scalar {
            Type::Sint32 | Type::Sint64 => {
                let value = value as i64;
                self.write_varint((value << 1 ^ value >> 63).cast_unsigned());
            }
            Type::Fixed32 | Type::Sfixed32 => {
                self.writer.tag(self.field.number, 5);
                self.writer.raw(&(bits as u32).to_le_bytes());
            }
            Type::Fixed64 | Type::Sfixed64 => {
                self.writer.tag(self.field.number, 1);
                self.writer.raw(&bits.to_le_bytes());
            }
            Type::Enum => {
                let words = self.words().filter(|words| words.numbers.contains(&(value as i32)));
                if words.is_none() {
                    return Err(E::custom(format!("{value} is not a number of {}", self.type_name())));
                }
                self.write_varint(bits);
            }
            _ => self.write_varint(bits),
        }
        Ok(())
    }

    fn float(&self, value: f64) {
        if value == 0.0 && value.is_sign_positive() && !self.is_kept {
            return;
        }
        if self.field.scalar == Type::Float {
            self.writer.tag(self.field.number, 5);
            self.writer.raw(&(value as f32).to_le_bytes());
        } else {
            self.writer.tag(self.field.number, 1);
            self.writer.raw(&value.to_le_bytes());
        }
    }

    fn type_name(&self) -> &'static str {
        self.words().map_or("", |words| short(&words.name))
    }

    const fn is_float(&self) -> bool {
        matches!(self.field.scalar, Type::Float | Type::Double)
    }
}

/// The whole numbers of a type.
fn range(scalar: Type) -> Option<std::ops::RangeInclusive<i128>> {
    Some(match scalar {
        Type::Uint32 | Type::Fixed32 => 0..=u32::MAX.into(),
        Type::Uint64 | Type::Fixed64 => 0..=u64::MAX.into(),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => i64::MIN.into()..=i64::MAX.into(),
        Type::Int32 | Type::Sint32 | Type::Sfixed32 | Type::Enum => i32::MIN.into()..=i32::MAX.into(),
        _ => return None,
    })
}

impl Visitor<'_> for ScalarSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.scalar {
            Type::Bool => f.write_str("true or false"),
            Type::String => f.write_str("a text"),
            Type::Bytes => f.write_str("bytes in base64"),
            Type::Float | Type::Double => f.write_str("a number"),
            Type::Enum => write!(
                f,
                "a {}, such as {}",
                self.type_name(),
                self.words().map_or("", |words| &words.names[0])
            ),
            _ => f.write_str("a whole number"),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        if self.field.scalar != Type::Bool {
            return Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self));
        }
        self.write_varint(value.into());
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match self.field.scalar {
            Type::Bool => Err(E::invalid_type(serde::de::Unexpected::Unsigned(value), &self)),
            _ if self.is_float() => {
                self.float(value as f64);
                Ok(())
            }
            _ => self.whole(value.into()),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match self.field.scalar {
            Type::Bool => Err(E::invalid_type(serde::de::Unexpected::Signed(value), &self)),
            _ if self.is_float() => {
                self.float(value as f64);
                Ok(())
            }
            _ => self.whole(value.into()),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.field.scalar {
            _ if self.is_float() => {
                self.float(value);
                Ok(())
            }
            // 1.0 and 1e3 are whole numbers.
            _ if range(self.field.scalar).is_some() && value.fract() == 0.0 && value.abs() < 1e18 => {
                self.whole(value as i128)
            }
            _ => Err(E::invalid_type(serde::de::Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let wrong = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
        match self.field.scalar {
            Type::String => {
                if !text.is_empty() || self.is_kept {
                    self.writer.text(self.field.number, text.as_bytes());
                }
                Ok(())
            }
            Type::Bytes => {
                // Not what it is: it may be a key.
                let bytes = BASE64.iter().find_map(|form| form.decode(text).ok());
                let bytes = bytes.ok_or_else(|| E::custom("is not bytes in base64"))?;
                if !bytes.is_empty() || self.is_kept {
                    self.writer.text(self.field.number, &bytes);
                }
                Ok(())
            }
            Type::Enum => {
                let Some(words) = self.words() else { return Ok(()) };
                match words.number(text) {
                    Some(number) => self.whole(number.into()),
                    None => {
                        let hint = did_you_mean(text, words.names.iter().map(String::as_str));
                        Err(E::custom(format!("`{text}` is not a {}{hint}", self.type_name())))
                    }
                }
            }
            Type::Float | Type::Double => {
                let value = match text {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    text => text.parse().map_err(|_| wrong())?,
                };
                self.float(value);
                Ok(())
            }
            Type::Bool => Err(wrong()),
            // Whole numbers of 64 bits are texts in JSON.
            _ => self.whole(text.parse().map_err(|_| wrong())?),
        }
    }
}
