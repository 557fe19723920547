//! The certificate in use, exchanged while connections are served.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use crate::certs::{MaterialError, SecretData};

/// The serving certificate. Every connection takes the one that is current when it begins.
#[derive(Clone, Default)]
pub struct Certificate {
    current: Arc<ArcSwapOption<rustls::ServerConfig>>,
}

// === impl Certificate ===

impl Certificate {
    /// Takes the certificate and key of a `kubernetes.io/tls` Secret, and says when it ends.
    ///
    /// # Errors
    /// If they cannot be served; the one in use stays.
    pub fn load(&self, data: &SecretData) -> Result<SystemTime, MaterialError> {
        let config = crate::certs::server_config_of(data)?;
        let pem = data
            .get("tls.crt")
            .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
            .unwrap_or_default();
        let ends = crate::certs::ends(&pem)?;
        self.current.store(Some(Arc::new(config)));
        Ok(ends)
    }

    pub(super) fn current(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.current.load_full()
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.current.load().is_some()
    }
}
