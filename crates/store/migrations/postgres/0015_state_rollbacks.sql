-- The version that a state version is a copy of: somebody rolled back to that one.
ALTER TABLE state_versions ADD COLUMN copy_of TEXT;
