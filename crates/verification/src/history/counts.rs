//! What histories have seen: a history in which nothing rare happens proves little.

macro_rules! rare {
    ($($(#[$doc:meta])* $variant:ident,)*) => {
        /// Something that should happen in some histories.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rare {
            $($(#[$doc])* $variant,)*
        }

        impl Rare {
            /// Everything rare.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
        }
    };
}

rare! {
    /// A job went back to the queue.
    Requeued,
    /// A granted apply was given up.
    GrantedLost,
    /// Every try came to nothing.
    TriesUsedUp,
    /// An end arrived after the job was given up.
    FinishedLate,
    /// A job was given back that was to stop.
    ReturnedUnwanted,
    /// A lost job was given back.
    ReturnedLate,
    /// A start was granted again.
    GrantRepeated,
    /// A claim was answered again.
    ClaimRepeated,
    /// A state became current at once.
    CurrentAtOnce,
    /// A state was kept apart.
    KeptApart,
    /// The server's clock was set.
    ClockSet,
    /// The database was replaced by its backup.
    Restored,
    /// An attempt of another history was told to surrender.
    Surrendered,
    /// A quarantine ended by itself.
    QuarantineEnded,
    /// A quarantine was overridden.
    Overridden,
    /// A run was force-canceled.
    ForceCanceled,
    /// A confirmation came too late.
    StalePlan,
    /// A saved plan was confirmed.
    SavedConfirmed,
    /// A runner stopped its engine because nobody renewed the contact.
    DeadMan,
    /// A grant arrived too late to be used.
    LateGrant,
    /// A newer session did not name a job.
    NotReported,
    /// An engine was killed at the end of its grace.
    Killed,
    /// An engine of an earlier run still executed when a later run's began: only after an override, or when a person has
    /// confirmed after a restore.
    TwoEngines,
    /// An auto-apply run waited for a person.
    WaitedForPerson,
    /// An attempt was taken up by a new process.
    TakenUp,
    /// A host was lost with its disk.
    HostLost,
}

/// How often each was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

impl Counts {
    /// Notes one.
    pub fn saw(&mut self, rare: Rare) {
        let place = rare as usize;
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] += 1;
    }

    /// How often it was seen.
    pub fn of(&self, rare: Rare) -> u64 {
        self.0.get(rare as usize).copied().unwrap_or(0)
    }

    /// Adds what others have seen.
    pub fn add(&mut self, others: &Self) {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&others.0) {
            *mine += theirs;
        }
    }
}
