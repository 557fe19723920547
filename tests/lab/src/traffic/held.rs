use std::{io, panic, thread};

use super::{call::Caller, call_plan::CallPlan, report::ConnectionReport, socket};

/// Connections that stay open until they are closed by [`Held::close`].
#[derive(Debug)]
pub struct Held {
    open: Vec<Caller>,
    failed: Vec<ConnectionReport>,
    threads: usize,
}

// === impl Held ===

impl Held {
    /// Opens all connections of the plan, in the network namespace of the calling thread, with the plan's
    /// least number of exchanges on each. Here and later the plan's `concurrency` is the number of threads
    /// that work.
    ///
    /// # Errors
    /// An interval of the plan is empty, or threads cannot be started.
    pub fn open(plan: &CallPlan) -> io::Result<Self> {
        let plan = plan.checked()?;
        socket::raise_open_files()?;
        let threads = usize::try_from(plan.concurrency).map_err(io::Error::other)?;
        let mut held = Self {
            open: Vec::new(),
            failed: Vec::new(),
            threads,
        };
        let connections = (0..plan.connections).collect();
        for connected in spread(connections, threads, |number| Caller::connect(plan, number))? {
            match connected {
                Ok(caller) => held.open.push(caller),
                Err(report) => held.failed.push(*report),
            }
        }
        for _ in 0..*plan.exchanges.start() {
            held.exchange()?;
        }
        Ok(held)
    }

    /// The connections that are open.
    pub fn open_connections(&self) -> &[Caller] {
        &self.open
    }

    /// One exchange on each connection that is open. Those on which it fails are closed.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn exchange(&mut self) -> io::Result<()> {
        let callers = std::mem::take(&mut self.open);
        let exchange = |mut caller: Caller| match caller.exchange() {
            Ok(()) => Ok(caller),
            Err(error) => Err(Box::new(caller.finish(Err(error)))),
        };
        for exchanged in spread(callers, self.threads, exchange)? {
            match exchanged {
                Ok(caller) => self.open.push(caller),
                Err(report) => self.failed.push(*report),
            }
        }
        Ok(())
    }

    /// Makes the last exchange on each connection, closes it by the plan, and reports about all,
    /// those that failed on the way first.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn close(self) -> io::Result<Vec<ConnectionReport>> {
        let last = |mut caller: Caller| {
            let exchanged = caller.last_exchange();
            caller.finish(exchanged)
        };
        let mut reports = self.failed;
        reports.extend(spread(self.open, self.threads, last)?);
        Ok(reports)
    }
}

/// Does `work` with each item on a number of threads, and keeps the order.
fn spread<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> R + Sync,
) -> io::Result<Vec<R>> {
    let share = items.len().div_ceil(threads.max(1));
    let mut items = items.into_iter();
    let work = &work;
    thread::scope(|scope| {
        let mut workers = Vec::new();
        while items.len() > 0 {
            let own: Vec<T> = items.by_ref().take(share).collect();
            let all = move || own.into_iter().map(work).collect::<Vec<R>>();
            workers.push(thread::Builder::new().spawn_scoped(scope, all)?);
        }
        let finished = workers.into_iter().map(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        });
        Ok(finished.flatten().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_spread_and_stays_in_order() {
        let doubled = |items: Vec<u32>, threads| spread(items, threads, |item| item * 2).unwrap();
        assert_eq!(
            doubled((0..10).collect(), 3),
            (0..20).step_by(2).collect::<Vec<_>>()
        );
        assert_eq!(doubled(vec![1, 2], 9), [2, 4]);
        assert_eq!(doubled(vec![1], 0), [2]);
        assert_eq!(doubled(vec![], 2), [0_u32; 0]);
    }
}
