//! The certificate authorities that an image brings: Mozilla's list, as the locked crate has it.

use pem::{EncodeConfig, LineEnding, Pem, encode_many_config};
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// The crate that they are from.
pub(crate) const CRATE: &str = "webpki-root-certs";

/// All of them, one after the other.
pub(crate) fn pem() -> String {
    let all: Vec<_> = TLS_SERVER_ROOT_CERTS
        .iter()
        .map(|der| Pem::new("CERTIFICATE", der.to_vec()))
        .collect();
    encode_many_config(&all, EncodeConfig::new().set_line_ending(LineEnding::LF))
}
