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
}

#[derive(Debug)]
pub(crate) struct FieldSchema {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    pub(crate) is_map: bool,
    pub(crate) ignorable: bool,
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
}

impl MessageSchema {
    pub(crate) fn field(&self, number: u32) -> Option<(usize, &FieldSchema)> {
        let at = self.fields.binary_search_by_key(&number, |f| f.number).ok()?;
        Some((at, &self.fields[at]))
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
        self.enum_by_name.insert(name.clone(), self.enums.len());
        self.enums.push(EnumSchema { name, numbers });
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
        let is_any = name == "google.protobuf.Any";
        self.messages.push(MessageSchema { name, fields: Vec::new(), unsupported, is_any });
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

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}
