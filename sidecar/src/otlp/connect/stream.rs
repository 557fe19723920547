//! A connection to a receiver: straight, through a proxy or over a socket of this host, with TLS or without.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::upgrade::Upgraded;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

use crate::otlp::speech::Listened;

/// A connection of any kind.
#[derive(Debug)]
pub(in crate::otlp) enum Stream {
    Plain(Listened<Carrier>),
    Tls(Box<Listened<TlsStream<Listened<Carrier>>>>),
    /// To a proxy, which gets the whole URL of each request.
    Forwarded(Listened<TcpStream>),
}

/// The transport below TLS.
#[derive(Debug)]
pub(in crate::otlp) enum Carrier {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Through a proxy's tunnel.
    Tunnel(TokioIo<Upgraded>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(matches!(self, Self::Forwarded(_)))
    }
}

/// Delegates the calls to the stream of each variant.
macro_rules! hand_on {
    ($of:ident: $($kind:ident),+) => {
        impl AsyncRead for $of {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$kind(stream) => Pin::new(stream).poll_read(cx, buf),)+
                }
            }
        }

        impl AsyncWrite for $of {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$kind(stream) => Pin::new(stream).poll_write(cx, buf),)+
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$kind(stream) => Pin::new(stream).poll_flush(cx),)+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$kind(stream) => Pin::new(stream).poll_shutdown(cx),)+
                }
            }
        }
    };
}

hand_on!(Stream: Plain, Tls, Forwarded);
hand_on!(Carrier: Tcp, Unix, Tunnel);
