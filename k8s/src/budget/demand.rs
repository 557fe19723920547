//! What containers and pods ask for, as Kubernetes adds it up
//! (`k8s.io/component-helpers/resource/helpers.go`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity;

/// Quantities by the name of the resource, in nano-units.
pub(crate) type Amounts = BTreeMap<String, i128>;

/// Requests and limits, of a container or of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) requests: Amounts,
    pub(crate) limits: Amounts,
}

/// A list of quantities, without what is no quantity.
pub(crate) fn amounts(list: &Value) -> Amounts {
    let of = |(name, value): (&String, &Value)| {
        let amount = match value {
            Value::String(text) => quantity::parse(text),
            Value::Number(number) => quantity::parse(&number.to_string()),
            _ => None,
        };
        Some((name.clone(), amount?))
    };
    list.as_object()
        .into_iter()
        .flatten()
        .filter_map(of)
        .collect()
}

/// The sum of requests of a pod's containers, without its own budget: what that budget has to hold.
///
/// Containers and native sidecars run at the same time; of init containers the largest counts, with the sidecars that
/// were started before it.
pub(crate) fn of_containers(pod: &Value) -> Demand {
    let mut running = Demand::default();
    for container in list(pod, "/spec/containers") {
        running.add(&Demand::of_container(container));
    }
    let (mut started, mut highest) = (Demand::default(), Demand::default());
    for container in list(pod, "/spec/initContainers") {
        let own = Demand::of_container(container);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            running.add(&own);
            started.add(&own);
            highest.rise_to(&started);
        } else {
            let mut beside = started.clone();
            beside.add(&own);
            highest.rise_to(&beside);
        }
    }
    running.rise_to(&highest);
    running
}

/// The sum of the containers that keep running, without init containers that complete.
pub(crate) fn of_running(pod: &Value) -> Demand {
    let mut running = Demand::default();
    let stay = list(pod, "/spec/initContainers")
        .iter()
        .filter(|container| container["restartPolicy"] == "Always");
    for container in list(pod, "/spec/containers").iter().chain(stay) {
        running.add(&Demand::of_container(container));
    }
    running
}

/// Whether nothing in the pod asks for any CPU or memory (`pkg/apis/core/v1/helper/qos/qos.go`).
pub(crate) fn is_best_effort(pod: &Value) -> bool {
    let pods = Demand::read(pod.pointer("/spec/resources"));
    let containers = list(pod, "/spec/containers").iter();
    containers
        .chain(list(pod, "/spec/initContainers"))
        .map(Demand::of_container)
        .chain([pods])
        .all(|demand| !demand.is_something())
}

pub(crate) fn list<'a>(pod: &'a Value, pointer: &str) -> &'a [Value] {
    pod.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

// === impl Demand ===

impl Demand {
    /// Of a container. The API server takes a limit for the request, too, where there is none.
    pub(crate) fn of_container(container: &Value) -> Self {
        let mut demand = Self::read(container.get("resources"));
        for (name, limit) in &demand.limits {
            demand.requests.entry(name.clone()).or_insert(*limit);
        }
        demand
    }

    /// Of a pod: its own budget, where it has one, else its containers; with the overhead of its runtime class.
    pub(crate) fn of_pod(pod: &Value) -> Self {
        let mut demand = of_containers(pod);
        let own = Self::read(pod.pointer("/spec/resources"));
        demand.requests.extend(own.requests);
        demand.limits.extend(own.limits);
        let overhead = pod
            .pointer("/spec/overhead")
            .map(amounts)
            .unwrap_or_default();
        for (name, amount) in overhead {
            if let Some(limit) = demand.limits.get_mut(&name) {
                *limit += amount;
            }
            *demand.requests.entry(name).or_default() += amount;
        }
        demand
    }

    fn read(resources: Option<&Value>) -> Self {
        let field = |name: &str| resources.and_then(|resources| resources.get(name));
        Self {
            requests: field("requests").map(amounts).unwrap_or_default(),
            limits: field("limits").map(amounts).unwrap_or_default(),
        }
    }

    fn is_something(&self) -> bool {
        ["cpu", "memory"].iter().any(|name| {
            let of = |list: &Amounts| list.get(*name).is_some_and(|amount| *amount > 0);
            of(&self.requests) || of(&self.limits)
        })
    }

    fn add(&mut self, other: &Self) {
        let plus = |mine: &mut Amounts, theirs: &Amounts| {
            for (name, amount) in theirs {
                *mine.entry(name.clone()).or_default() += amount;
            }
        };
        plus(&mut self.requests, &other.requests);
        plus(&mut self.limits, &other.limits);
    }

    fn rise_to(&mut self, other: &Self) {
        let most = |mine: &mut Amounts, theirs: &Amounts| {
            for (name, amount) in theirs {
                let mine = mine.entry(name.clone()).or_default();
                *mine = (*mine).max(*amount);
            }
        };
        most(&mut self.requests, &other.requests);
        most(&mut self.limits, &other.limits);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Demand, is_best_effort, of_containers};

    fn container(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        let mut container = container(cpu);
        container["restartPolicy"] = json!("Always");
        container
    }

    /// The rows of KEP-753's table, "resource calculation".
    #[test]
    fn largest_init_container_counts_with_earlier_sidecars() {
        let rows = [
            (vec![], vec!["1", "2"], 3_000),
            (vec![container("5")], vec!["1", "2"], 5_000),
            (vec![container("5"), container("7")], vec!["1", "2"], 7_000),
            (vec![sidecar("1"), container("5")], vec!["1", "2"], 6_000),
            (vec![container("5"), sidecar("1")], vec!["1", "2"], 5_000),
            (vec![sidecar("1"), container("1")], vec!["1", "2"], 4_000),
        ];
        for (init, main, millis) in rows {
            let main: Vec<_> = main.into_iter().map(container).collect();
            let pod = json!({"spec": {"containers": main, "initContainers": init}});
            let nanos = of_containers(&pod).requests["cpu"];
            assert_eq!(nanos, millis * 1_000_000, "{pod}");
        }
    }

    #[test]
    fn pod_level_budget_precedes_containers_plus_overhead() {
        let pod = json!({"spec": {
            "containers": [container("1")], "overhead": {"cpu": "1"},
            "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "4"}},
        }});
        let demand = Demand::of_pod(&pod);
        assert_eq!(demand.requests["cpu"], 4_000_000_000);
        assert_eq!(demand.limits["cpu"], 5_000_000_000);
    }

    #[test]
    fn zero_and_other_resources_leave_a_pod_best_effort() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        for (resources, expected) in [
            (json!({}), true),
            (json!({"requests": {"cpu": "0"}}), true),
            (json!({"limits": {"ephemeral-storage": "1Gi"}}), true),
            (json!({"limits": {"memory": "1Gi"}}), false),
            (json!({"requests": {"cpu": "1m"}}), false),
        ] {
            assert_eq!(
                is_best_effort(&pod(resources.clone())),
                expected,
                "{resources}"
            );
        }
    }
}
