//! `kubectl flowcar check` where all is well, and when one thing after the other is broken.

use std::{collections::BTreeSet, sync::mpsc};

use flowcar_tests::{
    cluster::{SECRET, WEBHOOK, tools},
    peers::{Authority, PatchKind},
};
use serde_json::json;

use crate::testbed::{BROKEN, Stage};

/// With pods that it has to find all right.
pub(crate) fn passes(stage: &Stage) {
    let (ok, printed) = stage.kubectl_flowcar("shop", &["check"]);
    assert!(ok && !printed.contains("FAIL"), "{printed}");
}

/// The controller hangs, so that nothing is repaired, and each broken object is reported besides those before it. There are
/// two injected pods until `counted` is sent.
pub(crate) fn reports_what_is_broken(stage: &Stage, counted: &mpsc::Sender<()>) {
    let admin = stage.cluster.admin();
    let mut broken = Broken {
        stage,
        names: BTreeSet::new(),
    };
    stage.controller.process.pause();
    broken.is_reported("dry-run pod", "no answer from the webhook");

    let pod = tools::pod("missed", json!({"flowcar.io/inject": "enabled"}));
    stage.create_pod(BROKEN, &pod);
    broken.is_reported(
        "opted-in pods",
        "1 of 3 opted in and were not seen by the webhook, pod/missed in namespace broken first",
    );
    counted.send(()).unwrap();

    let authority = tools::base64(Authority::new("somebody else").certificate());
    let other =
        json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": authority}]);
    admin.patch(WEBHOOK, PatchKind::Json, &other).success();
    broken.is_reported("caBundle", "does not trust the Secret's authority");

    admin.delete(SECRET).success();
    broken.is_reported("certificates", "there is no Secret flowcar-webhook-tls");

    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    admin
        .delete(&format!("{bindings}/flowcar-controller"))
        .success();
    broken.is_reported("rights of the controller", "its service account may not");
}

struct Broken<'a> {
    stage: &'a Stage,
    names: BTreeSet<&'static str>,
}

impl Broken<'_> {
    /// One more line fails, with this message.
    #[track_caller]
    fn is_reported(&mut self, name: &'static str, what: &str) {
        self.names.insert(name);
        let (ok, printed) = self.stage.kubectl_flowcar(BROKEN, &["check"]);
        assert!(!ok, "{printed}");
        let failed = printed
            .lines()
            .filter_map(|line| line.strip_prefix("FAIL  "));
        let failed: Vec<_> = failed.filter_map(|line| line.split_once(": ")).collect();
        let names: BTreeSet<_> = failed.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, self.names, "{printed}");
        assert!(
            failed
                .iter()
                .any(|(failed, why)| *failed == name && why.contains(what)),
            "{printed}"
        );
    }
}
