//! How a pool does, in a word and a sentence.

use terrapool_model::time::Timestamp;
use terrapool_model::wait::WaitReason;

use crate::http::web::parts::Tone;
use crate::http::web::parts::status::Status;
use crate::http::web::parts::words;
use crate::waiting::PoolState;

/// Slots of connected agents: used, and all.
pub(in crate::http::web) fn slots(state: &PoolState, now: Timestamp) -> (u32, u32) {
    state.connected(now).fold((0, 0), |(used, all), agent| {
        let capacity = &agent.capacity;
        (
            used + capacity.slots.saturating_sub(capacity.free_slots),
            all + capacity.slots,
        )
    })
}

/// What a pool has to offer, for somebody who chooses one: "healthy, 2 agents, 3 slots free".
pub(in crate::http::web) fn offer(state: &PoolState, now: Timestamp) -> String {
    let (status, _) = of(state, now);
    let (used, all) = slots(state, now);
    let connected = state.connected(now).count();
    let waiting = match state.waiting() {
        0 => String::new(),
        waiting => format!(", {waiting} waiting"),
    };
    if connected == 0 {
        return format!("{}{waiting}", status.word.to_lowercase());
    }
    format!(
        "{}, {}, {} free{waiting}",
        status.word.to_lowercase(),
        words::count(connected as u64, "agent", "agents"),
        words::count(u64::from(all.saturating_sub(used)), "slot", "slots")
    )
}

/// The status of a pool, the worst first, and why.
pub(in crate::http::web) fn of(state: &PoolState, now: Timestamp) -> (Status, String) {
    let connected = state.connected(now).count();
    let lost = state.agents.iter().filter(|agent| !agent.exited).count() - connected;
    let (waiting, stalled) = (state.waiting(), state.stalled());
    let (used, all) = slots(state, now);
    if connected == 0 && waiting > 0 {
        return (Status::new(Tone::Bad, "warn", "Stalled"), "No agents".to_owned());
    }
    if state.pool.settings.paused {
        let reason = words::count(waiting, "run waits", "runs wait");
        return (Status::new(Tone::Warn, "stop", "Paused"), reason);
    }
    if stalled > 0 && stalled == waiting {
        let reason = words::count(stalled, "run cannot start", "runs cannot start");
        return (Status::new(Tone::Bad, "warn", "Stalled"), reason);
    }
    if stalled > 0 {
        let reason = words::count(stalled, "run cannot start", "runs cannot start");
        return (Status::new(Tone::Warn, "warn", "Degraded"), reason);
    }
    if lost > 0 && connected > 0 {
        let reason = words::count(
            lost as u64,
            "agent is not heard from",
            "agents are not heard from",
        );
        return (Status::new(Tone::Warn, "warn", "Degraded"), reason);
    }
    if connected == 0 {
        return (
            Status::new(Tone::Mute, "sleep", "No agents"),
            "Nothing waits for one".to_owned(),
        );
    }
    if state.lacks_capacity() {
        let reason = match state.queue.first().map(|(_, reason)| reason) {
            Some(WaitReason::NoMemory { .. }) => "Short of memory".to_owned(),
            _ => format!("All {all} slots in use"),
        };
        return (Status::new(Tone::Warn, "clock", "Full"), reason);
    }
    let reason = if used > 0 {
        format!("{used} of {all} slots in use")
    } else {
        String::new()
    };
    (Status::new(Tone::Good, "ok", "Healthy"), reason)
}
