use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::net::if_::if_nametoindex;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};

/// What a device is given: each address with its prefix length.
#[derive(Clone, Debug)]
pub(crate) struct DeviceAddresses {
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// Packets that the device holds until they are read.
    pub(crate) queue: u32,
    pub(crate) addresses: Vec<(IpAddr, u8)>,
}

pub(super) fn set_up_loopback() -> io::Result<()> {
    with_netlink(async |handle| {
        let up = LinkUnspec::new_with_index(index_of("lo")?).up().build();
        handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(io::Error::other)
    })
}

/// Gives loopback of the calling thread's network namespace a hardware address, which it has not otherwise.
pub(super) fn set_loopback_address(address: [u8; 6]) -> io::Result<()> {
    with_netlink(async |handle| {
        let index = index_of("lo")?;
        let addressed = LinkUnspec::new_with_index(index)
            .address(address.into())
            .build();
        handle
            .link()
            .set(addressed)
            .execute()
            .await
            .map_err(io::Error::other)
    })
}

/// Configures a device of the calling thread's network namespace and brings it up.
pub(crate) fn set_up_device(device: &DeviceAddresses) -> io::Result<()> {
    with_netlink(async |handle| {
        let index = index_of(&device.name)?;
        for (address, prefix) in &device.addresses {
            let added = handle
                .address()
                .add(index, *address, *prefix)
                .execute()
                .await;
            added.map_err(io::Error::other)?;
        }
        let up = LinkUnspec::new_with_index(index)
            .mtu(device.mtu)
            .txqueuelen(device.queue)
            .up()
            .build();
        handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(io::Error::other)
    })
}

/// Sends everything that has no better route through `device`.
pub(crate) fn default_route(device: &str) -> io::Result<()> {
    with_netlink(async |handle| {
        let index = index_of(device)?;
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(index)
            .build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
            .output_interface(index)
            .build();
        for route in [v4, v6] {
            handle
                .route()
                .add(route)
                .execute()
                .await
                .map_err(io::Error::other)?;
        }
        Ok(())
    })
}

fn index_of(device: &str) -> io::Result<u32> {
    Ok(if_nametoindex(device)?)
}

/// Runs `work` with a netlink socket of the calling thread's network namespace.
fn with_netlink(work: impl AsyncFnOnce(Handle) -> io::Result<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _messages) = new_connection()?;
        let driver = tokio::spawn(connection);
        let result = work(handle).await;
        driver.abort();
        result
    })
}
