-- What each pool did, by minute (minutes since 1970). Minutes in which nothing happened have no row.
CREATE TABLE pool_minutes (
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    minute INTEGER NOT NULL,
    longest_wait INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    most_used INTEGER NOT NULL,
    most_waiting INTEGER NOT NULL,
    PRIMARY KEY (pool_id, minute)
);
-- How many of the jobs that were taken in a minute had waited how long: buckets of the model's histogram.
CREATE TABLE pool_waits (
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    minute INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (pool_id, minute, bucket)
);
-- The first minute that is not written yet; 0 before the first one.
ALTER TABLE installation ADD COLUMN pool_minutes_until INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_ended ON jobs (pool_id, finished_at) WHERE finished_at IS NOT NULL;
-- Since when a pool may be used by whom, and who said so, is read from the entries about the pool.
CREATE INDEX audit_entries_subject ON audit_entries (subject, at);
