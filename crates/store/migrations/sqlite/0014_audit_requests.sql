-- The request that an entry of the audit log was made by, and the address that it came from; none for what the server
-- does by itself.
ALTER TABLE audit_entries ADD COLUMN request_id TEXT;
ALTER TABLE audit_entries ADD COLUMN address TEXT;
