use std::process::{Child, Command};

use super::{cgroup::Cgroup, error::Error, netns::Netns};

/// A cgroup and a network namespace, as a pod has them.
#[derive(Debug)]
pub struct TestPod {
    /// First, so that on drop its processes are killed before the namespace is released.
    cgroup: Cgroup,
    netns: Netns,
}

// === impl TestPod ===

impl TestPod {
    /// Makes both.
    ///
    /// # Errors
    /// As [`Cgroup::new`] and [`Netns::new`].
    pub fn new(name: &str) -> Result<Self, Error> {
        Ok(Self {
            cgroup: Cgroup::new(name)?,
            netns: Netns::new(name)?,
        })
    }

    /// Makes both, the cgroup inside another one.
    ///
    /// # Errors
    /// As [`Cgroup::child`] and [`Netns::new`].
    pub fn inside(above: &Cgroup, name: &str) -> Result<Self, Error> {
        Ok(Self {
            cgroup: above.child(name)?,
            netns: Netns::new(name)?,
        })
    }

    /// The pod's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A cgroup in the pod's, named as a container engine names that of its container: `cri-containerd`, `crio` or `docker`.
    ///
    /// # Errors
    /// As [`Cgroup::child`].
    pub fn container(&self, engine: &str, id: &str) -> Result<Cgroup, Error> {
        self.cgroup.child(&format!("{engine}-{id}.scope"))
    }

    /// The pod's network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Makes `command` run in this pod. Take capabilities away afterwards, not before: entering needs
    /// them, and a command's steps run in the order in which they were added.
    ///
    /// # Errors
    /// As [`Cgroup::enter`] and [`Netns::enter`].
    pub fn enter(&self, command: &mut Command) -> Result<(), Error> {
        self.cgroup.enter(command)?;
        self.netns.enter(command)
    }

    /// A command that will run in this pod.
    ///
    /// # Errors
    /// As [`TestPod::enter`].
    pub fn command(&self, program: &str) -> Result<Command, Error> {
        let mut command = Command::new(program);
        self.enter(&mut command)?;
        Ok(command)
    }

    /// Starts a program in this pod. It is killed when the pod is dropped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Result<Child, Error> {
        self.command(program)?
            .args(arguments)
            .spawn()
            .map_err(Error::at(
                format_args!("start {program}"),
                "is it installed?",
            ))
    }
}
