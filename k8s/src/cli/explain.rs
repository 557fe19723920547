//! One clear sentence for every pod: why it has, would get, or will not get a sidecar.

use serde_json::Value;

use super::files::{Files, judge, title};
use super::remote::Remote;
use super::{ClusterArgs, ExplainArgs, FileArgs};
use crate::config::Settings;
use crate::inject::{Decision, Form, Outcome, Skip, Status, has_sidecar};
use crate::opted::{Later, UNSEEN};
use crate::workload::{copy_opt_in, is_copied_from};

/// Explains a pod (or a workload's template) of a file, or `stored` in the cluster, in one sentence, and each
/// mistaken annotation in one more.
#[must_use]
pub fn explain_pod(object: &Value, files: &Files, stored: bool) -> Vec<String> {
    let Some((pointer, outcome)) = judge(object, files, false) else {
        return vec!["has no pod template that flowcar can find".to_owned()];
    };
    let pod = object.pointer(&pointer).unwrap_or(&Value::Null);
    let first = match object["kind"].as_str() {
        Some("Pod") if stored => past(pod, &outcome, files.opted_in_later(object), &files.settings),
        Some(kind) if stored && is_behind(object, files) => behind(kind).to_owned(),
        _ => sentence(&outcome, status_of(pod).as_ref()),
    };
    let mistakes = outcome.problems.iter().map(ToString::to_string);
    [first]
        .into_iter()
        .chain(mistakes)
        .chain(outcome.notes.clone())
        .collect()
}

fn status_of(pod: &Value) -> Option<Status> {
    Status::read(pod.pointer("/metadata/annotations")?.as_object()?)
}

/// What became of a pod that runs, and what would become of its successor where that differs.
fn past(pod: &Value, outcome: &Outcome, later: Option<Later>, settings: &Settings) -> String {
    let status = status_of(pod);
    match (&outcome.decision, &status) {
        (Decision::AlreadyInjected { .. }, _) => sentence(outcome, status.as_ref()),
        (_, Some(Status::Injected { form, version, .. })) if has_sidecar(pod, settings) => {
            let next = sentence(outcome, None);
            format!("has the sidecar, in the {form} form, by flowcar {version}; a new pod {next}")
        }
        // The status that the container came with is gone: what was wrong with it has been written down.
        (Decision::Skipped(Skip::NameTaken { .. }), Some(Status::Skipped { message, .. })) => {
            format!("gets no sidecar: {message}")
        }
        (Decision::Injected(_), Some(Status::Skipped { message, .. })) => {
            format!("was not injected: {message}; a new pod would be")
        }
        (Decision::Injected(_), _) => match later {
            Some(Later { created, written }) => format!(
                "is older than its opt-in: it was created at {created}, and the opt-in was last written at {written}; a new pod gets the sidecar"
            ),
            None => UNSEEN.to_owned(),
        },
        _ => sentence(outcome, status.as_ref()),
    }
}

/// Whether a stored workload's template lacks what the webhook copies, or still has what it takes back.
fn is_behind(object: &Value, files: &Files) -> bool {
    let labels = files.context(object, false).namespace_labels;
    let is_copied = object["kind"].as_str().is_some_and(is_copied_from);
    is_copied
        && !copy_opt_in(object, None, &labels, &files.settings)
            .patch
            .0
            .is_empty()
}

fn behind(kind: &str) -> &'static str {
    if kind == "Job" {
        "its pods do not follow its annotations, as a Job's template cannot change: create the Job anew"
    } else {
        "its pods do not follow its annotations, as the webhook has not copied them into its template: run kubectl flowcar enable or disable again"
    }
}

/// What becomes, or would become, of a pod of this kind.
fn sentence(outcome: &Outcome, status: Option<&Status>) -> String {
    match (&outcome.decision, status) {
        (Decision::AlreadyInjected { current }, Some(Status::Injected { version, form, .. })) => {
            let renew = if *current {
                ""
            } else {
                "; the configuration has changed since: restart the workload to renew it"
            };
            format!("has the sidecar, in the {form} form, by flowcar {version}{renew}")
        }
        (Decision::AlreadyInjected { .. }, _) => "has the sidecar".to_owned(),
        (Decision::Injected(form), _) => format!("gets the sidecar, {}", describe(*form)),
        (Decision::NotOptedIn(reason), _) => format!("gets no sidecar: {reason}"),
        (Decision::Skipped(skip), _) => format!("gets no sidecar: {skip}"),
        (Decision::Denied, _) => {
            "is denied: its annotations have mistakes and the controller is strict".to_owned()
        }
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
    if !args.sources.filename.is_empty() {
        let found = super::every_object(&args.sources.read()?)?;
        let file = FileArgs {
            sources: args.sources,
            config: None,
            offline: false,
            pod_security: None,
            no_native_sidecars: false,
        };
        let files = super::judged_by(&file, cluster, &found).await?;
        tell(&found, &files, false);
        return Ok(true);
    }
    let remote = Remote::connect(cluster).await?;
    let (found, mut files) = match &args.target {
        Some(target) => (vec![remote.get(target).await?], remote.files().await?),
        None => remote.opted_in_pods().await?,
    };
    remote.learn(&mut files, &found).await?;
    if found.is_empty() {
        println!("no pod has opted in: kubectl flowcar enable deployment/NAME");
    }
    tell(&found, &files, true);
    Ok(true)
}

fn tell(found: &[Value], files: &Files, stored: bool) {
    for object in found
        .iter()
        .filter(|object| stored || judge(object, files, false).is_some())
    {
        let namespace = files.context(object, false).namespace;
        for line in explain_pod(object, files, stored) {
            println!("{namespace} {}: {line}", title(object));
        }
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
