//! Whether receivers take what is sent: one small request for each signal.

use super::{lines::reported, report::Line};
use crate::{
    clock,
    config::{Config, Signal},
    host::Host,
    otlp::{quote::Quoted, resource::Resource, trial::try_receiver},
    view::quantity::duration,
};

/// A line for each signal, and whether every receiver took its request.
pub(super) async fn send(config: &Config) -> (Vec<Line>, bool) {
    let config = config.clone().with_default_endpoint();
    let resource = Resource::new(&config, &Host::of_command(Some("flowcar-check")));
    let (mut lines, mut taken) = (Vec::new(), true);
    for (signal, name) in [
        (Signal::Metrics, "send metrics"),
        (Signal::Traces, "send spans"),
        (Signal::Logs, "send log records"),
    ] {
        let Some(target) = config.export.of(signal) else {
            // Log records are off by default.
            if signal != Signal::Logs {
                lines.push(Line::info(name, "not exported"));
            }
            continue;
        };
        let began = clock::now();
        lines.push(match try_receiver(signal, target, &resource).await {
            Ok(accepted) => {
                let receiver = reported(target);
                let took = duration(began.elapsed().as_secs_f64());
                let printed = match accepted.message.as_str() {
                    "" => String::new(),
                    message => format!("; its message is {}", Quoted(message)),
                };
                match accepted.rejected {
                    0 => Line::ok(
                        name,
                        format!("{receiver} took an empty export in {took}{printed}"),
                    ),
                    rejected => {
                        taken = false;
                        let items = signal.items();
                        Line::no(
                            name,
                            format!("{receiver} rejects {rejected} {items} of an empty export{printed}; check its log"),
                        )
                    }
                }
            }
            Err(error) => {
                taken = false;
                Line::no(name, error.to_string())
            }
        });
    }
    (lines, taken)
}
