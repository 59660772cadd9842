-- A request may name the run that it makes: the same name in a workspace is the same run.
ALTER TABLE runs ADD COLUMN request_key TEXT;
CREATE UNIQUE INDEX runs_request ON runs (workspace_id, request_key) WHERE request_key IS NOT NULL;

-- The agent's sandboxes run as root.
ALTER TABLE agents ADD COLUMN root_sandboxes INTEGER NOT NULL DEFAULT 0;
