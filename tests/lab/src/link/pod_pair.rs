use std::io;

use super::{Link, plan::Plan};
use crate::place::TestPod;

/// A client's and a server's pod and a link between them; the client is its end a.
#[derive(Debug)]
pub struct PodPair {
    /// First, so that on drop it is taken away before the pods are.
    link: Link,
    client: TestPod,
    server: TestPod,
}

// === impl PodPair ===

impl PodPair {
    /// Makes them; the link has this plan in both directions.
    ///
    /// # Errors
    /// As [`TestPod::new`] and [`Link::between`].
    pub fn new(plan: Plan) -> io::Result<Self> {
        let client = TestPod::new("client")?;
        let server = TestPod::new("server")?;
        let link = Link::between(client.netns(), server.netns(), plan).map_err(io::Error::other)?;
        Ok(Self {
            link,
            client,
            server,
        })
    }

    /// The client's pod.
    pub const fn client(&self) -> &TestPod {
        &self.client
    }

    /// The server's pod.
    pub const fn server(&self) -> &TestPod {
        &self.server
    }

    /// The link between them.
    pub const fn link(&self) -> &Link {
        &self.link
    }
}
