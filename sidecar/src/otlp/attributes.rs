//! Attributes as OTLP has them.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};

use super::values::is_known;

/// An attribute with a text.
pub(super) fn text(name: &str, value: &str) -> KeyValue {
    debug_assert!(is_known(name, value), "{name}={value} is not documented");
    attribute(name, Value::StringValue(value.to_owned()))
}

/// An attribute.
pub(super) fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    }
}
