//! Keys reach what a mouse reaches, and every text is readable.

use std::collections::BTreeSet;

use flowcar_tests::{browser::key, place::TestPod};

use super::{can_run, focus, run, serve};

/// Keys reach what a mouse reaches, and every text is readable by day and by night (WCAG AA).
#[test]
fn page_is_readable_in_light_and_dark_and_each_control_has_the_focus_by_tab() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let server = serve(&pod);
    let script = format!(
        "call 127.0.0.1:{0} --connections 30 --delay 120; call 127.0.0.1:9; call 127.0.0.1:{0} --connections 2 --close reset-by-client",
        server.port()
    );
    let browser = run(&pod, &[], &script).open();
    let mut seen = BTreeSet::new();
    focus(&browser, "a.skip");
    for _ in 0..60 {
        let at = browser
            .text("const of = document.activeElement; return of.id || of.className || of.tagName");
        seen.insert(at);
        browser.press(&[key::TAB]);
    }
    for control in [
        "peer",
        "process",
        "state",
        "order",
        "axis-of",
        "rows",
        "map-exchange",
        "map-rtt",
        "show",
        "SUMMARY",
    ] {
        assert!(seen.contains(control), "{control}: {seen:?}");
    }
    let mut backs = BTreeSet::new();
    for dark in [false, true] {
        browser.prefer_dark(dark);
        backs.insert(browser.text("return getComputedStyle(document.body).backgroundColor"));
        let faint = browser.script(CONTRAST);
        assert_eq!(faint, serde_json::json!([]), "dark: {dark}");
        let colours = browser.script(
            "const map = document.getElementById('map-exchange');
             const pixels = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
             const colours = new Set(); for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3]) colours.add(pixels.slice(at, at + 3).join());
             return colours.size",
        );
        assert!(
            colours.as_u64().unwrap() > 10,
            "the map is drawn: {colours}"
        );
    }
    assert_eq!(backs.len(), 2, "{backs:?}");
    // Wide tables scroll by themselves.
    let wider = browser.script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth",
    );
    assert_eq!(wider, 0);
}

/// Texts whose contrast is below 4.5 to 1.
const CONTRAST: &str = "
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((of) => of / 255).map((of) => of <= 0.04045 ? of / 12.92 : ((of + 0.055) / 1.055) ** 2.4)
      .reduce((sum, of, at) => sum + of * [0.2126, 0.7152, 0.0722][at], 0);
    const back = (of) => { for (; of; of = of.parentElement) { const all = parse(getComputedStyle(of).backgroundColor); if (all.length === 3 || all[3] > 0) return all; } };
    const faint = [];
    for (const of of document.querySelectorAll('body *')) {
      const own = [...of.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!own || !of.getClientRects().length || ['SCRIPT', 'OPTION'].includes(of.tagName)) continue;
      const [one, other] = [light(parse(getComputedStyle(of).color)), light(back(of))].sort((a, b) => b - a);
      const ratio = (one + 0.05) / (other + 0.05);
      if (ratio < 4.5) faint.push([of.tagName, of.className, of.textContent.slice(0, 30), ratio]);
    }
    return faint;";
