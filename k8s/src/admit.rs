//! Admission, pure: the bytes of an AdmissionReview in, the answer and its Event out.
//!
//! An answer always allows, except in strict mode, and always echoes the request's uid. A malformed review is answered
//! too.

use json_patch::Patch;
use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    budget::Budgets,
    config::Settings,
    inject::{Context, Decision, inject_within},
    workload::{copy_opt_in, template_pointer},
};

/// A parsed request.
#[derive(Clone, Debug)]
pub struct Request {
    uid: String,
    /// No side effect may follow: no Event is created.
    pub dry_run: bool,
    /// The namespace of the object.
    pub namespace: String,
    kind: String,
    object: Value,
    old_object: Option<Value>,
}

/// A body that is no review of a pod or workload.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    uid: String,
    reason: String,
}

/// What is known about the cluster when a review is answered.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The labels of the request's namespace.
    pub namespace_labels: Map<String, Value>,
    /// What the namespace lets its pods ask for.
    pub budgets: Budgets,
    /// flowcar's own namespace.
    pub own_namespace: String,
    /// Whether the cluster runs native sidecars.
    pub native_sidecar: bool,
}

/// An answer, with its reasons and its Event.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The AdmissionReview to send back.
    pub review: Value,
    /// The decision, as a metric attribute.
    pub decision: &'static str,
    /// The reason of a skip and of each invalid annotation, as metric attributes.
    pub reasons: Vec<&'static str>,
    /// The Event to create; `None` on a dry run.
    pub events: Vec<PendingEvent>,
}

/// An Event that is not created yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingEvent {
    /// The object: the pod's controller, as the pod has neither a name nor a uid yet; else the object itself.
    pub regarding: Regarding,
    /// CamelCase, as Kubernetes wants it.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// The object of an Event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of Kubernetes' ObjectReference")]
pub struct Regarding {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
}

// === impl Request ===

impl Request {
    /// Reads the body of a review.
    ///
    /// # Errors
    /// [`Malformed`], which [`Malformed::answer`] turns into an answer.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut review: Value =
            serde_json::from_slice(body).map_err(|error| Malformed::of(body, &error))?;
        let uid = review
            .pointer("/request/uid")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let text = |pointer: &str| {
            review
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let malformed = |reason: &str| Malformed {
            uid: uid.clone(),
            reason: reason.to_owned(),
        };
        if text("/apiVersion") != "admission.k8s.io/v1" || text("/kind") != "AdmissionReview" {
            return Err(malformed(
                "the body is no admission.k8s.io/v1 AdmissionReview",
            ));
        }
        if uid.is_empty() {
            return Err(malformed("the review has no request.uid"));
        }
        let kind = text("/request/kind/kind");
        if template_pointer(&kind).is_none() {
            return Err(malformed("the review is of neither a pod nor a workload"));
        }
        let namespace = text("/request/namespace");
        let dry_run = review
            .pointer("/request/dryRun")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let mut take = |pointer: &str| {
            review
                .pointer_mut(pointer)
                .map(Value::take)
                .filter(Value::is_object)
        };
        let old_object = take("/request/oldObject");
        let object =
            take("/request/object").ok_or_else(|| malformed("the review has no request.object"))?;
        Ok(Self {
            uid,
            dry_run,
            namespace,
            kind,
            object,
            old_object,
        })
    }

    /// Answers the review.
    #[must_use]
    pub fn answer(mut self, cluster: Cluster, settings: &Settings) -> Answer {
        if self.kind == "Pod" {
            return self.answer_pod(cluster, settings);
        }
        // An object inside a review may lack its kind: the request has it.
        self.object["kind"] = json!(self.kind);
        let copy = copy_opt_in(
            &self.object,
            self.old_object.as_ref(),
            &cluster.namespace_labels,
            settings,
        );
        let decision = if copy.patch.0.is_empty() {
            "unchanged"
        } else {
            "copied"
        };
        let reasons = copy
            .problems
            .iter()
            .map(crate::annotations::Problem::reason)
            .collect();
        let denied = (settings.config.strict && !copy.problems.is_empty())
            .then(|| copy.warnings().join("; "));
        let decision = if denied.is_some() { "denied" } else { decision };
        self.finish(decision, reasons, &copy.patch, &copy.warnings(), denied)
    }

    fn answer_pod(self, cluster: Cluster, settings: &Settings) -> Answer {
        let context = Context {
            namespace: self.namespace.clone(),
            namespace_labels: cluster.namespace_labels,
            own_namespace: cluster.own_namespace,
            native_sidecar: cluster.native_sidecar,
            workload: None,
            workload_annotations: Map::new(),
            opted_in: false,
        };
        let outcome = inject_within(&self.object, &context, settings, &cluster.budgets);
        let mut reasons: Vec<_> = outcome
            .problems
            .iter()
            .map(crate::annotations::Problem::reason)
            .collect();
        let decision = match &outcome.decision {
            Decision::Injected(_) => "injected",
            Decision::AlreadyInjected { .. } => "already_injected",
            Decision::NotOptedIn(_) => "not_opted_in",
            Decision::Denied => "denied",
            Decision::Skipped(skip) => {
                reasons.push(skip.reason());
                "skipped"
            }
        };
        let denied = (outcome.decision == Decision::Denied).then(|| outcome.warnings().join("; "));
        self.finish(
            decision,
            reasons,
            &outcome.patch,
            &outcome.warnings(),
            denied,
        )
    }

    fn finish(
        self,
        decision: &'static str,
        reasons: Vec<&'static str>,
        patch: &Patch,
        warnings: &[String],
        denied: Option<String>,
    ) -> Answer {
        let mut response = json!({
            "uid": self.uid, "allowed": denied.is_none(), "auditAnnotations": { "decision": decision },
        });
        if let Some(message) = denied {
            response["status"] =
                json!({ "code": 400, "message": format!("flowcar, in strict mode: {message}") });
        } else if !patch.0.is_empty() {
            let bytes = serde_json::to_vec(patch).expect("a patch of JSON values serialises");
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(ByteString(bytes));
        }
        if !warnings.is_empty() {
            response["warnings"] = json!(warnings);
        }
        let events = if self.dry_run {
            Vec::new()
        } else {
            self.events(decision, warnings)
        };
        Answer {
            review: review(&response),
            decision,
            reasons,
            events,
        }
    }

    fn events(&self, decision: &str, warnings: &[String]) -> Vec<PendingEvent> {
        let reason = match decision {
            "skipped" => "FlowcarNotInjected",
            "denied" => "FlowcarDenied",
            _ => "FlowcarAnnotation",
        };
        let Some(regarding) = self.regarding().filter(|_| !warnings.is_empty()) else {
            return Vec::new();
        };
        vec![PendingEvent {
            regarding,
            reason,
            message: warnings.join("; "),
        }]
    }

    fn regarding(&self) -> Option<Regarding> {
        let owners = self
            .object
            .pointer("/metadata/ownerReferences")
            .and_then(Value::as_array);
        let controller = owners
            .into_iter()
            .flatten()
            .find(|owner| owner["controller"] == true);
        let text = |value: &Value, field: &str| {
            value.get(field).and_then(Value::as_str).map(str::to_owned)
        };
        let (api_version, kind, from) = match controller {
            Some(owner) => (text(owner, "apiVersion")?, text(owner, "kind")?, owner),
            None => {
                let api_version =
                    text(&self.object, "apiVersion").unwrap_or_else(|| "v1".to_owned());
                (api_version, self.kind.clone(), self.object.get("metadata")?)
            }
        };
        // A pod without an owner may have no name yet, only its start (`generateName`).
        let start = || {
            let start = text(from, "generateName")?;
            Some(start.trim_end_matches(['-', '.']).to_owned())
        };
        Some(Regarding {
            api_version,
            kind,
            namespace: self.namespace.clone(),
            name: text(from, "name").or_else(start)?,
            uid: text(from, "uid"),
        })
    }
}

/// As much of a review as an answer needs. Whatever else is in it is skipped, however deep it is: the parser
/// does not recurse into what it skips.
#[derive(Deserialize)]
struct Outline {
    request: OutlineRequest,
}

#[derive(Deserialize)]
struct OutlineRequest {
    uid: String,
}

// === impl Malformed ===

impl Malformed {
    /// An answer to a body that the parser refused. The API server ignores an answer without the request's uid, and
    /// with it the warning.
    fn of(body: &[u8], error: &serde_json::Error) -> Self {
        // The library has no name for it.
        let is_too_deep = error.to_string().starts_with("recursion limit");
        let outline = is_too_deep.then(|| serde_json::from_slice::<Outline>(body));
        match outline {
            Some(Ok(outline)) => Self {
                uid: outline.request.uid,
                reason: format!("not injected: the review is nested too deeply: {error}"),
            },
            _ => Self {
                uid: String::new(),
                reason: format!("the review is not JSON: {error}"),
            },
        }
    }

    /// An answer that allows the object: an unreadable review must block nothing.
    #[must_use]
    pub fn answer(self) -> Answer {
        let warning = crate::text::clip(
            &format!("flowcar: {}", self.reason),
            crate::text::WARNING_CHARS,
        );
        let response = json!({ "uid": self.uid, "allowed": true, "warnings": [warning] });
        Answer {
            review: review(&response),
            decision: "malformed",
            reasons: Vec::new(),
            events: Vec::new(),
        }
    }
}

fn review(response: &Value) -> Value {
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::{Answer, Budgets, Cluster, Request};
    use crate::config::{Config, Settings};

    fn cluster() -> Cluster {
        Cluster {
            namespace_labels: Map::new(),
            budgets: Budgets::default(),
            own_namespace: "flowcar-system".to_owned(),
            native_sidecar: true,
        }
    }

    fn review(kind: &str, object: &Value) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u-1", "kind": {"kind": kind}, "namespace": "shop", "operation": "CREATE", "object": object},
        })
    }

    fn pod(annotations: Value) -> Value {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": true});
        json!({
            "metadata": {"generateName": "web-1-", "annotations": annotations, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "app"}]},
        })
    }

    fn answer(review: &Value, settings: &Settings) -> Answer {
        answer_bytes(review.to_string().as_bytes(), settings)
    }

    fn answer_bytes(body: &[u8], settings: &Settings) -> Answer {
        match Request::decode(body) {
            Ok(request) => request.answer(cluster(), settings),
            Err(malformed) => malformed.answer(),
        }
    }

    /// The patch of a response, decoded without our own code.
    fn patch_of(answer: &Answer) -> json_patch::Patch {
        let response = &answer.review["response"];
        assert_eq!(response["patchType"], "JSONPatch");
        let bytes: k8s_openapi::ByteString =
            serde_json::from_value(response["patch"].clone()).expect("base64");
        serde_json::from_slice(&bytes.0).expect("a JSON patch")
    }

    #[test]
    fn an_opted_in_pod_is_patched_under_its_uid() {
        let pod = pod(json!({"flowcar.io/inject": "enabled"}));
        let answer = answer(&review("Pod", &pod), &Settings::default());
        assert_eq!(answer.review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer.review["response"]["uid"], "u-1");
        assert_eq!(answer.review["response"]["allowed"], true);
        let mut patched = pod;
        json_patch::patch(&mut patched, &patch_of(&answer)).expect("applies");
        assert_eq!(patched["spec"]["initContainers"][0]["name"], "flowcar");
        assert_eq!((answer.decision, answer.events.len()), ("injected", 0));
    }

    #[test]
    fn pod_without_opt_in_gets_no_patch() {
        let answer = answer(&review("Pod", &pod(json!({}))), &Settings::default());
        assert_eq!(answer.review["response"].get("patch"), None);
        assert_eq!(
            answer.review["response"].get("patchType"),
            None,
            "the API server refuses a type without a patch"
        );
    }

    #[test]
    fn opt_in_is_copied_into_the_template() {
        let object = json!({
            "metadata": {"name": "web", "annotations": {"flowcar.io/inject": "enabled"}}, "spec": {"template": {}},
        });
        let answer = answer(&review("Deployment", &object), &Settings::default());
        let mut patched = object;
        json_patch::patch(&mut patched, &patch_of(&answer)).expect("applies");
        assert_eq!(
            patched["spec"]["template"]["metadata"]["annotations"]["flowcar.io/inject"],
            "enabled"
        );
        assert_eq!(answer.decision, "copied");
    }

    #[test]
    fn invalid_annotation_makes_an_event_except_on_dry_run() {
        let mut review = review(
            "Pod",
            &pod(json!({"flowcar.io/inject": "enabled", "flowcar.io/pear": "x"})),
        );
        let reported = answer(&review, &Settings::default());
        assert_eq!(reported.reasons, ["unknown_annotation"]);
        let event = &reported.events[0];
        assert_eq!(
            (event.regarding.kind.as_str(), event.regarding.name.as_str()),
            ("ReplicaSet", "web-1")
        );
        assert_eq!(reported.review["response"]["warnings"][0], event.message);
        review["request"]["dryRun"] = json!(true);
        let dry = answer(&review, &Settings::default());
        assert_eq!(dry.review, reported.review);
        assert!(dry.events.is_empty());
    }

    #[test]
    fn strict_mode_denial_lists_every_error() {
        let strict = Config {
            strict: true,
            ..Config::default()
        }
        .check()
        .expect("valid");
        let pod = pod(
            json!({"flowcar.io/inject": "enabled", "flowcar.io/pear": "x", "flowcar.io/peer": "y"}),
        );
        let answer = answer(&review("Pod", &pod), &strict);
        assert_eq!(answer.review["response"]["allowed"], false);
        let message = answer.review["response"]["status"]["message"]
            .as_str()
            .expect("a message");
        assert!(
            message.contains("flowcar.io/pear") && message.contains("flowcar.io/peer=\"y\""),
            "{message}"
        );
        assert_eq!(answer.events[0].reason, "FlowcarDenied");
    }

    #[test]
    fn malformed_review_is_answered_with_its_uid() {
        let no_object = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u-2", "kind": {"kind": "Pod"}},
        });
        let mut beta = review("Pod", &pod(json!({})));
        beta["apiVersion"] = json!("admission.k8s.io/v1beta1");
        for (body, uid) in [
            (b"".to_vec(), ""),
            (b"{".to_vec(), ""),
            (b"[]".to_vec(), ""),
            (vec![0xff; 9], ""),
            (no_object.to_string().into_bytes(), "u-2"),
            (beta.to_string().into_bytes(), "u-1"),
            (
                review("Service", &json!({})).to_string().into_bytes(),
                "u-1",
            ),
        ] {
            let answer = answer_bytes(&body, &Settings::default());
            let response = &answer.review["response"];
            assert_eq!(
                (&response["uid"], &response["allowed"]),
                (&json!(uid), &json!(true))
            );
            assert_eq!(answer.decision, "malformed");
            assert!(
                response["warnings"][0]
                    .as_str()
                    .expect("a warning")
                    .chars()
                    .count()
                    <= 120
            );
        }
    }

    /// 127 levels can be read (serde_json's limit); one more is as good as thousands.
    #[test]
    fn too_deep_review_is_allowed_with_a_warning() {
        let review_of = |levels: usize| {
            let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let pod = pod(json!({"flowcar.io/inject": "enabled"}));
            let review = review("Pod", &pod).to_string();
            review.replacen("\"spec\":{", &format!("\"spec\":{{\"deep\":{deep},"), 1)
        };
        // The review, the request, the object and its spec are levels too.
        let read = answer_bytes(review_of(123).as_bytes(), &Settings::default());
        assert_eq!(read.decision, "injected");
        for levels in [124, 128, 5_000, 500_000] {
            let answer = answer_bytes(review_of(levels).as_bytes(), &Settings::default());
            let response = &answer.review["response"];
            assert_eq!(response["uid"], "u-1", "{levels}");
            assert_eq!(response["allowed"], true);
            assert_eq!(response.get("patch"), None);
            let warning = response["warnings"][0].as_str().expect("a warning");
            assert!(warning.starts_with("flowcar: not injected: the review is nested too deeply"));
            assert_eq!(answer.decision, "malformed");
        }
    }

    proptest! {
        /// Any bytes, and any mutation of a valid review, get an answer that allows.
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..400_usize, byte: u8) {
            let mut valid = review("Pod", &pod(json!({"flowcar.io/inject": "enabled"}))).to_string().into_bytes();
            let at = at % valid.len();
            valid[at] = byte;
            for body in [bytes, valid] {
                let answer = answer_bytes(&body, &Settings::default());
                prop_assert_eq!(&answer.review["response"]["allowed"], &json!(true));
                prop_assert!(answer.review["response"]["uid"].is_string());
            }
        }
    }
}
