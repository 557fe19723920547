//! Why no answer came to an export.

use std::{error::Error, io};

use super::{
    connect::{ConnectError, Connector},
    error::Cause,
    speech::Phase,
};

/// Why there was no answer, from the error of a client: the connector's error, another protocol of the receiver, or a TLS alert;
/// else the error's root cause, which is the most specific.
pub(super) fn no_answer(error: &(dyn Error + 'static), connector: &Connector) -> Cause {
    let target = connector.target();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return match error {
                ConnectError::Unreachable(why) => Cause::Unreachable(why.clone()),
                ConnectError::Interface(why) => Cause::Interface(why.clone()),
                ConnectError::Slow(limit) => Cause::Unconnected(*limit),
                ConnectError::Mismatch(mismatch) => Cause::Mismatch(mismatch.clone()),
                ConnectError::Tls(why) if connector.received_nothing() => {
                    Cause::Silent(why.clone())
                }
                ConnectError::Tls(why) => Cause::Tls(why.clone()),
                ConnectError::Certificate(fault) => Cause::Certificate(fault.clone()),
                ConnectError::Files(error) => Cause::Setup(error.to_string()),
                ConnectError::Proxy(why) => Cause::Proxy(why.clone()),
            };
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let alert = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(alert) = alert {
            return Cause::Tls(format!("{alert}; {}", target.tls));
        }
        next = error.source();
    }
    if let Some(mismatch) = connector.mismatch() {
        return Cause::Mismatch(mismatch);
    }
    // HTTP/2 keeps only the text of the error.
    match root(error) {
        alert if alert.contains("received fatal alert") => {
            Cause::Tls(format!("{alert}; {}", target.tls))
        }
        why if connector.received_nothing() => Cause::Silent(why),
        why if is_malformed(error) => Cause::NotHttp(why),
        why if connector.phase() != Phase::Connected => match target.timeout {
            // The client's own limit for a connection.
            Some(limit) => late(Cause::Timeout(limit), connector),
            None => Cause::Unreachable(why),
        },
        why => match why.strip_prefix("stream error received: ") {
            Some(reason) => Cause::Reset(reason.to_owned()),
            None => Cause::Cut(why),
        },
    }
}

/// Why there was no answer in time: perhaps the receiver expects another protocol, or the connection is not complete.
pub(super) fn late(cause: Cause, connector: &Connector) -> Cause {
    if let Some(mismatch) = connector.mismatch() {
        return Cause::Mismatch(mismatch);
    }
    let Cause::Timeout(limit) = cause else {
        return cause;
    };
    let target = connector.target();
    match (connector.phase(), &target.proxy) {
        (Phase::Resolving | Phase::Connecting, None) if target.socket.is_some() => cause,
        (Phase::Resolving, None) => Cause::Unresolved(limit),
        (Phase::Connecting, None) => Cause::Unconnected(limit),
        (Phase::Resolving, Some(proxy)) => Cause::Proxy(format!(
            "the name of {proxy} was not resolved within {limit:?}"
        )),
        (Phase::Connecting, Some(proxy)) => {
            Cause::Proxy(format!("no TCP connection to {proxy} within {limit:?}"))
        }
        (Phase::Tunnelling, Some(proxy)) => Cause::Proxy(format!(
            "{proxy} did not answer within {limit:?} when asked to connect to the receiver"
        )),
        (Phase::Handshaking, _) => Cause::Handshake(limit),
        (Phase::Tunnelling, None) | (Phase::Connected, _) => cause,
    }
}

/// Whether an answer came that HTTP/1 has no meaning for: its head, or the framing of its body, which hyper reports as an I/O error.
fn is_malformed(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let head = error.downcast_ref::<hyper::Error>();
        let body = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if head.is_some_and(hyper::Error::is_parse)
            || matches!(
                body,
                Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
            )
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// The root cause of an error.
fn root(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
