//! `flowcar export` as a sidecar: it follows a cgroup that it is not in, whether anybody takes what it exports or not.

use std::time::Duration;

use flowcar_tests::{
    exporting::{Exporting, has_books},
    flowcar,
    place::{Place, require_cgroup2, require_root},
    traffic::{CallPlan, ServePlan, Serving, call_in},
};

#[test]
fn it_follows_another_cgroup_until_it_is_told_to_stop() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = Place::new("pod").unwrap();
    let sidecar = Place::new("sidecar").unwrap();
    // Nobody listens in the sidecar's network: exports fail, following goes on.
    let mut command = flowcar::command(&sidecar).unwrap();
    command
        .arg("export")
        .arg("--cgroup")
        .arg(pod.cgroup().path());
    let mut export = Exporting::start(&mut command);
    export.told("following");

    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let calls = call_in(&pod, &CallPlan::to(target).connections(10, 2)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving.reports(10, Duration::from_secs(30)).unwrap();
    // Both ends are in the pod.
    has_books(&export.stop(), 20);
}
