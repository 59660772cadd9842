-- Milliseconds by which deadlines were moved in all, because the clock was set.
ALTER TABLE installation ADD COLUMN clock_shift BIGINT NOT NULL DEFAULT 0;
-- The rows come from a backup, and what follows from that has not been done yet.
ALTER TABLE installation ADD COLUMN restore_pending BOOLEAN NOT NULL DEFAULT FALSE;

-- A person wants the agent drained.
ALTER TABLE agents ADD COLUMN drain_wanted BOOLEAN NOT NULL DEFAULT FALSE;
-- The process that the newest one superseded: its session, its address, and when it was heard last.
ALTER TABLE agents ADD COLUMN superseded_session BIGINT;
ALTER TABLE agents ADD COLUMN superseded_ip_address TEXT;
ALTER TABLE agents ADD COLUMN superseded_ping_at BIGINT;

-- Why a state of an attempt was kept apart: superseded, lock-moved, not-following, ended, other-history.
ALTER TABLE state_versions ADD COLUMN kept_apart_reason TEXT;

-- States of attempts whose workspace this database does not know (it was restored from a backup). The object's context
-- is the id.
CREATE TABLE orphan_states (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    attempt TEXT NOT NULL,
    incarnation BIGINT NOT NULL,
    serial BIGINT,
    lineage TEXT,
    md5 TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    object_key TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX orphan_states_job ON orphan_states (job_id, sha256);
