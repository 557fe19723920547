//! The patch: `add` operations only, each valid after the one before it.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use serde_json::{Value, json};

use super::decide::{Form, Skip};
use super::status::Status;
use super::{pull_secrets, view};
use crate::annotations::STATUS;
use crate::config::{Settings, VERSION};

/// Collects operations, and what the way back needs to know.
struct Edit<'a> {
    pod: &'a Value,
    operations: Vec<PatchOperation>,
    absent: Vec<String>,
    null: Vec<String>,
}

/// Where in a list an item goes.
enum Place {
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
        edit.insert("/spec/initContainers", vec![container], &Place::First);
    } else {
        edit.insert("/spec/containers", vec![container], &Place::Last);
    }
    edit.insert("/spec/volumes", volumes, &Place::Last);
    if !secrets.is_empty() {
        let items = pull_secrets::items(&secrets);
        edit.insert(pull_secrets::LIST, items, &Place::Last);
    }
    edit.set_status(|absent, null| Status::Injected {
        version: VERSION.to_owned(),
        config: settings.hash.clone(),
        form: if form.ebpf { "ebpf" } else { "inet_diag" }.to_owned(),
        volumes: names,
        secrets,
        absent,
        null,
    });
    Patch(edit.operations)
}

/// Says on the pod why it has no sidecar. A pod that is not even shaped like one is left alone, and so is
/// one that already says the same.
pub(super) fn mark_skipped(pod: &Value, skip: &Skip) -> Patch {
    let unfit = matches!(skip, Skip::Malformed { .. });
    let said = Status::read(view::annotations(pod));
    let same = matches!(&said, Some(Status::Skipped { skipped, .. }) if skipped == skip.reason());
    let not_object = |pointer| {
        pod.pointer(pointer)
            .is_some_and(|v: &Value| !v.is_null() && !v.is_object())
    };
    if unfit
        || same
        || not_object("/metadata")
        || not_object("/metadata/annotations")
        || !pod.is_object()
    {
        return Patch(Vec::new());
    }
    let mut edit = Edit::new(pod);
    edit.set_status(|absent, null| Status::Skipped {
        skipped: skip.reason().to_owned(),
        message: skip.to_string(),
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
    fn insert(&mut self, list: &str, items: Vec<Value>, place: &Place) {
        if self.make(list, Value::Array(items.clone())) {
            return;
        }
        for item in items {
            let path = match place {
                Place::First => format!("{list}/0"),
                Place::Last => format!("{list}/-"),
            };
            self.add(&path, item);
        }
    }

    /// Adds a whole field where it is absent or null, and remembers which; false where it is there.
    fn make(&mut self, field: &str, value: Value) -> bool {
        match self.pod.pointer(field) {
            None => self.absent.push(field.to_owned()),
            Some(Value::Null) => self.null.push(field.to_owned()),
            Some(_) => return false,
        }
        self.add(field, value);
        true
    }

    /// Writes the status annotation last, when all that the way back needs is known.
    fn set_status(&mut self, status: impl FnOnce(Vec<String>, Vec<String>) -> Status) {
        self.make("/metadata", json!({}));
        if self
            .pod
            .pointer("/metadata/annotations")
            .is_none_or(Value::is_null)
        {
            self.make("/metadata/annotations", json!({}));
        }
        let status = status(self.absent.clone(), self.null.clone());
        let key = STATUS.replace('~', "~0").replace('/', "~1");
        self.add(
            &format!("/metadata/annotations/{key}"),
            json!(status.to_text()),
        );
    }
}
