//! A blocking HTTP client for questions to peers, in whichever network namespace they live.

use std::time::Duration;

use serde_json::Value;
use ureq::{
    Agent, Body, Error,
    http::Request,
    tls::{Certificate, RootCerts, TlsConfig},
};

use super::Net;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks one server.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    net: Net,
    base: String,
    token: Option<String>,
}

/// What a server answered. Any status is an answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

// === impl Client ===

impl Client {
    /// A client for the server at `base` (scheme and authority, no path). With `ca`, a PEM certificate, the
    /// server has to prove itself to it.
    ///
    /// # Panics
    /// When `ca` holds no PEM certificate.
    pub fn new(net: Net, base: String, ca: Option<&str>) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            // Proxies of the environment are not for peers.
            .proxy(None)
            // A connection kept from before a peer's restart would fail the first question after it.
            .max_idle_connections(0);
        if let Some(pem) = ca {
            let root = Certificate::from_pem(pem.as_bytes()).expect("a PEM certificate");
            let roots = RootCerts::new_with_certs(&[root]);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Self {
            agent: config.build().new_agent(),
            net,
            base,
            token: None,
        }
    }

    /// The same client with a bearer token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// Scheme and authority of the server.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET.
    ///
    /// # Errors
    /// When no whole answer comes; a status of 400 or more is an answer.
    pub fn get(&self, path: &str) -> Result<Reply, Error> {
        self.send("GET", path, "", Vec::new())
    }

    /// Whether a GET is answered with success, and if not, why: for [`Process::start`](super::Process::start).
    pub(crate) fn finds(&self, path: &str) -> Result<(), String> {
        match self.get(path) {
            Ok(reply) if reply.is_ok() => Ok(()),
            Ok(reply) => Err(reply.text()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// POST of form fields, which this encodes.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> Result<Reply, Error> {
        let url = format!("{}{path}", self.base);
        self.net.within(|| {
            self.agent
                .post(url)
                .send_form(fields.iter().copied())
                .and_then(read)
        })
    }

    /// Any method, with a body of that content type unless it is empty.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Reply, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        self.net
            .within(|| self.agent.run(request.body(body)?).and_then(read))
    }
}

fn read(mut response: ureq::http::Response<Body>) -> Result<Reply, Error> {
    let status = response.status().as_u16();
    let body = response
        .body_mut()
        .with_config()
        .limit(u64::MAX)
        .read_to_vec()?;
    Ok(Reply { status, body })
}

// === impl Reply ===

impl Reply {
    /// Whether the status is one of success.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer: {}", self.text()))
    }

    /// The body as JSON of an answer that has to be a success.
    ///
    /// # Panics
    /// When it is none.
    pub fn success(&self) -> Value {
        assert!(self.is_ok(), "status {}: {}", self.status, self.text());
        self.json()
    }
}
