use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    panic,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

use super::{
    counters::{self, Counters},
    error::Error,
    network,
};

/// Set in every new namespace, so that tests see the same kernel everywhere.
const SYSCTLS: &[(&str, &str)] = &[
    // The machine's default may be bbr, whose pacing shapes RTT and retransmits. reno is allowed in every
    // namespace; cubic only where the initial one names it.
    ("net.ipv4.tcp_congestion_control", "reno"),
    // Else a second connection to the same peer starts with what the first one measured.
    ("net.ipv4.tcp_no_metrics_save", "1"),
    // Addresses are usable at once, and nobody but the test puts packets on the link.
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv6.conf.default.addr_gen_mode", "1"),
];

/// The namespace of the thread that opens it.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// A network namespace. [`Netns::new`] makes one of its own, with loopback up. It lives until its last user goes: this value, a thread or
/// process inside, or an open socket.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

// === impl Netns ===

impl Netns {
    /// Makes an empty namespace; `name` only identifies it in messages and thread names.
    ///
    /// # Errors
    /// CAP_SYS_ADMIN is missing, or loopback cannot be set up.
    pub fn new(name: &str) -> Result<Self, Error> {
        let file = on_thread(name, || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open(OF_THIS_THREAD)
        })
        .and_then(|file| file)
        .map_err(Error::at(
            format_args!("make network namespace {name}"),
            "run as root",
        ))?;
        let netns = Self {
            name: name.to_owned(),
            file,
        };
        for (key, value) in SYSCTLS {
            netns.sysctl(key, value)?;
        }
        netns.run(network::set_up_loopback)?.map_err(Error::at(
            format_args!("bring loopback of namespace {name} up"),
            "run as root",
        ))?;
        Ok(netns)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn of_this_thread() -> Result<Self, Error> {
        Self::open(Path::new(OF_THIS_THREAD))
    }

    /// The namespace that this file is of, as [`Netns::path`] has it.
    ///
    /// # Errors
    /// There is no such file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(Error::at(
            format_args!("open network namespace {name}"),
            "does its owner still run?",
        ))?;
        Ok(Self { name, file })
    }

    /// The name it was given, or the path that it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path that other programs can open while this process lives, for example
    /// `nsenter --net=PATH ss -tin` in another terminal.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            process::id(),
            self.file.as_raw_fd()
        ))
    }

    /// Runs `work` on a thread of its own inside the namespace and gives back what it returns. Sockets
    /// made there, and threads and processes started there, stay in the namespace. A panic in `work`
    /// goes on in the caller.
    ///
    /// # Errors
    /// The thread cannot be started or cannot enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_thread(&self.name, || {
            enter_by(&self.file)?;
            Ok(work())
        })
        .and_then(|result| result)
        .map_err(Error::at(
            format_args!("enter network namespace {}", self.name),
            "run as root",
        ))
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// CAP_SYS_ADMIN is missing.
    pub fn enter_for_good(&self) -> Result<(), Error> {
        enter_by(&self.file).map_err(Error::at(
            format_args!("enter network namespace {}", self.name),
            "run as root",
        ))
    }

    /// Makes `command` enter the namespace before it runs.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn enter(&self, command: &mut Command) -> Result<(), Error> {
        let file = self.file.try_clone().map_err(Error::at(
            "duplicate a namespace's descriptor",
            "raise ulimit -n",
        ))?;
        // SAFETY: between fork and exec the closure only calls setns(2) on a descriptor opened before.
        unsafe { command.pre_exec(move || enter_by(&file)) };
        Ok(())
    }

    /// A command that will run in the namespace.
    ///
    /// # Errors
    /// As [`Netns::enter`].
    pub fn command(&self, program: &str) -> Result<Command, Error> {
        let mut command = Command::new(program);
        self.enter(&mut command)?;
        Ok(command)
    }

    /// Sets a `net.*` parameter, spelled with dots, in this namespace only.
    ///
    /// # Errors
    /// The kernel has no such parameter here, or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| fs::write(path, value))?.map_err(Error::at(
            format_args!("set {key}={value} in namespace {}", self.name),
            "does this kernel have it?",
        ))
    }

    /// Lets a segment count as lost after a second, and sends no probes: delays of a busy machine cause no retransmits. Before Linux 6.11
    /// the least time-out is 200 ms, and a namespace cannot change it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn have_patience(&self) -> Result<(), Error> {
        const LEAST: &str = "net.ipv4.tcp_rto_min_us";
        self.sysctl("net.ipv4.tcp_early_retrans", "0")?;
        let path = Path::new("/proc/sys").join(LEAST.replace('.', "/"));
        if path.exists() {
            self.sysctl(LEAST, "1000000")?;
        }
        Ok(())
    }

    /// Gives loopback a hardware address: without one, some tools take it for no device.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn set_loopback_address(&self, address: [u8; 6]) -> Result<(), Error> {
        self.run(|| network::set_loopback_address(address))?
            .map_err(Error::at(
                format_args!("address loopback of namespace {}", self.name),
                "run as root",
            ))
    }

    /// The kernel's SNMP counters of this namespace.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn snmp(&self) -> Result<Counters, Error> {
        self.run(Counters::read)?.map_err(Error::at(
            format_args!("read the counters of namespace {}", self.name),
            "mount /proc",
        ))
    }

    /// Packets that a device of this namespace dropped on their way in and out, by its own count.
    ///
    /// # Errors
    /// There is no such device.
    pub fn device_drops(&self, device: &str) -> Result<u64, Error> {
        self.run(|| counters::device_drops(device))?
            .map_err(Error::at(
                format_args!(
                    "read the drops of device {device} in namespace {}",
                    self.name
                ),
                "is its link still there?",
            ))
    }
}

/// Moves the calling thread into the namespace of this file. A system call alone.
fn enter_by(file: &File) -> io::Result<()> {
    Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
}

/// A network namespace belongs to a thread, so entering one on a thread that ends afterwards leaves the
/// caller where it is.
fn on_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)?;
        Ok(thread
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}
