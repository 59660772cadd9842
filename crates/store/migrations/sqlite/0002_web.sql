-- Sessions of the web UI. Only a SHA-256 of the cookie is kept.
CREATE TABLE web_sessions (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- what the browser called itself, and the address it signed in from, for the list of sessions
    browser TEXT NOT NULL,
    address TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX web_sessions_user ON web_sessions (user_id);

-- Lists of an organization's newest runs, and what a pool did lately.
CREATE INDEX runs_created ON runs (created_at);
CREATE INDEX jobs_queued_at ON jobs (pool_id, queued_at);
