//! The Service of a cluster, which has no proxy here: new connections go to one replica, established ones stay.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
};

pub(crate) struct Service {
    endpoint: Arc<Mutex<SocketAddr>>,
}

// === impl Service ===

impl Service {
    /// Listens until the process ends.
    pub(crate) fn start(listen: SocketAddr, endpoint: SocketAddr) -> Self {
        let listener = TcpListener::bind(listen).expect("the webhook's address");
        let service = Self {
            endpoint: Arc::new(Mutex::new(endpoint)),
        };
        let endpoint = service.endpoint.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let to = *endpoint.lock().unwrap_or_else(PoisonError::into_inner);
                // A refused connection reaches the client as one that ends at once.
                if let Ok(server) = TcpStream::connect(to) {
                    carry(&client, &server);
                }
            }
        });
        service
    }

    /// Sends new connections there.
    pub(crate) fn switch(&self, endpoint: SocketAddr) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = endpoint;
    }
}

fn carry(client: &TcpStream, server: &TcpStream) {
    for (from, to) in [(client, server), (server, client)] {
        let (mut from, mut to) = (
            from.try_clone().expect("a socket"),
            to.try_clone().expect("a socket"),
        );
        std::thread::spawn(move || {
            // Either end may be closed by then: the other is closed in the same way.
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Write));
        });
    }
}
