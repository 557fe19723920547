//! Statistics of containers.

use super::*;

const ONE: &str = "8e2c9d1f0a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";
const TWO: &str = "9e2c9d1f0a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

fn snapshot(containers: &[(&str, ContainerFigures)]) -> Snapshot {
    let containers = containers
        .iter()
        .map(|(id, figures)| (Some((*id).into()), figures.clone()));
    Snapshot {
        containers: containers.collect(),
        ..full()
    }
}

/// Sums of the points of each container's resource.
fn sums(
    snapshot: &Snapshot,
    options: Options,
    before: Option<&Snapshot>,
    metric: &str,
) -> BTreeMap<String, f64> {
    let config = Config::from_vars([]).expect("defaults");
    let resource = Resource::new(&config, &web());
    let exemplars = Exemplars::default();
    let request = encode(snapshot, &resource, options, before, &exemplars, true);
    let mut all = BTreeMap::new();
    for of in request.resource_metrics {
        let container = attributes(&of.resource.expect("a resource").attributes)
            .remove("container.id")
            .unwrap_or_default();
        let metrics = of.scope_metrics.into_iter().flat_map(|of| of.metrics);
        for of in metrics.filter(|of| of.name == metric) {
            let Some(Data::Sum(sum)) = of.data else {
                panic!("no sum")
            };
            for point in sum.data_points {
                let value = match point.value {
                    Some(number_data_point::Value::AsInt(value)) => value as f64,
                    Some(number_data_point::Value::AsDouble(value)) => value,
                    None => f64::NAN,
                };
                *all.entry(container.clone()).or_default() += value;
            }
        }
    }
    all
}

fn expected(of: &[(&str, f64)]) -> BTreeMap<String, f64> {
    let of = of.iter();
    of.map(|(id, value)| ((*id).to_owned(), *value)).collect()
}

#[test]
fn figures_are_under_their_containers_resource() {
    let snapshot = snapshot(&[(ONE, figures(1_000_000)), (TWO, figures(500_000))]);
    for (metric, one, two) in [
        ("container.cpu.time", 2.0, 1.0),
        ("container.disk.io", 2_000_000.0, 1_000_000.0),
        ("container.memory.usage", 1_000_000.0, 500_000.0),
        ("flowcar.container.pressure.time", 6.0, 3.0),
    ] {
        let found = sums(&snapshot, PLAIN, None, metric);
        assert_eq!(found, expected(&[(ONE, one), (TWO, two)]), "{metric}");
    }
}

#[test]
fn what_a_cgroup_does_not_have_has_no_point() {
    let mut of = figures(7);
    of.levels.remove(&ContainerLevel::MemoryAvailable);
    of.counters.remove(&ContainerCounter::CpuSystem);
    let snapshot = snapshot(&[(ONE, of)]);
    let found = |metric| sums(&snapshot, PLAIN, None, metric);
    assert_eq!(found("container.memory.available"), expected(&[]));
    assert_eq!(found("container.cpu.time"), expected(&[(ONE, 0.000_007)]));
}

/// Of a container that was there in the report before the difference, of another one all.
#[test]
fn deltas_are_of_the_same_container() {
    let before = snapshot(&[(ONE, figures(100))]);
    let anew = ContainerFigures {
        since_unix_ns: AT,
        ..figures(30)
    };
    let later = snapshot(&[(ONE, figures(130)), (TWO, figures(20))]);
    let found = sums(&later, DELTA, Some(&before), "container.disk.io");
    assert_eq!(found, expected(&[(ONE, 60.0), (TWO, 40.0)]));
    let again = snapshot(&[(ONE, anew)]);
    let found = sums(&again, DELTA, Some(&before), "container.disk.io");
    assert_eq!(found, expected(&[(ONE, 60.0)]));
}
