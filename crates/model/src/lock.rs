//! The workspace's lock (protocol, section 5).

use crate::id::{AttemptId, RunId, UserId};
use crate::refusal::Refusal;
use crate::time::Timestamp;

/// Who may change the workspace's current state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lock {
    /// Nobody holds it.
    Free,
    /// A user.
    User(UserId),
    /// An active run.
    Run(RunId),
    /// A run that has ended while its apply engine may still be alive.
    Lost {
        /// The run.
        run: RunId,
        /// From when on no engine of it can be alive; `None`: only its end or a person's override ends the lock.
        safe_at: Option<Timestamp>,
    },
}

/// The workspace's row, as far as the protocol needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workspace {
    /// The lock.
    pub lock: Lock,
    /// Grows with every taking of the lock.
    pub lock_epoch: u64,
    /// A run whose lost apply may have done things that are not in the state; auto-apply is off while it is set.
    pub lost_run: Option<RunId>,
}

impl Workspace {
    /// A new workspace.
    pub fn new() -> Self {
        Self {
            lock: Lock::Free,
            lock_epoch: 0,
            lost_run: None,
        }
    }

    fn with_lock(&self, lock: Lock) -> Self {
        Self { lock, ..self.clone() }
    }

    fn taken(&self, lock: Lock) -> Self {
        Self {
            lock_epoch: self.lock_epoch + 1,
            ..self.with_lock(lock)
        }
    }

    /// Whether the run holds the lock it took at `epoch`.
    pub fn is_held_by(&self, run: &RunId, epoch: Option<u64>) -> bool {
        match &self.lock {
            Lock::Run(holder) => holder == run && Some(self.lock_epoch) == epoch,
            Lock::Free | Lock::User(_) | Lock::Lost { .. } => false,
        }
    }

    /// Whether the lock is the quarantine of this run, taken at `epoch`.
    pub fn is_lost_by(&self, run: &RunId, epoch: Option<u64>) -> bool {
        match &self.lock {
            Lock::Lost { run: holder, .. } => holder == run && Some(self.lock_epoch) == epoch,
            Lock::Free | Lock::User(_) | Lock::Run(_) => false,
        }
    }

    /// The refusal that tells who holds the lock, or `Ok` when nobody does.
    ///
    /// # Errors
    /// [`Refusal`] with the holder.
    pub fn require_free(&self) -> Result<(), Refusal> {
        match &self.lock {
            Lock::Free => Ok(()),
            Lock::User(user) => Err(Refusal::LockedByUser(user.clone())),
            Lock::Run(run) => Err(Refusal::LockedByRun(run.clone())),
            Lock::Lost { run, safe_at } => Err(Refusal::LockedByLostRun {
                run: run.clone(),
                attempt: None,
                last_contact: None,
                safe_at: *safe_at,
            }),
        }
    }

    /// A run takes the free lock.
    ///
    /// # Errors
    /// [`Refusal`] when somebody holds it.
    pub fn take_for_run(&self, run: &RunId) -> Result<Self, Refusal> {
        self.require_free()?;
        Ok(self.taken(Lock::Run(run.clone())))
    }

    /// A user takes the free lock.
    ///
    /// # Errors
    /// [`Refusal`] when somebody holds it.
    pub fn lock_by_user(&self, user: &UserId) -> Result<Self, Refusal> {
        self.require_free()?;
        Ok(self.taken(Lock::User(user.clone())))
    }

    /// A run that has ended gives its lock back; any other lock stays.
    #[must_use]
    pub fn release(&self, run: &RunId) -> Self {
        match &self.lock {
            Lock::Run(holder) if holder == run => self.with_lock(Lock::Free),
            Lock::Free | Lock::User(_) | Lock::Run(_) | Lock::Lost { .. } => self.clone(),
        }
    }

    /// A granted apply is given up while its engine may be alive: the run's own lock becomes a quarantine.
    #[must_use]
    pub fn lose(&self, run: &RunId, safe_at: Option<Timestamp>) -> Self {
        match &self.lock {
            Lock::Run(holder) if holder == run => self.with_lock(Lock::Lost {
                run: run.clone(),
                safe_at,
            }),
            Lock::Free | Lock::User(_) | Lock::Run(_) | Lock::Lost { .. } => self.clone(),
        }
    }

    /// The lost attempt was heard again: its quarantine moves.
    #[must_use]
    pub fn heard(&self, run: &RunId, epoch: Option<u64>, safe_at: Option<Timestamp>) -> Self {
        if self.is_lost_by(run, epoch) {
            self.with_lock(Lock::Lost {
                run: run.clone(),
                safe_at,
            })
        } else {
            self.clone()
        }
    }

    /// The lost attempt has confirmed its end. When somebody has taken the lock since, its state was kept apart: then
    /// the mark stays until a person has looked.
    #[must_use]
    pub fn delivered(&self, run: &RunId, epoch: Option<u64>) -> Self {
        if epoch != Some(self.lock_epoch) {
            return self.clone();
        }
        let mut next = self.clone();
        if self.is_lost_by(run, epoch) {
            next.lock = Lock::Free;
        }
        if next.lost_run.as_ref() == Some(run) {
            next.lost_run = None;
        }
        next
    }

    /// The database was restored from a backup. What this run did since the backup is not known, so a lock that it holds
    /// becomes a quarantine, and the next run waits for a person.
    #[must_use]
    pub fn restored(&self, run: &RunId, safe_at: Option<Timestamp>) -> Self {
        let lock = match &self.lock {
            Lock::Run(holder) | Lock::Lost { run: holder, .. } if holder == run => Lock::Lost {
                run: run.clone(),
                safe_at,
            },
            Lock::Free | Lock::User(_) | Lock::Run(_) | Lock::Lost { .. } => self.lock.clone(),
        };
        Self {
            lost_run: self.lost_run.clone().or_else(|| Some(run.clone())),
            ..self.with_lock(lock)
        }
    }

    /// The server's own pass over quarantines.
    ///
    /// # Errors
    /// [`Refusal::NotDue`] unless there is a quarantine that has ended.
    pub fn quarantine_ended(&self, now: Timestamp) -> Result<Self, Refusal> {
        match &self.lock {
            Lock::Lost {
                run,
                safe_at: Some(safe_at),
            } if now >= *safe_at => Ok(Self {
                lost_run: Some(run.clone()),
                ..self.with_lock(Lock::Free)
            }),
            Lock::Free | Lock::User(_) | Lock::Run(_) | Lock::Lost { .. } => Err(Refusal::NotDue),
        }
    }

    /// A user's unlock. `actor` is `None` for a token that belongs to no user.
    ///
    /// # Errors
    /// [`Refusal`] when it is not locked, or somebody else holds it.
    pub fn unlock_by_user(&self, actor: Option<&UserId>, now: Timestamp) -> Result<Self, Refusal> {
        match &self.lock {
            Lock::Free => Err(Refusal::AlreadyUnlocked),
            Lock::User(holder) if Some(holder) == actor => Ok(self.with_lock(Lock::Free)),
            Lock::User(_) | Lock::Run(_) => self.require_free().map(|()| self.clone()),
            Lock::Lost { .. } => match self.quarantine_ended(now) {
                Ok(next) => Ok(next),
                Err(_) => self.require_free().map(|()| self.clone()),
            },
        }
    }

    /// An administrator's force-unlock. `running` is the attempt that may be alive in a quarantine, `acknowledge` the
    /// one that the request names.
    ///
    /// # Errors
    /// [`Refusal`] when it is not locked, a run is active, or the request does not name the attempt it overrides.
    pub fn force_unlock(
        &self,
        running: Option<&AttemptId>,
        acknowledge: Option<&AttemptId>,
        now: Timestamp,
    ) -> Result<ForceUnlocked, Refusal> {
        match &self.lock {
            Lock::Free => Err(Refusal::AlreadyUnlocked),
            Lock::User(_) => Ok(ForceUnlocked {
                workspace: self.with_lock(Lock::Free),
                overridden: None,
            }),
            Lock::Run(run) => Err(Refusal::LockedByRun(run.clone())),
            Lock::Lost { run, .. } => {
                if let Ok(workspace) = self.quarantine_ended(now) {
                    return Ok(ForceUnlocked {
                        workspace,
                        overridden: None,
                    });
                }
                match (running, acknowledge) {
                    // After a restore no attempt is known; there is none to name.
                    (None, None | Some(_)) => {}
                    (Some(running), Some(named)) if running == named => {}
                    (Some(_), Some(_)) => return Err(Refusal::OtherAttemptAcknowledged { run: run.clone() }),
                    (Some(_), None) => {
                        self.require_free()?;
                    }
                }
                Ok(ForceUnlocked {
                    workspace: Self {
                        lost_run: Some(run.clone()),
                        ..self.with_lock(Lock::Free)
                    },
                    overridden: Some(run.clone()),
                })
            }
        }
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

/// What a force-unlock did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForceUnlocked {
    /// The row afterwards.
    pub workspace: Workspace,
    /// The run whose attempt may still be alive: its job is to be told kill, its aftermath is overridden.
    pub overridden: Option<RunId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(byte: u8) -> RunId {
        RunId::from_random([byte; 16])
    }

    fn user(byte: u8) -> UserId {
        UserId::from_random([byte; 16])
    }

    fn lost(safe_at: Option<i64>) -> Workspace {
        Workspace {
            lock: Lock::Lost {
                run: run(1),
                safe_at: safe_at.map(Timestamp),
            },
            lock_epoch: 4,
            lost_run: None,
        }
    }

    #[test]
    fn every_taking_raises_the_epoch_and_needs_a_free_lock() {
        let taken = Workspace::new().take_for_run(&run(1)).unwrap();
        assert_eq!(taken.lock_epoch, 1);
        assert_eq!(taken.lock_by_user(&user(1)), Err(Refusal::LockedByRun(run(1))));
        let by_user = taken.release(&run(1)).lock_by_user(&user(1)).unwrap();
        assert_eq!(by_user.lock_epoch, 2);
        assert_eq!(by_user.take_for_run(&run(2)), Err(Refusal::LockedByUser(user(1))));
    }

    #[test]
    fn a_run_releases_only_its_own_lock() {
        let held = Workspace::new().take_for_run(&run(1)).unwrap();
        assert_eq!(held.release(&run(2)), held);
        assert_eq!(held.release(&run(1)).lock, Lock::Free);
        assert_eq!(lost(Some(9)).release(&run(1)), lost(Some(9)));
    }

    #[test]
    fn a_quarantine_ends_at_safe_at_and_leaves_a_mark() {
        assert_eq!(
            lost(Some(10)).quarantine_ended(Timestamp(9)),
            Err(Refusal::NotDue)
        );
        let free = lost(Some(10)).quarantine_ended(Timestamp(10)).unwrap();
        assert_eq!((free.lock, free.lost_run), (Lock::Free, Some(run(1))));
        assert_eq!(
            lost(None).quarantine_ended(Timestamp(i64::MAX)),
            Err(Refusal::NotDue)
        );
    }

    #[test]
    fn a_delivered_end_frees_the_quarantine_of_the_same_epoch_only() {
        assert_eq!(lost(None).delivered(&run(1), Some(4)).lock, Lock::Free);
        assert_eq!(lost(None).delivered(&run(1), Some(3)), lost(None));
        assert_eq!(lost(None).delivered(&run(2), Some(4)), lost(None));
    }

    #[test]
    fn the_mark_of_a_lost_run_stays_when_its_end_comes_after_somebody_took_the_lock() {
        let freed = lost(Some(10)).quarantine_ended(Timestamp(10)).unwrap();
        assert_eq!(freed.delivered(&run(1), Some(4)).lost_run, None);
        let taken = freed.take_for_run(&run(2)).unwrap();
        assert_eq!(taken.delivered(&run(1), Some(4)), taken);
    }

    #[test]
    fn a_restore_quarantines_the_holder_and_leaves_a_mark() {
        let safe_at = Some(Timestamp(20));
        let held = Workspace::new().take_for_run(&run(1)).unwrap();
        for row in [held.clone(), lost(Some(10)), lost(None)] {
            let restored = row.restored(&run(1), safe_at);
            assert_eq!(restored.lock, Lock::Lost { run: run(1), safe_at });
            assert_eq!(restored.lost_run, Some(run(1)));
            assert_eq!(restored.lock_epoch, row.lock_epoch);
        }
        let waiting = held.restored(&run(2), safe_at);
        assert_eq!((waiting.lock, waiting.lost_run), (held.lock, Some(run(2))));
    }

    #[test]
    fn users_unlock_what_is_theirs() {
        let held = Workspace::new().lock_by_user(&user(1)).unwrap();
        assert_eq!(
            held.unlock_by_user(Some(&user(1)), Timestamp(0)).unwrap().lock,
            Lock::Free
        );
        assert_eq!(
            held.unlock_by_user(Some(&user(2)), Timestamp(0)),
            Err(Refusal::LockedByUser(user(1)))
        );
        assert_eq!(
            held.unlock_by_user(None, Timestamp(0)),
            Err(Refusal::LockedByUser(user(1)))
        );
        assert_eq!(
            Workspace::new().unlock_by_user(None, Timestamp(0)),
            Err(Refusal::AlreadyUnlocked)
        );
        assert!(lost(Some(10)).unlock_by_user(None, Timestamp(9)).is_err());
        assert_eq!(
            lost(Some(10)).unlock_by_user(None, Timestamp(10)).unwrap().lock,
            Lock::Free
        );
    }

    #[test]
    fn force_unlock_of_a_quarantine_names_the_attempt_that_may_be_running() {
        let attempt = AttemptId::from_random([1; 16]);
        let other = AttemptId::from_random([2; 16]);
        let row = lost(Some(10));
        assert!(matches!(
            row.force_unlock(Some(&attempt), None, Timestamp(0)),
            Err(Refusal::LockedByLostRun { .. })
        ));
        assert!(matches!(
            row.force_unlock(Some(&attempt), Some(&other), Timestamp(0)),
            Err(Refusal::OtherAttemptAcknowledged { .. })
        ));
        let done = row
            .force_unlock(Some(&attempt), Some(&attempt), Timestamp(0))
            .unwrap();
        assert_eq!(done.overridden, Some(run(1)));
        assert_eq!(done.workspace.lost_run, Some(run(1)));
        let held = Workspace::new().take_for_run(&run(3)).unwrap();
        assert_eq!(
            held.force_unlock(None, None, Timestamp(0)),
            Err(Refusal::LockedByRun(run(3)))
        );
    }
}
