//! One connection, two processes: the first opens it, the second continues it (SCM_RIGHTS, unix(7)).

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::TcpStream,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};

use super::{call::Caller, call_plan::CallPlan, report::ConnectionReport};

/// Opens a connection, makes one exchange on it, and passes it to the process that takes it at `path`. The report is of that exchange
/// alone.
///
/// # Errors
/// It cannot connect, or nobody takes it.
pub fn give(plan: &CallPlan, path: &Path) -> io::Result<ConnectionReport> {
    let mut caller = Caller::connect(plan, 0)
        .map_err(|report| io::Error::other(format!("cannot connect: {report:?}")))?;
    caller.exchange()?;
    let taker = UnixStream::connect(path)?;
    let handed = [caller.stream().as_raw_fd()];
    sendmsg::<()>(
        taker.as_raw_fd(),
        &[IoSlice::new(b"1")],
        &[ControlMessage::ScmRights(&handed)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(caller.leave())
}

/// Takes a connection, makes the last exchange on it, and closes it by the plan. The report is of that exchange alone.
///
/// # Errors
/// No connection is passed.
pub fn take(plan: &CallPlan, listener: &UnixListener) -> io::Result<ConnectionReport> {
    let (giver, _) = listener.accept()?;
    let mut caller = Caller::over(plan, TcpStream::from(receive(&giver)?))?;
    let exchanged = caller.last_exchange();
    Ok(caller.finish(exchanged))
}

fn receive(giver: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(giver.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let handed = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(handed) => handed.first().copied(),
        _ => None,
    });
    let handed = handed.ok_or_else(|| io::Error::other("no connection was passed"))?;
    // SAFETY: the kernel has just made this descriptor for this process, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(handed) })
}
