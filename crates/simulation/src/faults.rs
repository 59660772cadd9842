//! What breaks, and when.

use crate::host::Host;
use crate::world::{Happening, HostNumber, World};

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill -9 of an agent.
    AgentKilled { host: HostNumber, down: u64 },
    /// kill -9 of an agent between two of its next actions.
    AgentDiesSoon { host: HostNumber, actions: u32 },
    /// SIGTERM to an agent.
    AgentToldToEnd { host: HostNumber },
    /// The container engine takes its containers along.
    SandboxesKilled { host: HostNumber },
    /// The host goes down with everything that runs on it.
    HostRebooted { host: HostNumber, down: u64 },
    /// The host comes back with empty disks, as another agent.
    DiskLost { host: HostNumber },
    /// Only the agent's data folder is lost.
    JournalLost { host: HostNumber },
    /// The host reaches nobody.
    Cut { host: HostNumber, long: u64 },
    /// The host stands still.
    Sleeps { host: HostNumber, long: u64 },
    /// A machine with the same image as another one is started.
    Cloned { host: HostNumber },
    /// kill -9 of a process of the control plane.
    ServerKilled { replica: usize, down: u64 },
    /// A request is cut off after a transaction of its handler.
    RequestCutOff { transaction: u32 },
    /// The wall clock is set.
    ClockSet { milliseconds: i64 },
}

impl World {
    /// Draws what breaks.
    pub(crate) fn plan_faults(&mut self) {
        let window = self.settings.window.0;
        for _ in 0..self.settings.faults {
            let at = self.rng.u64(5000..window);
            let fault = self.draw_fault(window - at);
            self.after(at, Happening::Fault(fault));
        }
    }

    fn draw_fault(&mut self, left: u64) -> Fault {
        let host = self.rng.usize(0..self.settings.hosts);
        let times = self.settings.times;
        let long = match self.rng.u32(0..3) {
            0 => self.rng.u64(200..5000),
            1 => self.rng.u64(5000..times.lease_apply.0 * 2),
            _ => self.rng.u64(times.lease_apply.0..times.lease_apply.0 * 5),
        }
        .min(left.max(1));
        let down = if self.rng.bool() {
            self.rng.u64(100..5000)
        } else {
            long
        };
        match self.rng.u32(0..22) {
            0..=2 => Fault::AgentKilled { host, down },
            3..=6 => Fault::AgentDiesSoon {
                host,
                actions: self.rng.u32(0..12),
            },
            7 => Fault::AgentToldToEnd { host },
            8 => Fault::SandboxesKilled { host },
            9 => Fault::HostRebooted { host, down },
            10 => Fault::DiskLost { host },
            11 => Fault::JournalLost { host },
            12..=13 => Fault::Cut { host, long },
            14 => Fault::Sleeps { host, long },
            15 => Fault::Cloned { host },
            16..=17 => Fault::ServerKilled {
                replica: self.rng.usize(0..self.plane.processes()),
                down,
            },
            18..=20 => Fault::RequestCutOff {
                transaction: self.rng.u32(1..3),
            },
            _ => Fault::ClockSet {
                milliseconds: if self.rng.bool() { 3_600_000 } else { -3_600_000 },
            },
        }
    }

    /// Something breaks now.
    pub(crate) async fn fault(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.counts.faults += 1;
        self.note(|| format!("FAULT {fault:?}"));
        let now = self.clock.elapsed();
        match fault {
            Fault::AgentKilled { host, down } => self.kill_process(host, down),
            Fault::AgentDiesSoon { host, actions } => {
                if let Some(process) = self.hosts[host].process.as_mut() {
                    process.actions_left = Some(actions);
                }
            }
            Fault::AgentToldToEnd { host } => {
                for _ in 0..self.rng.u32(1..4) {
                    self.tell_to_end(host);
                }
            }
            Fault::SandboxesKilled { host } => self.kill_sandboxes(host),
            Fault::HostRebooted { host, down } => {
                self.kill_process(host, down);
                self.kill_sandboxes(host);
            }
            Fault::DiskLost { host } => {
                self.kill_process(host, 3000);
                self.forget(host);
                let lost = &mut self.hosts[host];
                lost.sandboxes.clear();
                lost.journal.clear();
                lost.identity.push_str("-anew");
            }
            Fault::JournalLost { host } => {
                self.kill_process(host, 3000);
                self.forget(host);
                self.hosts[host].journal.clear();
            }
            Fault::Cut { host, long } => self.hosts[host].cut_until = now + long,
            Fault::Sleeps { host, long } => {
                self.hosts[host].sleeps_until = now + long;
                for sandbox in self.hosts[host].sandboxes.values_mut() {
                    // Nothing can stop what stands still; its runner does first thing when it goes on.
                    let limit = sandbox.deadline.map_or(u64::MAX, |deadline| deadline.0);
                    sandbox.slept |= now + long >= limit;
                }
            }
            Fault::Cloned { host } => {
                let number = self.hosts.len();
                let mut clone = Host::new(number, self.hosts[host].slots);
                clone.identity.clone_from(&self.hosts[host].identity);
                clone.is_clone = true;
                self.hosts.push(clone);
                self.after(1, Happening::ProcessStarts(number));
                self.after(1000, Happening::HostTick(number));
            }
            Fault::ServerKilled { replica, down } => {
                self.plane.kill(replica);
                self.after(down, Happening::ReplicaStarts(replica));
            }
            Fault::RequestCutOff { transaction } => self.clock.cut_at_transaction(transaction),
            Fault::ClockSet { milliseconds } => {
                // Nobody can tell a clock that was set forward while every process was down from time that passed.
                let looked = (0..self.plane.processes()).any(|number| self.plane.is_up(number));
                if looked || milliseconds < 0 {
                    self.plane.reconcile().await?;
                    self.clock.set_by(milliseconds);
                    self.plane.reconcile().await?;
                }
            }
        }
        Ok(())
    }

    /// What a host knew of its attempts is gone.
    fn forget(&mut self, host: HostNumber) {
        self.forgotten.extend(self.hosts[host].sandboxes.keys().cloned());
    }

    /// Machines that were cloned are switched off for good.
    pub(crate) fn remove_clones(&mut self) {
        for number in 0..self.hosts.len() {
            if !self.hosts[number].is_clone {
                continue;
            }
            self.forget(number);
            let host = &mut self.hosts[number];
            host.process = None;
            host.sandboxes.clear();
            host.journal.clear();
        }
    }
}
