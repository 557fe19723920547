use serde_json::json;

use super::*;

#[test]
fn pods_are_selected_as_their_workload_selects_them() {
    let of = |object: Value| Selection::of(&object).map_err(|error| error.to_string());
    let labels = |text: &str| Ok(Selection::Labels(text.to_owned()));
    let spec = |kind: &str, selector: Value| json!({"kind": kind, "spec": {"selector": selector}});
    let web = json!({"matchLabels": {"app": "web", "tier": "front"}});
    let some =
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]});
    assert_eq!(of(spec("Deployment", web)), labels("app=web,tier=front"));
    assert_eq!(of(spec("Rollout", some)), labels("app in (a,b)"));
    let plain = json!({"app": "web"});
    assert_eq!(of(spec("ReplicationController", plain)), labels("app=web"));
    let pod = json!({"kind": "Pod", "metadata": {"name": "web-1"}});
    assert_eq!(of(pod), Ok(Selection::Name("web-1".to_owned())));
    let cron = json!({"kind": "CronJob", "metadata": {"uid": "u"}, "spec": {}});
    assert_eq!(of(cron), Ok(Selection::CronJob("u".to_owned())));
    // None that would not select all.
    for selector in [
        json!(null),
        json!({}),
        json!({"matchLabels": {}}),
        json!("app"),
    ] {
        assert!(
            of(spec("Deployment", selector.clone())).is_err(),
            "{selector}"
        );
    }
}

#[test]
fn pods_of_a_cron_job_are_those_of_its_jobs() {
    let job = |name: &str, owner: &str| -> Job {
        let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "x", "uid": owner});
        let metadata = json!({"name": name, "ownerReferences": [owner]});
        serde_json::from_value(json!({"metadata": metadata})).expect("a Job")
    };
    let jobs = [job("a-1", "u"), job("b-1", "other"), job("a-2", "u")];
    let labels = of_jobs(&jobs, "u").expect("two Jobs");
    assert_eq!(labels, "batch.kubernetes.io/job-name in (a-1,a-2)");
    assert_eq!(of_jobs(&jobs, "none"), None);
}

/// A pod with these containers, of which the sidecar is in this state.
fn pod(name: &str, phase: &str, native: bool, has_sidecar: bool, state: Value) -> Pod {
    let sidecar = |is_here: bool| match has_sidecar && is_here {
        true => json!([{"name": "flowcar"}]),
        false => json!([]),
    };
    let mut containers = sidecar(!native);
    containers
        .as_array_mut()
        .expect("a list")
        .push(json!({"name": "app"}));
    let (list, statuses) = match native {
        true => ("initContainerStatuses", "containerStatuses"),
        false => ("containerStatuses", "initContainerStatuses"),
    };
    let status = json!({"name": "flowcar", "ready": true, "restartCount": 0, "image": "i", "imageID": "i", "state": state});
    let pod = json!({
        "metadata": {"name": name, "uid": "u"},
        "spec": {"containers": containers, "initContainers": sidecar(native)},
        "status": {"phase": phase, list: [status], statuses: []},
    });
    serde_json::from_value(pod).expect("a pod")
}

#[test]
fn pods_without_a_sidecar_that_runs_are_counted() {
    let running = || json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let found = Found::among(&[
        pod("b", "Running", true, true, running()),
        pod("a", "Running", false, true, running()),
        pod("c", "Running", true, true, waiting()),
        pod("d", "Pending", true, true, json!({})),
        // A native sidecar runs before the other containers do.
        pod("e", "Pending", true, true, running()),
        pod("f", "Running", true, false, json!({})),
        pod("g", "Succeeded", false, true, running()),
        pod("h", "Failed", false, false, json!({})),
    ]);
    assert_eq!(found.running, ["a", "b", "e"]);
    assert_eq!((found.waiting, found.without), (2, 1));
    assert!(found.check("deployment/web", "shop").is_ok());
    let notes = found.notes("deployment/web -n shop");
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].starts_with(
            "1 of 6 pods without a sidecar: kubectl flowcar explain deployment/web -n shop"
        ),
        "{notes:?}"
    );
}

#[test]
fn nothing_to_show_is_explained() {
    let found = |waiting, without| Found {
        waiting,
        without,
        ..Found::default()
    };
    for (found, expected) in [
        (
            found(0, 0),
            "has no pod that runs in namespace shop: kubectl describe",
        ),
        (
            found(0, 3),
            "no sidecar: 3 pods of deployment/web, and none has one: kubectl flowcar explain",
        ),
        (
            found(1, 3),
            "no sidecar of deployment/web runs yet (1 sidecar of 4 pods)",
        ),
    ] {
        let error = found.check("deployment/web", "shop").expect_err("nothing");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let many = Found {
        running: (0..MOST + 5).map(|number| number.to_string()).collect(),
        unlisted: 7,
        ..Found::default()
    };
    let notes = many.notes("deployment/web");
    assert!(
        notes[0].starts_with("12 of 112 pods are left out"),
        "{notes:?}"
    );
}
