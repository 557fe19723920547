//! A real Chromium that shows a page of a file, driven by chromedriver (W3C WebDriver).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    peers::{Client, Net, Process, Program},
    place::{on_path, require_program},
};

/// True when Chromium and its driver are installed.
///
/// # Panics
/// As every `require_*`: where nothing may be skipped.
#[must_use]
pub fn require_browser() -> bool {
    require_program("chromium") && require_program("chromedriver")
}

/// Chromium with one page. It ends when this is dropped.
pub struct Browser {
    driver: Process,
    client: Client,
    session: String,
}

/// Keys by their WebDriver code points.
pub mod key {
    #![expect(missing_docs, reason = "they are named as on a keyboard")]
    pub const TAB: &str = "\u{e004}";
    pub const ENTER: &str = "\u{e007}";
    pub const END: &str = "\u{e010}";

    pub const DOWN: &str = "\u{e015}";
}

// === impl Browser ===

impl Browser {
    /// Starts it, and opens the page of this file.
    ///
    /// # Panics
    /// It does not start, or does not load the page.
    pub fn open(page: &Path) -> Self {
        let net = Net::loopback();
        let port = Arc::new(net.claim_port());
        let client = Client::new(net.clone(), format!("http://{}", net.socket(&port)), None);
        let number = net.socket(&port).port();
        let program = Program {
            name: "chromedriver",
            path: found("chromedriver"),
            args: vec![format!("--port={number}").into()],
            net,
            dir: tempfile::tempdir().expect("a folder"),
        };
        let probe = client.clone();
        let driver = Process::start(program, move || {
            // The port is this browser's until it has ended.
            let _claim = &port;
            probe.finds("/status")
        });
        let mut browser = Self {
            driver,
            client,
            session: String::new(),
        };
        browser.session = browser.new_session();
        browser.post(
            "url",
            &json!({ "url": format!("file://{}", page.display()) }),
        );
        browser
    }

    fn new_session(&self) -> String {
        let profile = self.driver.dir().join("profile");
        let profile = format!("--user-data-dir={}", profile.display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1300,1000",
            &profile,
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments, "binary": found("chromium") },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }}});
        let answer = self.send("POST", "/session", &capabilities);
        let id = answer["sessionId"].as_str();
        id.expect("a session").to_owned()
    }

    /// What a function of this body returns in the page.
    pub fn script(&self, body: &str) -> Value {
        self.post("execute/sync", &json!({ "script": body, "args": [] }))
    }

    /// The same as text.
    ///
    /// # Panics
    /// It is none.
    pub fn text(&self, body: &str) -> String {
        let value = self.script(body);
        let text = value.as_str();
        text.unwrap_or_else(|| panic!("{body}: {value}")).to_owned()
    }

    /// Presses keys, one after the other ([`key`]).
    pub fn press(&self, keys: &[&str]) {
        let press = |key: &&str| {
            [
                json!({ "type": "keyDown", "value": key }),
                json!({ "type": "keyUp", "value": key }),
            ]
        };
        let actions: Vec<_> = keys.iter().flat_map(press).collect();
        self.post(
            "actions",
            &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] }),
        );
    }

    /// Whether the user prefers dark pages.
    pub fn prefer_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        let parameters = json!({ "media": "", "features": features });
        self.post(
            "goog/cdp/execute",
            &json!({ "cmd": "Emulation.setEmulatedMedia", "params": parameters }),
        );
    }

    /// Messages of the console since the last call: errors of the script, and what the page's policy forbade.
    pub fn console(&self) -> Vec<String> {
        let entries = self.log("browser");
        entries
            .iter()
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    /// The addresses that were requested since the last call.
    ///
    /// # Panics
    /// An entry of the log does not parse.
    pub fn requests(&self) -> Vec<String> {
        let messages = self.log("performance");
        let messages = messages.iter().map(|entry| -> Value {
            let message = entry["message"].as_str().expect("a message");
            serde_json::from_str(message).expect("JSON")
        });
        let sent = messages.filter(|of| of["message"]["method"] == "Network.requestWillBeSent");
        let text = |of: &Value| of.as_str().expect("an address").to_owned();
        let addresses = sent.map(|of| {
            let parameters = &of["message"]["params"];
            (
                text(&parameters["documentURL"]),
                text(&parameters["request"]["url"]),
            )
        });
        // The browser's own first page is none of the test's.
        let of_pages = addresses.filter(|(page, _)| !page.starts_with("chrome://"));
        of_pages.map(|(_, address)| address).collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.post("se/log", &json!({ "type": kind }));
        entries.as_array().expect("entries").clone()
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        self.send(
            "POST",
            &format!("/session/{}/{command}", self.session),
            body,
        )
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string().into_bytes();
        let reply = self.client.send(method, path, "application/json", body);
        let reply = reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert!(reply.is_ok(), "{method} {path}: {}", reply.text());
        reply.json()["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends Chromium with the session.
        let path = format!("/session/{}", self.session);
        let _ = self.client.send("DELETE", &path, "", Vec::new());
        self.driver.kill();
    }
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Browser")
    }
}

fn found(program: &str) -> PathBuf {
    on_path(program).unwrap_or_else(|| panic!("no {program} in PATH"))
}
