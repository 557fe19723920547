//! Texts that were written without quotes: YAML readers make numbers and booleans of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::annotations::{Annotation, Kind, PREFIX};

/// A scalar of YAML or JSON.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, a number or a boolean")]
enum Scalar {
    Boolean(bool),
    Natural(u64),
    Integer(i64),
    Real(f64),
    Text(String),
}

// === impl Scalar ===

impl Scalar {
    /// As it was written; YAML 1.1, which Helm reads, takes `on` and `off` for booleans.
    fn text(self, is_switch: bool) -> String {
        match self {
            Self::Boolean(true) if is_switch => "on".to_owned(),
            Self::Boolean(false) if is_switch => "off".to_owned(),
            Self::Boolean(value) => value.to_string(),
            Self::Natural(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            // Never with an exponent, also where Helm has written one.
            Self::Real(value) => value.to_string(),
            Self::Text(text) => text,
        }
    }
}

pub(super) fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.text(false))
}

/// Lists of them, by the names of annotations without their prefix.
pub(super) fn lists<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    let lists: BTreeMap<String, Vec<Scalar>> = BTreeMap::deserialize(deserializer)?;
    let texts = lists.into_iter().map(|(name, list)| {
        let is_switch = is_switch(&name);
        let texts = list.into_iter().map(|scalar| scalar.text(is_switch));
        (name, texts.collect())
    });
    Ok(texts.collect())
}

fn is_switch(name: &str) -> bool {
    let row = Annotation::named(&format!("{PREFIX}{name}"));
    row.is_some_and(|row| matches!(row.kind, Kind::Choice(words) if words.contains(&"off")))
}

/// By the names of annotations without their prefix.
pub(super) fn map<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let scalars: BTreeMap<String, Scalar> = BTreeMap::deserialize(deserializer)?;
    let texts = scalars.into_iter().map(|(name, scalar)| {
        let text = scalar.text(is_switch(&name));
        (name, text)
    });
    Ok(texts.collect())
}
