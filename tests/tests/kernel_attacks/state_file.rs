//! `FLOWCAR_STATE` in a directory that the application may write to: what is planted there under the file's name stops nothing,
//! and is not followed.

use std::{
    fs,
    os::unix::fs::{chown, symlink},
    path::Path,
    time::Duration,
};

use flowcar_tests::{
    place::{Place, require_cgroup2, require_root},
    traffic::{CallPlan, ServePlan, Serving, call_in},
    watch::{Mode, Watch},
};
use nix::{sys::stat::Mode as Bits, unistd::mkfifo};

const WITHIN: Duration = Duration::from_secs(60);

/// Resident memory that a flowcar which read little stays below, bytes.
const LITTLE: u64 = 64 << 20;

/// A report of another user's that says of a flowcar before this one that it lost connections.
const FORGED: &str = r#"{"flowcar_handover":2,"place":{"boot":"BOOT","netns":NETNS},"taken_unix_ns":1,"leaving":{"unheard":0,"flows":[[99999,1,1,5,5],[99998,2,1,5,5]]}}"#;

#[test]
fn what_is_planted_as_the_state_file_is_not_followed() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let place = Place::new("state").unwrap();
    let serving = Serving::start(&place, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let victim = tempfile::NamedTempFile::new().unwrap();
    fs::write(victim.path(), "the victim's").unwrap();
    for planted in ["fifo", "endless", "victim", "folder", "another user's"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("handover.json");
        let new = directory.path().join("handover.json.new");
        match planted {
            "fifo" => {
                mkfifo(&path, Bits::S_IRWXU).unwrap();
                mkfifo(&new, Bits::S_IRWXU).unwrap();
            }
            "endless" => symlink("/dev/zero", &path).unwrap(),
            "victim" => {
                // Both names that a write has used, now and in earlier versions.
                for name in ["handover.json", "handover.new", "handover.json.new"] {
                    symlink(victim.path(), directory.path().join(name)).unwrap();
                }
            }
            "folder" => fs::create_dir(&path).unwrap(),
            _ => forge(&place, &path),
        }
        let state = directory.path().to_str().unwrap();
        // Where a start is held up, or memory runs away, this is not reached.
        let mut watch = Watch::start(&place, Mode::Both, &[("FLOWCAR_STATE", state)]);
        call_in(&place, &CallPlan::to(serving.address()).connections(2, 1)).unwrap();
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

/// As the application would, who knows this boot and the network namespace that it shares.
fn forge(place: &Place, path: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let netns = fs::metadata(place.netns().path()).unwrap().ino();
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
