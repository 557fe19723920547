//! The self metrics.

use super::*;

/// Which metrics are the pod's and which are self metrics, and how many self metrics are sent by default.
#[test]
fn self_metrics_have_their_own_resource() {
    let resource = Resource::new(&Config::from_vars([]).expect("defaults"), &web());
    let sent = |self_metrics, self_levels| {
        let options = Options {
            self_metrics,
            ..PLAIN
        };
        let exemplars = Exemplars::default();
        let export = encode(&full(), &resource, options, None, &exemplars, self_levels);
        let [pods, self_metrics] =
            <[_; 2]>::try_from(export.resource_metrics).expect("two resources");
        let name = |of: &ResourceMetrics| {
            let resource = of.resource.clone().expect("a resource");
            attributes(&resource.attributes)["service.name"].clone()
        };
        assert_eq!(
            (name(&pods).as_str(), name(&self_metrics).as_str()),
            ("web", "flowcar")
        );
        let self_metrics = self_metrics
            .scope_metrics
            .into_iter()
            .flat_map(|of| of.metrics);
        let pods = pods.scope_metrics.into_iter().flat_map(|of| of.metrics);
        for metric in pods {
            assert!(metric.name.starts_with("flowcar.tcp."), "{}", metric.name);
        }
        let self_metrics: Vec<_> = self_metrics.collect();
        assert!(
            self_metrics
                .iter()
                .all(|of| !of.name.starts_with("flowcar.tcp."))
        );
        self_metrics.iter().map(points::count).sum::<usize>()
    };
    assert_eq!(sent(SelfMetricsLevel::None, true), 0);
    assert_eq!(sent(SelfMetricsLevel::Basic, false), 0);
    // Every counter of losses is above 0 here.
    assert_eq!(sent(SelfMetricsLevel::Basic, true), 24);
    assert!(sent(SelfMetricsLevel::Detailed, false) > 25);
}
