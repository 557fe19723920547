//! `FLOWCAR_STATE_DIR` in a directory that the application may write to: a planted file of that name stops nothing,
//! and is not believed.

use std::{
    fs,
    os::unix::fs::{chown, symlink},
    path::Path,
    time::Duration,
};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};
use nix::{sys::stat::Mode as Bits, unistd::mkfifo};

const WITHIN: Duration = Duration::from_secs(60);

/// Resident memory that a flowcar which read little stays below, bytes.
const LITTLE: u64 = 64 << 20;

/// A checkpoint of another user: an earlier flowcar lost connections.
const FORGED: &str = r#"{"flowcar_checkpoint":3,"instance":{"boot":"BOOT","netns":NETNS},"taken_unix_ns":1,"reported":{"lost_closes":0,"flows":[[99999,1,1,5,5],[99998,2,1,5,5]]}}"#;

#[test]
fn planted_state_file_neither_blocks_nor_misleads_flowcar() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("state").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let victim = tempfile::NamedTempFile::new().unwrap();
    fs::write(victim.path(), "the victim's").unwrap();
    for planted in ["fifo", "endless", "victim", "folder", "another user's"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint.json");
        let new = directory.path().join("checkpoint.json.new");
        match planted {
            "fifo" => {
                mkfifo(&path, Bits::S_IRWXU).unwrap();
                mkfifo(&new, Bits::S_IRWXU).unwrap();
            }
            "endless" => symlink("/dev/zero", &path).unwrap(),
            "victim" => {
                // Both names that a write has used, now and in earlier versions.
                for name in ["checkpoint.json", "checkpoint.new", "checkpoint.json.new"] {
                    symlink(victim.path(), directory.path().join(name)).unwrap();
                }
            }
            "folder" => fs::create_dir(&path).unwrap(),
            _ => forge(&pod, &path),
        }
        let state = directory.path().to_str().unwrap();
        // Not reached if the start hangs or memory grows.
        let mut watch = Watch::start(&pod, Mode::Both, &[("FLOWCAR_STATE_DIR", state)]);
        call_in(&pod, &CallPlan::to(serving.address()).connections(2, 1)).unwrap();
        serving.reports(2, WITHIN).unwrap();
        watch.until("both ends", |seen| seen.flows.len() >= 4);
        watch.reports(2);
        assert!(resident(watch.id()) < LITTLE, "{planted}");
        let seen = watch.stop();
        assert_eq!(seen.began(), 4.0, "{planted}");
        assert_eq!(
            seen.sum("flowcar.tcp.connection.lost", &[]),
            0.0,
            "{planted}"
        );
        let message = seen.log.iter().any(|line| line.contains("cannot be read"));
        assert!(message, "{planted}: {:?}", seen.log);
        assert_eq!(fs::read_to_string(victim.path()).unwrap(), "the victim's");
        if planted != "folder" {
            let kept = fs::symlink_metadata(&path).unwrap();
            assert!(kept.is_file(), "{planted} is replaced by flowcar's own");
        }
    }
}

/// As the application can: it knows this boot and the shared network namespace.
fn forge(pod: &TestPod, path: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let netns = fs::metadata(pod.netns().path()).unwrap().ino();
    let text = FORGED.replace("BOOT", boot.trim());
    fs::write(path, text.replace("NETNS", &netns.to_string())).unwrap();
    chown(path, Some(1000), Some(1000)).unwrap();
}

/// `VmRSS` of /proc/PID/status, bytes.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB").parse::<u64>();
    kib.unwrap() << 10
}
