//! Guards that can be taken out, one at a time, so that the search has to notice.

macro_rules! guards {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A guard of the tables.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Guard {
            $($(#[$doc])* $variant,)*
        }

        impl Guard {
            /// Every guard.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

guards! {
    /// A claim or start names the attempt that holds the job.
    AttemptCompared = "attempt-compared",
    /// An apply asks for its start before it executes.
    StartGrant = "start-grant",
    /// A granted apply that falls silent is never queued again.
    GrantedNeverQueued = "granted-never-queued",
    /// A state is compared with the lock's epoch.
    StateEpoch = "state-epoch",
    /// A quarantine lasts until no engine can be alive.
    SafeAt = "safe-at",
    /// A lost apply leaves a quarantine.
    LostLock = "lost-lock",
    /// A force-canceled apply that was granted leaves a quarantine.
    ForceCancelQuarantine = "force-cancel-quarantine",
    /// A terminal status never changes.
    TerminalFinal = "terminal-final",
    /// A late state is kept apart.
    KeptApart = "kept-apart",
    /// Never started is said only once the grant was given up.
    GrantGivenUp = "grant-given-up",
    /// Never started is said only with the marker absent.
    MarkerAbsent = "marker-absent",
    /// Nothing starts that is to stop.
    StartWanted = "start-wanted",
    /// A repeated start is granted anew or not at all.
    RepeatedStart = "repeated-start",
    /// A job that is to stop is not queued again when it falls silent.
    ExpireWanted = "expire-wanted",
    /// A job that is to stop is not queued again when it is given back.
    ReturnWanted = "return-wanted",
    /// A job is tried only so often.
    Tries = "tries",
    /// A saved plan takes a free lock.
    SavedLockFree = "saved-lock-free",
    /// A saved plan is applied only on the state it read.
    SavedStateSame = "saved-state-same",
    /// An end is recorded once the state has arrived.
    StateBeforeEnd = "state-before-end",
    /// An end names the attempt that holds the job.
    EndMatches = "end-matches",
    /// A run is scheduled on a free lock.
    ScheduledLockFree = "scheduled-lock-free",
    /// A plan's end honours a cancel.
    PlanEndCanceled = "plan-end-canceled",
    /// Only the attempt of the lost apply frees its quarantine.
    LateEndMatches = "late-end-matches",
}
