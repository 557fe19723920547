//! Certificates for TLS towards receivers, read from the files that the settings name.

mod content;
mod verifier;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

pub use self::verifier::{Fault, alt_name, fault};
use self::{content::Wanted, verifier::Verifier};
use crate::files::{self, FileError, Stamps};

/// The largest file of certificates, bytes: a system's whole list of authorities has some 200 KiB.
const MOST: u64 = 4 << 20;

/// The files of one connection's TLS; without any, the system's authorities are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that a receiver's certificate is checked against, or that certificate itself, PEM.
    pub authorities: Option<PathBuf>,
    /// The certificate that this end shows (mTLS).
    pub client: Option<ClientFiles>,
}

/// A client's certificate chain and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The chain, its own certificate first.
    pub certificate: PathBuf,
    /// The key of the first.
    pub key: PathBuf,
}

// === impl TlsFiles ===

impl TlsFiles {
    /// The stamps of the files, for a later comparison.
    pub fn stamps(&self) -> Stamps {
        Stamps::of(self.paths())
    }

    /// Reads them and makes a client of them that offers the protocol `alpn` (RFC 7301).
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn load(&self, alpn: &[u8]) -> Result<ClientConfig, FileError> {
        let provider = Arc::new(ring::default_provider());
        let (roots, given) = match &self.authorities {
            Some(path) => (authorities(path)?, chain(path)?),
            None => (system_roots()?, Vec::new()),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(roots, given, provider)));
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(ClientFiles { certificate, key }) => builder
                .with_client_auth_cert(chain(certificate)?, private_key(key)?)
                .map_err(|error| {
                    let certificate = certificate.display();
                    FileError::new(
                        key,
                        format!("does not go with the certificate {certificate} ({error})"),
                        "give the key of the certificate",
                    )
                })?,
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let client = self.client.iter();
        let client = client.flat_map(|files| [&files.certificate, &files.key]);
        self.authorities.iter().chain(client).map(PathBuf::as_path)
    }
}

impl fmt::Display for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.authorities {
            Some(path) => write!(f, "checked against {}", path.display())?,
            None => f.write_str("checked against the system's authorities")?,
        }
        match &self.client {
            Some(client) => write!(f, ", shown {}", client.certificate.display()),
            None => f.write_str(", no client certificate shown"),
        }
    }
}

/// The authorities in a PEM file.
///
/// # Errors
/// It cannot be read, or has none in it.
pub fn authorities(path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|error| {
            let wrong = format!("has an invalid certificate ({error})");
            FileError::new(path, wrong, content::GIVE_PEM)
        })?;
    }
    Ok(roots)
}

/// The certificates in a PEM file, in its order; at least one.
///
/// # Errors
/// It cannot be read, or has none in it.
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = files::read(path, MOST)?;
    let readable = content::without_key_headers(&text);
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&readable).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(content::instead(path, &text, Wanted::Certificate)),
        Err(error) => Err(content::broken(path, &error)),
    }
}

/// The private key in a PEM file.
///
/// # Errors
/// It cannot be read, has none in it, or one that is encrypted or of an unknown kind.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = files::read(path, MOST)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| content::instead(path, &text, Wanted::Key))?;
    ring::sign::any_supported_type(&key).map_err(|error| {
        let wrong = format!("has a private key of a kind that flowcar does not support ({error})");
        FileError::new(path, wrong, "use RSA, ECDSA on P-256 or P-384, or Ed25519")
    })?;
    Ok(key)
}

/// The error in the dates of the certificates in a file, if each (`all`) or any certificate has one.
pub fn out_of_date(path: &Path, all: bool) -> Option<String> {
    let reported: Vec<_> = chain(path)
        .ok()?
        .iter()
        .map(verifier::out_of_date)
        .collect();
    if all && reported.contains(&None) {
        return None;
    }
    reported.into_iter().flatten().next()
}

/// Whether a certificate in a file names `host` by its common name only, which is not checked, and none there is for the host.
pub fn lacks_alt_name(path: &Path, host: &str) -> bool {
    let Ok(all) = chain(path) else { return false };
    let lacks = all.iter().any(|one| verifier::lacks_alt_name(one, host));
    lacks && !all.iter().any(|one| verifier::is_for(one, host))
}

fn system_roots() -> Result<RootCertStore, FileError> {
    // rustls-native-certs reads the file that OpenSSL's variable names to its end, whatever it is.
    if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
        files::read(Path::new(&path), MOST)?;
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| "none are installed".to_owned());
        return Err(FileError::new(
            Path::new("the system's certificates"),
            format!("cannot be used ({why})"),
            "install ca-certificates or set OTEL_EXPORTER_OTLP_CERTIFICATE",
        ));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
