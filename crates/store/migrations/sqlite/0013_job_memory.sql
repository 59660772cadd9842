-- The memory of a job's sandbox over time, as its attempt told it at its end: JSON.
ALTER TABLE jobs ADD COLUMN memory TEXT;
