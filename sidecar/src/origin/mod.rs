//! Whose a socket is: the container by the cgroup's directory, the process by /proc, and the listener that a server's socket came from.

mod containers;
mod listeners;
mod processes;

pub use self::{
    containers::{Containers, Unresolved, container_in_name, container_of},
    listeners::Listeners,
    processes::{PidNamespace, ProcNumbers, Processes, proc_numbers},
};
use crate::flow::{Flow, Monotonic, Origin, OriginEvent, Role, SocketNetns, SocketSnapshot};

/// Finds whose sockets flows have.
#[derive(Debug)]
pub struct Origins {
    /// None where containers are not asked for.
    pub containers: Option<Containers>,
    processes: Option<Processes>,
    listeners: Listeners,
}

impl Origins {
    /// Of containers and of processes, where these are wanted. `own_netns` is the cookie of the network namespace that dumps show; 0 where
    /// it is not known.
    pub fn new(
        containers: Option<Containers>,
        processes: Option<Processes>,
        own_netns: u64,
    ) -> Self {
        Self {
            containers,
            processes,
            listeners: Listeners::new(own_netns),
        }
    }

    /// Nobody asks.
    pub fn off() -> Self {
        Self::new(None, None, 0)
    }

    /// Whether anybody asks.
    pub const fn are_wanted(&self) -> bool {
        self.containers.is_some() || self.processes.is_some()
    }

    /// Whether a dump of the listeners is wanted.
    pub const fn wants_listeners(&self) -> bool {
        self.listeners.is_contested()
    }

    /// Whether names of processes are read, which is possible only while they run.
    pub fn reads_names(&self) -> bool {
        self.processes.as_ref().is_some_and(Processes::can_read)
    }

    /// A turn begins: so many processes may be read in it.
    pub fn begin_turn(&mut self) {
        if let Some(processes) = &mut self.processes {
            processes.begin_turn();
        }
        self.take_notices();
    }

    /// Reads the directories of containers that were made.
    pub fn take_notices(&mut self) {
        if let Some(containers) = &mut self.containers {
            containers.take_notices();
        }
    }

    /// Another cgroup may have taken the place of the followed one.
    pub fn root_changed(&mut self) {
        if let Some(containers) = &mut self.containers {
            containers.root_changed();
        }
    }

    /// Takes an event in. What the process is called is read while it is there.
    pub fn apply(&mut self, event: &OriginEvent) {
        let (OriginEvent::Connects(caller) | OriginEvent::Listens(_, caller)) = event else {
            return self.listeners.apply(event, None);
        };
        let processes = self.processes.as_mut();
        let name = processes.and_then(|processes| processes.name_of_caller(caller));
        self.listeners.apply(event, name);
    }

    /// A dump that began at this time shows these followed listeners.
    pub fn dumped(&mut self, listening: &[SocketSnapshot], at: Monotonic) {
        self.listeners.begin(at);
        for observed in listening {
            self.listeners.saw(observed);
        }
        self.listeners.end();
    }

    /// Sets whose socket a new flow has, as far as that is known; the socket is in this network namespace.
    pub fn resolve(&mut self, flow: &mut Flow, netns: SocketNetns) {
        // What the kernel's record has is of use to nobody.
        if !self.are_wanted() {
            flow.origin = Origin::default();
            return;
        }
        if flow.role != Role::Server {
            self.listeners.connected(flow.cookie);
        } else if let Some(listener) = self.listeners.of(flow.local, flow.started, netns) {
            flow.origin.cgroup = flow.origin.cgroup.or(listener.cgroup);
            flow.origin.process = listener.process;
        }
        match &mut self.processes {
            None => flow.origin.process = None,
            // A listener's process called before: its number may be another's by now.
            Some(_) if flow.role == Role::Server => {}
            Some(processes) => {
                let unnamed = flow.origin.process.as_mut();
                if let Some(process) = unnamed.filter(|of| of.name.is_none()) {
                    process.name = processes.name(process.pid, flow.started);
                }
            }
        }
        if let Some(containers) = &mut self.containers {
            flow.origin.container = containers.of(flow.origin.cgroup);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, path::PathBuf};

    use super::*;
    use crate::{
        clock::Anchor,
        flow::{Caller, ListenerName},
    };

    /// The process that called `listen()` has ended, and its number is that of this process, which runs.
    #[test]
    fn listener_never_has_the_name_of_a_later_process() {
        let pid = NonZeroU32::new(std::process::id());
        let now = Anchor::now().monotonic();
        let local = ([127, 0, 0, 1], 80).into();
        let listener = ListenerName {
            cookie: 1,
            local,
            netns: None,
        };
        let name_of_a_server = |listens: Monotonic| {
            let processes = Processes::of(Some((PathBuf::from("/proc"), ProcNumbers::Initial)));
            let mut origins = Origins::new(None, Some(processes), 0);
            let caller = Caller {
                at: listens,
                cgroup: None,
                pid,
                own_pid: None,
            };
            origins.apply(&OriginEvent::Listens(listener, caller));
            let mut flow = Flow {
                role: Role::Server,
                local,
                started: now,
                ..crate::flow::example::closed(1)
            };
            origins.resolve(&mut flow, SocketNetns::Unread);
            let process = flow.origin.process.expect("the listener's");
            assert_eq!(Some(process.pid), pid);
            process.name
        };
        assert_eq!(name_of_a_server(Monotonic(0)), None);
        assert!(name_of_a_server(now).is_some(), "it is this process's");
    }

    /// A client's process calls as the connection starts.
    #[test]
    fn client_has_the_name_of_the_process_that_ran_when_it_started() {
        let pid = std::process::id();
        let name_of_a_client = |started| {
            let processes = Processes::of(Some((PathBuf::from("/proc"), ProcNumbers::Initial)));
            let mut origins = Origins::new(None, Some(processes), 0);
            let mut flow = Flow {
                role: Role::Client,
                started,
                origin: Origin::new(0, pid),
                ..crate::flow::example::closed(1)
            };
            origins.resolve(&mut flow, SocketNetns::Unread);
            flow.origin.process.expect("its own").name
        };
        assert_eq!(name_of_a_client(Monotonic(0)), None);
        assert!(name_of_a_client(Anchor::now().monotonic()).is_some());
    }

    #[test]
    fn nothing_of_an_origin_is_kept_where_nobody_asks() {
        let mut flow = Flow {
            origin: Origin::new(7, std::process::id()),
            ..crate::flow::example::closed(1)
        };
        Origins::off().resolve(&mut flow, SocketNetns::Unread);
        assert_eq!(flow.origin, Origin::default());
    }
}
