//! Who speaks: the pod. One list, for metrics and spans alike.

use std::{collections::BTreeMap, fs};

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;

use super::metrics::text;
use crate::config::{Config, Pod};

/// The resource's attributes, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    attributes: BTreeMap<String, String>,
}

impl Resource {
    /// The resource that `config` tells of, with its figures from `source` (`ebpf`, `inet_diag`).
    ///
    /// Its `service.name` is the first there is of: `OTEL_SERVICE_NAME`, that in `OTEL_RESOURCE_ATTRIBUTES`, the
    /// workload's name, `command` (the program that `flowcar run` runs), the pod's name. `instance` names this instance
    /// where there is no pod uid; see [`random_instance`].
    pub fn new(
        config: &Config,
        source: &str,
        command: Option<&str>,
        instance: Option<String>,
    ) -> Self {
        let pod = &config.pod;
        let name = pod.owner_name.as_deref().or(command);
        let name = name.or(pod.name.as_deref());
        let mut attributes = BTreeMap::from([
            ("flowcar.source".to_owned(), source.to_owned()),
            (
                "service.name".to_owned(),
                name.unwrap_or("unknown_service:flowcar").to_owned(),
            ),
        ]);
        let found = [
            ("service.namespace", pod.namespace.clone()),
            ("service.instance.id", pod.uid.clone().or(instance)),
            ("k8s.namespace.name", pod.namespace.clone()),
            ("k8s.pod.name", pod.name.clone()),
            ("k8s.pod.uid", pod.uid.clone()),
            ("k8s.pod.ip", pod.ip.clone()),
            // No convention names more than one yet.
            (
                "flowcar.pod.ips",
                pod.ips.clone().filter(|ips| ips.contains(',')),
            ),
            ("k8s.node.name", pod.node.clone()),
        ];
        let found = found
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        attributes.extend(found);
        attributes.extend(owner(pod));
        attributes.extend(config.resource_attributes.iter().cloned());
        if let Some(name) = &config.service_name {
            attributes.insert("service.name".to_owned(), name.clone());
        }
        Self { attributes }
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// As metrics carry it.
    pub fn to_proto(&self) -> ProtoResource {
        ProtoResource {
            attributes: self.iter().map(|(name, value)| text(name, value)).collect(),
            ..Default::default()
        }
    }

    /// As the span exporter takes it.
    pub fn to_sdk(&self) -> opentelemetry_sdk::Resource {
        let attributes = self
            .iter()
            .map(|(name, value)| KeyValue::new(name.to_owned(), value.to_owned()));
        opentelemetry_sdk::Resource::builder_empty()
            .with_schema_url(attributes, super::names::SCHEMA_URL)
            .build()
    }
}

/// A random UUID of the kernel's; none where there is no /proc.
pub fn random_instance() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
    Some(id.trim().to_owned())
}

/// The workload under the name of its kind, for the kinds that have one.
fn owner(pod: &Pod) -> Option<(String, String)> {
    let kind = match pod.owner_kind.as_deref()? {
        "CronJob" => "cronjob",
        "DaemonSet" => "daemonset",
        "Deployment" => "deployment",
        "Job" => "job",
        "ReplicaSet" => "replicaset",
        "ReplicationController" => "replicationcontroller",
        "StatefulSet" => "statefulset",
        _ => return None,
    };
    Some((format!("k8s.{kind}.name"), pod.owner_name.clone()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(vars: &[(&str, &str)], command: Option<&str>) -> BTreeMap<String, String> {
        let vars = vars
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::from_vars(vars).expect("good settings");
        Resource::new(&config, "ebpf", command, Some("random".to_owned())).attributes
    }

    #[test]
    fn the_downward_api_names_the_pod_its_workload_and_the_service() {
        let found = resource(
            &[
                ("FLOWCAR_POD_NAME", "web-7d4b9-x2x"),
                ("FLOWCAR_POD_NAMESPACE", "shop"),
                ("FLOWCAR_POD_UID", "8c1f"),
                ("FLOWCAR_POD_IP", "10.1.2.3"),
                ("FLOWCAR_POD_IPS", "10.1.2.3,fd00::3"),
                ("FLOWCAR_NODE_NAME", "node-1"),
                ("FLOWCAR_OWNER_KIND", "Deployment"),
                ("FLOWCAR_OWNER_NAME", "web"),
            ],
            None,
        );
        let expected = [
            ("flowcar.pod.ips", "10.1.2.3,fd00::3"),
            ("flowcar.source", "ebpf"),
            ("k8s.deployment.name", "web"),
            ("k8s.namespace.name", "shop"),
            ("k8s.node.name", "node-1"),
            ("k8s.pod.ip", "10.1.2.3"),
            ("k8s.pod.name", "web-7d4b9-x2x"),
            ("k8s.pod.uid", "8c1f"),
            ("service.instance.id", "8c1f"),
            ("service.name", "web"),
            ("service.namespace", "shop"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn what_the_user_says_wins_and_the_service_name_most_of_all() {
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,team=x%2Cy");
        let found = resource(&[attributes], Some("curl"));
        assert_eq!(found["service.name"], "a");
        assert_eq!(found["team"], "x,y");
        assert_eq!(found["service.instance.id"], "random");
        let found = resource(&[attributes, ("OTEL_SERVICE_NAME", "b")], Some("curl"));
        assert_eq!(found["service.name"], "b");
        assert_eq!(resource(&[], Some("curl"))["service.name"], "curl");
        assert_eq!(
            resource(&[], None)["service.name"],
            "unknown_service:flowcar"
        );
    }

    #[test]
    fn metrics_and_spans_carry_the_same() {
        let config = Config::from_vars([]).expect("defaults");
        let resource = Resource::new(&config, "ebpf", None, random_instance());
        let sdk = ProtoResource::from(&resource.to_sdk());
        let mut attributes = sdk.attributes;
        attributes.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(attributes, resource.to_proto().attributes);
    }
}
