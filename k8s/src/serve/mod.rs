//! Serving: admission over TLS, metrics and health over plain HTTP.

mod admin;
mod body;
mod connections;
mod http;
mod listener;
mod tls;

pub use admin::serve_admin;
pub use body::MAX_BODY;
pub use http::{ADMIT_PATH, App, serve_admission};
pub use tls::{Certificate, ClientAuthority, ClientAuthorityError};

#[cfg(test)]
mod tests;
