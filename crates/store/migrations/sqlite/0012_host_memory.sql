-- Memory in use on the hosts of agents: the most that was reported in each minute of the last hour that was heard of.
CREATE TABLE host_memory (
    agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    -- minutes since 1970
    minute INTEGER NOT NULL,
    used_mb INTEGER NOT NULL,
    PRIMARY KEY (agent_id, minute)
);
