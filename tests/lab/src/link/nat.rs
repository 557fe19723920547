use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Stdio,
};

use super::{Link, error::Error, plan::Plan};
use crate::place::{Netns, default_route};

/// Addresses of the service, as a cluster's service addresses: no device has them.
const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10);

/// What the router between client and server rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// The client calls the service's address, the router makes it the server's (DNAT).
    Destination,
    /// The server sees the router as its client (SNAT by masquerade).
    Source,
    /// Both, as a node does for a service.
    Both,
}

/// A client and a server with a router between them that translates addresses: two links in a row.
#[derive(Debug)]
pub struct Nat {
    client_side: Link,
    server_side: Link,
    router: Netns,
    rewrite: Rewrite,
}

// === impl Nat ===

impl Nat {
    /// Connects both through a router. The first link has the plan; the second one passes everything at
    /// once. Both namespaces get a default route through the router.
    ///
    /// # Errors
    /// The links cannot be made, or nft does not take the rules.
    pub fn between(
        client: &Netns,
        server: &Netns,
        plan: Plan,
        rewrite: Rewrite,
    ) -> Result<Self, Error> {
        let router = Netns::new("router")?;
        router.sysctl("net.ipv4.ip_forward", "1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let client_side = Link::between(client, &router, plan)?;
        let server_side = Link::between(&router, server, Plan::rtt(std::time::Duration::ZERO))?;
        route_through(client, &client_side)?;
        route_through(server, &server_side)?;
        let nat = Self {
            client_side,
            server_side,
            router,
            rewrite,
        };
        nat.load_rules()?;
        Ok(nat)
    }

    /// The address that the client calls, IPv4.
    pub fn service4(&self) -> IpAddr {
        match self.rewrite {
            Rewrite::Source => self.server_side.b4(),
            Rewrite::Destination | Rewrite::Both => SERVICE_V4.into(),
        }
    }

    /// The address that the client calls, IPv6.
    pub fn service6(&self) -> IpAddr {
        match self.rewrite {
            Rewrite::Source => self.server_side.b6(),
            Rewrite::Destination | Rewrite::Both => SERVICE_V6.into(),
        }
    }

    /// The link between client (a) and router (b).
    pub fn client_side(&self) -> &Link {
        &self.client_side
    }

    /// The link between router (a) and server (b).
    pub fn server_side(&self) -> &Link {
        &self.server_side
    }

    /// The router.
    pub fn router(&self) -> &Netns {
        &self.router
    }

    fn load_rules(&self) -> Result<(), Error> {
        let mut nft = self
            .router
            .command("nft")?
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::Nat(error.to_string()))?;
        if let Some(mut stdin) = nft.stdin.take() {
            // If nft has exited, its status shows it.
            let _ = stdin.write_all(self.rules().as_bytes());
        }
        let output = nft
            .wait_with_output()
            .map_err(|error| Error::Nat(error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::Nat(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            )),
        }
    }

    fn rules(&self) -> String {
        let (server4, server6) = (self.server_side.b4(), self.server_side.b6());
        let device = self.server_side.device();
        let destination = format!(
            "chain prerouting {{ type nat hook prerouting priority -100;
               ip daddr {SERVICE_V4} dnat ip to {server4}
               ip6 daddr {SERVICE_V6} dnat ip6 to {server6}
             }}"
        );
        let source = format!(
            "chain postrouting {{ type nat hook postrouting priority 100;
               oifname \"{device}\" masquerade
             }}"
        );
        let chains = match self.rewrite {
            Rewrite::Destination => destination,
            Rewrite::Source => source,
            Rewrite::Both => destination + "\n" + &source,
        };
        format!("table inet nat {{\n{chains}\n}}\n")
    }
}

fn route_through(netns: &Netns, link: &Link) -> Result<(), Error> {
    let device = link.device();
    netns
        .run(|| default_route(&device))?
        .map_err(|why| Error::Device {
            name: device.clone(),
            netns: netns.name().to_owned(),
            why,
        })
}
