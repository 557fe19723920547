//! The page of many connections, and of a command that attacks it.

use std::{fs, os::unix::fs::symlink, process::Stdio};

use flowcar_tests::{
    browser::{Browser, key},
    flowcar,
    place::TestPod,
};

use super::{can_run, focus, run, serve, text, texts};

/// As many as have a row each.
#[test]
fn page_of_5000_connections_is_small_and_keys_reach_the_last_one() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let (fast, slow) = (serve(&pod), serve(&pod));
    let script = format!(
        "call 127.0.0.1:{} --connections 4900 --concurrency 20 & \
         call 127.0.0.1:{} --connections 100 --delay 150 --concurrency 20; wait",
        fast.port(),
        slow.port()
    );
    let ran = run(&pod, &[], &script);
    assert_eq!(ran.established().count(), 5_000);
    let size = fs::metadata(&ran.page).unwrap().len();
    assert!(size < 1_000_000, "{size} bytes");
    let browser = ran.open();
    assert_eq!(text(&browser, "#shown"), "5000 rows");
    let slow = format!("127.0.0.1:{}", slow.port());
    assert!(texts(&browser, "#alarms li.alarm")[0].contains(&slow));
    focus(&browser, "#rows");
    browser.press(&[key::END]);
    assert_eq!(text(&browser, "#details .note"), "Connection 5000 of 5000");
    // The document has those in view alone.
    let drawn = texts(&browser, "#rows [role=option]").len();
    assert!((18..100).contains(&drawn), "{drawn}");
}

/// A name is what somebody else's server is called: it is text on the page, whatever is in it.
#[test]
fn page_of_a_hostile_command_is_text() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let hostile = "<img src=x onerror=document.title=1><script>document.title=1</script>{{data}}";
    let program = folder.path().join(hostile.replace('/', "\\"));
    symlink("/bin/true", &program).unwrap();
    let page = folder.path().join("page.html");
    let mut command = flowcar::command(&pod).unwrap();
    command
        .args(["run", "--report"])
        .arg(&page)
        .arg("--")
        .arg(&program);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let browser = Browser::open(&page);
    assert_eq!(browser.console(), [""; 0]);
    assert_eq!(text(&browser, "#program"), hostile.replace('/', "\\"));
    assert_eq!(
        browser.script("return document.images.length + document.scripts.length"),
        2
    );
    // What is not in the page cannot be run in it either: its policy allows no other script.
    browser.script("const of = document.createElement('script'); of.textContent = 'document.title = 1'; document.body.append(of)");
    assert_ne!(browser.text("return document.title"), "1");
    assert!(
        browser
            .console()
            .join(" ")
            .contains("Content Security Policy")
    );
}
