//! Serving: admission over TLS, metrics and health over plain HTTP.

mod http;
mod tls;

pub use http::{ADMIT_PATH, App, MAX_BODY, serve_admin, serve_admission};
pub use tls::Certificate;
