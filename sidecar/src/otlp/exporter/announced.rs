//! What is logged at the start: where exports go, how, and how often.

use crate::config::{Config, Export};

/// Logs where metrics, spans and log records go, how, through which proxy, and how often.
pub fn announce(config: &Config) {
    let Export {
        metrics,
        traces,
        logs,
    } = &config.export;
    if let Some(target) = metrics {
        tracing::info!(
            endpoint = target.url(),
            protocol = target.protocol.name(),
            proxy = target.proxy.as_ref().map(tracing::field::display),
            every_s = config.report_interval.as_secs_f64(),
            "exporting metrics"
        );
    }
    if let Some(target) = traces {
        tracing::info!(
            endpoint = target.url(),
            protocol = target.protocol.name(),
            proxy = target.proxy.as_ref().map(tracing::field::display),
            per_second_at_most = config.spans_per_second,
            "exporting spans"
        );
    }
    if let Some(target) = logs {
        tracing::info!(
            endpoint = target.url(),
            protocol = target.protocol.name(),
            proxy = target.proxy.as_ref().map(tracing::field::display),
            per_second_at_most = config.spans_per_second,
            "exporting log records"
        );
    }
}
