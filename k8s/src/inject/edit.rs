//! The patch: `add` operations only, each valid after the one before it.

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::{Map, Value, json};

use super::{evict, form::Form, pull_secrets, skip::Skip, status::Status, view};
use crate::{
    annotations::STATUS,
    config::{Settings, VERSION},
};

/// The most that the API server takes of annotations, names and values together, in bytes
/// (`TotalAnnotationSizeLimitB` in `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).
const ANNOTATIONS_LIMIT: usize = 256 << 10;

/// The most that a pod's annotations may have before flowcar adds to them, in bytes: flowcar's own take less than a
/// kibibyte, and webhooks that come later add some, too.
pub(crate) const ANNOTATIONS_MOST: usize = ANNOTATIONS_LIMIT - (8 << 10);

/// What annotations take, as the API server counts them, in bytes.
pub(crate) fn annotations_size(annotations: &Map<String, Value>) -> usize {
    let of = |(name, value): (&String, &Value)| name.len() + value.as_str().map_or(0, str::len);
    annotations.iter().map(of).sum()
}

/// Collects operations, and what undoing them needs.
struct Edit<'a> {
    pod: &'a Value,
    operations: Vec<PatchOperation>,
    absent: Vec<String>,
    null: Vec<String>,
}

/// Where in a list an item goes.
enum Position {
    First,
    Last,
}

/// Adds the container, its volumes and the status.
pub(super) fn add_sidecar(
    pod: &Value,
    container: Value,
    volumes: Vec<Value>,
    secrets: Vec<String>,
    form: Form,
    settings: &Settings,
) -> Patch {
    let mut edit = Edit::new(pod);
    let names = volumes
        .iter()
        .filter_map(|volume| view::text(volume, "/name").map(str::to_owned))
        .collect();
    if form.native {
        edit.insert("/spec/initContainers", vec![container], &Position::First);
    } else {
        edit.insert("/spec/containers", vec![container], &Position::Last);
    }
    let local = evict::local_names(&volumes).collect();
    edit.insert("/spec/volumes", volumes, &Position::Last);
    if !secrets.is_empty() {
        let items = pull_secrets::items(&secrets);
        edit.insert(pull_secrets::LIST, items, &Position::Last);
    }
    let evictable = edit.keep_evictable(local);
    edit.set_status(|absent, null| Status::Injected {
        version: VERSION.to_owned(),
        config: settings.hash.clone(),
        form: if form.ebpf { "ebpf" } else { "inet_diag" }.to_owned(),
        volumes: names,
        secrets,
        evictable,
        absent,
        null,
    });
    Patch(edit.operations)
}

/// Most that a status takes besides its message, in bytes.
const STATUS_FRAME: usize = 512;

/// Writes to the pod's status annotation why the pod has no sidecar. A pod that is malformed, or that already has the same status, stays
/// as it is.
pub(super) fn mark_skipped(pod: &Value, skip: &Skip) -> Patch {
    let unfit = matches!(skip, Skip::Malformed { .. });
    let status = Status::read(view::annotations(pod));
    let sentence = skip.to_string();
    // The message names the annotations' size, which the message itself changes.
    let is_counting = matches!(skip, Skip::AnnotationsFull { .. });
    let same = matches!(&status, Some(Status::Skipped { skipped, message, .. })
        if skipped == skip.reason() && (is_counting || *message == sentence));
    let not_object = |pointer| {
        pod.pointer(pointer)
            .is_some_and(|v: &Value| !v.is_null() && !v.is_object())
    };
    let message = sentence;
    let size = annotations_size(view::annotations(pod)) + STATUS.len() + message.len();
    let is_full = size > ANNOTATIONS_LIMIT - STATUS_FRAME;
    if unfit
        || same
        || is_full
        || not_object("/metadata")
        || not_object("/metadata/annotations")
        || !pod.is_object()
    {
        return Patch(Vec::new());
    }
    let mut edit = Edit::new(pod);
    edit.set_status(|absent, null| Status::Skipped {
        skipped: skip.reason().to_owned(),
        message,
        absent,
        null,
    });
    Patch(edit.operations)
}

// === impl Edit ===

impl<'a> Edit<'a> {
    fn new(pod: &'a Value) -> Self {
        Self {
            pod,
            operations: Vec::new(),
            absent: Vec::new(),
            null: Vec::new(),
        }
    }

    fn add(&mut self, path: &str, value: Value) {
        let path = PointerBuf::parse(path).expect("paths are constants and escaped names");
        self.operations
            .push(PatchOperation::Add(AddOperation { path, value }));
    }

    /// Puts items into a list, which is made where it is absent or null.
    fn insert(&mut self, list: &str, items: Vec<Value>, position: &Position) {
        if self.make(list, Value::Array(items.clone())) {
            return;
        }
        for item in items {
            let path = match position {
                Position::First => format!("{list}/0"),
                Position::Last => format!("{list}/-"),
            };
            self.add(&path, item);
        }
    }

    /// Adds a whole field where it is absent or null, and remembers which; false where it exists.
    fn make(&mut self, field: &str, value: Value) -> bool {
        if self.is_made(field) {
            return false;
        }
        match self.pod.pointer(field) {
            None => self.absent.push(field.to_owned()),
            Some(Value::Null) => self.null.push(field.to_owned()),
            Some(_) => return false,
        }
        self.add(field, value);
        true
    }

    /// Declares to the cluster autoscaler that these volumes hold nothing which a move to another node would lose.
    /// Returns those that were not declared before.
    fn keep_evictable(&mut self, volumes: Vec<String>) -> Vec<String> {
        let annotations = view::annotations(self.pod);
        let own = annotations.get(evict::SAFE_LOCAL_VOLUMES);
        let missing = evict::missing(own, volumes);
        if missing.is_empty() {
            return missing;
        }
        self.make_annotations();
        if own.is_none() {
            self.absent.push(annotation(evict::SAFE_LOCAL_VOLUMES));
        }
        let own = own.and_then(Value::as_str).unwrap_or_default();
        let value = evict::with(own, &missing);
        self.add(&annotation(evict::SAFE_LOCAL_VOLUMES), json!(value));
        missing
    }

    fn make_annotations(&mut self) {
        self.make("/metadata", json!({}));
        self.make("/metadata/annotations", json!({}));
    }

    fn is_made(&self, field: &str) -> bool {
        self.absent
            .iter()
            .chain(&self.null)
            .any(|made| made == field)
    }

    /// Writes the status annotation last, when all that undoing needs is known.
    fn set_status(&mut self, status: impl FnOnce(Vec<String>, Vec<String>) -> Status) {
        self.make_annotations();
        let status = status(self.absent.clone(), self.null.clone());
        self.add(&annotation(STATUS), json!(status.to_text()));
    }
}

/// The JSON pointer of an annotation.
fn annotation(name: &str) -> String {
    let key = name.replace('~', "~0").replace('/', "~1");
    format!("/metadata/annotations/{key}")
}
