//! `flowcar.tcp.listener.*`: drops and queues of listening sockets.

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};

use super::{CountPoint, Encoder, attribute, signed};
use crate::{
    otlp::names::{self, Metric, attribute as name},
    snapshot::Listener,
};

pub(super) fn encode(encoder: &mut Encoder<'_>) {
    let before = encoder.before;
    let drops = encoder.now.listeners.iter().map(|(port, now)| CountPoint {
        attributes: attributes(*port),
        now: now.drops,
        before: before
            .and_then(|before| before.listeners.get(port))
            .map_or(0, |before| before.drops),
    });
    encoder.counter(names::LISTENER_DROPS, drops.collect());
    level(encoder, names::LISTENER_QUEUE, |of| of.waiting);
    level(encoder, names::LISTENER_LIMIT, |of| of.limit);
}

fn level(encoder: &mut Encoder<'_>, metric: Metric, pick: impl Fn(&Listener) -> u64) {
    let ports = encoder.now.listeners.iter();
    let points = ports.map(|(port, now)| (attributes(*port), signed(pick(now))));
    encoder.up_down(metric, points.collect());
}

fn attributes(port: Option<u16>) -> Vec<KeyValue> {
    let port = port.map(|port| attribute(name::SERVER_PORT, Value::IntValue(port.into())));
    port.into_iter().collect()
}
