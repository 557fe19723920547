//! `kubectl flowcar check`: everything that injection needs, each in one line.

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    authorization::v1::{
        ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
        SubjectAccessReview, SubjectAccessReviewSpec,
    },
    core::v1::{Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    ClusterArgs,
    remote::{Fate, Remote, Which, fate},
    sentence::{is_forbidden, of_answer, sentence},
};
use crate::{annotations::INJECT, certs::Remaining, clock, inject::CONTAINER};

/// A check's name, and what it found.
type Line = (&'static str, Found);

/// What a check found.
enum Found {
    Fine(String),
    /// It works, and will soon fail.
    Soon(String),
    /// The user has no right to ask.
    Unknown(String),
    Wrong(String),
}

/// What the controller does: group, resource, name, verb, and whether in its own namespace.
const RIGHTS: [(&str, &str, &str, &str, bool); 8] = [
    ("", "namespaces", "", "watch", false),
    ("", "limitranges", "", "watch", false),
    ("", "resourcequotas", "", "watch", false),
    ("events.k8s.io", "events", "", "create", false),
    ("admissionregistration.k8s.io", WEBHOOKS, "", "get", false),
    ("admissionregistration.k8s.io", WEBHOOKS, "", "patch", false),
    ("", "secrets", "flowcar-webhook-tls", "get", true),
    (
        "coordination.k8s.io",
        "leases",
        "flowcar-controller",
        "update",
        true,
    ),
];

/// The resource of webhooks' configurations; which of them is flowcar's, the operator names.
const WEBHOOKS: &str = "mutatingwebhookconfigurations";

/// What the installing user creates: group and resource.
const INSTALLS: [(&str, &str); 7] = [
    ("", "namespaces"),
    ("apps", "deployments"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
    ),
];

// === impl Found ===

impl From<Result<String, Self>> for Found {
    fn from(found: Result<String, Self>) -> Self {
        found.map_or_else(|wrong| wrong, Self::Fine)
    }
}

impl From<String> for Found {
    fn from(detail: String) -> Self {
        Self::Wrong(detail)
    }
}

impl From<kube::Error> for Found {
    /// What the user may not ask is not wrong for that.
    fn from(error: kube::Error) -> Self {
        let answer = of_answer(&error);
        if is_forbidden(&error) {
            Self::Unknown(format!(
                "not known: {answer}. Ask an administrator to run this check"
            ))
        } else {
            Self::Wrong(answer)
        }
    }
}

pub(super) async fn run(pre: bool, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let remote = Remote::connect(cluster).await?;
    let mut lines: Vec<Line> = vec![("API server version", version(&remote).await.into())];
    if pre {
        lines.push(("rights to install", rights_to_install(&remote).await.into()));
    } else {
        lines.push((
            "rights of the controller",
            rights_of_controller(&remote).await.into(),
        ));
        lines.push(("certificates", certificates(&remote).await));
        lines.push(("caBundle", ca_bundle(&remote).await.into()));
        lines.push(("order of webhooks", order(&remote).await.into()));
        lines.push(("dry-run pod", dry_run(&remote).await.into()));
        lines.push(("opted-in pods", missed(&remote).await.into()));
    }
    for (name, found) in &lines {
        println!("{}", printed(name, found));
    }
    let is_wrong = |(_, found): &Line| matches!(found, Found::Wrong(_));
    Ok(!lines.iter().any(is_wrong))
}

async fn version(remote: &Remote) -> Result<String, Found> {
    let version = remote.client.apiserver_version().await?;
    let minor: String = version
        .minor
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    match minor.parse::<u32>() {
        Ok(minor) if version.major == "1" && minor < 30 => Err(Found::Wrong(format!(
            "{} is too old: the webhook's matchConditions need 1.30",
            version.git_version
        ))),
        _ => Ok(version.git_version),
    }
}

async fn rights_to_install(remote: &Remote) -> Result<String, Found> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(remote.client.clone());
    let mut lacking = Vec::new();
    for (group, resource) in INSTALLS {
        let attributes = attributes(group, resource, "", "create", Some(&remote.own_namespace));
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..Default::default()
            },
            ..Default::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            lacking.push(format!("create {resource}"));
        }
    }
    if lacking.is_empty() {
        Ok("all there".to_owned())
    } else {
        Err(Found::Wrong(format!("you may not {}", lacking.join(", "))))
    }
}

async fn rights_of_controller(remote: &Remote) -> Result<String, Found> {
    let reviews: Api<SubjectAccessReview> = Api::all(remote.client.clone());
    let mut lacking = Vec::new();
    let makes_certificates = match secret(remote).await {
        Ok(secret) => crate::certs::is_own(&secret.data.unwrap_or_default()),
        Err(_) => true,
    };
    let configuration = match configuration(remote).await {
        Ok(found) => found.name_any(),
        Err(_) => "flowcar".to_owned(),
    };
    for (group, resource, name, verb, own) in RIGHTS {
        if verb == "patch" && !makes_certificates {
            continue;
        }
        let name = match resource {
            WEBHOOKS => &configuration,
            _ => name,
        };
        let namespace = own.then_some(remote.own_namespace.as_str());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!(
                    "system:serviceaccount:{}:flowcar-controller",
                    remote.own_namespace
                )),
                resource_attributes: Some(attributes(group, resource, name, verb, namespace)),
                ..Default::default()
            },
            ..Default::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            lacking.push(format!("{verb} {resource}"));
        }
    }
    if lacking.is_empty() {
        return Ok("all there".to_owned());
    }
    Err(Found::Wrong(format!(
        "its service account may not {}: install the manifests again",
        lacking.join(", ")
    )))
}

fn attributes(
    group: &str,
    resource: &str,
    name: &str,
    verb: &str,
    namespace: Option<&str>,
) -> ResourceAttributes {
    ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        name: (!name.is_empty()).then(|| name.to_owned()),
        verb: Some(verb.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..Default::default()
    }
}

async fn secret(remote: &Remote) -> Result<Secret, Found> {
    let secrets: Api<Secret> = Api::namespaced(remote.client.clone(), &remote.own_namespace);
    let found = secrets.get_opt("flowcar-webhook-tls").await?;
    let is_filled = |secret: &Secret| secret.data.iter().flatten().next().is_some();
    match found {
        Some(secret) if is_filled(&secret) => Ok(secret),
        Some(_) => Err(Found::Wrong(
            "the Secret flowcar-webhook-tls is empty: does the controller run?".to_owned(),
        )),
        None => Err(Found::Wrong(
            "there is no Secret flowcar-webhook-tls: install the manifests".to_owned(),
        )),
    }
}

async fn certificates(remote: &Remote) -> Found {
    let data = match secret(remote).await {
        Ok(secret) => secret.data.unwrap_or_default(),
        Err(why) => return why,
    };
    match crate::certs::remaining(&data, clock::wall_time()) {
        Ok(remaining) => judge_remaining(&remaining),
        Err(error) => Found::Wrong(error.to_string()),
    }
}

fn printed(name: &str, found: &Found) -> String {
    match found {
        Found::Fine(detail) => format!("ok    {name}: {detail}"),
        Found::Soon(detail) | Found::Unknown(detail) => format!("WARN  {name}: {detail}"),
        Found::Wrong(detail) => format!("FAIL  {name}: {detail}"),
    }
}

fn judge_remaining(remaining: &Remaining) -> Found {
    let who = match remaining.is_own {
        true => "does the controller run, and what does its log report about certificates?",
        false => "does cert-manager run, and what is the status of its Certificate?",
    };
    let (what, hours) = (remaining.what, remaining.left.as_secs() / 3600);
    let begins_in = remaining.begins_in.as_secs().div_ceil(3600);
    if begins_in > 0 {
        Found::Wrong(format!(
            "the {what} is not valid yet, and will be in {begins_in} hours: is a clock wrong?"
        ))
    } else if remaining.left.is_zero() {
        Found::Wrong(format!("the {what} has expired: {who}"))
    } else if remaining.is_overdue {
        Found::Soon(format!(
            "the {what} expires in {hours} hours and should have been renewed by now: {who}"
        ))
    } else {
        Found::Fine(format!("valid for {hours} more hours"))
    }
}

async fn configurations(remote: &Remote) -> Result<Vec<MutatingWebhookConfiguration>, Found> {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(remote.client.clone());
    let list = webhooks.list(&ListParams::default()).await;
    Ok(list?.items)
}

/// flowcar's own, by its first webhook: its name is the operator's choice.
async fn configuration(remote: &Remote) -> Result<MutatingWebhookConfiguration, Found> {
    let is_ours = |found: &MutatingWebhookConfiguration| {
        let mut webhooks = found.webhooks.iter().flatten();
        webhooks.any(|webhook| webhook.name == "pods.flowcar.io")
    };
    let found = configurations(remote).await?.into_iter().find(is_ours);
    found.ok_or_else(|| {
        Found::Wrong(
            "there is no MutatingWebhookConfiguration of flowcar's: install the manifests"
                .to_owned(),
        )
    })
}

/// The webhooks for pods that the API server calls after flowcar's: pods that they opt in are not injected.
async fn order(remote: &Remote) -> Result<String, Found> {
    let own = configuration(remote).await?.name_any();
    let all = configurations(remote).await?;
    let behind: Vec<_> = all
        .iter()
        .filter(|other| other.name_any() > own && is_for_pods(other))
        .map(ResourceExt::name_any)
        .collect();
    Ok(match behind.is_empty() {
        true => format!("{own} is the last one for pods"),
        false => format!(
            "{} come after {own}: pods that they opt in are not injected",
            behind.join(", ")
        ),
    })
}

fn is_for_pods(configuration: &MutatingWebhookConfiguration) -> bool {
    let has = |list: &Option<Vec<String>>, names: &[&str]| {
        let mut list = list.iter().flatten();
        list.any(|item| names.contains(&item.as_str()))
    };
    let webhooks = configuration.webhooks.iter().flatten();
    let mut rules = webhooks.flat_map(|webhook| webhook.rules.iter().flatten());
    rules.any(|rule| {
        has(&rule.api_groups, &["", "*"])
            && has(&rule.resources, &["pods", "*", "*/*"])
            && has(&rule.operations, &["CREATE", "*"])
    })
}

async fn ca_bundle(remote: &Remote) -> Result<String, Found> {
    let found = configuration(remote).await?;
    let bundle = secret(remote)
        .await?
        .data
        .unwrap_or_default()
        .remove("ca.crt");
    let wrong: Vec<_> = found
        .webhooks
        .unwrap_or_default()
        .into_iter()
        .filter(|webhook| bundle.is_none() || webhook.client_config.ca_bundle != bundle)
        .map(|webhook| webhook.name)
        .collect();
    if wrong.is_empty() {
        return Ok("as in the Secret".to_owned());
    }
    Err(Found::Wrong(format!(
        "{} does not trust the Secret's authority: does the controller run?",
        wrong.join(", ")
    )))
}

async fn dry_run(remote: &Remote) -> Result<String, Found> {
    let pods: Api<Pod> = Api::namespaced(remote.client.clone(), &remote.namespace);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "flowcar-check-", "annotations": { INJECT: "enabled" } },
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "check", "image": "check",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                "resources": { "requests": { "cpu": "1m", "memory": "16Mi" }, "limits": { "cpu": "1m", "memory": "16Mi" } },
            }],
        },
    });
    let pod: Pod = serde_json::from_value(pod).map_err(|error| error.to_string())?;
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let answer = pods.create(&params, &pod).await?;
    let answer = serde_json::to_value(answer).map_err(|error| error.to_string())?;
    let spec = &answer["spec"];
    let lists = [&spec["initContainers"], &spec["containers"]];
    let is_there = lists
        .iter()
        .filter_map(|list| list.as_array())
        .flatten()
        .any(|container| container["name"] == CONTAINER);
    if is_there {
        return Ok(format!("injected, in namespace {}", remote.namespace));
    }
    let status = answer["metadata"]["annotations"]["flowcar.io/status"].as_str();
    let reason = status.and_then(|text| serde_json::from_str::<Value>(text).ok());
    match reason.as_ref().and_then(|status| status["message"].as_str()) {
        Some(message) => Err(Found::Wrong(format!(
            "not injected: {message}; try another namespace with -n"
        ))),
        None => Err(Found::Wrong(
            "not injected: the API server got no answer from the webhook; see the controller's pods and log".to_owned(),
        )),
    }
}

async fn missed(remote: &Remote) -> Result<String, Found> {
    let (pods, files) = remote
        .opted_in_pods(Which::All)
        .await
        .map_err(|error| sentence(&error))?;
    let of = |wanted: Fate| {
        let is_meant = |pod: &&Value| fate(pod, &files) == wanted;
        pods.iter().filter(is_meant).collect::<Vec<_>>()
    };
    let (missed, older) = (of(Fate::Missed), of(Fate::Older).len());
    match missed.first() {
        None if older == 0 => Ok(format!("{}, all seen by the webhook", pods.len())),
        None => Ok(format!(
            "{}, {older} of them older than their opt-in: restart their workloads to inject their successors",
            pods.len()
        )),
        Some(first) => Err(Found::Wrong(format!(
            "{} of {} opted in and were not seen by the webhook, {} in namespace {} first: for what to do, run kubectl flowcar explain",
            missed.len(),
            pods.len(),
            super::files::title(first),
            first["metadata"]["namespace"].as_str().unwrap_or_default()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{judge_remaining, printed};
    use crate::certs::Remaining;

    #[test]
    fn certificate_that_was_not_renewed_in_time_is_warned_of() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        for (begins_in, left, is_overdue, is_own, start, part) in [
            (0, hours(500), false, true, "ok    c: ", "500 more hours"),
            (0, hours(40), true, true, "WARN  c: ", "expires in 40 hours"),
            (
                0,
                hours(40),
                true,
                false,
                "WARN  c: ",
                "does cert-manager run",
            ),
            (0, hours(0), true, true, "FAIL  c: ", "has expired"),
            (24, hours(500), false, false, "FAIL  c: ", "not valid yet"),
        ] {
            let remaining = Remaining {
                what: "certificate",
                left,
                begins_in: hours(begins_in),
                is_overdue,
                is_own,
            };
            let line = printed("c", &judge_remaining(&remaining));
            assert!(line.starts_with(start) && line.contains(part), "{line}");
        }
    }
}
