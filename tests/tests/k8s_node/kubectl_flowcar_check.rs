//! `kubectl flowcar check` where all is well, and when one thing after the other is broken.

use std::{collections::BTreeSet, sync::mpsc};

use flowcar_tests::{
    cluster::{SECRET, WEBHOOK, tools},
    peers::{Authority, PatchKind},
};
use serde_json::json;

use crate::stage::{BROKEN, Stage};

/// With pods that it has to find all right.
pub(crate) fn passes(stage: &Stage) {
    let (ok, said) = stage.kubectl_flowcar("shop", &["check"]);
    assert!(ok && !said.contains("FAIL"), "{said}");
}

/// The controller hangs, so that nothing is mended, and each thing that is broken is told besides those before it. There are
/// two pods that were injected, until it says that it has counted.
pub(crate) fn says_what_is_broken(stage: &Stage, counted: &mpsc::Sender<()>) {
    let admin = stage.cluster.admin();
    let mut broken = Broken {
        stage,
        names: BTreeSet::new(),
    };
    stage.controller.process.pause();
    broken.is_told("dry-run pod", "no answer from the webhook");

    let pod = tools::pod("missed", json!({"flowcar.io/inject": "enabled"}));
    stage.create_pod(BROKEN, &pod);
    broken.is_told(
        "opted-in pods",
        "1 of 3 opted in and were not seen by the webhook, pod/missed first",
    );
    counted.send(()).unwrap();

    let authority = tools::base64(Authority::new("somebody else").certificate());
    let other =
        json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": authority}]);
    admin.patch(WEBHOOK, PatchKind::Json, &other).success();
    broken.is_told("caBundle", "does not trust the Secret's authority");

    admin.delete(SECRET).success();
    broken.is_told("certificates", "there is no Secret flowcar-webhook-tls");

    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    admin
        .delete(&format!("{bindings}/flowcar-controller"))
        .success();
    broken.is_told("rights of the controller", "its service account may not");
}

struct Broken<'a> {
    stage: &'a Stage,
    names: BTreeSet<&'static str>,
}

impl Broken<'_> {
    /// One more line fails, and says this.
    #[track_caller]
    fn is_told(&mut self, name: &'static str, what: &str) {
        self.names.insert(name);
        let (ok, said) = self.stage.kubectl_flowcar(BROKEN, &["check"]);
        assert!(!ok, "{said}");
        let failed = said.lines().filter_map(|line| line.strip_prefix("FAIL  "));
        let failed: Vec<_> = failed.filter_map(|line| line.split_once(": ")).collect();
        let names: BTreeSet<_> = failed.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, self.names, "{said}");
        assert!(
            failed
                .iter()
                .any(|(failed, why)| *failed == name && why.contains(what)),
            "{said}"
        );
    }
}
