//! A sidecar that is killed under its pod.

use crate::{
    Pair, SOME, has_no_rights,
    stage::Stage,
    told::{told_but_for_a_gap, told_by_both},
};

/// A pod of which the sidecar was killed.
pub(crate) struct Killed {
    application: Vec<u32>,
    sidecar: Vec<u32>,
}

impl Killed {
    pub(crate) fn sidecar_of(stage: &Stage, Pair { web, client }: &Pair) -> Self {
        told_by_both(stage, web, client, SOME);
        let application = stage.node.processes(&client.uid, "traffic");
        let sidecar = stage.node.processes(&client.uid, "flowcar");
        assert_eq!((application.len(), sidecar.len()), (1, 1));
        stage.node.shell(&format!("kill -9 {}", sidecar[0]));
        Self {
            application,
            sidecar,
        }
    }

    /// The application goes on; the kubelet starts the sidecar again, which follows the same pod and owns up to the gap.
    pub(crate) fn goes_on(&self, stage: &Stage, Pair { web, client }: &Pair) {
        stage.node.wait("the sidecar's next process", || {
            let now = stage.node.processes(&client.uid, "flowcar");
            (now.len() == 1 && now != self.sidecar).then_some(())
        });
        told_but_for_a_gap(stage, web, client, SOME);
        assert_eq!(
            stage.node.processes(&client.uid, "traffic"),
            self.application
        );
        has_no_rights(stage, client);
        stage.books(client, "balanced, and name the gap", |books| {
            books.balance() && books.unfollowed_s > 0.0
        });
    }
}
