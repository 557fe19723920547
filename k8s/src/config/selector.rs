//! The chart's `webhook.namespaceSelector`, by which the API server asks the webhook or does not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A selector of labels (`metav1.LabelSelector`). An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelector {
    /// Labels and their values.
    pub match_labels: BTreeMap<String, String>,
    /// What holds of other labels.
    pub match_expressions: Vec<Requirement>,
}

/// What holds of a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How its value and `values` relate.
    pub operator: Operator,
    /// The values, of `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// How a label's value and the listed ones relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "Kubernetes' own names")]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

// === impl LabelSelector ===

impl LabelSelector {
    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn selects(&self, labels: &Map<String, Value>) -> bool {
        let label = |name: &str| labels.get(name).and_then(Value::as_str);
        self.match_labels
            .iter()
            .all(|(name, value)| label(name) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|requirement| requirement.holds(label(&requirement.key)))
    }
}

// === impl Requirement ===

impl Requirement {
    /// Kubernetes' rule: without the label, `NotIn` holds.
    fn holds(&self, value: Option<&str>) -> bool {
        let is_listed = value.is_some_and(|value| self.values.iter().any(|one| one == value));
        match self.operator {
            Operator::In => is_listed,
            Operator::NotIn => !is_listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::LabelSelector;

    #[test]
    fn every_operator_selects_as_kubernetes_does() {
        let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        let rows = [
            (json!({}), true, true, true),
            (json!({"matchLabels": {"a": "1"}}), true, false, false),
            (expression("In", json!(["1", "3"])), true, false, false),
            (expression("NotIn", json!(["1"])), false, true, true),
            (expression("Exists", json!([])), true, true, false),
            (expression("DoesNotExist", json!([])), false, false, true),
        ];
        for (selector, one, two, none) in rows {
            let read: LabelSelector = serde_json::from_value(selector.clone()).expect("valid");
            let selects = |labels: Value| read.selects(labels.as_object().expect("labels"));
            let found = [json!({"a": "1"}), json!({"a": "2"}), json!({"b": "1"})].map(selects);
            assert_eq!(found, [one, two, none], "{selector}");
        }
    }
}
