//! Verifies a receiver's certificate.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

/// Trusts a certificate that a trusted authority signed, and one that was given itself, as curl and OpenSSL do: a self-signed
/// certificate is its own authority, and of a given one the authority may be unknown. Names and dates are checked for both.
#[derive(Debug)]
pub(super) struct Verifier {
    authorities: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// `roots` must not be empty.
    pub(super) fn new(
        roots: RootCertStore,
        given: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        Self {
            authorities: authorities.build().expect("there are roots"),
            given,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |intermediates: &[CertificateDer<'_>]| {
            self.authorities
                .verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
        };
        let vouched = verify(intermediates);
        if vouched.is_ok() || !self.given.iter().any(|given| given == end_entity) {
            return vouched;
        }
        // These errors are found after the dates are found valid.
        match verify(&[]) {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
            Err(error) if webpki_error(&error) == Some(&webpki::Error::CaUsedAsEndEntity) => {}
            other => return other,
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

fn webpki_error(error: &Error) -> Option<&webpki::Error> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref()
        }
        _ => None,
    }
}

/// What an error of TLS means for the creator of the receiver's certificate, if the error itself does not explain it.
pub fn explain(error: &Error) -> Option<&'static str> {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some("it is not signed by any authority that it is checked against")
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented, ..
        }) if presented.is_empty() => Some(
            "the certificate has no subjectAltName: create one that has, for example with openssl req -x509 -addext subjectAltName=DNS:HOST",
        ),
        _ => match webpki_error(error)? {
            webpki::Error::UnsupportedCertVersion => Some(
                "the certificate is of X.509 version 1, which has no subjectAltName: create one of version 3, for example with openssl req -x509 -addext subjectAltName=DNS:HOST",
            ),
            webpki::Error::CaUsedAsEndEntity => Some(
                "the receiver shows an authority's certificate: give that very certificate in OTEL_EXPORTER_OTLP_CERTIFICATE, or let the authority sign one for the receiver",
            ),
            _ => None,
        },
    }
}

/// The error in a certificate's dates, if there is one.
pub(super) fn out_of_date(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    // Dates are checked first, so that authorities and algorithms do not matter.
    let judged = parsed.verify_for_usage(
        &[],
        &[],
        &[],
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    );
    let date = |time: UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
    };
    match judged.err()? {
        webpki::Error::CertExpired { not_after, .. } => {
            Some(format!("expired at {}", date(not_after)))
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            Some(format!("is not valid before {}", date(not_before)))
        }
        _ => None,
    }
}
