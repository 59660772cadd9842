-- What reconcilers look for at every turn is found without reading what has ended long ago.
CREATE INDEX jobs_held ON jobs (state) WHERE state IN ('leased', 'running');
CREATE INDEX workspaces_lost ON workspaces (lock_safe_at) WHERE lock_state = 'lost';
CREATE INDEX artifacts_archives ON artifacts (name, job_id) WHERE name = 'plan-archive';
CREATE INDEX state_versions_discarded ON state_versions (status) WHERE status = 'discarded' AND object_key IS NOT NULL;
