//! What a file without the expected content holds instead: each kind with its remedy.

use std::path::Path;

use rustls_pki_types::pem;

use crate::files::FileError;

pub(super) const GIVE_PEM: &str = "give the path of a PEM file";

/// The expected content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Certificate,
    Key,
}

/// The error about the content that is there instead.
pub(super) fn instead(path: &Path, content: &[u8], wanted: Wanted) -> FileError {
    let (what, openssl) = match wanted {
        Wanted::Certificate => ("certificate", "x509"),
        Wanted::Key => ("private key", "pkey"),
    };
    let error = |wrong: String, remedy: &str| FileError::new(path, wrong, remedy);
    let absent = format!("has no PEM {what} in it");
    // DER begins with a SEQUENCE and is no text, in a PKCS #12 store its version follows, which is 3 (RFC 7292, 4), and a
    // Java key store begins with its own magic number.
    match content {
        [0xFE, 0xED, 0xFE, 0xED, ..] => {
            let remedy = "export it with keytool -importkeystore -deststoretype PKCS12, and that with openssl pkcs12 -nodes";
            return error(format!("{absent}: it is a Java key store"), remedy);
        }
        [0x30, 0x82, _, _, 0x02, 0x01, 0x03, ..] => {
            let remedy = "export it with openssl pkcs12 -in FILE -nodes -out FILE.pem";
            return error(format!("{absent}: it is a PKCS #12 store"), remedy);
        }
        [0x30, ..] if std::str::from_utf8(content).is_err() => {
            let remedy =
                format!("make PEM of it with openssl {openssl} -inform DER -in FILE -out FILE.pem");
            return error(format!("{absent}: it is DER"), &remedy);
        }
        _ => {}
    }
    let text = String::from_utf8_lossy(content);
    let labels: Vec<_> = text.lines().filter_map(label).collect();
    let has = |label: &str| labels.contains(&label);
    let key = labels.iter().any(|label| label.ends_with("PRIVATE KEY"));
    // RFC 5958's form, and that of RFC 1421 which OpenSSL calls traditional.
    if wanted == Wanted::Key
        && key
        && (has("ENCRYPTED PRIVATE KEY") || text.contains("4,ENCRYPTED"))
    {
        let remedy = "write it without a passphrase, readable for flowcar alone: openssl pkey -in FILE -out FILE.pem";
        return error(
            "has an encrypted private key, and flowcar cannot ask for its passphrase".to_owned(),
            remedy,
        );
    }
    let found = match wanted {
        Wanted::Certificate if key => Some("a private key".to_owned()),
        Wanted::Key if has("CERTIFICATE") => Some("a certificate".to_owned()),
        _ if has("OPENSSH PRIVATE KEY") => Some("a key of OpenSSH's".to_owned()),
        _ => labels.first().map(|label| format!("a {label}")),
    };
    match found {
        Some(found) => error(
            format!("{absent}, but {found}"),
            &format!("give the path of the {what}'s PEM file"),
        ),
        None => error(absent, GIVE_PEM),
    }
}

/// PEM without the headers of keys that are encrypted in RFC 1421's form, which the parser takes for malformed Base64: a certificate
/// beside such a key is good.
pub(super) fn without_key_headers(text: &[u8]) -> Vec<u8> {
    let is_header =
        |line: &&[u8]| line.starts_with(b"Proc-Type:") || line.starts_with(b"DEK-Info:");
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !is_header(line))
        .flatten()
        .copied()
        .collect()
}

/// The label in `-----BEGIN X-----`.
fn label(line: &str) -> Option<&str> {
    let label = line
        .trim()
        .strip_prefix("-----BEGIN ")?
        .strip_suffix("-----")?;
    let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, ' ' | '#');
    (label.len() < 40 && label.chars().all(plain)).then_some(label)
}

/// The error about PEM that is cut off or malformed. The parser's own error would quote the line.
pub(super) fn broken(path: &Path, error: &pem::Error) -> FileError {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "an END line is missing",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "what is between BEGIN and END is not Base64",
        _ => "it does not parse",
    };
    FileError::new(path, format!("is not PEM ({why})"), "write the file anew")
}
