//! Which volumes keep a node from being drained, and how flowcar's do not.
//!
//! `kubectl drain` refuses a pod with an `emptyDir` (`k8s.io/kubectl/pkg/drain/filters.go`), so flowcar adds none. The
//! cluster autoscaler counts a `hostPath`, too, unless the pod's annotation names the volume
//! (`isLocalVolume` and `getNonBlockingVolumes` in `cluster-autoscaler/utils/drain/drain.go`).

use serde_json::Value;

use super::view;

/// Volumes that the cluster autoscaler ignores, by name, separated by commas.
pub(super) const SAFE_LOCAL_VOLUMES: &str =
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

/// The names of the volumes that block the autoscaler.
pub(super) fn local_names(volumes: &[Value]) -> impl Iterator<Item = String> {
    volumes
        .iter()
        .filter(|volume| volume.get("hostPath").is_some())
        .filter_map(|volume| view::text(volume, "/name").map(str::to_owned))
}

/// Those of the volumes that the annotation does not name yet; none where its value is no text.
pub(super) fn missing(own: Option<&Value>, volumes: Vec<String>) -> Vec<String> {
    let named: Vec<_> = match own {
        None => Vec::new(),
        Some(Value::String(own)) => own.split(',').collect(),
        Some(_) => return Vec::new(),
    };
    let is_missing = |name: &String| !named.contains(&name.as_str());
    volumes.into_iter().filter(is_missing).collect()
}

/// The annotation's value with these volumes behind the application's own.
pub(super) fn with(own: &str, volumes: &[String]) -> String {
    let own = (!own.is_empty()).then_some(own);
    let names = own
        .into_iter()
        .chain(volumes.iter().map(String::as_str))
        .collect::<Vec<_>>();
    names.join(",")
}

/// Undoes that: the value without these volumes.
pub(super) fn without(value: &str, volumes: &[String]) -> String {
    let mut names: Vec<_> = value.split(',').collect();
    for volume in volumes {
        if let Some(at) = names.iter().rposition(|name| name == volume) {
            names.remove(at);
        }
    }
    names.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{missing, with, without};

    #[test]
    fn applications_value_is_kept_and_restored() {
        let ours = ["a".to_owned(), "b".to_owned()];
        for (own, merged) in [
            ("", "a,b"),
            ("x", "x,a,b"),
            ("x,", "x,,a,b"),
            ("xa", "xa,a,b"),
        ] {
            assert_eq!(missing(Some(&json!(own)), ours.to_vec()), ours);
            assert_eq!(with(own, &ours), merged);
            assert_eq!(without(merged, &ours), own);
        }
        assert_eq!(missing(None, ours.to_vec()), ours);
        assert_eq!(missing(Some(&json!("b,x")), ours.to_vec()), ["a"]);
        assert!(missing(Some(&json!(7)), ours.to_vec()).is_empty());
        assert_eq!(without("a,b,later", &ours), "later");
    }
}
