//! Everything of a simulation, and the queue of what happens next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use terrapool_agent_core::attempt::Boottime;
use terrapool_model::id::{AttemptId, ConfigurationVersionId, JobId, RunId, WorkspaceId};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{SyncMode, Verdict};
use terrapool_protocol::secret::Secret;

use crate::Settings;
use crate::calls::{Call, Reply, Speaker};
use crate::clock::VirtualClock;
use crate::control_plane::{ControlPlane, Handled};
use crate::faults::Fault;
use crate::host::Host;
use crate::people::RunRow;
use crate::sandbox::Step;

/// Number of a host.
pub(crate) type HostNumber = usize;

/// Number of an agent's process; each process of the simulation has its own.
pub(crate) type ProcessNumber = u64;

/// A request on its way.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    pub(crate) number: u64,
    pub(crate) host: HostNumber,
    pub(crate) process: ProcessNumber,
    pub(crate) speaker: Speaker,
    pub(crate) sent: Boottime,
    pub(crate) call: Call,
    pub(crate) credential: Secret,
}

/// What happens at some time.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    /// A request reaches a process of the control plane.
    Arrives(Box<Envelope>),
    /// An answer, or the news that none came, reaches the agent.
    Answered(Box<Envelope>, Box<Reply>),
    /// An agent's process does what it has to do by itself.
    Pump(HostNumber, ProcessNumber),
    /// A process that was started finds its sandboxes.
    Searched(HostNumber, ProcessNumber, AttemptId),
    /// A sandbox goes on.
    Sandbox(HostNumber, AttemptId, u64, Step),
    /// A second has passed on a host.
    HostTick(HostNumber),
    /// An agent is started on a host.
    ProcessStarts(HostNumber),
    /// A process of the control plane is started.
    ReplicaStarts(usize),
    /// The reconcilers' turn.
    Reconcile,
    /// People look.
    People,
    /// A run is made.
    NewRun,
    /// Something breaks.
    Fault(Fault),
}

struct Scheduled {
    at: u64,
    number: u64,
    happening: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were handled.
    pub requests: u64,
    /// Requests and answers that were lost, and requests that came twice.
    pub network_faults: u64,
    /// Kills, cuts and the like.
    pub faults: u64,
    /// Applies whose engine was started.
    pub engine_starts: u64,
    /// Runs.
    pub runs: u64,
    /// Jobs that an attempt claimed.
    pub claims: u64,
    /// Applies that were given up while their engine may have run.
    pub lost: u64,
    /// States that were kept apart.
    pub kept_apart: u64,
    /// Seconds of simulated time.
    pub seconds: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.network_faults += other.network_faults;
        self.faults += other.faults;
        self.engine_starts += other.engine_starts;
        self.runs += other.runs;
        self.claims += other.claims;
        self.lost += other.lost;
        self.kept_apart += other.kept_apart;
        self.seconds += other.seconds;
    }
}

/// A resource that an engine made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) workspace: WorkspaceId,
    pub(crate) attempt: AttemptId,
    pub(crate) resource: String,
}

/// Everything.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) rng: fastrand::Rng,
    pub(crate) plane: ControlPlane,
    pub(crate) hosts: Vec<Host>,
    pub(crate) workspaces: Vec<(WorkspaceId, ConfigurationVersionId)>,
    pub(crate) runs: BTreeMap<RunId, RunRow>,
    pub(crate) counts: Counts,
    /// Engines that were started, of each apply job.
    pub(crate) engine_starts: BTreeMap<JobId, Vec<AttemptId>>,
    /// Workspaces whose lock a person took away while an engine may have run.
    pub(crate) overridden: BTreeSet<WorkspaceId>,
    pub(crate) made: Vec<Made>,
    /// Resources in states that the control plane has acknowledged.
    pub(crate) acknowledged: BTreeMap<WorkspaceId, BTreeSet<String>>,
    /// Attempts whose end was delivered, with their logs and whether the run took the end.
    pub(crate) delivered: BTreeMap<AttemptId, Delivered>,
    /// Attempts whose host has lost what it knew of them.
    pub(crate) forgotten: BTreeSet<AttemptId>,
    /// Accepted claims: who holds which assignment.
    pub(crate) assignments: BTreeMap<(JobId, u64), AttemptId>,
    pub(crate) violations: Vec<String>,
    /// From when on nothing breaks any more.
    pub(crate) healed_at: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    next: u64,
    trace: VecDeque<String>,
}

/// What an attempt delivered.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    pub(crate) job: JobId,
    pub(crate) run: RunId,
    pub(crate) phase: terrapool_model::job::Phase,
    pub(crate) generation: u64,
    pub(crate) log: Vec<u8>,
    pub(crate) accepted: bool,
}

/// Everything has to end so long after the last fault.
const LIMIT: Millis = Millis::from_seconds(1200);

/// Lines of the trace that are kept.
const TRACE: usize = 3000;

impl World {
    pub(crate) async fn new(settings: Settings) -> anyhow::Result<Self> {
        let clock = Arc::new(VirtualClock::default());
        let plane = ControlPlane::start(settings.database, clock.clone(), settings.seed).await?;
        plane.seed.set_pool(|pool| pool.times = settings.times).await;
        let mut world = Self {
            clock,
            rng: fastrand::Rng::with_seed(settings.seed),
            hosts: Vec::new(),
            workspaces: Vec::new(),
            runs: BTreeMap::new(),
            counts: Counts::default(),
            engine_starts: BTreeMap::new(),
            overridden: BTreeSet::new(),
            made: Vec::new(),
            acknowledged: BTreeMap::new(),
            delivered: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            assignments: BTreeMap::new(),
            violations: Vec::new(),
            healed_at: settings.window.0,
            queue: BinaryHeap::new(),
            next: 0,
            trace: VecDeque::new(),
            plane,
            settings,
        };
        for number in 0..world.settings.workspaces {
            let (workspace, configuration) = world.plane.seed.workspace(&format!("app-{number}")).await;
            world.plane.put_configuration(&configuration).await?;
            world.workspaces.push((workspace, configuration));
        }
        for number in 0..world.settings.hosts {
            world.hosts.push(Host::new(number, world.settings.slots));
            let start = world.rng.u64(0..2000);
            world.after(start, Happening::ProcessStarts(number));
            world.after(1000 + start, Happening::HostTick(number));
        }
        for _ in 0..world.settings.runs {
            let at = world.rng.u64(0..world.settings.window.0 * 3 / 4);
            world.after(at, Happening::NewRun);
        }
        world.plan_faults();
        world.after(2000, Happening::Reconcile);
        world.after(3000, Happening::People);
        Ok(world)
    }

    /// Milliseconds since the beginning.
    pub(crate) fn now(&self) -> Boottime {
        Boottime(self.clock.elapsed())
    }

    /// Whether nothing breaks any more.
    pub(crate) fn is_healed(&self) -> bool {
        self.clock.elapsed() >= self.healed_at
    }

    /// Something happens after so many milliseconds.
    pub(crate) fn after(&mut self, milliseconds: u64, happening: Happening) {
        self.next += 1;
        let scheduled = Scheduled {
            at: self.clock.elapsed() + milliseconds,
            number: self.next,
            happening,
        };
        self.queue.push(Reverse(scheduled));
    }

    /// A line of the trace.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if !self.settings.trace {
            return;
        }
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        let at = self.clock.elapsed();
        self.trace
            .push_back(format!("{:>5}.{:03}  {}", at / 1000, at % 1000, text()));
    }

    /// A promise was broken.
    pub(crate) fn broken(&mut self, text: String) {
        self.note(|| format!("BROKEN: {text}"));
        self.violations.push(text);
    }

    /// The trace, as far as it was kept.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }

    /// Runs until everything has ended.
    pub(crate) async fn run(&mut self) -> anyhow::Result<()> {
        let limit = self.healed_at + LIMIT.0;
        while let Some(Reverse(next)) = self.queue.pop() {
            self.clock.advance_to(next.at);
            if self.clock.elapsed() > limit {
                let stuck = self.unsettled().await?;
                self.broken(format!(
                    "{} s after the last fault it is not over: {}",
                    LIMIT.0 / 1000,
                    stuck.join("; ")
                ));
                break;
            }
            let looked = matches!(next.happening, Happening::People);
            self.happen(next.happening).await?;
            if !self.violations.is_empty() {
                break;
            }
            if looked && self.is_healed() && self.unsettled().await?.is_empty() {
                break;
            }
        }
        self.counts.seconds = self.clock.elapsed() / 1000;
        if self.violations.is_empty() {
            self.check_end().await?;
        }
        Ok(())
    }

    async fn happen(&mut self, happening: Happening) -> anyhow::Result<()> {
        match happening {
            Happening::Arrives(envelope) => self.arrives(*envelope).await?,
            Happening::Answered(envelope, reply) => {
                if let Some(later) = self.sleeps(envelope.host) {
                    self.after(later, Happening::Answered(envelope, reply));
                } else {
                    self.answered(&envelope, *reply);
                }
            }
            Happening::Pump(host, process) => match self.sleeps(host) {
                Some(later) => self.after(later, Happening::Pump(host, process)),
                None => self.pump(host, process),
            },
            Happening::Searched(host, process, attempt) => match self.sleeps(host) {
                Some(later) => self.after(later, Happening::Searched(host, process, attempt)),
                None => self.searched(host, process, &attempt),
            },
            Happening::Sandbox(host, attempt, version, step) => match self.sleeps(host) {
                Some(later) => self.after(later, Happening::Sandbox(host, attempt, version, step)),
                None => self.sandbox_goes_on(host, &attempt, version, step),
            },
            Happening::HostTick(host) => {
                if self.sleeps(host).is_none() {
                    self.host_tick(host);
                }
                self.after(1000, Happening::HostTick(host));
            }
            Happening::ProcessStarts(host) => match self.sleeps(host) {
                Some(later) => self.after(later, Happening::ProcessStarts(host)),
                None => self.process_starts(host),
            },
            Happening::ReplicaStarts(number) => {
                if !self.plane.is_up(number) {
                    self.note(|| format!("server {number} starts"));
                    self.plane.begin(number).await?;
                }
            }
            Happening::Reconcile => {
                self.plane.reconcile().await?;
                self.after(2000, Happening::Reconcile);
            }
            Happening::People => {
                self.people().await?;
                self.after(5000, Happening::People);
            }
            Happening::NewRun => self.new_run().await?,
            Happening::Fault(fault) => self.fault(fault).await?,
        }
        Ok(())
    }

    /// Milliseconds after which a host that sleeps goes on.
    fn sleeps(&self, host: HostNumber) -> Option<u64> {
        let now = self.clock.elapsed();
        self.hosts[host]
            .sleeps_until
            .checked_sub(now)
            .filter(|left| *left > 0)
    }

    /// Sends a request through the network that is simulated.
    pub(crate) fn send(
        &mut self,
        host: HostNumber,
        speaker: Speaker,
        call: Call,
        credential: Secret,
        held: u64,
    ) -> u64 {
        self.next += 1;
        let number = self.next;
        let Some(process) = self.hosts[host].process.as_ref().map(|process| process.number) else {
            return number;
        };
        let envelope = Envelope {
            number,
            host,
            process,
            speaker,
            sent: self.now(),
            call,
            credential,
        };
        let healthy = self.is_healed();
        let delay = if healthy {
            self.rng.u64(1..20)
        } else {
            self.delay()
        };
        let is_cut = self.hosts[host].cut_until > self.clock.elapsed();
        if is_cut || (!healthy && self.rng.u32(0..100) < self.settings.loss) {
            self.counts.network_faults += 1;
        } else {
            self.after(held + delay, Happening::Arrives(Box::new(envelope.clone())));
        }
        if !healthy && self.rng.u32(0..100) < self.settings.loss {
            // Once more, at any time.
            self.counts.network_faults += 1;
            let late = self.rng.u64(0..self.settings.late.0);
            self.after(held + late, Happening::Arrives(Box::new(envelope.clone())));
        }
        // The client gives up by itself.
        let patience = held + 12_000;
        self.after(
            patience,
            Happening::Answered(Box::new(envelope), Box::new(Reply::Unavailable)),
        );
        number
    }

    fn delay(&mut self) -> u64 {
        if self.rng.u32(0..50) == 0 {
            self.rng.u64(0..self.settings.late.0)
        } else {
            self.rng.u64(1..300)
        }
    }

    async fn arrives(&mut self, envelope: Envelope) -> anyhow::Result<()> {
        let replica = self.rng.usize(0..self.plane.processes());
        let request = envelope.call.request(&envelope.credential)?;
        self.counts.requests += 1;
        let handled = self.plane.handle(replica, request).await?;
        let host = envelope.host;
        let reply = match handled {
            Handled::Answered(answer) => envelope.call.read(&answer),
            Handled::Down => Reply::Unavailable,
            Handled::CutOff => {
                self.note(|| format!("server {replica} is cut off in {}", envelope.call.name()));
                if self.rng.bool() {
                    self.plane.kill(replica);
                    let down = self.rng.u64(500..20_000);
                    self.after(down, Happening::ReplicaStarts(replica));
                }
                Reply::Unavailable
            }
        };
        if let Reply::Unexpected(text) = &reply {
            self.broken(text.clone());
            return Ok(());
        }
        self.seen(&envelope, &reply);
        let healthy = self.is_healed();
        let is_cut = self.hosts[host].cut_until > self.clock.elapsed();
        if is_cut || (!healthy && self.rng.u32(0..100) < self.settings.loss) {
            self.counts.network_faults += 1;
            return Ok(());
        }
        let delay = if healthy { 5 } else { self.delay() };
        self.after(delay, Happening::Answered(Box::new(envelope), Box::new(reply)));
        Ok(())
    }

    /// What the control plane has said is noted, whether or not the agent hears it.
    fn seen(&mut self, envelope: &Envelope, reply: &Reply) {
        let says_nothing = matches!(reply, Reply::Synced(synced) if synced.offers.is_empty()
            && synced.mode == SyncMode::Normal
            && synced.answers.iter().all(|answer| answer.verdict == Verdict::Keep));
        if !says_nothing {
            self.note_call(envelope, reply);
        }
        self.note_what_counts(envelope, reply);
    }

    fn note_call(&mut self, envelope: &Envelope, reply: &Reply) {
        self.note(|| {
            let who = match &envelope.speaker {
                Speaker::Process => String::new(),
                Speaker::Attempt(attempt) => format!(" of {}", short(attempt.as_str())),
            };
            format!(
                "host {} process {}: {}{who} -> {}",
                envelope.host,
                envelope.process,
                envelope.call.name(),
                describe(reply)
            )
        });
    }

    fn note_what_counts(&mut self, envelope: &Envelope, reply: &Reply) {
        match (&envelope.call, reply) {
            (Call::Claim(job, claim), Reply::Claimed(claimed)) => {
                let key = (job.clone(), claimed.generation);
                let holder = self.assignments.entry(key).or_insert_with(|| {
                    self.counts.claims += 1;
                    claim.attempt.clone()
                });
                if *holder != claim.attempt {
                    let text = format!(
                        "{job} generation {} was given to two attempts",
                        claimed.generation
                    );
                    self.broken(text);
                }
            }
            (Call::State(_, copy), Reply::State(_)) => {
                let Speaker::Attempt(attempt) = &envelope.speaker else {
                    return;
                };
                if let Some(workspace) = self.workspace_of(attempt) {
                    let names = crate::sandbox::resources(&copy.bytes);
                    self.acknowledged.entry(workspace).or_default().extend(names);
                }
            }
            _ => {}
        }
    }

    fn workspace_of(&self, attempt: &AttemptId) -> Option<WorkspaceId> {
        self.made
            .iter()
            .find(|made| made.attempt == *attempt)
            .map(|made| made.workspace.clone())
    }
}

/// The end of an id, which is enough to tell it from others.
pub(crate) fn short(id: &str) -> &str {
    id.get(id.len().saturating_sub(6)..).unwrap_or(id)
}

fn describe(reply: &Reply) -> String {
    match reply {
        Reply::Synced(synced) => {
            let answers: Vec<String> = synced
                .answers
                .iter()
                .map(|answer| format!("{} {:?}", short(answer.key.attempt.as_str()), answer.verdict))
                .collect();
            format!(
                "[{}] {} offers {:?}",
                answers.join(", "),
                synced.offers.len(),
                synced.mode
            )
        }
        Reply::Registered(registered) => format!("session {}", registered.session),
        Reply::Claimed(claimed) => format!("generation {}", claimed.generation),
        Reply::Bundle(bytes) => format!("{} bytes", bytes.len()),
        other => format!("{other:?}"),
    }
}
