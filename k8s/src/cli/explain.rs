//! One clear sentence for every pod: why it has, would get, or will not get a sidecar.

use serde_json::Value;

use super::files::{Files, judge, objects, title};
use super::remote::Remote;
use super::{ClusterArgs, ExplainArgs, FileArgs};
use crate::inject::{Decision, Form, Outcome, Status};

/// Explains a pod (or a workload's template) of a file, or `stored` in the cluster, in one sentence, and each
/// mistaken annotation in one more.
#[must_use]
pub fn explain_pod(object: &Value, files: &Files, stored: bool) -> Vec<String> {
    let Some((pointer, outcome)) = judge(object, files, false) else {
        return vec!["this kind has no pods".to_owned()];
    };
    let annotations = object
        .pointer(pointer)
        .and_then(|pod| pod.pointer("/metadata/annotations")?.as_object())
        .cloned();
    let status = annotations.as_ref().and_then(Status::read);
    let is_pod = object["kind"] == "Pod";
    let mut lines = vec![sentence(&outcome, status.as_ref(), stored && is_pod)];
    lines.extend(outcome.problems.iter().map(ToString::to_string));
    lines.extend(outcome.notes.clone());
    lines
}

fn sentence(outcome: &Outcome, status: Option<&Status>, was_admitted: bool) -> String {
    match (&outcome.decision, status) {
        (Decision::AlreadyInjected { current }, Some(Status::Injected { version, form, .. })) => {
            let renew = if *current { "" } else { "; the configuration has changed since: restart the workload to renew it" };
            format!("has the sidecar, in the {form} form, by flowcar {version}{renew}")
        }
        (Decision::AlreadyInjected { .. }, _) => "has the sidecar".to_owned(),
        (Decision::Injected(_), Some(Status::Skipped { message, .. })) if was_admitted => {
            format!("was not injected: {message}; a new pod would be")
        }
        (Decision::Injected(_), _) if was_admitted => {
            "opted in, but was created while the webhook could not be reached: delete it to inject its successor".to_owned()
        }
        (Decision::Injected(form), _) => format!("gets the sidecar, {}", describe(*form)),
        (Decision::NotOptedIn(reason), _) => format!("gets no sidecar: {reason}"),
        (Decision::Skipped(skip), _) => format!("gets no sidecar: {skip}"),
        (Decision::Denied, _) => "is denied: its annotations have mistakes and the controller is strict".to_owned(),
    }
}

fn describe(form: Form) -> &'static str {
    match (form.ebpf, form.native) {
        (true, true) => "with eBPF, before every other container",
        (false, true) => "without capabilities (inet_diag), before every other container",
        (true, false) => "with eBPF, as a regular container",
        (false, false) => "without capabilities (inet_diag), as a regular container",
    }
}

pub(super) async fn run(args: ExplainArgs, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    if let Some(filename) = args.filename {
        let text = super::read(&filename)?;
        let file = FileArgs {
            filename,
            config: None,
            offline: false,
            pod_security: None,
            no_native_sidecars: false,
        };
        let files = super::judged_by(&file, cluster, &text).await?;
        tell(&objects(&text)?, &files, false);
        return Ok(true);
    }
    let remote = Remote::connect(cluster).await?;
    let found = match &args.target {
        Some(target) => vec![remote.get(target).await?],
        None => remote.opted_in_pods().await?,
    };
    let mut files = remote.files().await?;
    remote.learn_namespaces(&mut files).await?;
    if found.is_empty() {
        println!("no pod has opted in: kubectl flowcar enable deployment/NAME");
    }
    tell(&found, &files, true);
    Ok(true)
}

fn tell(found: &[Value], files: &Files, stored: bool) {
    for object in found
        .iter()
        .filter(|object| judge(object, files, false).is_some())
    {
        let namespace = files.context(object, false).namespace;
        for line in explain_pod(object, files, stored) {
            println!("{namespace} {}: {line}", title(object));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::explain_pod;
    use crate::cli::Files;
    use crate::config::Settings;

    fn explain(annotations: Value, spec: Value, stored: bool) -> Vec<String> {
        let mut pod = json!({"kind": "Pod", "metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": [{"name": "a"}]}});
        pod["spec"]
            .as_object_mut()
            .expect("a spec")
            .extend(spec.as_object().expect("fields").clone());
        explain_pod(
            &pod,
            &Files::new(Settings::default(), "flowcar-system".to_owned()),
            stored,
        )
    }

    #[test]
    fn every_case_has_one_clear_sentence() {
        let on = || json!({"flowcar.io/inject": "enabled"});
        let cases = [
            (
                json!({}),
                json!({}),
                false,
                "gets no sidecar: nobody asked: annotate",
            ),
            (
                json!({"flowcar.io/inject": "disabled"}),
                json!({}),
                false,
                "gets no sidecar: the pod is annotated",
            ),
            (
                json!({"flowcar.io/inject": "on"}),
                json!({}),
                false,
                "gets no sidecar: flowcar.io/inject=\"on\" is unknown",
            ),
            (on(), json!({}), false, "gets the sidecar, with eBPF"),
            (
                on(),
                json!({}),
                true,
                "opted in, but was created while the webhook",
            ),
            (
                on(),
                json!({"hostNetwork": true}),
                false,
                "gets no sidecar: the pod is on the host's network",
            ),
            (
                on(),
                json!({"hostUsers": false}),
                false,
                "gets no sidecar: hostUsers: false",
            ),
            (
                on(),
                json!({"runtimeClassName": "gvisor"}),
                false,
                "gets no sidecar: runtime class gvisor",
            ),
            (
                on(),
                json!({"os": {"name": "windows"}}),
                false,
                "gets no sidecar: flowcar runs on Linux",
            ),
            (
                on(),
                json!({"initContainers": [{"name": "flowcar"}]}),
                false,
                "gets no sidecar: the pod has a container",
            ),
        ];
        for (annotations, spec, stored, start) in cases {
            let lines = explain(annotations, spec, stored);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(
                lines[0].starts_with(start),
                "{lines:?} should start {start:?}"
            );
        }
        let mut mistaken = on();
        mistaken["flowcar.io/peer"] = json!("nobody");
        assert_eq!(
            explain(mistaken, json!({}), false)[1],
            r#"flowcar.io/peer="nobody": ignored; expected address | prefix | none"#
        );
        let skipped = r#"{"skipped":"host_network","message":"the pod is on the host's network"}"#;
        let lines = explain(
            json!({"flowcar.io/inject": "enabled", "flowcar.io/status": skipped}),
            json!({}),
            true,
        );
        assert!(
            lines[0].starts_with("was not injected: the pod is on the host's network"),
            "{lines:?}"
        );
    }
}
