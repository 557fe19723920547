//! Where the ends of a connection are, and what an operator or a filter does to them there.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
};

use clap::Args;

use crate::place::Netns;

/// The pod in which the client's socket is made.
#[derive(Clone, Debug, Args)]
pub struct ClientPod {
    /// Its cgroup
    #[arg(long, required = false)]
    pub client_cgroup: PathBuf,
    /// Its network namespace
    #[arg(long, required = false)]
    pub client_netns: PathBuf,
}

/// The network namespaces of both ends. This process is in the client's.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// If it is another one.
    server: Option<Netns>,
}

// === impl Namespaces ===

impl Namespaces {
    /// Moves this thread and its process to the client's pod. Sockets that exist stay where they were made.
    ///
    /// # Errors
    /// It is not root, or there is no such pod.
    pub(super) fn with_client_in(pod: Option<&ClientPod>) -> io::Result<Self> {
        let Some(pod) = pod else {
            return Ok(Self { server: None });
        };
        let server = Netns::of_this_thread()?;
        fs::write(pod.client_cgroup.join("cgroup.procs"), "0")?;
        Netns::open(&pod.client_netns)?.enter_for_good()?;
        Ok(Self {
            server: Some(server),
        })
    }

    /// Lets no segment of this server's arrive in either network namespace any more, or all again.
    ///
    /// # Errors
    /// nft refuses the rules.
    pub(super) fn cut(&self, server: SocketAddr, is_cut: bool) -> io::Result<()> {
        let port = server.port();
        let rules = if is_cut {
            format!(
                "table inet cut{port} {{ chain input {{ type filter hook input priority 0; \
                 tcp sport {port} drop; tcp dport {port} drop; }}; }}"
            )
        } else {
            format!("delete table inet cut{port}")
        };
        let here = Some(Command::new("nft"));
        let there = self.server.is_some().then(|| self.at_server("nft"));
        for command in here.into_iter().map(Ok).chain(there) {
            if !command?.arg(&rules).status()?.success() {
                return Err(io::Error::other("nft refused the rules"));
            }
        }
        Ok(())
    }

    /// Destroys the client's socket, as an operator does (SOCK_DESTROY).
    ///
    /// # Errors
    /// The kernel cannot (CONFIG_INET_DIAG_DESTROY).
    pub(super) fn destroy_client(&self, client: &TcpStream) -> io::Result<()> {
        destroy(Command::new("ss"), client)
    }

    /// The same for the server's.
    ///
    /// # Errors
    /// As [`Namespaces::destroy_client`].
    pub(super) fn destroy_server(&self, server: &TcpStream) -> io::Result<()> {
        destroy(self.at_server("ss")?, server)
    }

    /// A command that runs in the server's network namespace.
    fn at_server(&self, program: &str) -> io::Result<Command> {
        match &self.server {
            Some(server) => Ok(server.command(program)?),
            None => Ok(Command::new(program)),
        }
    }
}

fn destroy(mut ss: Command, socket: &TcpStream) -> io::Result<()> {
    let local = format!(":{}", socket.local_addr()?.port());
    let peer = format!(":{}", socket.peer_addr()?.port());
    let output = ss
        .args(["-HntK", "sport", "=", &local, "and", "dport", "=", &peer])
        .output()?;
    // It shows what it destroyed.
    if String::from_utf8_lossy(&output.stdout).contains(&local) {
        Ok(())
    } else {
        Err(io::Error::other("ss -K destroyed nothing: SOCK_DESTROY"))
    }
}
