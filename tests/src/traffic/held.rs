use std::io;

use super::{
    call::{CallPlan, Caller},
    report::ConnectionReport,
    socket,
};

/// Connections that stay open until told otherwise.
#[derive(Debug)]
pub struct Held {
    open: Vec<Caller>,
    failed: Vec<ConnectionReport>,
}

// === impl Held ===

impl Held {
    /// Opens all connections of the plan one after the other, in the network namespace of the calling
    /// thread, with the plan's least number of exchanges on each.
    ///
    /// # Errors
    /// An interval of the plan is empty, or the limit of open files cannot be read.
    pub fn open(plan: &CallPlan) -> io::Result<Self> {
        let plan = plan.checked()?;
        socket::raise_open_files()?;
        let mut held = Self {
            open: Vec::new(),
            failed: Vec::new(),
        };
        for connection in 0..plan.connections {
            match Caller::connect(plan, connection) {
                Ok(caller) => held.open.push(caller),
                Err(report) => held.failed.push(*report),
            }
        }
        for _ in 0..*plan.exchanges.start() {
            held.exchange();
        }
        Ok(held)
    }

    /// The connections that are open.
    pub fn open_connections(&self) -> &[Caller] {
        &self.open
    }

    /// One exchange on each connection that is open.
    pub fn exchange(&mut self) {
        for mut caller in std::mem::take(&mut self.open) {
            match caller.exchange() {
                Ok(()) => self.open.push(caller),
                Err(error) => self.failed.push(caller.finish(Err(error))),
            }
        }
    }

    /// Makes the last exchange on each connection, closes it as the plan says, and reports about all,
    /// those that failed on the way first.
    pub fn close(self) -> Vec<ConnectionReport> {
        let mut reports = self.failed;
        for mut caller in self.open {
            let exchanged = caller.last_exchange();
            reports.push(caller.finish(exchanged));
        }
        reports
    }
}
