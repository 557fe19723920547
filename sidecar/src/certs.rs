//! Certificates for TLS towards receivers, read from the files that the settings name.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// The files of one connection's TLS; with none of them, what the system trusts is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that a receiver's certificate is checked against, PEM.
    pub authorities: Option<PathBuf>,
    /// What this end shows of itself (mTLS).
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

/// What a file was when it was looked at: device, inode, size, time of the last change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Tells whether files have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<Stamp>);

/// A file that is not what it is to be.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} {wrong}", path.display())]
pub struct CertError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub wrong: String,
}

// === impl TlsFiles ===

impl TlsFiles {
    /// What the files are now, for comparison with later.
    pub fn stamps(&self) -> Stamps {
        Stamps(self.paths().map(stamp).collect())
    }

    /// Reads them and makes a client of them that offers the protocol `alpn` (RFC 7301).
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn load(&self, alpn: &[u8]) -> Result<ClientConfig, CertError> {
        let roots = match &self.authorities {
            Some(path) => authorities(path)?,
            None => system_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(ClientFiles { certificate, key }) => builder
                .with_client_auth_cert(chain(certificate)?, private_key(key)?)
                .map_err(|error| {
                    let certificate = certificate.display();
                    wrong(
                        key,
                        format!("does not go with the certificate {certificate} ({error})"),
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
pub fn authorities(path: &Path) -> Result<RootCertStore, CertError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots
            .add(certificate)
            .map_err(|error| wrong(path, format!("has a certificate that is none ({error})")))?;
    }
    Ok(roots)
}

/// The certificates in a PEM file, in its order; at least one.
///
/// # Errors
/// It cannot be read, or has none in it.
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(wrong(path, "has no PEM certificate in it")),
        Err(error) => Err(wrong(path, format!("is not PEM ({error})"))),
    }
}

/// The private key in a PEM file.
///
/// # Errors
/// It cannot be read, or has none in it.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| wrong(path, format!("has no PEM private key in it ({error})")))
}

fn system_roots() -> Result<RootCertStore, CertError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| "none are installed".to_owned());
        return Err(wrong(
            Path::new("the system's certificates"),
            format!(
                "cannot be used ({why}); install ca-certificates or set OTEL_EXPORTER_OTLP_CERTIFICATE"
            ),
        ));
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    fs::read(path).map_err(|error| wrong(path, format!("cannot be read ({error})")))
}

fn wrong(path: &Path, wrong: impl Into<String>) -> CertError {
    CertError {
        path: path.to_owned(),
        wrong: wrong.into(),
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_files_the_system_is_trusted_or_it_is_said_that_it_cannot_be() {
        match TlsFiles::default().load(b"h2") {
            Ok(config) => assert_eq!(config.alpn_protocols, [b"h2"]),
            Err(error) => assert!(
                error.to_string().contains("install ca-certificates"),
                "{error}"
            ),
        }
    }

    #[test]
    fn a_file_that_was_replaced_has_another_stamp_though_size_and_name_are_the_same() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ca.crt");
        let files = TlsFiles {
            authorities: Some(path.clone()),
            client: None,
        };
        let absent = files.stamps();
        fs::write(&path, "one").expect("a file");
        let first = files.stamps();
        assert_ne!(absent, first);
        assert_eq!(first, files.stamps());
        // As Kubernetes replaces a mounted secret: by a rename.
        let next = dir.path().join("next");
        fs::write(&next, "two").expect("a file");
        fs::rename(&next, &path).expect("a file");
        assert_ne!(first, files.stamps());
    }
}
