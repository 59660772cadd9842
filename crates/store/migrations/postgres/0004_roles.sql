-- Teams hold what their members may do. The members of the team of the owners own the organization.
CREATE TABLE teams (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- every organization has one team of owners, made with it
    is_owners BOOLEAN NOT NULL,
    -- secret: seen by its members and by owners; organization: by every member
    visibility TEXT NOT NULL,
    -- what its members may do in the whole organization (JSON object of flags)
    organization_access TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (organization_id, name)
);

CREATE TABLE team_members (
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (team_id, user_id)
);
CREATE INDEX team_members_user ON team_members (user_id);

CREATE TABLE team_projects (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (team_id, project_id)
);
CREATE INDEX team_projects_project ON team_projects (project_id);

CREATE TABLE team_workspaces (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (team_id, workspace_id)
);
CREATE INDEX team_workspaces_workspace ON team_workspaces (workspace_id);

-- Whoever was a member before could do everything, and goes on to.
INSERT INTO teams (id, organization_id, name, is_owners, visibility, organization_access, created_at)
SELECT 'team-' || substr(id, 5), id, 'owners', TRUE, 'secret', '{}', created_at FROM organizations;
INSERT INTO team_members (team_id, user_id)
SELECT 'team-' || substr(organization_id, 5), user_id FROM organization_members;

-- Memberships have an id in the API; what members may do is said by their teams.
ALTER TABLE organization_members ADD COLUMN id TEXT;
UPDATE organization_members SET id = 'ou-' || substr(md5(random()::text || user_id), 1, 16);
CREATE UNIQUE INDEX organization_members_id ON organization_members (id);
ALTER TABLE organization_members DROP COLUMN role;
