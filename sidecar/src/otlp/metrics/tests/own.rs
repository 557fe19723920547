//! flowcar's own figures.

use super::*;

/// Which metrics are of the pod and which of flowcar, and how many points of its own it sends by default.
#[test]
fn own_figures_are_of_a_resource_of_their_own() {
    let resource = Resource::new(&Config::from_vars([]).expect("defaults"), &web());
    let sent = |self_metrics, own_levels| {
        let options = Options {
            self_metrics,
            ..PLAIN
        };
        let exemplars = Exemplars::default();
        let export = encode(&full(), &resource, options, None, &exemplars, own_levels);
        let [pods, own] = <[_; 2]>::try_from(export.resource_metrics).expect("two resources");
        let name = |of: &ResourceMetrics| {
            let resource = of.resource.clone().expect("a resource");
            attributes(&resource.attributes)["service.name"].clone()
        };
        assert_eq!(
            (name(&pods).as_str(), name(&own).as_str()),
            ("web", "flowcar")
        );
        let own = own.scope_metrics.into_iter().flat_map(|of| of.metrics);
        let pods = pods.scope_metrics.into_iter().flat_map(|of| of.metrics);
        for metric in pods {
            assert!(metric.name.starts_with("flowcar.tcp."), "{}", metric.name);
        }
        let own: Vec<_> = own.collect();
        assert!(own.iter().all(|of| !of.name.starts_with("flowcar.tcp.")));
        own.iter().map(points::count).sum::<usize>()
    };
    assert_eq!(sent(SelfMetrics::None, true), 0);
    assert_eq!(sent(SelfMetrics::Basic, false), 0);
    // Everything that may be lost is lost here.
    assert_eq!(sent(SelfMetrics::Basic, true), 19);
    assert!(sent(SelfMetrics::Detailed, false) > 25);
}
