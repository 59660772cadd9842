-- Image of the job's sandbox; NULL is the agent's own.
ALTER TABLE jobs ADD COLUMN image TEXT;
