-- Lists of an organization's newest runs read as many rows as they show.
ALTER TABLE runs ADD COLUMN organization_id TEXT;
UPDATE runs SET organization_id = (SELECT w.organization_id FROM workspaces w WHERE w.id = runs.workspace_id);
DROP INDEX runs_created;
CREATE INDEX runs_organization ON runs (organization_id, created_at);
