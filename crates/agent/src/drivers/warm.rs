//! Warm sandboxes: started ahead, used once, destroyed.
//!
//! A container takes a few hundred milliseconds to start and its runner under a millisecond to begin work. Two are kept
//! ready: a plan is followed by its apply sooner than a container can be started. Starting and removing them is work
//! for the container engine that would slow down what runs, so it waits until nothing does, or for two seconds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use terrapool_protocol::health::SelfTest;
use terrapool_protocol::runner::ToRunner;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use super::sandbox::{Place, Sandbox, SandboxKey};
use super::{Driver, DriverError};
use crate::control_plane::describe;
use crate::runner_link::RunnerSender;

/// Sandboxes that wait.
const READY: usize = 2;

/// The apply of a plan that has just ended comes within this time.
const BREATH: Duration = Duration::from_millis(150);

/// How long engines that run may put off what has to be cleared and prepared.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the end of the agent waits for sandboxes that are being removed.
const CLEARING: Duration = Duration::from_secs(20);

/// How long nothing has run before memory is given back.
const RESTS_AFTER: Duration = Duration::from_secs(5);

/// The sandboxes that wait for the next jobs of the usual kind, and those that are on their way out.
#[derive(Debug)]
pub struct WarmSandboxes {
    driver: Arc<Driver>,
    /// What those that wait are made for; the pool's settings decide.
    key: watch::Sender<SandboxKey>,
    ready: Mutex<VecDeque<Sandbox>>,
    /// Held while one is being made, so that a job that comes meanwhile waits for that one.
    making: Mutex<()>,
    filling: AtomicBool,
    /// Jobs that are worked on.
    working: watch::Sender<usize>,
    ending: watch::Sender<bool>,
    leaving: Mutex<JoinSet<()>>,
    /// What came of the first sandbox of the kind that waits.
    tested: watch::Sender<Option<SelfTest>>,
}

/// A job that is worked on, until this is dropped.
#[derive(Debug)]
pub struct Working(Arc<WarmSandboxes>);

/// Whole MiB; a limit that is none stays none.
fn in_mb(bytes: u64) -> u64 {
    if bytes == u64::MAX {
        bytes
    } else {
        bytes.div_ceil(1 << 20)
    }
}

/// Why a sandbox is not used whose kernel lets it use this many bytes of memory, where it tells that, if it should be so
/// many MiB.
fn loose(limit: Option<u64>, wanted_mb: u64) -> Option<DriverError> {
    (in_mb(limit?) > wanted_mb).then_some(DriverError::Loose { wanted_mb })
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.send_modify(|count| *count -= 1);
    }
}

impl WarmSandboxes {
    /// Keeps sandboxes of this key.
    pub fn new(driver: Arc<Driver>, key: SandboxKey) -> Arc<Self> {
        Arc::new(Self {
            driver,
            key: watch::Sender::new(key),
            ready: Mutex::default(),
            making: Mutex::default(),
            filling: AtomicBool::new(false),
            working: watch::Sender::new(0),
            ending: watch::Sender::new(false),
            leaving: Mutex::default(),
            tested: watch::Sender::new(None),
        })
    }

    /// Counts a job that is worked on.
    pub fn working(self: &Arc<Self>) -> Working {
        self.working.send_modify(|count| *count += 1);
        Working(Arc::clone(self))
    }

    /// Waits until nothing is worked on, for at most [`PATIENCE`].
    async fn quiet(&self) {
        let mut ending = self.ending.subscribe();
        let mut working = self.working.subscribe();
        let quiet = async {
            loop {
                // An error would mean that this value is gone.
                let _ = working.wait_for(|count| *count == 0).await;
                let busy = working.wait_for(|count| *count > 0);
                if tokio::time::timeout(BREATH, busy).await.is_err() {
                    return;
                }
            }
        };
        let quiet = tokio::time::timeout(PATIENCE, quiet);
        tokio::select! {
            _ = quiet => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }

    /// Keeps sandboxes of this key from here on. Those that wait and were made for another one are removed.
    pub fn keep(self: &Arc<Self>, key: &SandboxKey) {
        if !self
            .key
            .send_if_modified(|kept| std::mem::replace(kept, key.clone()) != *key)
        {
            return;
        }
        tracing::info!(
            image = key.image,
            network = ?key.network,
            memory_mb = key.limits.memory_mb,
            "the pool's sandboxes have other settings; warm ones are made anew"
        );
        self.tested.send_replace(None);
        let warm = Arc::clone(self);
        tokio::spawn(async move {
            warm.remove_ready().await;
            warm.refill();
        });
    }

    /// Makes what is missing, in the background.
    pub fn refill(self: &Arc<Self>) {
        self.fill(false);
    }

    /// Makes what is missing, in the background, once it disturbs least.
    pub fn refill_when_quiet(self: &Arc<Self>) {
        self.fill(true);
    }

    fn fill(self: &Arc<Self>, wait: bool) {
        if self.filling.swap(true, Ordering::SeqCst) {
            return;
        }
        let warm = Arc::clone(self);
        tokio::spawn(async move {
            if wait {
                warm.quiet().await;
            }
            // Whoever takes one from here on has to ask anew.
            warm.filling.store(false, Ordering::SeqCst);
            loop {
                let _making = warm.making.lock().await;
                if warm.ready.lock().await.len() >= READY || *warm.ending.borrow() {
                    break;
                }
                let key = warm.key.borrow().clone();
                match warm.create(&key).await {
                    Ok(sandbox) if key == *warm.key.borrow() => warm.ready.lock().await.push_back(sandbox),
                    Ok(sandbox) => warm.driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await,
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "no warm sandbox could be made"
                        );
                        warm.driver.check().await;
                        return;
                    }
                }
            }
            if *warm.ending.borrow() {
                warm.remove_ready().await;
            }
            warm.rest();
        });
    }

    /// Makes a sandbox. The first one of the kind that waits is a test of this host.
    async fn create(&self, wanted: &SandboxKey) -> Result<Sandbox, DriverError> {
        let is_due = self
            .tested
            .borrow()
            .as_ref()
            .is_none_or(|test| test.failure.is_some());
        let begun = Instant::now();
        let made = self.driver.create_sandbox(wanted).await;
        if !is_due || !self.key.borrow().is_of_kind(wanted) {
            return self.refuse_loose(made).await;
        }
        let mut test = SelfTest {
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            wanted_memory_mb: wanted.limits.memory_mb,
            ..SelfTest::default()
        };
        match &made {
            Ok(sandbox) => {
                test.memory_mb = sandbox.memory_limit.map(in_mb);
                test.connected = self.driver.is_connected(sandbox).await;
            }
            Err(error) => test.failure = Some(describe(error)),
        }
        // The pool's settings may have changed meanwhile.
        if self.key.borrow().is_of_kind(wanted) {
            self.tested.send_replace(Some(test));
        }
        self.refuse_loose(made).await
    }

    /// No job is handed to a sandbox that may take more memory than it should.
    async fn refuse_loose(&self, made: Result<Sandbox, DriverError>) -> Result<Sandbox, DriverError> {
        let sandbox = made?;
        match loose(sandbox.memory_limit, sandbox.key.limits.memory_mb) {
            None => Ok(sandbox),
            Some(error) => {
                self.driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
                Err(error)
            }
        }
    }

    /// What came of the first sandbox of the kind that waits; `None` until one was tried.
    pub fn tested(&self) -> watch::Receiver<Option<SelfTest>> {
        self.tested.subscribe()
    }

    /// Gives back memory that the last jobs took, when none comes for a while: it would want the same again.
    fn rest(&self) {
        let mut working = self.working.subscribe();
        // Not awaited: an agent that ends needs no rest.
        tokio::spawn(async move {
            let busy = working.wait_for(|count| *count > 0);
            if tokio::time::timeout(RESTS_AFTER, busy).await.is_err() {
                terrapool_allocator::give_back_unused();
            }
        });
    }

    /// Whether a sandbox waits whose container lives.
    pub async fn is_ready(&self) -> bool {
        let ready = self.ready.lock().await;
        ready.iter().any(|sandbox| !sandbox.link.receiver.has_ended())
    }

    async fn next(&self) -> Option<Sandbox> {
        loop {
            let sandbox = self.ready.lock().await.pop_front()?;
            let current = sandbox.key == *self.key.borrow();
            if current && !sandbox.link.receiver.has_ended() && self.driver.is_connected(&sandbox).await {
                return Some(sandbox);
            }
            let driver = Arc::clone(&self.driver);
            tokio::spawn(async move {
                driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
            });
        }
    }

    /// Takes a warm sandbox when they fit, else makes one. The next one is not begun here: the caller decides when
    /// its cost disturbs least.
    ///
    /// # Errors
    /// [`DriverError`] when none can be made.
    pub async fn take(&self, wanted: &SandboxKey) -> Result<Sandbox, DriverError> {
        let fits = self.key.borrow().is_of_kind(wanted);
        if fits {
            if let Some(sandbox) = self.next().await {
                return Ok(sandbox);
            }
            if let Err(making) = self.making.try_lock().map(drop) {
                tracing::debug!(reason = %making, "waiting for a sandbox that is being made");
                drop(self.making.lock().await);
                if let Some(sandbox) = self.next().await {
                    return Ok(sandbox);
                }
            }
        }
        let made = self.create(wanted).await;
        if made.is_err() {
            self.driver.check().await;
        }
        made
    }

    /// Ends and removes a used sandbox in the background, once it disturbs least. `runner` is told first.
    pub async fn remove(self: &Arc<Self>, place: Place, runner: Option<RunnerSender>) {
        let warm = Arc::clone(self);
        let mut leaving = self.leaving.lock().await;
        while leaving.try_join_next().is_some() {}
        leaving.spawn(async move {
            warm.quiet().await;
            if let Some(runner) = runner {
                let _ = runner.send(&ToRunner::Release).await;
            }
            warm.driver.remove_sandbox(&place.id, &place.volumes).await;
            warm.rest();
        });
    }

    /// The same, but its volumes stay.
    pub async fn leave_volumes(self: &Arc<Self>, place: Place, runner: Option<RunnerSender>) {
        let driver = Arc::clone(&self.driver);
        self.leaving.lock().await.spawn(async move {
            if let Some(runner) = runner {
                let _ = runner.send(&ToRunner::Release).await;
            }
            driver.leave_volumes(&place).await;
        });
    }

    async fn remove_ready(&self) {
        loop {
            let Some(sandbox) = self.ready.lock().await.pop_front() else {
                return;
            };
            self.driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
        }
    }

    /// No sandbox waits from here on; those that did are removed in the background. Whoever drains has jobs to look
    /// after, and the engine may not answer.
    pub async fn drain(&self) {
        self.ending.send_replace(true);
        self.let_ready_go().await;
    }

    async fn let_ready_go(&self) {
        let ready = std::mem::take(&mut *self.ready.lock().await);
        let mut leaving = self.leaving.lock().await;
        for sandbox in ready {
            let driver = Arc::clone(&self.driver);
            leaving.spawn(async move { driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await });
        }
    }

    /// Waits until everything that had to be removed is, within what a stopped service may take.
    pub async fn close(&self) {
        let cleared = async {
            self.drain().await;
            // One that was being made then.
            drop(self.making.lock().await);
            self.let_ready_go().await;
            let mut leaving = std::mem::take(&mut *self.leaving.lock().await);
            while leaving.join_next().await.is_some() {}
        };
        if tokio::time::timeout(CLEARING, cleared).await.is_err() {
            tracing::warn!("some sandboxes are not removed yet; the next start of the agent does it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_may_take_more_memory_than_it_should_is_not_used() {
        for limit in [Some(513 << 20), Some(u64::MAX)] {
            let said = loose(limit, 512)
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(said.contains("than the 512 MiB"), "{said}");
        }
        // Kernels round down to pages; some tell nothing inside.
        for limit in [Some(512 << 20), Some((512 << 20) - 4096), None] {
            assert!(loose(limit, 512).is_none());
        }
    }
}
