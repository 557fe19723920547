//! A tunnel through an HTTP proxy (RFC 9110, 9.3.6).

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{HOST, PROXY_AUTHORIZATION, USER_AGENT},
};
use http_body_util::Empty;
use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    super::{USER_AGENT_NAME, quote::Quoted, redirect},
    ConnectError,
};
use crate::config::Proxy;

/// Has the proxy at the other end of `stream` connect to `authority`, `host:port`. Bytes after the proxy's answer are the
/// receiver's (an HTTP/2 server sends at once) and are kept.
pub(super) async fn tunnel(
    stream: TcpStream,
    authority: &str,
    proxy: &Proxy,
) -> Result<TokioIo<Upgraded>, ConnectError> {
    let failed = |error: hyper::Error| {
        ConnectError::Proxy(format!(
            "{proxy} does not answer as an HTTP proxy ({error})"
        ))
    };
    let mut request = Request::connect(authority)
        .header(HOST, authority)
        .header(USER_AGENT, USER_AGENT_NAME)
        .body(Empty::<Bytes>::new())
        .map_err(|error| ConnectError::Proxy(format!("{authority}: {error}")))?;
    if let Some(authorization) = &proxy.authorization {
        request
            .headers_mut()
            .insert(PROXY_AUTHORIZATION, authorization.clone());
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    tokio::spawn(connection.with_upgrades());
    let answer = sender.send_request(request).await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(refused(proxy, &answer, authority));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(failed)?;
    Ok(TokioIo::new(upgraded))
}

fn refused<B>(proxy: &Proxy, answer: &Response<B>, authority: &str) -> ConnectError {
    let status = answer.status();
    let why = match (status, &proxy.authorization) {
        (StatusCode::PROXY_AUTHENTICATION_REQUIRED, None) => {
            ": it wants user and password".to_owned()
        }
        (StatusCode::PROXY_AUTHENTICATION_REQUIRED, Some(_)) => {
            ": it does not take this user and password".to_owned()
        }
        _ if redirect::is_redirect(status.as_u16()) => match redirect::target(answer.headers()) {
            Some(target) => format!(": it redirects to {}", Quoted(&target)),
            None => String::new(),
        },
        _ => String::new(),
    };
    let status = status.as_u16();
    ConnectError::Proxy(format!(
        "{proxy} answered {status} when asked to connect to {authority}{why}"
    ))
}
