//! The certificate in use, exchanged while connections are served, and the one that the API server shows.

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;
use rustls::server::{WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::certs::{MaterialError, SecretData};

/// The serving certificate. Every connection takes the one that is current when it begins.
#[derive(Clone, Default)]
pub struct Certificate {
    current: Arc<ArcSwapOption<rustls::ServerConfig>>,
    clients: Option<Arc<ClientAuthority>>,
}

/// Who signs the certificate that the API server shows as a client, and which names it may have.
pub struct ClientAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

/// Why client certificates cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthorityError {
    /// The file is no PEM.
    #[error("it is no PEM file of certificates: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// There is no certificate in it, or none of an authority.
    #[error("its certificates are no authorities of client certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A certificate is none.
    #[error("a certificate cannot be read: {0}")]
    Certificate(#[from] rustls::Error),
}

// === impl Certificate ===

impl Certificate {
    /// One that is shown only to clients of this authority.
    #[must_use]
    pub fn for_clients_of(authority: ClientAuthority) -> Self {
        Self {
            clients: Some(Arc::new(authority)),
            ..Self::default()
        }
    }

    /// Takes the certificate and key of a `kubernetes.io/tls` Secret, and returns when it expires.
    ///
    /// # Errors
    /// If they cannot be served; the one in use stays.
    pub fn load(&self, data: &SecretData) -> Result<SystemTime, MaterialError> {
        let verifier = self
            .clients
            .as_ref()
            .map(|clients| clients.verifier.clone());
        let config = crate::certs::server_config_of(data, verifier)?;
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

    /// Whether the client's certificate was verified, after the handshake.
    ///
    /// # Errors
    /// The names of a certificate that is valid and not permitted.
    pub(super) fn client(&self, connection: &rustls::ServerConnection) -> Result<bool, String> {
        let Some(clients) = &self.clients else {
            return Ok(false);
        };
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let names = shown.map(|shown| names(shown)).unwrap_or_default();
        if clients.names.is_empty() || clients.names.iter().any(|name| names.contains(name)) {
            return Ok(shown.is_some());
        }
        Err(names.join(", "))
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.current.load().is_some()
    }
}

// === impl ClientAuthority ===

impl ClientAuthority {
    /// Reads authorities in PEM; `names` are those that a client may have, any where there are none.
    ///
    /// # Errors
    /// See [`ClientAuthorityError`].
    pub fn read(pem: &[u8], names: Vec<String>) -> Result<Self, ClientAuthorityError> {
        let mut roots = rustls::RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(pem) {
            roots.add(authority?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { verifier, names })
    }
}

/// The common names and DNS names of a certificate.
fn names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let common = certificate
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok().map(str::to_owned));
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let dns = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
    common.chain(dns).collect()
}

#[cfg(test)]
mod tests {
    use super::ClientAuthority;

    #[test]
    fn client_ca_without_an_authority_is_refused() {
        for pem in [
            "",
            "no PEM",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let refused = ClientAuthority::read(pem.as_bytes(), Vec::new()).err();
            assert!(
                refused.is_some_and(|error| error.to_string().contains("certificate")),
                "{pem}"
            );
        }
    }
}
