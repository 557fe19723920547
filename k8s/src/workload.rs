//! Workloads: the opt-in that is copied into their pod templates.
//!
//! The copy is marked (`flowcar.io/copied`, `flowcar.io/workload`), so that removing an annotation from the
//! workload removes only flowcar's copy, and a template's own annotation is never overwritten.

mod templates;

use std::collections::{BTreeMap, BTreeSet};

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, jsonptr::PointerBuf};
use serde_json::{Map, Value, json};

pub use self::templates::{around, is_known, template_pointer, templates};
use self::templates::{escaped, is_of_kubernetes, known_template, text};
use crate::{
    annotations::{Annotation, COPIED, INJECT, Key, OWN_MARKS, PREFIX, Problem, WORKLOAD},
    config::Settings,
    inject::{ANNOTATIONS_MOST, annotations_size},
    text::{WARNING_CHARS, clip},
};

/// Whether writing this object copies its annotations into its template.
#[must_use]
pub fn is_copied_from(object: &Value) -> bool {
    let kinds = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"];
    text(object, "kind").is_some_and(|kind| kinds.contains(&kind)) && is_of_kubernetes(object)
}

/// The object's own annotations of flowcar, by their names, where none of them has an effect on its pods.
#[must_use]
pub fn without_effect(object: &Value) -> Vec<String> {
    if is_copied_from(object) || known_template(object) == Some("") {
        return Vec::new();
    }
    let own = map(object, "/metadata/annotations");
    let names = own.keys().filter(|name| name.starts_with(PREFIX));
    names.cloned().collect()
}

/// The annotations that a workload's pods will get from it, for callers that judge before they are copied.
#[must_use]
pub fn pod_annotations(object: &Value) -> Map<String, Value> {
    if !is_copied_from(object) {
        return Map::new();
    }
    let mut message = map(object, "/metadata/annotations");
    // Those of a CronJob's Jobs are copied once the Jobs are made.
    for (name, value) in map(object, "/spec/jobTemplate/metadata/annotations") {
        message.entry(name).or_insert(value);
    }
    message.retain(|name, _| name.starts_with(PREFIX) && !OWN_MARKS.contains(&name.as_str()));
    if let (None, Some(start)) = names(object) {
        let kind = text(object, "kind").unwrap_or_default();
        message.insert(WORKLOAD.to_owned(), json!(format!("{kind}/{start}")));
    }
    message
}

/// What writing a workload changes in its template.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Empty where nothing changes.
    pub patch: Patch,
    /// Problems in the workload's own annotations.
    pub problems: Vec<Problem>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

/// Copies the workload's annotations of flowcar into its template, and removes copies of removed ones.
///
/// `before` is the object as it is stored, on an update: the template of a Job cannot change any more then.
#[must_use]
pub fn copy_opt_in(
    object: &Value,
    before: Option<&Value>,
    namespace_labels: &Map<String, Value>,
    settings: &Settings,
) -> Copy {
    let kind = text(object, "kind").unwrap_or_default();
    // The API server makes up the rest of a name only after the webhooks.
    let (name, start) = names(object);
    let name = name.or(start).unwrap_or_default();
    let workload_annotations = map(object, "/metadata/annotations");
    let (_, mut problems) = settings.overrides(&workload_annotations);
    let by_namespace = namespace_labels.get(INJECT).and_then(Value::as_str) == Some("enabled");
    let wanted = wanted(&workload_annotations, by_namespace, &mut problems);
    let unchanged = Copy {
        patch: Patch(Vec::new()),
        problems,
        notes: Vec::new(),
    };
    let Some(pointer) = template_pointer(kind).filter(|pointer| !pointer.is_empty()) else {
        return unchanged;
    };
    if !object.pointer(pointer).is_some_and(Value::is_object) || name.is_empty() {
        return unchanged;
    }
    let template = Template::read(object, pointer, kind);
    let by_hand = by_hand(object, &template.annotations);
    let workload = by_hand.clone().unwrap_or_else(|| format!("{kind}/{name}"));
    let mut patch = template.patch(&wanted, &workload);
    if let Some(mark) = by_hand.filter(|_| patch.0.is_empty()) {
        let mut next = template.annotations.clone();
        next.insert(WORKLOAD.to_owned(), json!(mark));
        patch = template.difference(next);
    }
    if kind != "Job" && template.would_be_full(&patch) {
        let note = "its annotations do not fit into its template: they are not copied";
        let notes = vec![note.to_owned()];
        return Copy { notes, ..unchanged };
    }
    if kind == "Job" && before.is_some() {
        let changed =
            before.map(|before| map(before, "/metadata/annotations")) != Some(workload_annotations);
        let note =
            "a Job's template cannot change; create the Job anew for its annotations to count";
        let notes = if changed && !patch.0.is_empty() {
            vec![note.to_owned()]
        } else {
            Vec::new()
        };
        return Copy { notes, ..unchanged };
    }
    Copy { patch, ..unchanged }
}

/// The mark for a Job that `kubectl create job NAME --from=cronjob/NAME` makes: `CronJob/<cronjob>/<job>`. Its name does not begin with
/// the CronJob's, so that its pods do not show whose it is; the Job does, while it is created.
fn by_hand(object: &Value, annotations: &Map<String, Value>) -> Option<String> {
    let name = names(object)
        .0
        .filter(|_| text(object, "kind") == Some("Job"))?;
    let mark = annotations.get(WORKLOAD)?.as_str()?;
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let is_made = |owner: &&Value| {
        let maker = text(owner, "name").unwrap_or_default();
        text(owner, "kind") == Some("CronJob") && mark.strip_prefix("CronJob/") == Some(maker)
    };
    let maker = text(owners.iter().find(is_made)?, "name")?;
    let is_run = name
        .strip_prefix(maker)
        .is_some_and(|rest| rest.starts_with('-'));
    // A template that is stored cannot change any more.
    let is_stored = object.pointer("/metadata/uid").is_some();
    (!is_run && !is_stored).then(|| format!("{mark}/{name}"))
}

/// An object's name, and the start of the one that is made up for it.
fn names(object: &Value) -> (Option<&str>, Option<&str>) {
    let of = |pointer| {
        let name = object.pointer(pointer).and_then(Value::as_str);
        name.filter(|name| !name.is_empty())
    };
    (of("/metadata/name"), of("/metadata/generateName"))
}

/// The annotations to copy. An invalid opt-in is reported here. It is only copied where the namespace would inject
/// otherwise, as an invalid value injects nothing; elsewhere it would roll the workload for nothing.
fn wanted(
    annotations: &Map<String, Value>,
    by_namespace: bool,
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'static str, String> {
    let mut wanted = BTreeMap::new();
    for (name, value) in annotations {
        let (Some(row), Some(value)) = (Annotation::named(name), value.as_str()) else {
            continue;
        };
        if row.key == Key::Inject && !row.kind.accepts(value) {
            problems.push(Problem::InvalidValue {
                row,
                value: value.to_owned(),
            });
            if !by_namespace {
                continue;
            }
        }
        wanted.insert(row.name, value.to_owned());
    }
    wanted
}

/// A pod template's annotations, and which of them are flowcar's copies.
struct Template<'a> {
    pointer: &'a str,
    metadata: Option<&'a Value>,
    annotations: Map<String, Value>,
    copied: BTreeSet<String>,
}

// === impl Template ===

impl<'a> Template<'a> {
    fn read(object: &'a Value, pointer: &'a str, kind: &str) -> Self {
        let metadata = object
            .pointer(&format!("{pointer}/metadata"))
            .filter(|value| value.is_object());
        let annotations = map(object, &format!("{pointer}/metadata/annotations"));
        // A CronJob's Jobs have its mark, but the copies are not their own.
        let ours = annotations
            .get(WORKLOAD)
            .and_then(Value::as_str)
            .is_some_and(|mark| {
                mark.split_once('/')
                    .is_some_and(|(marked, _)| marked == kind)
            });
        let list = annotations
            .get(COPIED)
            .and_then(Value::as_str)
            .filter(|_| ours)
            .unwrap_or_default();
        let copied = list
            .split(',')
            .filter(|key| !key.is_empty())
            .map(|key| format!("{PREFIX}{key}"))
            .collect();
        Self {
            pointer,
            metadata,
            annotations,
            copied,
        }
    }

    fn patch(&self, wanted: &BTreeMap<&'static str, String>, workload: &str) -> Patch {
        let mut next = self.annotations.clone();
        for key in &self.copied {
            if Annotation::named(key).is_some() {
                next.shift_remove(key);
            }
        }
        let mut copies = Vec::new();
        for (name, value) in wanted {
            if !next.contains_key(*name) {
                next.insert((*name).to_owned(), json!(value));
                copies.push(name.trim_start_matches(PREFIX));
            }
        }
        if !copies.is_empty() {
            next.insert(COPIED.to_owned(), json!(copies.join(",")));
            // A name that was made up since is no reason for new pods.
            let is_same = |mark: &&Value| {
                let mark = mark.as_str().filter(|mark| mark.ends_with('-'));
                !self.copied.is_empty() && mark.is_some_and(|mark| workload.starts_with(mark))
            };
            let mark = self.annotations.get(WORKLOAD).filter(is_same).cloned();
            let mark = mark.unwrap_or_else(|| json!(workload));
            next.insert(WORKLOAD.to_owned(), mark);
        } else if !self.copied.is_empty() {
            next.shift_remove(COPIED);
            next.shift_remove(WORKLOAD);
        }
        self.difference(next)
    }

    /// Whether the API server would refuse the template for the size of its annotations.
    fn would_be_full(&self, patch: &Patch) -> bool {
        let of = |operation: &PatchOperation| match operation {
            PatchOperation::Add(add) => add.value.to_string().len() + add.path.as_str().len(),
            _ => 0,
        };
        let added: usize = patch.0.iter().map(of).sum();
        added > 0 && annotations_size(&self.annotations) + added > ANNOTATIONS_MOST
    }

    /// The operations from the annotations as they are to `next`.
    fn difference(&self, next: Map<String, Value>) -> Patch {
        if next == self.annotations {
            return Patch(Vec::new());
        }
        let metadata = format!("{}/metadata", self.pointer);
        let annotations = format!("{metadata}/annotations");
        let has_annotations = self
            .metadata
            .is_some_and(|metadata| metadata["annotations"].is_object());
        if self.metadata.is_none() {
            return Patch(vec![add(&metadata, json!({ "annotations": next }))]);
        }
        if !has_annotations {
            return Patch(vec![add(&annotations, Value::Object(next))]);
        }
        if next.is_empty() {
            return Patch(vec![remove(&annotations)]);
        }
        let path = |name: &str| format!("{annotations}/{}", escaped(name));
        let removed = self
            .annotations
            .keys()
            .filter(|name| !next.contains_key(*name))
            .map(|name| remove(&path(name)));
        let changed = next
            .iter()
            .filter(|(name, value)| self.annotations.get(*name) != Some(value));
        Patch(
            removed
                .chain(changed.map(|(name, value)| add(&path(name), value.clone())))
                .collect(),
        )
    }
}

// === impl Copy ===

impl Copy {
    /// Every warning for the user, each within the length that clients show.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let problems = self.problems.iter().map(ToString::to_string);
        let notes = self.notes.iter().map(|note| format!("flowcar: {note}"));
        problems
            .chain(notes)
            .map(|text| clip(&text, WARNING_CHARS))
            .collect()
    }
}

/// Whether a workload asks for anything: the opt-in on itself, or in its template.
#[must_use]
pub fn opt_in_of(object: &Value) -> Option<String> {
    let pointer = template_pointer(text(object, "kind")?)?;
    let template = map(object, &format!("{pointer}/metadata/annotations"));
    let own = map(object, "/metadata/annotations");
    let value = template.get(INJECT).or_else(|| own.get(INJECT))?;
    Some(
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned),
    )
}

fn add(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: pointer(path),
        value,
    })
}

fn remove(path: &str) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation {
        path: pointer(path),
    })
}

fn pointer(path: &str) -> PointerBuf {
    PointerBuf::parse(path).expect("paths are constants and escaped names")
}

fn map(value: &Value, pointer: &str) -> Map<String, Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{copy_opt_in, pod_annotations, template_pointer};
    use crate::config::Settings;

    fn deployment(own: Value, template: Value) -> Value {
        json!({
            "kind": "Deployment", "metadata": {"name": "web", "annotations": own},
            "spec": {"template": {"metadata": {"annotations": template, "labels": {"a": "b"}}, "spec": {}}},
        })
    }

    fn written(object: &Value) -> Value {
        let copy = copy_opt_in(object, None, &Map::new(), &Settings::default());
        let mut object = object.clone();
        json_patch::patch(&mut object, &copy.patch).expect("the patch applies");
        object
    }

    fn template(object: &Value) -> Value {
        object["spec"]["template"]["metadata"]["annotations"].clone()
    }

    #[test]
    fn opt_in_is_copied_and_only_the_copy_is_removed() {
        let plain = deployment(json!({}), json!({"team": "x"}));
        assert_eq!(written(&plain), plain);
        let mut asked = plain.clone();
        asked["metadata"]["annotations"] =
            json!({"flowcar.io/inject": "enabled", "flowcar.io/peer": "none", "x": "y"});
        let once = written(&asked);
        let marks = json!({
            "team": "x", "flowcar.io/inject": "enabled", "flowcar.io/peer": "none",
            "flowcar.io/copied": "inject,peer", "flowcar.io/workload": "Deployment/web",
        });
        assert_eq!(template(&once), marks);
        assert_eq!(written(&once), once, "writing again changes nothing");
        let mut off = once.clone();
        off["metadata"]["annotations"] = json!({});
        assert_eq!(written(&off), plain);
        let mut fewer = once;
        fewer["metadata"]["annotations"] = json!({"flowcar.io/inject": "disabled"});
        let fewer = template(&written(&fewer));
        assert_eq!(fewer["flowcar.io/inject"], "disabled");
        assert_eq!(
            (&fewer["flowcar.io/copied"], fewer.get("flowcar.io/peer")),
            (&json!("inject"), None)
        );
    }

    #[test]
    fn templates_own_annotations_are_never_changed() {
        let own = json!({"flowcar.io/inject": "disabled"});
        let object = deployment(json!({"flowcar.io/inject": "enabled"}), own.clone());
        assert_eq!(template(&written(&object)), own);
        let mut off = written(&deployment(json!({"flowcar.io/peer": "none"}), own.clone()));
        off["metadata"]["annotations"] = json!({});
        assert_eq!(template(&written(&off)), own);
    }

    #[test]
    fn absent_or_null_metadata_is_created() {
        for metadata in [
            None,
            Some(Value::Null),
            Some(json!({})),
            Some(json!({"annotations": null})),
        ] {
            let mut object = deployment(json!({"flowcar.io/inject": "enabled"}), json!({}));
            let spec = object["spec"]["template"].as_object_mut().expect("object");
            spec.remove("metadata");
            spec.extend(metadata.map(|value| ("metadata".to_owned(), value)));
            assert_eq!(template(&written(&object))["flowcar.io/inject"], "enabled");
        }
    }

    #[test]
    fn every_kind_has_its_template() {
        for kind in ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"] {
            let pointer = template_pointer(kind).expect("a template");
            let mut object = json!({"kind": kind, "metadata": {"name": "w", "annotations": {"flowcar.io/inject": "enabled"}}});
            object["spec"] = if kind == "CronJob" {
                json!({"jobTemplate": {"spec": {"template": {}}}})
            } else {
                json!({"template": {}})
            };
            let annotations =
                written(&object).pointer(pointer).expect(kind)["metadata"]["annotations"].clone();
            assert_eq!(annotations["flowcar.io/inject"], "enabled");
            assert_eq!(annotations["flowcar.io/workload"], format!("{kind}/w"));
        }
        assert_eq!(template_pointer("Service"), None);
    }

    #[test]
    fn job_of_a_cron_job_keeps_its_copies() {
        let annotations = json!({
            "flowcar.io/inject": "enabled", "flowcar.io/copied": "inject", "flowcar.io/workload": "CronJob/n",
        });
        let job = json!({
            "kind": "Job", "metadata": {"name": "n-1"}, "spec": {"template": {"metadata": {"annotations": annotations}}},
        });
        assert_eq!(written(&job), job);
        // `kubectl create job manual --from=cronjob/n`
        let mut by_hand = job.clone();
        by_hand["metadata"] = json!({
            "name": "manual", "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
            "ownerReferences": [{"kind": "CronJob", "name": "n", "controller": true}],
        });
        let mark = "flowcar.io/workload";
        let once = written(&by_hand);
        assert_eq!(template(&once)[mark], "CronJob/n/manual");
        assert_eq!(template(&once)["flowcar.io/inject"], "enabled");
        assert_eq!(written(&once), once);
        let change = |pointer: &str, value: Value| {
            let mut job = by_hand.clone();
            *job.pointer_mut(pointer).expect("a field") = value;
            job
        };
        let owner = "/metadata/ownerReferences/0/name";
        for other in [
            change("/metadata/name", json!("n-2")),
            change(owner, json!("m")),
            change("/metadata/ownerReferences", Value::Null),
        ] {
            assert_eq!(written(&other), other);
        }
        let mut stored = by_hand;
        stored["metadata"]["uid"] = json!("u");
        assert_eq!(written(&stored), stored);
    }

    #[test]
    fn stored_job_is_unchanged_with_one_warning() {
        let job = |annotations: Value| json!({"kind": "Job", "metadata": {"name": "j", "annotations": annotations}, "spec": {"template": {}}});
        let asked = job(json!({"flowcar.io/inject": "enabled"}));
        let copy = copy_opt_in(
            &asked,
            Some(&job(json!({}))),
            &Map::new(),
            &Settings::default(),
        );
        assert!(copy.patch.0.is_empty());
        assert_eq!(copy.warnings().len(), 1);
        assert!(
            copy_opt_in(&asked, Some(&asked), &Map::new(), &Settings::default())
                .warnings()
                .is_empty()
        );
    }

    #[test]
    fn invalid_workload_annotation_warns_at_the_workload() {
        let object = deployment(
            json!({"flowcar.io/inject": "yes", "flowcar.io/pear": "x"}),
            json!({}),
        );
        let copy = copy_opt_in(&object, None, &Map::new(), &Settings::default());
        assert!(copy.patch.0.is_empty());
        assert_eq!(
            copy.warnings(),
            [
                "flowcar.io/pear: unknown, ignored; did you mean flowcar.io/peer?",
                r#"flowcar.io/inject="yes": ignored; expected enabled | disabled"#,
            ]
        );
        // Where the namespace injects, an invalid value is copied, as it injects nothing.
        let labels = Map::from_iter([("flowcar.io/inject".to_owned(), json!("enabled"))]);
        let copy = copy_opt_in(&object, None, &labels, &Settings::default());
        let mut written = object;
        json_patch::patch(&mut written, &copy.patch).expect("the patch applies");
        assert_eq!(template(&written)["flowcar.io/inject"], "yes");
    }

    #[test]
    fn generated_name_keeps_annotations_and_rolls_nothing() {
        let mut object = deployment(json!({"flowcar.io/inject": "enabled"}), json!({}));
        object["metadata"]["name"] = Value::Null;
        object["metadata"]["generateName"] = json!("web-");
        let mut once = written(&object);
        let mark = &template(&once)["flowcar.io/workload"];
        assert_eq!(mark, "Deployment/web-");
        once["metadata"]["name"] = json!("web-x7k2p");
        assert_eq!(written(&once), once, "pods stay as they are");
        assert_eq!(
            pod_annotations(&object)["flowcar.io/workload"],
            "Deployment/web-"
        );
        let mut nameless = object;
        nameless["metadata"] = json!({"annotations": {"flowcar.io/inject": "enabled"}});
        assert_eq!(written(&nameless), nameless);
    }

    #[test]
    fn annotations_of_a_job_template_count_as_in_the_jobs_made_of_it() {
        let own = json!({"flowcar.io/inject": "enabled", "flowcar.io/peer": "auto"});
        let cron_job = json!({"kind": "CronJob", "metadata": {"name": "n", "annotations": {"flowcar.io/peer": "none"}},
            "spec": {"jobTemplate": {"metadata": {"annotations": own}, "spec": {"template": {}}}}});
        let before = pod_annotations(&cron_job);
        let job = json!({"kind": "Job", "metadata": {"name": "n-29000000", "annotations": own},
            "spec": written(&cron_job)["spec"]["jobTemplate"]["spec"]});
        let pods = written(&job)["spec"]["template"]["metadata"]["annotations"].clone();
        let expected = json!({"flowcar.io/peer": "none", "flowcar.io/inject": "enabled"});
        assert_eq!(Value::Object(before), expected);
        assert_eq!(
            [&pods["flowcar.io/peer"], &pods["flowcar.io/inject"]],
            ["none", "enabled"]
        );
    }

    #[test]
    fn annotations_too_large_for_the_template_are_not_copied() {
        let large = "x".repeat(260_000);
        let object = deployment(json!({"flowcar.io/inject": "enabled"}), json!({"a": large}));
        let copy = copy_opt_in(&object, None, &Map::new(), &Settings::default());
        assert!(copy.patch.0.is_empty());
        assert!(
            copy.warnings()[0].contains("do not fit"),
            "{:?}",
            copy.warnings()
        );
    }

    #[test]
    fn only_copied_annotations_apply_to_pods() {
        let own = json!({"flowcar.io/peer": "none", "flowcar.io/pear": "x", "flowcar.io/status": "{}", "team": "a"});
        let mut object = deployment(own, json!({}));
        let message = pod_annotations(&object);
        assert_eq!(
            Value::Object(message),
            json!({"flowcar.io/peer": "none", "flowcar.io/pear": "x"})
        );
        object["kind"] = json!("ReplicaSet");
        assert!(pod_annotations(&object).is_empty());
    }
}
