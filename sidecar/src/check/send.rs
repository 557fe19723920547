//! Whether receivers take what is sent: one small request for each signal.

use super::{lines::reported, report::Line};
use crate::{
    clock,
    config::{Config, Export, Signal},
    host::Host,
    otlp::{quote::Quoted, resource::Resource, trial::try_receiver},
    view::quantity::duration,
};

/// A line for each signal, and whether every receiver took its request.
pub(super) async fn send(config: &Config) -> (Vec<Line>, bool) {
    let config = config.clone().with_default_endpoint();
    let Export { metrics, traces } = &config.export;
    let resource = Resource::new(&config, &Host::of_command(Some("flowcar-check")));
    let (mut lines, mut taken) = (Vec::new(), true);
    for (signal, name, target) in [
        (Signal::Metrics, "send metrics", metrics),
        (Signal::Traces, "send spans", traces),
    ] {
        let Some(target) = target else {
            lines.push(Line::info(name, "not exported"));
            continue;
        };
        let began = clock::now();
        lines.push(match try_receiver(signal, target, &resource).await {
            Ok(accepted) => {
                let took = duration(began.elapsed().as_secs_f64());
                let printed = match accepted.message.as_str() {
                    "" => String::new(),
                    message => format!("; its message is {}", Quoted(message)),
                };
                let text = format!(
                    "{} took an empty export in {took}{printed}",
                    reported(target)
                );
                Line::ok(name, text)
            }
            Err(error) => {
                taken = false;
                Line::no(name, error.to_string())
            }
        });
    }
    (lines, taken)
}
