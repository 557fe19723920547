use std::{io, os::unix::process::CommandExt, process::Command};

/// Puts a command under a seccomp filter.
pub trait Filtered {
    /// Makes these system calls (`libc::SYS_*`) fail with `errno`, as a container's seccomp profile does; all others go
    /// through. Sets no_new_privs. Call it after whatever needs one of them.
    fn without_calls(&mut self, calls: &[libc::c_long], errno: libc::c_int) -> &mut Self;
}

// === impl Filtered ===

impl Filtered for Command {
    fn without_calls(&mut self, calls: &[libc::c_long], errno: libc::c_int) -> &mut Self {
        let filter = program(calls, errno);
        // SAFETY: between fork and exec the closure makes system calls only, on values of its own.
        unsafe { self.pre_exec(move || install(&filter)) }
    }
}

/// A classic BPF program over `struct seccomp_data`, whose first word is the number of the call (seccomp(2)).
fn program(calls: &[libc::c_long], errno: libc::c_int) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).expect("codes are small"),
        jt: 0,
        jf,
        k,
    };
    let mut filter = vec![instruction(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        0,
    )];
    for &call in calls {
        let number = u32::try_from(call).expect("numbers of calls are small");
        // If it is another one, past the answer.
        filter.push(instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            number,
        ));
        let answer = libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
        filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, answer));
    }
    filter.push(instruction(
        libc::BPF_RET | libc::BPF_K,
        0,
        libc::SECCOMP_RET_ALLOW,
    ));
    filter
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: both calls take numbers and a pointer to a program that lives through the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        ))
    }
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
