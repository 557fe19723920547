use std::{io, os::fd::AsFd};

use nix::sys::socket::{
    setsockopt,
    sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo},
};

/// From here on the kernel makes a TLS 1.3 record (RFC 8446, 5.2) of each write and opens those that come in:
/// AES-128-GCM, with one key for both directions, since both ends must know it and nobody else is on the link.
///
/// # Errors
/// The kernel has no TLS, not even as a module.
pub(super) fn start(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, TcpUlp::default(), b"tls")?;
    let keys = TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
        info: libc::tls_crypto_info {
            version: libc::TLS_1_3_VERSION,
            cipher_type: libc::TLS_CIPHER_AES_GCM_128,
        },
        iv: [1; libc::TLS_CIPHER_AES_GCM_128_IV_SIZE],
        key: [2; libc::TLS_CIPHER_AES_GCM_128_KEY_SIZE],
        salt: [3; libc::TLS_CIPHER_AES_GCM_128_SALT_SIZE],
        rec_seq: [0; libc::TLS_CIPHER_AES_GCM_128_REC_SEQ_SIZE],
    });
    setsockopt(&socket, TcpTlsTx, &keys)?;
    Ok(setsockopt(&socket, TcpTlsRx, &keys)?)
}
