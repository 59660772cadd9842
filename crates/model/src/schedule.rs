//! In which order ready jobs are offered: applies, plans, speculative plans; then fair across workspaces; then first
//! in, first out.

use std::collections::BTreeMap;

use crate::id::{JobId, WorkspaceId};
use crate::job::Phase;
use crate::time::Timestamp;

/// A job's class, the lower the sooner.
pub fn priority(phase: Phase, speculative: bool) -> u32 {
    match (phase, speculative) {
        (Phase::Apply, true | false) => 0,
        (Phase::Plan, false) => 1,
        (Phase::Plan, true) => 2,
    }
}

/// A job that waits for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The job.
    pub job: JobId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its class, from [`priority`].
    pub priority: u32,
    /// Since when it waits.
    pub queued_at: Timestamp,
}

/// Puts ready jobs into the order in which they are offered. `running` counts the jobs that a workspace has running.
pub fn order(mut candidates: Vec<Candidate>, running: &BTreeMap<WorkspaceId, u64>) -> Vec<Candidate> {
    candidates.sort_by(|one, two| {
        (one.priority, one.queued_at, &one.job).cmp(&(two.priority, two.queued_at, &two.job))
    });
    let mut turns = running.clone();
    let mut ranked: Vec<(u32, u64, Candidate)> = candidates
        .into_iter()
        .map(|candidate| {
            let turn = turns.entry(candidate.workspace.clone()).or_insert(0);
            let rank = *turn;
            *turn += 1;
            (candidate.priority, rank, candidate)
        })
        .collect();
    // Stable: within a class and a turn the first in stays the first out.
    ranked.sort_by_key(|(priority, turn, _)| (*priority, *turn));
    ranked.into_iter().map(|(_, _, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(job: u8, workspace: u8, priority: u32, queued_at: i64) -> Candidate {
        Candidate {
            job: JobId::from_random([job; 16]),
            workspace: WorkspaceId::from_random([workspace; 16]),
            priority,
            queued_at: Timestamp(queued_at),
        }
    }

    #[test]
    fn applies_come_before_plans_and_speculative_plans_come_last() {
        let jobs = vec![
            candidate(1, 1, 2, 0),
            candidate(2, 2, 1, 1),
            candidate(3, 3, 0, 2),
        ];
        let order: Vec<u32> = order(jobs, &BTreeMap::new())
            .iter()
            .map(|job| job.priority)
            .collect();
        assert_eq!(order, [0, 1, 2]);
    }

    #[test]
    fn a_workspace_with_many_jobs_does_not_starve_the_others() {
        let jobs = vec![
            candidate(1, 1, 2, 0),
            candidate(2, 1, 2, 1),
            candidate(3, 1, 2, 2),
            candidate(4, 2, 2, 3),
        ];
        let ids: Vec<JobId> = order(jobs, &BTreeMap::new())
            .into_iter()
            .map(|job| job.job)
            .collect();
        let expected: Vec<JobId> = [1, 4, 2, 3].map(|byte| JobId::from_random([byte; 16])).to_vec();
        assert_eq!(ids, expected);
    }

    #[test]
    fn what_a_workspace_has_running_counts_as_its_turns() {
        let jobs = vec![candidate(1, 1, 1, 0), candidate(2, 2, 1, 1)];
        let running = BTreeMap::from([(WorkspaceId::from_random([1; 16]), 2)]);
        let first = order(jobs, &running).remove(0);
        assert_eq!(first.job, JobId::from_random([2; 16]));
    }
}
