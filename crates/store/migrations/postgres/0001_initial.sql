-- Times are milliseconds since the Unix epoch. JSON and enums are TEXT, written and read by the store's modules.
-- The migration for the other engine differs in types only: BLOB for BYTEA, INTEGER for BIGINT and BOOLEAN, and no
-- COLLATE "C", which is what SQLite does by itself.

CREATE TABLE installation (
    one BOOLEAN PRIMARY KEY CHECK (one),
    id TEXT NOT NULL,
    incarnation BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    username TEXT COLLATE "C" NOT NULL UNIQUE,
    email TEXT NOT NULL,
    site_admin BOOLEAN NOT NULL,
    password_hash TEXT,
    created_at BIGINT NOT NULL
);

CREATE TABLE organizations (
    id TEXT PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    email TEXT NOT NULL,
    default_execution_mode TEXT NOT NULL,
    default_agent_pool_id TEXT,
    -- further settings of the API that only clients read back (JSON object)
    settings TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE organization_members (
    organization_id TEXT NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX organization_members_user ON organization_members (user_id);

-- Tokens of users and of organizations. Only a SHA-256 of the secret is kept.
CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    hash BYTEA NOT NULL UNIQUE,
    user_id TEXT REFERENCES users (id) ON DELETE CASCADE,
    organization_id TEXT REFERENCES organizations (id) ON DELETE CASCADE,
    description TEXT NOT NULL,
    created_by TEXT,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    expires_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX api_tokens_user ON api_tokens (user_id);
CREATE INDEX api_tokens_organization ON api_tokens (organization_id);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    name TEXT COLLATE "C" NOT NULL,
    description TEXT NOT NULL,
    is_default BOOLEAN NOT NULL,
    default_execution_mode TEXT,
    default_agent_pool_id TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (organization_id, name)
);

-- A pool without an organization is the shared pool, of which there is one.
CREATE TABLE agent_pools (
    id TEXT PRIMARY KEY,
    organization_id TEXT REFERENCES organizations (id) ON DELETE CASCADE,
    name TEXT COLLATE "C" NOT NULL,
    organization_scoped BOOLEAN NOT NULL,
    settings TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (organization_id, name)
);

-- subject: allowed-workspace, allowed-project, excluded-workspace
CREATE TABLE agent_pool_access (
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    subject TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    PRIMARY KEY (pool_id, subject, subject_id)
);

CREATE TABLE agent_tokens (
    id TEXT PRIMARY KEY,
    hash BYTEA NOT NULL UNIQUE,
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    description TEXT NOT NULL,
    created_by TEXT,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    expires_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX agent_tokens_pool ON agent_tokens (pool_id);

CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    token_id TEXT,
    instance_key_hash BYTEA NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    hostname TEXT NOT NULL,
    kernel TEXT NOT NULL,
    driver TEXT NOT NULL,
    ip_address TEXT NOT NULL,
    session BIGINT NOT NULL,
    process_nonce TEXT NOT NULL,
    capacity TEXT NOT NULL,
    engines TEXT NOT NULL,
    draining BOOLEAN NOT NULL,
    exited BOOLEAN NOT NULL,
    last_ping_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (pool_id, instance_key_hash)
);

CREATE TABLE workspaces (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    description TEXT,
    -- NULL: inherited from the project, then the organization
    execution_mode TEXT,
    agent_pool_id TEXT REFERENCES agent_pools (id),
    engine TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    working_directory TEXT NOT NULL,
    auto_apply BOOLEAN NOT NULL,
    global_remote_state BOOLEAN NOT NULL,
    structured_run_output BOOLEAN NOT NULL,
    -- further settings of the API that only clients read back (JSON object)
    settings TEXT NOT NULL,
    source TEXT NOT NULL,
    -- the lock (protocol.md, section 5): free, user, run, lost
    lock_state TEXT NOT NULL,
    lock_user_id TEXT,
    lock_run_id TEXT,
    lock_safe_at BIGINT,
    lock_reason TEXT,
    lock_epoch BIGINT NOT NULL,
    lost_run_id TEXT,
    current_state_version_id TEXT,
    current_run_id TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (organization_id, name)
);
CREATE INDEX workspaces_project ON workspaces (project_id);
CREATE INDEX workspaces_pool ON workspaces (agent_pool_id);

CREATE TABLE workspace_tags (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key TEXT COLLATE "C" NOT NULL,
    -- empty for a plain tag
    value TEXT COLLATE "C" NOT NULL,
    -- grows in a workspace; clients see tags in the order they were added
    position BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, key)
);
CREATE INDEX workspace_tags_key ON workspace_tags (key);

CREATE TABLE variables (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key TEXT COLLATE "C" NOT NULL,
    -- sealed with the key ring when sensitive, plain UTF-8 otherwise
    value BYTEA NOT NULL,
    category TEXT NOT NULL,
    hcl BOOLEAN NOT NULL,
    sensitive BOOLEAN NOT NULL,
    description TEXT NOT NULL,
    -- new with every change
    version_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (workspace_id, category, key)
);

CREATE TABLE configuration_versions (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    -- pending, uploaded, errored
    status TEXT NOT NULL,
    error TEXT,
    error_message TEXT,
    speculative BOOLEAN NOT NULL,
    provisional BOOLEAN NOT NULL,
    auto_queue_runs BOOLEAN NOT NULL,
    source TEXT NOT NULL,
    object_key TEXT,
    size BIGINT,
    sha256 TEXT,
    created_at BIGINT NOT NULL,
    uploaded_at BIGINT
);
CREATE INDEX configuration_versions_workspace ON configuration_versions (workspace_id, created_at);

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    configuration_version_id TEXT NOT NULL REFERENCES configuration_versions (id),
    -- grows in a workspace; orders its runs
    number BIGINT NOT NULL,
    plan_id TEXT NOT NULL UNIQUE,
    apply_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    -- status name -> time, as the API gives them (JSON object)
    status_timestamps TEXT NOT NULL,
    source TEXT NOT NULL,
    message TEXT NOT NULL,
    -- user id, or NULL for an organization token
    created_by TEXT,
    plan_only BOOLEAN NOT NULL,
    save_plan BOOLEAN NOT NULL,
    auto_apply BOOLEAN NOT NULL,
    is_destroy BOOLEAN NOT NULL,
    refresh BOOLEAN NOT NULL,
    refresh_only BOOLEAN NOT NULL,
    allow_empty_apply BOOLEAN NOT NULL,
    allow_config_generation BOOLEAN NOT NULL,
    -- JSON arrays; run variables are sealed with the key ring
    target_addrs TEXT NOT NULL,
    replace_addrs TEXT NOT NULL,
    variables BYTEA,
    -- json (cloud block) or plain (everything else)
    output_format TEXT NOT NULL,
    engine TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    engine_sha256 TEXT,
    -- the pool the run's jobs go to, fixed at creation; it may be deleted once nothing of it is active
    pool_id TEXT NOT NULL,
    lock_epoch BIGINT,
    has_changes BOOLEAN,
    -- resource counts of the plan (JSON object), NULL until known
    plan_counts TEXT,
    apply_counts TEXT,
    -- state that the plan read: serial and lineage, both NULL when there was none
    plan_state_version_id TEXT,
    plan_state_serial BIGINT,
    plan_state_lineage TEXT,
    error_reason TEXT,
    error_message TEXT,
    aftermath TEXT NOT NULL,
    cancel_asked_at BIGINT,
    force_cancel_available_at BIGINT,
    -- comments of confirm, discard and cancel
    comment TEXT,
    confirmed_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (workspace_id, number)
);
CREATE INDEX runs_status ON runs (status);

-- A job is one phase of one run (protocol.md, section 4).
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    workspace_id TEXT NOT NULL,
    pool_id TEXT NOT NULL,
    phase TEXT NOT NULL,
    -- queued, leased, running, done, lost
    state TEXT NOT NULL,
    generation BIGINT NOT NULL,
    attempt TEXT,
    agent_id TEXT,
    session BIGINT,
    start_granted BOOLEAN NOT NULL,
    -- run, cancel, kill
    desired TEXT NOT NULL,
    tries BIGINT NOT NULL,
    last_contact BIGINT,
    -- scheduling: lower first
    priority BIGINT NOT NULL,
    queued_at BIGINT NOT NULL,
    limits TEXT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    outcome TEXT,
    usage TEXT,
    snapshot_id TEXT,
    UNIQUE (run_id, phase)
);
CREATE INDEX jobs_queue ON jobs (pool_id, state, priority, queued_at);
CREATE INDEX jobs_agent ON jobs (agent_id, state);

-- One log a phase: id is the plan's or apply's id. The bytes lie in the log store.
CREATE TABLE logs (
    id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    phase TEXT NOT NULL,
    -- the phase is over; the end mark is written after this is committed
    ended BOOLEAN NOT NULL,
    -- bytes of the whole file, once the end mark is in it
    size BIGINT
);
CREATE INDEX logs_ended ON logs (ended, size);

CREATE TABLE artifacts (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    generation BIGINT NOT NULL,
    object_key TEXT NOT NULL,
    size BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (job_id, name)
);

CREATE TABLE state_versions (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    run_id TEXT,
    job_id TEXT,
    attempt TEXT,
    created_by TEXT,
    -- pending (bytes not here yet), finalized, intermediate, kept_apart, discarded
    status TEXT NOT NULL,
    serial BIGINT,
    lineage TEXT,
    md5 TEXT,
    sha256 TEXT,
    size BIGINT,
    object_key TEXT,
    json_object_key TEXT,
    -- outputs that a client sent beside a state which can't be read here (JSON object, sealed with the key ring)
    outputs BYTEA,
    resource_count BIGINT,
    engine_version TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX state_versions_workspace ON state_versions (workspace_id, created_at);
CREATE INDEX state_versions_job ON state_versions (job_id);

-- The catalogue: where agents get an engine that they do not have.
CREATE TABLE engine_versions (
    id TEXT PRIMARY KEY,
    engine TEXT NOT NULL,
    version TEXT NOT NULL,
    url TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    official BOOLEAN NOT NULL,
    beta BOOLEAN NOT NULL,
    deprecated BOOLEAN NOT NULL,
    deprecated_reason TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (engine, version)
);

CREATE TABLE audit_entries (
    id TEXT PRIMARY KEY,
    organization_id TEXT,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX audit_entries_organization ON audit_entries (organization_id, at);
