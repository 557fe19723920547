//! The resource: the pod, for metrics and spans alike.

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value, resource::v1::Resource as ProtoResource,
};

use super::{attributes::attribute, names::VERSION};
use crate::{
    config::{Config, Pod},
    host::Host,
};

/// The short form of a container's id, which container engines list.
const SHORT_ID: usize = 12;

/// The resource's attributes, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    attributes: BTreeMap<String, String>,
}

impl Resource {
    /// The resource of `config`.
    ///
    /// Its `service.name` is the first one set of: `OTEL_SERVICE_NAME`, that in `OTEL_RESOURCE_ATTRIBUTES`, the
    /// workload's name, that of `host` (the command's, the unit's), the pod's name. A pod has no attributes of the host itself.
    pub fn new(config: &Config, host: &Host) -> Self {
        let pod = &config.pod;
        let is_pod = pod.uid.is_some() || pod.name.is_some();
        let host_name = host.host_name.clone().filter(|_| !is_pod);
        let name = pod.owner_name.as_ref().or(host.service_name.as_ref());
        let name = name.or(pod.name.as_ref()).map(String::as_str);
        let mut attributes = BTreeMap::from([(
            "service.name".to_owned(),
            name.unwrap_or("unknown_service:flowcar").to_owned(),
        )]);
        let found = [
            ("service.namespace", pod.namespace.clone()),
            (
                "service.instance.id",
                pod.uid.clone().or(host.instance.clone()),
            ),
            ("host.name", host_name),
            ("container.id", host.container_id.clone()),
            ("k8s.namespace.name", pod.namespace.clone()),
            ("k8s.pod.name", pod.name.clone()),
            ("k8s.pod.uid", pod.uid.clone()),
            ("k8s.pod.ip", pod.ip.clone()),
            // No convention has an attribute for more than one yet.
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

    /// flowcar's own resource: that of the workload, with another service.
    #[must_use]
    pub fn of_flowcar(&self) -> Self {
        let mut attributes = self.attributes.clone();
        attributes.remove("service.namespace");
        attributes.insert("service.name".to_owned(), "flowcar".to_owned());
        attributes.insert("service.version".to_owned(), VERSION.to_owned());
        Self { attributes }
    }

    /// The resource of one of the pod's containers. Its instance is another than the pod's: a back end that does not keep `container.id`
    /// would take points of two containers for the same.
    #[must_use]
    pub fn of_container(&self, id: &str) -> Self {
        let mut attributes = self.attributes.clone();
        let short = &id[..id.len().min(SHORT_ID)];
        let instance = attributes.get("service.instance.id");
        let instance = instance.map_or_else(|| short.to_owned(), |of| format!("{of}.{short}"));
        attributes.insert("service.instance.id".to_owned(), instance);
        attributes.insert("container.id".to_owned(), id.to_owned());
        Self { attributes }
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// For metrics. Users' attributes may have any name and any value.
    pub fn to_proto(&self) -> ProtoResource {
        let attributes = self
            .iter()
            .map(|(name, value)| attribute(name, Value::StringValue(value.to_owned())));
        ProtoResource {
            attributes: attributes.collect(),
            ..Default::default()
        }
    }

    /// For the span exporter.
    pub fn to_sdk(&self) -> opentelemetry_sdk::Resource {
        let attributes = self
            .iter()
            .map(|(name, value)| KeyValue::new(name.to_owned(), value.to_owned()));
        opentelemetry_sdk::Resource::builder_empty()
            .with_schema_url(attributes, super::names::SCHEMA_URL)
            .build()
    }
}

/// The workload's attribute, for kinds that have one.
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
        let host = Host {
            service_name: command.map(str::to_owned),
            instance: Some("random".to_owned()),
            host_name: Some("node-1.example".to_owned()),
            container_id: None,
        };
        Resource::new(&config, &host).attributes
    }

    #[test]
    fn downward_api_names_pod_workload_and_service() {
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
    fn user_attributes_win_and_service_name_wins_most() {
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,team=x%2Cy");
        let found = resource(&[attributes], Some("curl"));
        assert_eq!(found["service.name"], "a");
        assert_eq!(found["team"], "x,y");
        assert_eq!(found["service.instance.id"], "random");
        assert_eq!(found["host.name"], "node-1.example");
        let found = resource(&[attributes, ("OTEL_SERVICE_NAME", "b")], Some("curl"));
        assert_eq!(found["service.name"], "b");
        assert_eq!(resource(&[], Some("curl"))["service.name"], "curl");
        assert_eq!(
            resource(&[], None)["service.name"],
            "unknown_service:flowcar"
        );
    }

    #[test]
    fn metrics_and_spans_have_the_same_resource() {
        // Of flowcar's own attributes, a value that flowcar never sends.
        let attributes = ["OTEL_RESOURCE_ATTRIBUTES", "flowcar.source=x"].map(str::to_owned);
        let config = Config::from_vars([attributes.into()]).expect("good settings");
        let resource = Resource::new(&config, &Host::of_command(None));
        let sdk = ProtoResource::from(&resource.to_sdk());
        let mut attributes = sdk.attributes;
        attributes.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(attributes, resource.to_proto().attributes);
    }
}
