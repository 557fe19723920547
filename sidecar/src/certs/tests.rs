//! Files of every kind, and which receivers flowcar trusts with them, by real handshakes.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;

const HOST: &str = "collector.test";
const OLD: &str = "a certificate that the receiver shows expired on 2002-01-01 00:00:00 (UTC); renew it, or check this machine's clock";

/// A certificate and its key.
struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, HOST);
    params
}

fn itself(params: &CertificateParams) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    Pair { certificate, key }
}

fn with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let mut params = params(names);
    change(&mut params);
    itself(&params)
}

/// The result of a handshake with a server that shows this certificate, if the one in the file is trusted.
fn handshake(file: &Path, shown: &Pair) -> Result<(), String> {
    let files = TlsFiles {
        authorities: Some(file.to_owned()),
        client: None,
    };
    let client = files.load(b"h2").map_err(|error| error.to_string())?;
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(shown.key.serialize_pem().as_bytes()).expect("a key");
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![shown.certificate.der().clone()], key)
        .expect("a pair");
    server.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(HOST).expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
    let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("memory");
        server.read_tls(&mut &bytes[..]).expect("memory");
        server
            .process_new_packets()
            .map_err(|error| format!("server: {error}"))?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).expect("memory");
        client.read_tls(&mut &bytes[..]).expect("memory");
        client
            .process_new_packets()
            .map_err(|error| match fault(&error) {
                Some(Fault { wrong, remedy }) => format!("{wrong}; {remedy}"),
                None => error.to_string(),
            })?;
    }
    Ok(())
}

#[test]
fn given_certificate_is_trusted_within_its_name_and_dates() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("ca.crt");
    let ca = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let none = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
    let old = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let authority = {
        let mut params = CertificateParams::default();
        ca(&mut params);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        Issuer::new(params, key)
    };
    let signed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = params(&[HOST]);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        Pair { certificate, key }
    };
    for (what, pair, expected) in [
        // openssl req -x509 makes an authority.
        ("self-signed, an authority", with(&[HOST], ca), Ok(())),
        ("self-signed, CA:FALSE", with(&[HOST], none), Ok(())),
        ("self-signed, no constraint", with(&[HOST], |_| {}), Ok(())),
        ("of an authority that is not given", signed(&|_| {}), Ok(())),
        (
            "an authority, old",
            with(&[HOST], |p| {
                ca(p);
                old(p);
            }),
            Err(OLD),
        ),
        (
            "CA:FALSE, old",
            with(&[HOST], |p| {
                none(p);
                old(p);
            }),
            Err(OLD),
        ),
        ("of an authority, old", signed(&old), Err("expired")),
        (
            "an authority, not yet",
            with(&[HOST], |p| {
                ca(p);
                p.not_before = date_time_ymd(4000, 1, 1);
            }),
            Err(
                "a certificate that the receiver shows is not valid before 4000-01-01 00:00:00 (UTC); renew it, or check this machine's clock",
            ),
        ),
        (
            "an authority, other name",
            with(&["other.test", "*.another.test", "192.0.2.1"], ca),
            Err(
                "the receiver's certificate is for other.test, *.another.test, 192.0.2.1 and not for collector.test; use one of these names in the endpoint, or have collector.test added to the certificate",
            ),
        ),
        (
            "CA:FALSE, other name",
            with(&["other.test"], none),
            Err("is for other.test and not for collector.test; "),
        ),
        (
            "an authority, no name",
            with(&[], ca),
            Err(
                "has no subjectAltName; create one that has, for example with openssl req -x509 -addext subjectAltName=DNS:collector.test",
            ),
        ),
        (
            "an authority, a URI",
            with(&[], |p| {
                ca(p);
                let uri = "spiffe://a.test/collector".try_into().expect("a URI");
                p.subject_alt_names = vec![rcgen::SanType::URI(uri)];
            }),
            Err("has no DNS name and no address in its subjectAltName; create one that has"),
        ),
        (
            "an authority, many names",
            with(
                &["a.test", "b.test", "c.test", "d.test", "e.test", "f.test"],
                ca,
            ),
            Err("is for a.test, b.test, c.test, d.test, 2 others and not for collector.test; "),
        ),
    ] {
        fs::write(&file, pair.certificate.pem()).expect("a file");
        match (handshake(&file, &pair), expected) {
            (Ok(()), Ok(())) => {}
            (Err(reported), Err(why)) => assert!(reported.contains(why), "{what}: {reported}"),
            (came, _) => panic!("{what}: {came:?}"),
        }
        // It is trusted for itself, and not for another of the same names.
        let other = with(&[HOST], ca);
        let reported = handshake(&file, &other).expect_err("another's");
        assert!(
            reported.contains("invalid peer certificate")
                || reported.starts_with("the receiver shows an authority's certificate"),
            "{what}: {reported}"
        );
    }
    // Beside others in one file.
    let (one, two) = (with(&[HOST], ca), with(&[HOST], ca));
    fs::write(&file, one.certificate.pem() + &two.certificate.pem()).expect("a file");
    assert_eq!(
        (handshake(&file, &one), handshake(&file, &two)),
        (Ok(()), Ok(()))
    );
}

/// The errors of two readers of one file: as certificates, and as a private key.
fn read(path: &Path) -> (String, String) {
    let reported = |error: FileError| format!("{}; {}", error.wrong, error.remedy);
    (
        chain(path).map_or_else(reported, |_| "good".to_owned()),
        private_key(path).map_or_else(reported, |_| "good".to_owned()),
    )
}

#[test]
fn file_of_wrong_kind_error_names_the_kind() {
    let dir = tempfile::tempdir().expect("a folder");
    let pair = with(&[HOST], |_| {});
    let (certificate, key) = (pair.certificate.pem(), pair.key.serialize_pem());
    let pem = |label: &str, head: &str| {
        format!("-----BEGIN {label}-----\n{head}czNjcmV0czNjcmV0\n-----END {label}-----\n")
    };
    let traditional = pem(
        "RSA PRIVATE KEY",
        "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
    );
    let store = [0x30, 0x82, 0x09, 0x00, 0x02, 0x01, 0x03, 0x30];
    let cut = &certificate[..certificate.len() - 40];
    for (content, as_certificate, as_key) in [
        (
            certificate.as_bytes(),
            "good",
            "has no PEM private key in it, but a certificate; ",
        ),
        (
            key.as_bytes(),
            "has no PEM certificate in it, but a private key; ",
            "good",
        ),
        ((certificate.clone() + &key).as_bytes(), "good", "good"),
        (
            pair.certificate.der(),
            "has no PEM certificate in it: it is DER; make PEM of it with openssl x509 -inform DER",
            "has no PEM private key in it: it is DER",
        ),
        (
            &pair.key.serialize_der(),
            "has no PEM certificate in it: it is DER",
            "has no PEM private key in it: it is DER; make PEM of it with openssl pkey -inform DER",
        ),
        (
            &store,
            "has no PEM certificate in it: it is a PKCS #12 store; export it with openssl pkcs12",
            "has no PEM private key in it: it is a PKCS #12 store",
        ),
        (
            &[0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 2],
            "has no PEM certificate in it: it is a Java key store",
            "has no PEM private key in it: it is a Java key store",
        ),
        (
            pem("ENCRYPTED PRIVATE KEY", "").as_bytes(),
            "has no PEM certificate in it, but a private key",
            "has an encrypted private key, and flowcar cannot ask for its passphrase; write it without",
        ),
        (
            traditional.as_bytes(),
            "has no PEM certificate in it, but a private key",
            "has an encrypted private key, and flowcar cannot ask for its passphrase; write it without",
        ),
        // A certificate beside an encrypted key of either form, in either order.
        (
            (certificate.clone() + &traditional).as_bytes(),
            "good",
            "has an encrypted private key, and flowcar cannot ask for its passphrase; write it without",
        ),
        (
            (traditional.replace('\n', "\r\n") + &certificate).as_bytes(),
            "good",
            "has an encrypted private key, and flowcar cannot ask for its passphrase; write it without",
        ),
        (
            (certificate.clone() + &pem("ENCRYPTED PRIVATE KEY", "")).as_bytes(),
            "good",
            "has an encrypted private key, and flowcar cannot ask for its passphrase; write it without",
        ),
        (
            pem("OPENSSH PRIVATE KEY", "").as_bytes(),
            "has no PEM certificate in it, but a private key",
            "has no PEM private key in it, but a key of OpenSSH's",
        ),
        (
            pem("PUBLIC KEY", "").as_bytes(),
            "has no PEM certificate in it, but a PUBLIC KEY",
            "has no PEM private key in it, but a PUBLIC KEY",
        ),
        (
            pem("CERTIFICATE REQUEST", "").as_bytes(),
            "has no PEM certificate in it, but a CERTIFICATE REQUEST",
            "has no PEM private key in it, but a CERTIFICATE REQUEST",
        ),
        (
            b"s3cret",
            "has no PEM certificate in it; give the path",
            "has no PEM private key in it; give the path",
        ),
        (
            cut.as_bytes(),
            "is not PEM (an END line is missing)",
            "has no PEM private key in it, but a certificate",
        ),
        (b"", "is empty", "is empty"),
    ] {
        let path = dir.path().join("file.pem");
        fs::write(&path, content).expect("a file");
        let (certificate, key) = read(&path);
        let content = String::from_utf8_lossy(content);
        assert!(
            certificate.starts_with(as_certificate),
            "{certificate}: {content}"
        );
        assert!(key.starts_with(as_key), "{key}: {content}");
        assert!(
            !format!("{certificate}{key}").contains("s3cret"),
            "{certificate} {key}"
        );
    }
    let (certificate, key) = read(dir.path());
    assert!(certificate.starts_with("is a directory") && key.starts_with("is a directory"));
}

#[test]
fn expired_and_future_certificates_are_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let path: PathBuf = dir.path().join("a.crt");
    let good = with(&[HOST], |_| {}).certificate.pem();
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let old = with(&[HOST], |params| {
            params.is_ca = is_ca;
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        });
        let early = with(&[HOST], |params| {
            params.is_ca = is_ca;
            params.not_before = date_time_ymd(4000, 1, 1);
        });
        let (old, early) = (old.certificate.pem(), early.certificate.pem());
        for (content, of_all, of_any) in [
            (good.clone(), None, None),
            (
                old.clone(),
                Some("expired on 2002-01-01 00:00:00 (UTC)"),
                Some("expired on 2002-01-01 00:00:00 (UTC)"),
            ),
            (
                early.clone(),
                Some("is not valid before 4000-01-01 00:00:00 (UTC)"),
                Some("is not valid before 4000-01-01 00:00:00 (UTC)"),
            ),
            (
                good.clone() + &old,
                None,
                Some("expired on 2002-01-01 00:00:00 (UTC)"),
            ),
        ] {
            fs::write(&path, content).expect("a file");
            assert_eq!(out_of_date(&path, true).as_deref(), of_all);
            assert_eq!(out_of_date(&path, false).as_deref(), of_any);
        }
    }
}

#[test]
fn common_name_without_alternative_name_is_recognized() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.crt");
    for (names, host, expected) in [
        (&[][..], HOST, true),
        (&[], "COLLECTOR.test", true),
        (&[], "other.test", false),
        (&[], "collector", false),
        (&[HOST], HOST, false),
        (&["192.0.2.1"], HOST, false),
    ] {
        fs::write(&path, with(names, |_| {}).certificate.pem()).expect("a file");
        assert_eq!(lacks_alt_name(&path, host), expected, "{names:?} {host}");
    }
    // An authority that is named as the host, and the certificate that it signed.
    let (authority, leaf) = (with(&[], |_| {}), with(&[HOST], |_| {}));
    let both = authority.certificate.pem() + &leaf.certificate.pem();
    fs::write(&path, both).expect("a file");
    assert!(!lacks_alt_name(&path, HOST));
}

#[test]
fn without_files_system_roots_are_used_or_the_error_explains() {
    match TlsFiles::default().load(b"h2") {
        Ok(config) => assert_eq!(config.alpn_protocols, [b"h2"]),
        Err(error) => assert!(
            error.to_string().contains("install ca-certificates"),
            "{error}"
        ),
    }
}
