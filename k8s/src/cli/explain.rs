//! One clear sentence for every pod: why it has, would get, or will not get a sidecar.

use serde_json::Value;

#[cfg(test)]
use super::files::judge;
use super::{
    ClusterArgs, ExplainArgs, FileArgs,
    files::{
        Files, is_expected_to_have_pods, judge_each, mislabelled, place_of_annotations, title,
        unused, which_of,
    },
    remote::Remote,
};
use crate::{
    config::Settings,
    inject::{Decision, Form, NotOptedIn, Outcome, Skip, Status, has_sidecar},
    opted::{Later, UNSEEN},
    workload::{around, copy_opt_in, is_copied_from},
};

/// Explains a pod (or each template of a workload) of a file, or `stored` in the cluster, in one sentence, and each
/// invalid annotation in one more.
#[must_use]
pub fn explain_pod(object: &Value, files: &Files, stored: bool) -> Vec<String> {
    let judged = judge_each(object, files, false);
    if judged.is_empty() {
        return vec!["has no pod template that flowcar can find".to_owned()];
    }
    let has_several = judged.len() > 1;
    let explained = judged.into_iter().flat_map(|(pointer, outcome)| {
        let which = which_of(&pointer, has_several);
        let lines = explain_at(object, &pointer, &outcome, files, stored);
        lines.into_iter().map(move |line| format!("{which}{line}"))
    });
    explained.collect()
}

fn explain_at(
    object: &Value,
    pointer: &str,
    outcome: &Outcome,
    files: &Files,
    stored: bool,
) -> Vec<String> {
    let pod = object.pointer(pointer).unwrap_or(&Value::Null);
    let refusal = match &outcome.decision {
        Decision::Injected(_) => files.refusal(object, pointer),
        _ => None,
    };
    let judged = Judged {
        outcome,
        refusal: refusal.as_deref(),
    };
    let first = match object["kind"].as_str() {
        Some("Pod") if stored => judged.past(pod, files.opted_in_later(object), &files.settings),
        Some(kind) if stored && is_behind(object, files) => behind(kind).to_owned(),
        _ => match (&outcome.decision, around(object, pointer)) {
            // The webhook copies annotations from Kubernetes' own workloads only.
            (Decision::NotOptedIn(NotOptedIn::NotRequested), inner)
                if !is_copied_from(inner) && !pointer.is_empty() && inner["kind"] != "Pod" =>
            {
                format!(
                    "gets no sidecar: nobody asked: write flowcar.io/inject=enabled to {}, or label the namespace so",
                    place_of_annotations(pointer)
                )
            }
            _ => judged.sentence(status_of(pod).as_ref()),
        },
    };
    let problems = outcome.problems.iter().map(ToString::to_string);
    [first]
        .into_iter()
        .chain(unused(object, pointer))
        .chain(mislabelled(object, pointer, outcome))
        .chain(problems)
        .chain(outcome.notes.clone())
        .collect()
}

/// What becomes of a pod.
struct Judged<'a> {
    outcome: &'a Outcome,
    /// Why the namespace refuses it now, with the sidecar or without.
    refusal: Option<&'a str>,
}

fn status_of(pod: &Value) -> Option<Status> {
    Status::read(pod.pointer("/metadata/annotations")?.as_object()?)
}

/// Whether a stored workload's template lacks what the webhook copies, or still has what it takes back.
fn is_behind(object: &Value, files: &Files) -> bool {
    let labels = files.context(object, false).namespace_labels;
    is_copied_from(object)
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

// === impl Judged ===

impl Judged<'_> {
    /// The state of a pod that runs, and of its successor where that differs.
    fn past(&self, pod: &Value, later: Option<Later>, settings: &Settings) -> String {
        let status = status_of(pod);
        match (&self.outcome.decision, &status) {
            (Decision::AlreadyInjected { .. }, _) => self.sentence(status.as_ref()),
            // A workload whose template has no sidecar of its own gets the present one.
            (
                Decision::Skipped(Skip::Preset {
                    field,
                    is_earlier: true,
                }),
                Some(Status::Injected { form, version, .. }),
            ) if has_sidecar(pod, settings) => {
                format!(
                    "has the sidecar, in the {form} form, by flowcar {version}, of an earlier configuration, and the operator does not allow its {field} now: restart the workload to renew it"
                )
            }
            (_, Some(Status::Injected { form, version, .. })) if has_sidecar(pod, settings) => {
                let next = self.sentence(None);
                format!(
                    "has the sidecar, in the {form} form, by flowcar {version}; a new pod {next}"
                )
            }
            // The status that the container came with was replaced by the reason why it does not count.
            (Decision::Skipped(Skip::NameTaken { .. }), Some(Status::Skipped { message, .. })) => {
                format!("gets no sidecar: {message}")
            }
            (Decision::Injected(_), Some(Status::Skipped { message, .. })) => {
                format!(
                    "was not injected: {message}; a new pod would be{}",
                    self.unless_refused()
                )
            }
            (Decision::Injected(_), _) => match later {
                Some(Later { created, written }) => format!(
                    "may be older than its opt-in: it was created at {created}, and whoever opted in wrote last at {written}; a new pod gets the sidecar{}",
                    self.unless_refused()
                ),
                None => UNSEEN.to_owned(),
            },
            _ => self.sentence(status.as_ref()),
        }
    }

    /// What becomes, or would become, of a pod of this kind.
    fn sentence(&self, status: Option<&Status>) -> String {
        match (&self.outcome.decision, status) {
            (
                Decision::AlreadyInjected { current },
                Some(Status::Injected { version, form, .. }),
            ) => {
                let renew = if *current {
                    ""
                } else {
                    "; the configuration has changed since: restart the workload to renew it"
                };
                format!("has the sidecar, in the {form} form, by flowcar {version}{renew}")
            }
            (Decision::AlreadyInjected { .. }, _) => "has the sidecar".to_owned(),
            (Decision::Injected(form), _) => {
                format!(
                    "gets the sidecar, {}{}",
                    describe(*form),
                    self.unless_refused()
                )
            }
            (Decision::NotOptedIn(reason), _) => format!("gets no sidecar: {reason}"),
            (Decision::Skipped(skip), _) => format!("gets no sidecar: {skip}"),
            (Decision::Denied, _) => {
                "is denied: its annotations have errors and the controller is strict".to_owned()
            }
        }
    }

    /// That there is no new pod to inject, where the namespace refuses it anyway.
    fn unless_refused(&self) -> String {
        let why = self.refusal;
        why.map_or_else(String::new, |why| {
            format!(", but no pod is admitted, even without one: {why}")
        })
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
        print_messages(&found, &files, false);
        return Ok(true);
    }
    let remote = Remote::connect(cluster).await?;
    let (found, mut files) = match &args.target {
        Some(target) => (vec![remote.get(target).await?], remote.files().await?),
        None => remote.opted_in_pods(remote.which()).await?,
    };
    remote.learn(&mut files, &found).await?;
    if found.is_empty() {
        println!("no pod has opted in: kubectl flowcar enable deployment/NAME");
    }
    print_messages(&found, &files, true);
    Ok(true)
}

fn print_messages(found: &[Value], files: &Files, stored: bool) {
    let lines = messages(found, files, stored);
    for line in &lines {
        println!("{line}");
    }
    if lines.is_empty() && !stored {
        println!("nothing here has pods");
    }
}

/// The messages about objects; of a file, of those that have pods or may have.
fn messages(found: &[Value], files: &Files, stored: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for object in found {
        let explained = explain_pod(object, files, stored);
        let has_pods = !judge_each(object, files, false).is_empty();
        if stored || has_pods || is_expected_to_have_pods(object) {
            let namespace = files.context(object, false).namespace;
            let name = title(object);
            lines.extend(
                explained
                    .iter()
                    .map(|line| format!("{namespace} {name}: {line}")),
            );
        }
    }
    lines
}

#[cfg(test)]
mod tests;
