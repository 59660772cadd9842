-- What each pool did, by minute (minutes since 1970). Minutes in which nothing happened have no row.
CREATE TABLE pool_minutes (
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    minute BIGINT NOT NULL,
    longest_wait BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    most_used BIGINT NOT NULL,
    most_waiting BIGINT NOT NULL,
    PRIMARY KEY (pool_id, minute)
);
-- How many of the jobs that were taken in a minute had waited how long: buckets of the model's histogram.
CREATE TABLE pool_waits (
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    minute BIGINT NOT NULL,
    bucket BIGINT NOT NULL,
    jobs BIGINT NOT NULL,
    PRIMARY KEY (pool_id, minute, bucket)
);
-- The first minute that is not written yet; 0 before the first one.
ALTER TABLE installation ADD COLUMN pool_minutes_until BIGINT NOT NULL DEFAULT 0;
CREATE INDEX jobs_ended ON jobs (pool_id, finished_at) WHERE finished_at IS NOT NULL;
-- Since when a pool may be used by whom, and who said so, is read from the entries about the pool.
CREATE INDEX audit_entries_subject ON audit_entries (subject, at);
