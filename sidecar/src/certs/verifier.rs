//! Verifies a receiver's certificate.

use std::{net::IpAddr, sync::Arc};

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

/// What is wrong with a receiver's certificate, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub wrong: String,
    /// What to do.
    pub remedy: String,
}

/// What is wrong with a receiver's certificate, by the error of its check; `None` if that is not known.
pub fn fault(error: &Error) -> Option<Fault> {
    const CREATE: &str = "for example with openssl req -x509 -addext subjectAltName=";
    let (wrong, remedy) = match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => (
            format!("a certificate that the receiver shows {}", expired(*not_after)),
            RENEW.to_owned(),
        ),
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => (
            format!("a certificate that the receiver shows {}", not_yet(*not_before)),
            RENEW.to_owned(),
        ),
        Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected,
            presented,
        }) => match names(presented) {
            Some(names) => (
                format!(
                    "the receiver's certificate is for {names} and not for {}",
                    expected.to_str()
                ),
                format!(
                    "use one of these names in the endpoint, or have {} added to the certificate",
                    expected.to_str()
                ),
            ),
            None => {
                let no_name = if presented.is_empty() {
                    "no subjectAltName"
                } else {
                    "no DNS name and no address in its subjectAltName"
                };
                (
                    format!("the receiver's certificate has {no_name}"),
                    format!(
                        "create one that has, {CREATE}{}",
                        alt_name(&expected.to_str())
                    ),
                )
            }
        },
        _ => match webpki_error(error)? {
            webpki::Error::UnsupportedCertVersion => (
                "the receiver's certificate is of X.509 version 1, which has no subjectAltName"
                    .to_owned(),
                format!("create one of version 3, {CREATE}DNS:HOST"),
            ),
            webpki::Error::CaUsedAsEndEntity => (
                "the receiver shows an authority's certificate".to_owned(),
                "give that very certificate in OTEL_EXPORTER_OTLP_CERTIFICATE, or let the authority sign one for the receiver".to_owned(),
            ),
            _ => return None,
        },
    };
    Some(Fault { wrong, remedy })
}

/// A host as a name in a certificate's subjectAltName, as OpenSSL's configuration has it.
pub fn alt_name(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(_) => format!("IP:{host}"),
        Err(_) => format!("DNS:{host}"),
    }
}

/// What to do about a certificate's dates.
const RENEW: &str = "renew it, or check this machine's clock";

/// The hosts that a certificate is for, of the names that webpki gives in the form of its debugging output; `None` if there are none.
fn names(presented: &[String]) -> Option<String> {
    const MOST: usize = 4;
    let host = |name: &String| {
        let dns = name
            .strip_prefix("DnsName(\"")
            .and_then(|name| name.strip_suffix("\")"));
        let address = || name.strip_prefix("IpAddress(")?.strip_suffix(')');
        dns.or_else(address).map(str::to_owned)
    };
    let mut hosts: Vec<_> = presented.iter().filter_map(host).collect();
    if hosts.len() > MOST {
        let others = hosts.split_off(MOST).len();
        hosts.push(format!("{others} others"));
    }
    (!hosts.is_empty()).then(|| hosts.join(", "))
}

/// Whether a certificate names `host` by its common name and has no subjectAltName, the only name that is checked (RFC 9525, 2).
pub(super) fn lacks_alt_name(certificate: &CertificateDer<'_>, host: &str) -> bool {
    /// The object identifiers 2.5.29.17 and 2.5.4.3 in DER.
    const ALT_NAME: [u8; 5] = [0x06, 3, 0x55, 0x1D, 0x11];
    const COMMON_NAME: [u8; 5] = [0x06, 3, 0x55, 0x04, 0x03];
    let der: &[u8] = certificate;
    // The subject's, which stands behind the issuer's. A text's tag, its length, itself.
    let is_host = |at: usize| match &der[at + 5..] {
        [_, length, text @ ..] => text
            .get(..usize::from(*length))
            .is_some_and(|text| text.eq_ignore_ascii_case(host.as_bytes())),
        _ => false,
    };
    !der.windows(5).any(|five| five == ALT_NAME)
        && (der.windows(5).rposition(|five| five == COMMON_NAME)).is_some_and(is_host)
}

/// Whether a certificate is for `host`, by its subjectAltName.
pub(super) fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let name = ServerName::try_from(host);
    let certificate = ParsedCertificate::try_from(certificate);
    (name.ok().zip(certificate.ok()))
        .is_some_and(|(name, certificate)| verify_server_name(&certificate, &name).is_ok())
}

fn expired(not_after: UnixTime) -> String {
    format!("expired on {}", date(not_after))
}

fn not_yet(not_before: UnixTime) -> String {
    format!("is not valid before {}", date(not_before))
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(
        |_| "?".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S (UTC)").to_string(),
    )
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
    match judged.err()? {
        webpki::Error::CertExpired { not_after, .. } => Some(expired(not_after)),
        webpki::Error::CertNotValidYet { not_before, .. } => Some(not_yet(not_before)),
        _ => None,
    }
}
