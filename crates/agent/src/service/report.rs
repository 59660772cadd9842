//! What the agent tells of itself: to the control plane, to `terrapool-agent status`, and to the service manager.

use terrapool_agent_core::capacity::{Held, OVERHEAD_MB, Size, free_memory, free_slots, reserve};
use terrapool_protocol::agent::{AttemptReport, Capacity, Sync, SyncMode};
use terrapool_protocol::health::{Health, Room};
use terrapool_protocol::job::Limits;

use super::Service;
use crate::clock::boottime;
use crate::config::Config;
use crate::control::{Draining, JobStatus, Status};
use crate::host;

pub(super) fn size(limits: Limits) -> Size {
    Size {
        memory_mb: limits.memory_mb,
        cpu_millis: limits.cpu_millis,
    }
}

pub(super) fn capacity(config: &Config, held: Held, job: Size, reserve_mb: u64) -> Capacity {
    let host = host::read(config);
    let free = free_slots(host, held, job);
    Capacity {
        slots: free + held.jobs,
        free_slots: free,
        memory_mb: free_memory(host, held) + held.memory_mb,
        free_memory_mb: free_memory(host, held),
        reserve_mb,
    }
}

impl Service {
    pub(super) fn held(&self) -> Held {
        let holding = self
            .handles
            .values()
            .filter(|handle| handle.attempt.borrow().holds_slot());
        holding.fold(Held::default(), |held, handle| Held {
            jobs: held.jobs + 1,
            memory_mb: held.memory_mb + handle.memory_mb + OVERHEAD_MB,
            resident_mb: 0,
            cpu_millis: held.cpu_millis + handle.cpu_millis,
        })
    }

    pub(super) fn capacity(&self) -> Capacity {
        let reserve_mb = reserve(host::read(&self.config).total_mb);
        let capacity = capacity(
            &self.config,
            self.held(),
            size(self.settings.default_limits),
            reserve_mb,
        );
        if *self.engine_answers.borrow() {
            capacity
        } else {
            // Whatever was taken now would only be given back.
            Capacity {
                free_slots: 0,
                free_memory_mb: 0,
                ..capacity
            }
        }
    }

    /// Why no new jobs are taken; `None` when they are.
    pub(super) fn draining(&self) -> Option<Draining> {
        if self.ends() {
            Some(Draining::Ending)
        } else if self.mode == SyncMode::FinishOnly {
            Some(Draining::FinishOnly)
        } else if self.drained {
            Some(Draining::Local)
        } else if self.drain_wanted {
            Some(Draining::ControlPlane)
        } else {
            None
        }
    }

    pub(super) fn status(&self) -> Status {
        let jobs = self.handles.values().map(|handle| {
            let attempt = handle.attempt.borrow();
            JobStatus {
                job: attempt.job.clone(),
                phase: attempt.phase,
                stage: attempt.report().map(|report| report.stage),
                memory_mb: handle.memory_mb,
            }
        });
        Status {
            agent: self
                .registered
                .as_ref()
                .map(|registered| registered.agent.clone()),
            name: self.config.name.clone(),
            pool: self
                .registered
                .as_ref()
                .map(|registered| registered.pool_name.clone()),
            url: self.config.url.clone(),
            version: self.body.version.clone(),
            last_contact_ms: self.contact.map(|contact| boottime().since(contact).0),
            trouble: self.trouble.clone(),
            draining: self.draining(),
            capacity: self.capacity(),
            jobs: jobs.collect(),
            engine_answers: *self.engine_answers.borrow(),
            clock_ahead_seconds: self.shared.control_plane.clock_ahead_seconds(),
            counters: self.counters,
        }
    }

    /// What it does, in a line for the service manager.
    pub(super) fn summary(&self) -> String {
        let place = match (&self.registered, &self.trouble) {
            (_, Some(trouble)) => trouble.clone(),
            (Some(registered), None) => format!("in pool {}", registered.pool_name),
            (None, None) => "not registered yet".to_owned(),
        };
        let draining = if self.draining().is_some() {
            ", takes no new ones"
        } else {
            ""
        };
        format!("{place}; {} jobs{draining}", self.handles.len())
    }

    pub(super) fn report(&self, session: u64) -> Sync {
        let attempts: Vec<AttemptReport> = self
            .handles
            .values()
            .filter_map(|handle| handle.attempt.borrow().report())
            .collect();
        Sync {
            session,
            capacity: self.capacity(),
            draining: self.ends() || self.drained,
            hold: self.hold.min(self.settings.hold),
            attempts,
            health: Some(self.health()),
        }
    }

    fn health(&self) -> Health {
        let host = host::read(&self.config);
        Health {
            driver_answers: *self.engine_answers.borrow(),
            disk: host::disk(&self.config.data_dir),
            memory: Some(Room {
                free_mb: host.available_mb,
                total_mb: host.total_mb,
            }),
            clock_ahead_seconds: self.shared.control_plane.clock_ahead_seconds(),
            failed_calls: self.counters.failed_calls,
            last_failure: self.last_failure.clone(),
            self_test: self.tested.borrow().clone(),
        }
    }
}
