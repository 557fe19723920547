//! Every attribute with a list of values: what each value means, and what to do about it. `docs/attributes.md` is generated from this
//! table, and debug builds send no value that is not in it.

mod closes;
mod connections;
mod containers;
mod missing_names;
mod own;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use self::{
    closes::{close_reason, failure, lost},
    connections::{
        CAUSES, DIRECTIONS, LIMITS, NETWORK_TYPES, TRANSPORTS, adopted_by, role, rtt_kind,
    },
    containers::{
        CPU_MODES, DISK_IO_DIRECTIONS, FAULT_TYPES, pressure_resource, stall, unresolved,
    },
    missing_names::{unnamed, unused},
    own::{COMPONENTS, EXPORT_ERRORS, REASONS, RECORD_KINDS, SOCKETS, SOURCES},
};
use super::names::attribute;
use crate::{
    flow::{AdoptedBy, CloseReason, Failure, Lost, Role, RttKind},
    origin::Unresolved,
    peer::{NoName, Unused},
    snapshot::{PressureResource, Stall},
};

/// Which of [`CloseReason::ALL`] are of connections that were cut off.
const CUT_OFF: std::ops::Range<usize> = 2..6;

/// A value of an attribute.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// The value as it is sent.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do; empty if there is nothing to do.
    pub remedy: &'static str,
}

/// An attribute, and what has it.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// The metrics or spans that have it.
    pub on: &'static str,
    /// Every value that it can have there.
    pub values: Vec<Value>,
}

/// Every attribute with a list of values. An attribute with other values on other metrics is listed twice.
pub fn all() -> Vec<Attribute> {
    let close_reasons = CloseReason::ALL.map(close_reason);
    let failures = Failure::ALL.map(failure);
    let of = |name, on, values: &[Value]| Attribute {
        name,
        on,
        values: values.to_vec(),
    };
    vec![
        of(
            attribute::CLOSE_REASON,
            "Connections that were established: `flowcar.tcp.connection.closed`, `flowcar.tcp.connection.duration`, spans and log records.",
            &close_reasons,
        ),
        of(
            attribute::ERROR_TYPE,
            "Attempts that were never established: `flowcar.tcp.connection.failed`, `flowcar.tcp.connect.duration`, spans and log records.",
            &failures,
        ),
        of(
            attribute::ERROR_TYPE,
            "Connections that were cut off: `flowcar.tcp.connection.closed`, `flowcar.tcp.connection.duration`, spans. Absent from those that were closed, and from health checks: connections that their opener reset before it sent any payload.",
            &close_reasons[CUT_OFF],
        ),
        of(
            attribute::ERROR_TYPE,
            "flowcar's own exports: `otel.sdk.exporter.*`.",
            &EXPORT_ERRORS,
        ),
        of(
            attribute::LOST_REASON,
            "`flowcar.tcp.connection.lost`",
            &Lost::ALL.map(lost),
        ),
        of(
            attribute::RETRANSMIT_TYPE,
            "`flowcar.tcp.retransmits`",
            &CAUSES,
        ),
        of(attribute::LIMITED_BY, "`flowcar.tcp.limited.time`", &LIMITS),
        of(
            attribute::RTT_KIND,
            "`flowcar.tcp.rtt`, spans",
            &RttKind::ALL.map(rtt_kind),
        ),
        of(
            attribute::ROLE,
            "All of `flowcar.tcp.*` except listeners and `.lost`, spans",
            &Role::ALL.map(role),
        ),
        of(
            attribute::DIRECTION,
            "`flowcar.tcp.io`, `flowcar.tcp.segments`",
            &DIRECTIONS,
        ),
        of(attribute::TRANSPORT, "Spans", &TRANSPORTS),
        of(attribute::NETWORK_TYPE, "Spans", &NETWORK_TYPES),
        of(
            attribute::RECORD_KIND,
            "`flowcar.self.record.decoded`, `flowcar.self.record.dropped`",
            &RECORD_KINDS,
        ),
        of(
            attribute::SOCKET_SCOPE,
            "`flowcar.self.socket.count`",
            &SOCKETS,
        ),
        of(
            attribute::DROP_REASON,
            "`flowcar.self.span.dropped`, `flowcar.self.log_record.dropped`",
            &REASONS,
        ),
        of(
            attribute::DNS_REASON,
            "`flowcar.self.dns.dropped`",
            &Unused::ALL.map(unused),
        ),
        of(
            attribute::UNNAMED_REASON,
            "`flowcar.self.flow.unnamed`",
            &NoName::ALL.map(unnamed),
        ),
        of(
            attribute::CONTAINER_REASON,
            "`flowcar.self.container.unresolved`",
            &Unresolved::ALL.map(unresolved),
        ),
        of(attribute::CPU_MODE, "`container.cpu.time`", &CPU_MODES),
        of(
            attribute::DISK_IO_DIRECTION,
            "`container.disk.io`, `flowcar.container.disk.operations`",
            &DISK_IO_DIRECTIONS,
        ),
        of(
            attribute::FAULT_TYPE,
            "`container.memory.paging.faults`",
            &FAULT_TYPES,
        ),
        of(
            attribute::PRESSURE_RESOURCE,
            "`flowcar.container.pressure.time`",
            &PressureResource::ALL.map(pressure_resource),
        ),
        of(
            attribute::PRESSURE_STALL,
            "`flowcar.container.pressure.time`",
            &Stall::ALL.map(stall),
        ),
        of(
            attribute::ADOPTED_BY,
            "`flowcar.tcp.connection.adopted`, spans",
            &AdoptedBy::ALL.map(adopted_by),
        ),
        of(
            attribute::SOURCE,
            "The instrumentation scope of all metrics, spans and log records",
            &SOURCES,
        ),
        of(
            attribute::COMPONENT_TYPE,
            "`otel.sdk.*`: flowcar's own exports",
            &COMPONENTS,
        ),
    ]
}

/// Whether an attribute may have this value: it has no list of values, or the value is on it.
pub fn is_known(name: &str, value: &str) -> bool {
    static LISTS: LazyLock<BTreeMap<&str, BTreeSet<&str>>> = LazyLock::new(|| {
        let mut lists = BTreeMap::<_, BTreeSet<_>>::new();
        for Attribute { name, values, .. } in all() {
            let list = lists.entry(name).or_default();
            list.extend(values.iter().map(|value| value.name));
        }
        lists
    });
    LISTS.get(name).is_none_or(|values| values.contains(value))
}

const fn value(name: &'static str, meaning: &'static str, remedy: &'static str) -> Value {
    Value {
        name,
        meaning,
        remedy,
    }
}

/// The tables in Markdown.
pub fn markdown() -> String {
    let mut text = String::new();
    for Attribute { name, on, values } in all() {
        text +=
            &format!("### `{name}`\n\n{on}\n\n| value | meaning | what to do |\n|---|---|---|\n");
        for Value {
            name,
            meaning,
            remedy,
        } in values
        {
            text += &format!("| `{name}` | {meaning} | {remedy} |\n");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::names::ATTRIBUTES;

    #[test]
    fn description_that_names_a_value_names_all() {
        let quoted = |value: &Value| format!("`{}`", value.name);
        for Attribute { name, values, .. } in all() {
            let described = ATTRIBUTES.iter().find(|(of, ..)| *of == name);
            let (.., description) = described.expect("an attribute");
            let missing: Vec<_> = values
                .iter()
                .filter(|value| !description.contains(&quoted(value)))
                .map(|value| value.name)
                .collect();
            let none = missing.len() == values.len();
            assert!(
                none || missing.is_empty(),
                "{name}: {missing:?} {description}"
            );
        }
    }

    #[test]
    fn values_are_listed_once_with_a_meaning() {
        for Attribute { name, on, values } in all() {
            let mut seen = BTreeSet::new();
            for value in values {
                assert!(seen.insert(value.name), "{name} {value:?}");
                assert!(value.meaning.ends_with('.'), "{name} {value:?}");
                assert!(is_known(name, value.name));
            }
            assert!(!seen.is_empty() && !on.is_empty());
        }
        assert!(!is_known(attribute::RETRANSMIT_TYPE, "nobody"));
        assert!(is_known(attribute::PEER_ADDRESS, "10.0.0.1"));
    }
}
