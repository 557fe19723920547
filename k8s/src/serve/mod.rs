//! Serving: admission over TLS, metrics and health over plain HTTP.

mod admin;
mod http;
mod tls;

pub use admin::serve_admin;
pub use http::{ADMIT_PATH, App, MAX_BODY, serve_admission};
pub use tls::Certificate;
