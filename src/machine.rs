//! What a process takes from the machine that it runs on: the time, tasks, and threads for calls that block.
//!
//! A simulated history runs several processes on machines of its own: each has a clock that may be wrong, and the process
//! may be frozen or killed at any await point. So whatever the daemon waits for, remembers or writes goes through here.
//! Without a simulated machine each function is the one of jiff, rustix or tokio.
//!
//! Own code, because tokio's paused clock moves only tokio's own `Instant`, and tokio has no processes.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;

/// A simulated machine with one process.
pub trait Machine: Send + Sync {
    /// The time by its wall clock.
    fn now(&self) -> Timestamp;

    /// How long it has been up.
    fn uptime(&self) -> Duration;

    /// Asked before each step of each task of the process. While it is pending, the process does nothing.
    fn poll_run(&self, context: &mut Context<'_>) -> Poll<()>;
}

thread_local! {
    /// The machine of the task that runs now.
    static CURRENT: RefCell<Option<Arc<dyn Machine>>> = const { RefCell::new(None) };
}

fn current() -> Option<Arc<dyn Machine>> {
    CURRENT.with_borrow(Clone::clone)
}

/// The time by the wall clock.
#[must_use]
pub fn now() -> Timestamp {
    current().map_or_else(Timestamp::now, |machine| machine.now())
}

/// How long the machine has been up, sleep included. Neither a change of the wall clock nor sleep disturbs it.
#[must_use]
pub fn uptime() -> Duration {
    // On other systems, the monotonic clock comes closest.
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;
    match current() {
        Some(machine) => machine.uptime(),
        // Without a clock, every term is over.
        None => Duration::try_from(clock_gettime(CLOCK)).unwrap_or(Duration::MAX),
    }
}

/// Runs a call that blocks where that is allowed. In a simulated history it takes no time.
pub fn spawn_blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    match current() {
        Some(machine) => tokio::spawn(run_on(machine, async { call() })),
        None => tokio::task::spawn_blocking(call),
    }
}

/// A future for a task of its own, on the machine of the task that spawns it.
pub fn inherit<F: Future>(future: F) -> Either<F, RunOn<F>> {
    match current() {
        Some(machine) => Either::Right(run_on(machine, future)),
        None => Either::Left(future),
    }
}

/// Runs a task of the process on a simulated machine.
pub fn run_on<F: Future>(machine: Arc<dyn Machine>, future: F) -> RunOn<F> {
    RunOn {
        machine,
        future: Box::pin(future),
    }
}

/// A task of the process on a simulated machine.
pub struct RunOn<F> {
    machine: Arc<dyn Machine>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for RunOn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        std::task::ready!(self.machine.poll_run(context));
        let _entered = Entered::on(&self.machine);
        self.future.as_mut().poll(context)
    }
}

/// Restores the machine of the outer task, also after a panic.
struct Entered(Option<Arc<dyn Machine>>);

impl Entered {
    fn on(machine: &Arc<dyn Machine>) -> Self {
        Self(CURRENT.replace(Some(Arc::clone(machine))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
