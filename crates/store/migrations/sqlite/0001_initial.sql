-- Times are milliseconds since the Unix epoch. JSON and enums are TEXT, written and read by the store's modules.
-- The migration for PostgreSQL differs in types only.

CREATE TABLE installation (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL,
    site_admin INTEGER NOT NULL,
    password_hash TEXT,
    created_at INTEGER NOT NULL
);

CREATE TABLE organizations (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL,
    default_execution_mode TEXT NOT NULL,
    default_agent_pool_id TEXT,
    -- further settings of the API that only clients read back (JSON object)
    settings TEXT NOT NULL,
    created_at INTEGER NOT NULL
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
    hash BLOB NOT NULL UNIQUE,
    user_id TEXT REFERENCES users (id) ON DELETE CASCADE,
    organization_id TEXT REFERENCES organizations (id) ON DELETE CASCADE,
    description TEXT NOT NULL,
    created_by TEXT,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER,
    expires_at INTEGER,
    revoked_at INTEGER
);
CREATE INDEX api_tokens_user ON api_tokens (user_id);
CREATE INDEX api_tokens_organization ON api_tokens (organization_id);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    is_default INTEGER NOT NULL,
    default_execution_mode TEXT,
    default_agent_pool_id TEXT,
    created_at INTEGER NOT NULL,
    UNIQUE (organization_id, name)
);

-- A pool without an organization is the shared pool, of which there is one.
CREATE TABLE agent_pools (
    id TEXT PRIMARY KEY,
    organization_id TEXT REFERENCES organizations (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    organization_scoped INTEGER NOT NULL,
    settings TEXT NOT NULL,
    created_at INTEGER NOT NULL,
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
    hash BLOB NOT NULL UNIQUE,
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    description TEXT NOT NULL,
    created_by TEXT,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER,
    expires_at INTEGER,
    revoked_at INTEGER
);
CREATE INDEX agent_tokens_pool ON agent_tokens (pool_id);

CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    pool_id TEXT NOT NULL REFERENCES agent_pools (id) ON DELETE CASCADE,
    token_id TEXT,
    instance_key_hash BLOB NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    hostname TEXT NOT NULL,
    kernel TEXT NOT NULL,
    driver TEXT NOT NULL,
    ip_address TEXT NOT NULL,
    session INTEGER NOT NULL,
    process_nonce TEXT NOT NULL,
    capacity TEXT NOT NULL,
    engines TEXT NOT NULL,
    draining INTEGER NOT NULL,
    exited INTEGER NOT NULL,
    last_ping_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (pool_id, instance_key_hash)
);

CREATE TABLE workspaces (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    description TEXT,
    -- NULL: inherited from the project, then the organization
    execution_mode TEXT,
    agent_pool_id TEXT REFERENCES agent_pools (id),
    engine TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    working_directory TEXT NOT NULL,
    auto_apply INTEGER NOT NULL,
    global_remote_state INTEGER NOT NULL,
    structured_run_output INTEGER NOT NULL,
    -- further settings of the API that only clients read back (JSON object)
    settings TEXT NOT NULL,
    source TEXT NOT NULL,
    -- the lock (protocol.md, section 5): free, user, run, lost
    lock_state TEXT NOT NULL,
    lock_user_id TEXT,
    lock_run_id TEXT,
    lock_safe_at INTEGER,
    lock_reason TEXT,
    lock_epoch INTEGER NOT NULL,
    lost_run_id TEXT,
    current_state_version_id TEXT,
    current_run_id TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (organization_id, name)
);
CREATE INDEX workspaces_project ON workspaces (project_id);
CREATE INDEX workspaces_pool ON workspaces (agent_pool_id);

CREATE TABLE workspace_tags (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    -- empty for a plain tag
    value TEXT NOT NULL,
    -- grows in a workspace; clients see tags in the order they were added
    position INTEGER NOT NULL,
    PRIMARY KEY (workspace_id, key)
);
CREATE INDEX workspace_tags_key ON workspace_tags (key);

CREATE TABLE variables (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    -- sealed with the key ring when sensitive, plain UTF-8 otherwise
    value BLOB NOT NULL,
    category TEXT NOT NULL,
    hcl INTEGER NOT NULL,
    sensitive INTEGER NOT NULL,
    description TEXT NOT NULL,
    -- new with every change
    version_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (workspace_id, category, key)
);

CREATE TABLE configuration_versions (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    -- pending, uploaded, errored
    status TEXT NOT NULL,
    error TEXT,
    error_message TEXT,
    speculative INTEGER NOT NULL,
    provisional INTEGER NOT NULL,
    auto_queue_runs INTEGER NOT NULL,
    source TEXT NOT NULL,
    object_key TEXT,
    size INTEGER,
    sha256 TEXT,
    created_at INTEGER NOT NULL,
    uploaded_at INTEGER
);
CREATE INDEX configuration_versions_workspace ON configuration_versions (workspace_id, created_at);

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    configuration_version_id TEXT NOT NULL REFERENCES configuration_versions (id),
    -- grows in a workspace; orders its runs
    number INTEGER NOT NULL,
    plan_id TEXT NOT NULL UNIQUE,
    apply_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    -- status name -> time, as the API gives them (JSON object)
    status_timestamps TEXT NOT NULL,
    source TEXT NOT NULL,
    message TEXT NOT NULL,
    -- user id, or NULL for an organization token
    created_by TEXT,
    plan_only INTEGER NOT NULL,
    save_plan INTEGER NOT NULL,
    auto_apply INTEGER NOT NULL,
    is_destroy INTEGER NOT NULL,
    refresh INTEGER NOT NULL,
    refresh_only INTEGER NOT NULL,
    allow_empty_apply INTEGER NOT NULL,
    allow_config_generation INTEGER NOT NULL,
    -- JSON arrays; run variables are sealed with the key ring
    target_addrs TEXT NOT NULL,
    replace_addrs TEXT NOT NULL,
    variables BLOB,
    -- json (cloud block) or plain (everything else)
    output_format TEXT NOT NULL,
    engine TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    engine_sha256 TEXT,
    -- the pool the run's jobs go to, fixed at creation; it may be deleted once nothing of it is active
    pool_id TEXT NOT NULL,
    lock_epoch INTEGER,
    has_changes INTEGER,
    -- resource counts of the plan (JSON object), NULL until known
    plan_counts TEXT,
    apply_counts TEXT,
    -- state that the plan read: serial and lineage, both NULL when there was none
    plan_state_version_id TEXT,
    plan_state_serial INTEGER,
    plan_state_lineage TEXT,
    error_reason TEXT,
    error_message TEXT,
    aftermath TEXT NOT NULL,
    cancel_asked_at INTEGER,
    force_cancel_available_at INTEGER,
    -- comments of confirm, discard and cancel
    comment TEXT,
    confirmed_by TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
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
    generation INTEGER NOT NULL,
    attempt TEXT,
    agent_id TEXT,
    session INTEGER,
    start_granted INTEGER NOT NULL,
    -- run, cancel, kill
    desired TEXT NOT NULL,
    tries INTEGER NOT NULL,
    last_contact INTEGER,
    -- scheduling: lower first
    priority INTEGER NOT NULL,
    queued_at INTEGER NOT NULL,
    limits TEXT NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
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
    ended INTEGER NOT NULL,
    -- bytes of the whole file, once the end mark is in it
    size INTEGER
);
CREATE INDEX logs_ended ON logs (ended, size);

CREATE TABLE artifacts (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    object_key TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at INTEGER NOT NULL,
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
    serial INTEGER,
    lineage TEXT,
    md5 TEXT,
    sha256 TEXT,
    size INTEGER,
    object_key TEXT,
    json_object_key TEXT,
    -- outputs that a client sent beside a state which can't be read here (JSON object, sealed with the key ring)
    outputs BLOB,
    resource_count INTEGER,
    engine_version TEXT,
    created_at INTEGER NOT NULL
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
    enabled INTEGER NOT NULL,
    official INTEGER NOT NULL,
    beta INTEGER NOT NULL,
    deprecated INTEGER NOT NULL,
    deprecated_reason TEXT,
    created_at INTEGER NOT NULL,
    UNIQUE (engine, version)
);

CREATE TABLE audit_entries (
    id TEXT PRIMARY KEY,
    organization_id TEXT,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX audit_entries_organization ON audit_entries (organization_id, at);
