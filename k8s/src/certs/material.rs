//! Keys and certificates, and their form in a Secret.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Certificates are valid from this long before they are made: the API server's clock may be behind ours.
pub(super) const BACKDATE: Duration = Duration::from_secs(300);

/// The `data` of a Secret.
pub type SecretData = BTreeMap<String, ByteString>;

/// A certificate authority with its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// The certificate.
    pub cert: String,
    key: String,
}

/// All that the two Secrets hold: one is served from and read by every replica, the other has the authorities' keys and is
/// read by the leader alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The authority that signed the leaf.
    pub signer: Authority,
    /// The authority that will sign the next leaf; already trusted.
    pub next: Option<Authority>,
    /// Earlier authorities that are still trusted, in PEM.
    pub retired: Vec<String>,
    /// The leaf certificate, in PEM.
    pub cert: String,
    key: String,
}

/// Why certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// The Secret lacks a part.
    #[error("the Secret has no {0}; empty the Secret and flowcar makes its content anew")]
    Missing(&'static str),
    /// A part is no PEM certificate.
    #[error(
        "a certificate in the Secret cannot be read ({0}); empty the Secret and flowcar makes its content anew"
    )]
    Unreadable(String),
    /// The library refused.
    #[error("a certificate cannot be made: {0}")]
    Issue(#[from] rcgen::Error),
    /// rustls refused.
    #[error("the certificate cannot be served: {0}")]
    Tls(#[from] rustls::Error),
}

/// From when to when a certificate is valid, the backdating taken off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) made: SystemTime,
    pub(super) ends: SystemTime,
}

// === impl Authority ===

impl Authority {
    /// Makes an authority.
    ///
    /// # Errors
    /// Only if the cryptography library fails.
    pub fn make(now: SystemTime, lifetime: Duration) -> Result<Self, MaterialError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Distinct names, so that a bundle of two authorities leaves no doubt which one signed.
        let seconds = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("flowcar webhook CA {seconds}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        (params.not_before, params.not_after) = validity(now, now + lifetime);
        Ok(Self {
            cert: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Signs a serving certificate for `names`: certificate and key in PEM.
    ///
    /// # Errors
    /// If this authority's own certificate cannot be read, or a name is no DNS name or address.
    pub fn sign(
        &self,
        names: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(String, String), MaterialError> {
        let issuer = Issuer::from_ca_cert_pem(&self.cert, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "flowcar webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let end = (now + lifetime).min(life(&self.cert)?.ends);
        (params.not_before, params.not_after) = validity(now, end);
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    }
}

// === impl Material ===

impl Material {
    /// Makes everything anew.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn make(
        names: &[String],
        now: SystemTime,
        ca: Duration,
        leaf: Duration,
    ) -> Result<Self, MaterialError> {
        let signer = Authority::make(now, ca)?;
        let (cert, key) = signer.sign(names, now, leaf)?;
        Ok(Self {
            signer,
            next: None,
            retired: Vec::new(),
            cert,
            key,
        })
    }

    /// The same authorities with a new leaf.
    pub(super) fn with_leaf(
        self,
        names: &[String],
        now: SystemTime,
        leaf: Duration,
    ) -> Result<Self, MaterialError> {
        let (cert, key) = self.signer.sign(names, now, leaf)?;
        Ok(Self { cert, key, ..self })
    }

    /// Every authority that clients are to trust, in PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| next.cert.as_str());
        let all = std::iter::once(self.signer.cert.as_str())
            .chain(next)
            .chain(self.retired.iter().map(String::as_str));
        all.map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    /// Reads the Secret that is served from and the one with the authorities' keys. Earlier versions kept everything in the
    /// first.
    ///
    /// # Errors
    /// [`MaterialError::Missing`] or [`MaterialError::Unreadable`].
    pub fn from_secrets(serving: &SecretData, keys: &SecretData) -> Result<Self, MaterialError> {
        let is_together = !keys.contains_key("signing-ca.key");
        let part = |name: &'static str| {
            let is_serving = matches!(name, "ca.crt" | "tls.crt" | "tls.key");
            let data = if is_serving || is_together {
                serving
            } else {
                keys
            };
            let bytes = data
                .get(name)
                .filter(|value| !value.0.is_empty())
                .ok_or(MaterialError::Missing(name))?;
            String::from_utf8(bytes.0.clone())
                .map_err(|error| MaterialError::Unreadable(error.to_string()))
        };
        let signer = Authority {
            cert: part("signing-ca.crt")?,
            key: part("signing-ca.key")?,
        };
        let next = match (part("next-ca.crt"), part("next-ca.key")) {
            (Ok(cert), Ok(key)) => Some(Authority { cert, key }),
            _ => None,
        };
        let material = Self {
            retired: Vec::new(),
            cert: part("tls.crt")?,
            key: part("tls.key")?,
            signer,
            next,
        };
        life(&material.signer.cert)?;
        life(&material.cert)?;
        KeyPair::from_pem(&material.signer.key)?;
        server_config(&material.cert, &material.key, None)?;
        let known = [Some(&material.signer), material.next.as_ref()];
        let is_known = |pem: &String| {
            known
                .iter()
                .flatten()
                .any(|ca| ca.cert.trim() == pem.trim())
        };
        let retired = split_bundle(&part("ca.crt")?)
            .into_iter()
            .filter(|pem| !is_known(pem))
            .collect();
        Ok(Self {
            retired,
            ..material
        })
    }

    /// The data of the Secret that is served from: no key of an authority is in it.
    #[must_use]
    pub fn to_secret(&self) -> SecretData {
        SecretData::from([
            part("ca.crt", &self.bundle()),
            part("signing-ca.crt", &self.signer.cert),
            part("tls.crt", &self.cert),
            part("tls.key", &self.key),
        ])
    }

    /// The data of the Secret with the authorities' keys.
    #[must_use]
    pub fn to_keys(&self) -> SecretData {
        let mut data = SecretData::from([
            part("signing-ca.crt", &self.signer.cert),
            part("signing-ca.key", &self.signer.key),
        ]);
        if let Some(next) = &self.next {
            data.extend([
                part("next-ca.crt", &next.cert),
                part("next-ca.key", &next.key),
            ]);
        }
        data
    }
}

fn part(name: &str, text: &str) -> (String, ByteString) {
    (name.to_owned(), ByteString(text.as_bytes().to_vec()))
}

/// The server side of TLS with the certificate chain and key of a Secret of type `kubernetes.io/tls`, for clients
/// that `clients` verifies, or for any.
///
/// # Errors
/// If either is missing, unreadable, or they do not belong together.
pub(crate) fn server_config_of(
    data: &SecretData,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<rustls::ServerConfig, MaterialError> {
    let part = |name: &'static str| {
        let bytes = data.get(name).ok_or(MaterialError::Missing(name))?;
        String::from_utf8(bytes.0.clone())
            .map_err(|error| MaterialError::Unreadable(error.to_string()))
    };
    server_config(&part("tls.crt")?, &part("tls.key")?, clients)
}

fn server_config(
    cert: &str,
    key: &str,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<rustls::ServerConfig, MaterialError> {
    let unreadable =
        |error: rustls_pki_types::pem::Error| MaterialError::Unreadable(error.to_string());
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?;
    let config = match clients {
        Some(verifier) => config.with_client_cert_verifier(verifier),
        None => config.with_no_client_auth(),
    };
    let mut config = config.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// When the first certificate in this PEM text expires.
pub(crate) fn ends(pem: &str) -> Result<SystemTime, MaterialError> {
    Ok(life(pem)?.ends)
}

pub(super) fn life(pem: &str) -> Result<Life, MaterialError> {
    with_certificate(pem, |certificate| {
        let at = |time: x509_parser::time::ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
        };
        let validity = certificate.validity();
        Life {
            made: at(validity.not_before) + BACKDATE,
            ends: at(validity.not_after),
        }
    })
}

/// The DNS names and addresses of a certificate, as text, sorted.
pub(super) fn names(pem: &str) -> Result<Vec<String>, MaterialError> {
    with_certificate(pem, |certificate| {
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let mut names: Vec<_> = alternatives
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match bytes.len() {
                    4 => <[u8; 4]>::try_from(*bytes)
                        .ok()
                        .map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
                    _ => <[u8; 16]>::try_from(*bytes)
                        .ok()
                        .map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
                },
                _ => None,
            })
            .collect();
        names.sort();
        names
    })
}

fn with_certificate<T>(
    pem: &str,
    read: impl FnOnce(&X509Certificate<'_>) -> T,
) -> Result<T, MaterialError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| MaterialError::Unreadable(error.to_string()))?;
    let (_, certificate) = X509Certificate::from_der(&der)
        .map_err(|error| MaterialError::Unreadable(error.to_string()))?;
    Ok(read(&certificate))
}

pub(super) fn split_bundle(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    bundle
        .split_inclusive(END)
        .filter(|part| part.contains(END))
        .map(|part| part.trim().to_owned())
        .collect()
}

fn validity(now: SystemTime, end: SystemTime) -> (OffsetDateTime, OffsetDateTime) {
    (
        OffsetDateTime::from(now - BACKDATE),
        OffsetDateTime::from(end),
    )
}
