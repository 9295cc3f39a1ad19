//! The table of messages and fields that the gate walks by, built once from a descriptor set.

use std::collections::HashMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Messages and enums by index; every reference between them is resolved.
#[derive(Debug, Default)]
pub struct Schema {
    pub(crate) messages: Vec<MessageSchema>,
    pub(crate) enums: Vec<EnumSchema>,
    by_name: HashMap<String, usize>,
    enum_by_name: HashMap<String, usize>,
}

#[derive(Debug)]
pub(crate) struct MessageSchema {
    pub(crate) name: String,
    /// Sorted by number.
    pub(crate) fields: Vec<FieldSchema>,
    /// Fields that Envoy has and this subset does not, by number: their names make a refusal readable.
    pub(crate) unsupported: Vec<(u32, String)>,
    pub(crate) is_any: bool,
    /// Whether its JSON form is not that of its fields.
    pub(crate) form: Form,
    /// Places of fields by the names that JSON knows them by.
    by_name: HashMap<String, usize>,
}

/// How a message is written in JSON (protobuf's "ProtoJSON Format").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// An object with its fields.
    Fields,
    /// An object with the fields of what is packed, and `@type`.
    Any,
    /// `1.5s`
    Duration,
    /// The value alone.
    Wrapper,
    /// Any object.
    Struct,
    /// Anything.
    Value,
    /// Any list.
    List,
}

#[derive(Debug)]
pub(crate) struct FieldSchema {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The type in the proto file.
    pub(crate) scalar: Type,
    pub(crate) repeated: bool,
    pub(crate) is_map: bool,
    pub(crate) ignorable: bool,
    /// The number of its `oneof` in the message.
    pub(crate) oneof: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Varint,
    Fixed32,
    Fixed64,
    String,
    Bytes,
    Enum(usize),
    Message(usize),
}

#[derive(Debug)]
pub(crate) struct EnumSchema {
    pub(crate) name: String,
    pub(crate) numbers: Vec<i32>,
    /// Names in the order of the numbers.
    pub(crate) names: Vec<String>,
}

impl EnumSchema {
    pub(crate) fn number(&self, name: &str) -> Option<i32> {
        self.names.iter().position(|known| known == name).map(|at| self.numbers[at])
    }
}

impl MessageSchema {
    pub(crate) fn field(&self, number: u32) -> Option<(usize, &FieldSchema)> {
        let at = self.fields.binary_search_by_key(&number, |f| f.number).ok()?;
        Some((at, &self.fields[at]))
    }

    /// The place of a field by its name in JSON: the proto's own or `lowerCamelCase`.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn unsupported_name(&self, number: u32) -> Option<&str> {
        self.unsupported.iter().find(|(n, _)| *n == number).map(|(_, name)| name.as_str())
    }
}

impl Schema {
    /// Builds the table. `ignorable` lists `(message, field)` that are accepted and not acted upon.
    ///
    /// # Panics
    /// If the set is not closed under its own references or `ignorable` names a field that does not exist. Both are
    /// constants of this program, so a unit test finds either.
    pub fn new(set: &FileDescriptorSet, ignorable: &[(&str, &str)]) -> Self {
        let mut schema = Self::default();
        let mut pending = Vec::new();
        for file in &set.file {
            let package = file.package();
            for item in &file.enum_type {
                schema.add_enum(package, item);
            }
            for item in &file.message_type {
                schema.add_message(package, item, &mut pending);
            }
        }
        for (at, descriptor) in pending {
            let fields = schema.resolve_fields(&descriptor);
            let place = |name: &str| fields.iter().position(|field| field.name == name);
            let names = descriptor.field.iter().flat_map(|field| {
                let at = place(field.name());
                [field.name().to_owned(), camel_case(field.name())].into_iter().zip([at; 2])
            });
            schema.messages[at].by_name = names.filter_map(|(name, at)| Some((name, at?))).collect();
            schema.messages[at].fields = fields;
        }
        for (message, field) in ignorable {
            schema.mark_ignorable(message, field);
        }
        schema
    }

    pub(crate) fn message(&self, full_name: &str) -> Option<usize> {
        self.by_name.get(full_name).copied()
    }

    fn add_enum(&mut self, scope: &str, item: &EnumDescriptorProto) {
        let name = join(scope, item.name());
        let numbers = item.value.iter().map(|v| v.number()).collect();
        let names = item.value.iter().map(|v| v.name().to_owned()).collect();
        self.enum_by_name.insert(name.clone(), self.enums.len());
        self.enums.push(EnumSchema { name, numbers, names });
    }

    fn add_message(
        &mut self,
        scope: &str,
        item: &DescriptorProto,
        pending: &mut Vec<(usize, DescriptorProto)>,
    ) {
        let name = join(scope, item.name());
        for inner in &item.enum_type {
            self.add_enum(&name, inner);
        }
        for inner in &item.nested_type {
            self.add_message(&name, inner, pending);
        }
        // The proto files list `reserved` numbers and names in the same order: the n-th name is the n-th number's.
        let unsupported = item
            .reserved_range
            .iter()
            .zip(&item.reserved_name)
            .map(|(range, name)| (u32::try_from(range.start()).unwrap_or(0), name.clone()))
            .collect();
        let at = self.messages.len();
        self.by_name.insert(name.clone(), at);
        let form = form(&name);
        let is_any = form == Form::Any;
        let (fields, by_name) = (Vec::new(), HashMap::new());
        self.messages.push(MessageSchema { name, fields, unsupported, is_any, form, by_name });
        pending.push((at, item.clone()));
    }

    fn resolve_fields(&self, item: &DescriptorProto) -> Vec<FieldSchema> {
        let mut fields: Vec<_> = item
            .field
            .iter()
            .map(|field| {
                let kind = self.kind(field);
                let is_map = matches!(kind, Kind::Message(_))
                    && item.nested_type.iter().any(|n| {
                        n.options.as_ref().is_some_and(|o| o.map_entry())
                            && field.type_name().rsplit('.').next() == Some(n.name())
                    });
                FieldSchema {
                    number: u32::try_from(field.number()).unwrap_or(0),
                    name: field.name().to_owned(),
                    kind,
                    scalar: field.r#type(),
                    oneof: field.oneof_index.and_then(|at| usize::try_from(at).ok()),
                    repeated: field.label() == Label::Repeated,
                    is_map,
                    ignorable: false,
                }
            })
            .collect();
        fields.sort_by_key(|f| f.number);
        fields
    }

    fn kind(&self, field: &FieldDescriptorProto) -> Kind {
        let target = field.type_name().trim_start_matches('.');
        match field.r#type() {
            Type::Message | Type::Group => Kind::Message(self.by_name[target]),
            Type::Enum => Kind::Enum(self.enum_by_name[target]),
            Type::String => Kind::String,
            Type::Bytes => Kind::Bytes,
            Type::Double | Type::Fixed64 | Type::Sfixed64 => Kind::Fixed64,
            Type::Float | Type::Fixed32 | Type::Sfixed32 => Kind::Fixed32,
            Type::Int64
            | Type::Uint64
            | Type::Int32
            | Type::Uint32
            | Type::Bool
            | Type::Sint32
            | Type::Sint64 => Kind::Varint,
        }
    }

    fn mark_ignorable(&mut self, message: &str, field: &str) {
        let at = self.by_name[message];
        let field = self.messages[at].fields.iter_mut().find(|f| f.name == field);
        field.expect("the table of ignorable fields names fields of the subset").ignorable = true;
    }
}

fn form(message: &str) -> Form {
    match message.strip_prefix("google.protobuf.") {
        Some("Any") => Form::Any,
        Some("Duration") => Form::Duration,
        Some("Struct") => Form::Struct,
        Some("Value") => Form::Value,
        Some("ListValue") => Form::List,
        Some(name) if name.ends_with("Value") => Form::Wrapper,
        _ => Form::Fields,
    }
}

/// `max_requests` as `maxRequests`.
fn camel_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for character in name.chars() {
        match character {
            '_' => upper = true,
            character if upper => {
                out.push(character.to_ascii_uppercase());
                upper = false;
            }
            character => out.push(character),
        }
    }
    out
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}
