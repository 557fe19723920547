//! Injection, pure: a pod as JSON in, an `add`-only JSON patch out.
//!
//! [`inject`] never fails and never blocks: it injects, or returns in one sentence why not. Fields that flowcar
//! does not know are never touched, and [`uninject()`] restores the very pod that came in.

mod container;
mod decide;
mod edit;
mod endpoint;
mod environment;
mod evict;
mod fit;
mod form;
mod owner;
mod placement;
mod preset;
mod pull_secrets;
mod resources;
mod sidecar;
mod skip;
mod status;
mod uninject;
mod view;
mod volumes;

use std::borrow::Cow;

pub use decide::NotOptedIn;
pub(crate) use decide::label_without_effect;
pub(crate) use edit::{ANNOTATIONS_MOST, annotations_size};
pub use form::Form;
use json_patch::Patch;
pub use owner::Owner;
use serde_json::{Map, Value};
pub use skip::Skip;
#[cfg(test)]
pub(crate) use skip::SkipKind;
pub use status::Status;
pub use uninject::{take_back_copies, uninject};
pub(crate) use view::has_container;

use crate::{
    annotations::{Overrides, Problem},
    budget::Budgets,
    config::{Level, Settings},
    text::{WARNING_CHARS, clip},
};

/// The name of the sidecar's container in every pod.
pub const CONTAINER: &str = "flowcar";

/// What is known about a pod besides its object.
#[derive(Clone, Debug)]
pub struct Context {
    /// The pod's namespace: `metadata.namespace` is empty while a pod is being created.
    pub namespace: String,
    /// The namespace's labels, and under the same names the defaults that its annotations set for its pods.
    pub namespace_labels: Map<String, Value>,
    /// flowcar's own namespace, which is never injected.
    pub own_namespace: String,
    /// Whether the cluster runs native sidecars.
    pub native_sidecar: bool,
    /// The workload, where the caller holds its manifest; else it is read from the owner references.
    pub workload: Option<Owner>,
    /// The workload's own annotations of flowcar, where they are not copied into the pod yet; the pod's own go
    /// before them.
    pub workload_annotations: Map<String, Value>,
    /// Treat a pod without an opt-in as opted in, as `kubectl flowcar inject` does.
    pub opted_in: bool,
}

/// The outcome for a pod.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// What to add to the pod; empty where nothing changes.
    pub patch: Patch,
    /// Problems in the annotations; their defaults hold.
    pub problems: Vec<Problem>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

/// Whether a pod gets the sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumDiscriminants))]
#[cfg_attr(
    test,
    strum_discriminants(vis(pub(crate)), name(DecisionKind), derive(strum::EnumIter))
)]
pub enum Decision {
    /// The patch adds it.
    Injected(Form),
    /// The pod has it already, by this or (`current` is false) another configuration.
    AlreadyInjected {
        /// The configuration is the one in force.
        current: bool,
    },
    /// The pod is not opted in.
    NotOptedIn(NotOptedIn),
    /// The pod is opted in and cannot have it.
    Skipped(Skip),
    /// Strict mode and an invalid annotation.
    Denied,
}

/// Whether the pod carries the sidecar that flowcar added: a status, and the container that it is about. Limits that the operator
/// set after it was added make no difference.
#[must_use]
pub fn has_sidecar(pod: &Value, settings: &Settings) -> bool {
    let status = Status::read(view::annotations(pod));
    let held = preset::Held::ToCommonRules;
    status.is_some_and(|status| preset::difference(pod, &status, None, settings, held).is_none())
        && volumes::mounted_elsewhere(pod).is_none()
}

/// Decides about one pod and works out the patch, in a namespace without LimitRanges and ResourceQuotas.
///
/// ```
/// use flowcar_k8s::{
///     config::Settings,
///     inject::{CONTAINER, Context, Decision, inject},
/// };
/// use serde_json::{Map, json};
///
/// let mut pod = json!({
///     "metadata": { "name": "web", "annotations": { "flowcar.io/inject": "enabled" } },
///     "spec": { "containers": [{ "name": "web", "image": "nginx" }] },
/// });
/// let context = Context {
///     namespace: "shop".to_owned(),
///     namespace_labels: Map::new(),
///     own_namespace: "flowcar".to_owned(),
///     native_sidecar: true,
///     workload: None,
///     workload_annotations: Map::new(),
///     opted_in: false,
/// };
/// let outcome = inject(&pod, &context, &Settings::default());
/// assert!(matches!(outcome.decision, Decision::Injected(_)));
/// json_patch::patch(&mut pod, &outcome.patch).expect("a patch of this pod");
/// assert_eq!(pod["spec"]["initContainers"][0]["name"], CONTAINER);
/// ```
#[must_use]
pub fn inject(pod: &Value, context: &Context, settings: &Settings) -> Outcome {
    inject_within(pod, context, settings, &Budgets::default())
}

/// Decides about one pod and works out the patch.
#[must_use]
pub fn inject_within(
    pod: &Value,
    context: &Context,
    settings: &Settings,
    budgets: &Budgets,
) -> Outcome {
    let annotations = &context.annotations(pod);
    let opted_in = decide::opted_in(annotations, context);
    if opted_in == Err(NotOptedIn::PodDisabled) {
        return Outcome::of(Decision::NotOptedIn(NotOptedIn::PodDisabled));
    }
    let (overrides, problems) = settings.overrides_in(&context.namespace_labels, annotations);
    if let Err(reason) = opted_in {
        return not_opted_in(pod, reason, problems, settings);
    }
    let skip = decide::skip(pod, annotations, context, settings, &overrides);
    let invalid_opt_in = skip
        .as_ref()
        .filter(|skip| matches!(skip, Skip::UnknownValue { .. }));
    if settings.config.strict && (invalid_opt_in.is_some() || !problems.is_empty()) {
        return Outcome {
            notes: invalid_opt_in.map(Skip::to_string).into_iter().collect(),
            problems,
            ..Outcome::of(Decision::Denied)
        };
    }
    if has_container(pod)
        && let Some(status) = Status::read(view::annotations(pod))
        && let Status::Injected { config, .. } = &status
    {
        let preset = decide::PresetIn {
            pod,
            status: &status,
            workload: context.workload.as_ref(),
            settings,
        };
        let preset = decide::preset(&preset, skip.as_ref(), budgets);
        let reserved = skip.filter(|skip| matches!(skip, Skip::ReservedMount { .. }));
        if let Some(skip) = reserved.or(preset) {
            return Outcome::skipped(pod, skip, problems);
        }
        let current = *config == settings.hash;
        return Outcome {
            problems,
            ..Outcome::of(Decision::AlreadyInjected { current })
        };
    }
    if let Some(skip) = skip {
        return Outcome::skipped(pod, skip, problems);
    }
    match add(pod, context, settings, budgets, overrides) {
        Ok(outcome) => Outcome {
            problems,
            ..outcome
        },
        Err(skip) => Outcome::skipped(pod, skip, problems),
    }
}

/// The outcome for a pod that is not opted in. A misspelling such as `flowcar.io/injcet` must be reported, though it opts nothing in.
fn not_opted_in(
    pod: &Value,
    reason: NotOptedIn,
    problems: Vec<Problem>,
    settings: &Settings,
) -> Outcome {
    let refused = settings.config.strict && !problems.is_empty();
    let decision = if refused {
        Decision::Denied
    } else {
        Decision::NotOptedIn(reason)
    };
    Outcome {
        problems,
        notes: mislabelled(pod, false).into_iter().collect(),
        ..Outcome::of(decision)
    }
}

/// Works out the patch that adds the sidecar, unless there is no room for it.
fn add(
    pod: &Value,
    context: &Context,
    settings: &Settings,
    budgets: &Budgets,
    overrides: Overrides,
) -> Result<Outcome, Skip> {
    let level = context.level(settings);
    let (form, mut notes) = decide::form(level, context.native_sidecar, &overrides);
    let overrides = endpoint::keep_reachable(overrides, pod, level, settings, &mut notes);
    notes.extend(decide::ineffective(&overrides, form));
    notes.extend(decide::exposed(&overrides));
    let sidecar = sidecar::Sidecar {
        pod,
        context,
        settings,
        overrides: &overrides,
        form,
    };
    let asked = resources::resources(pod, form.native, &overrides, settings, &mut notes);
    let mut container = sidecar.container(asked);
    let fitting = fit::Fitting {
        pod,
        native: form.native,
        budgets,
        overrides: &overrides,
        settings,
    };
    container["resources"] = fitting.fit(&container, &mut notes)?;
    notes.extend(settings.namespace_errors(&context.namespace_labels));
    notes.extend(mislabelled(pod, true));
    let secrets = pull_secrets::missing(pod, context, settings, &mut notes);
    Ok(Outcome {
        patch: edit::add_sidecar(pod, container, sidecar.volumes(), secrets, form, settings),
        notes,
        ..Outcome::of(Decision::Injected(form))
    })
}

fn mislabelled(pod: &Value, opted_in: bool) -> Option<String> {
    label_without_effect(pod.get("metadata")?, "a pod", opted_in)
}

// === impl Context ===

impl Context {
    /// What Pod Security enforces in the pod's namespace.
    fn level(&self, settings: &Settings) -> Level {
        Level::of_namespace(&self.namespace_labels, settings.config.pod_security_default)
    }

    /// The annotations of the pod, and of its workload.
    fn annotations<'a>(&self, pod: &'a Value) -> Cow<'a, Map<String, Value>> {
        let own = view::annotations(pod);
        if self.workload_annotations.is_empty() {
            return Cow::Borrowed(own);
        }
        let mut all = self.workload_annotations.clone();
        all.extend(own.clone());
        Cow::Owned(all)
    }
}

// === impl Outcome ===

impl Outcome {
    fn of(decision: Decision) -> Self {
        Self {
            decision,
            patch: Patch(Vec::new()),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn skipped(pod: &Value, skip: Skip, problems: Vec<Problem>) -> Self {
        Self {
            problems,
            patch: edit::mark_skipped(pod, &skip),
            ..Self::of(Decision::Skipped(skip))
        }
    }

    /// Every warning for the user, each within the length that clients show.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let skip = match &self.decision {
            Decision::Skipped(skip) => Some(format!("flowcar: not injected: {skip}")),
            _ => None,
        };
        let problems = self.problems.iter().map(ToString::to_string);
        let notes = self.notes.iter().map(|note| format!("flowcar: {note}"));
        skip.into_iter()
            .chain(problems)
            .chain(notes)
            .map(|text| clip(&text, WARNING_CHARS))
            .collect()
    }
}

#[cfg(test)]
mod tests;
