-- Forms of the web UI that were sent, by a SHA-256 of who sent what: the same one sent again has the same answer.
CREATE TABLE form_answers (
    digest BLOB PRIMARY KEY,
    created_at INTEGER NOT NULL,
    -- NULL while the form's work is done
    status INTEGER,
    -- NULL for answers that lead nowhere; pages are not kept, they may show a secret
    location TEXT,
    -- cookies of the answer, as a JSON list
    cookies TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX form_answers_created ON form_answers (created_at);
