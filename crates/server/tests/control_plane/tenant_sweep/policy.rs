//! Who may call which route. A route that is served and not named here fails the sweep, and so does a line without
//! a route.

/// Who stands where, the least first. Each may what those before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nobody: no token, no session.
    Anonymous,
    /// Somebody who owns another organization.
    Outsider,
    /// A member without a role.
    Member,
    /// A member with the role read in the project.
    Read,
    /// Plan.
    Plan,
    /// Write.
    Write,
    /// Admin.
    Admin,
    /// An owner of the organization.
    Owner,
    /// Somebody who administers the installation.
    SiteAdmin,
}

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing.
    Open,
    /// An address that authenticates itself.
    Signed,
    /// A credential of the agent protocol.
    Agents,
    /// Somebody who is known; what is answered is their own.
    Own,
    /// This level, at least.
    From(Level),
    /// What it names is not there in this test: nobody is told anything.
    Absent,
}

fn rule(word: &str) -> Option<Rule> {
    Some(match word {
        "open" => Rule::Open,
        "signed" => Rule::Signed,
        "agents" => Rule::Agents,
        "own" => Rule::Own,
        "absent" => Rule::Absent,
        "member" => Rule::From(Level::Member),
        "read" => Rule::From(Level::Read),
        "plan" => Rule::From(Level::Plan),
        "write" => Rule::From(Level::Write),
        "admin" => Rule::From(Level::Admin),
        "owner" => Rule::From(Level::Owner),
        "site" => Rule::From(Level::SiteAdmin),
        _ => return None,
    })
}

/// Method, path and rule of every route.
pub(crate) fn table() -> Vec<(String, String, Rule)> {
    POLICY
        .lines()
        .filter(|line| !line.trim().is_empty())
        .flat_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [path, rules @ ..] = words.as_slice() else {
                return Vec::new();
            };
            rules
                .iter()
                .map(|each| {
                    let (method, word) = each.split_once('=').expect("METHOD=rule");
                    let rule = rule(word).unwrap_or_else(|| panic!("no rule {word} of {path}"));
                    (method.to_owned(), (*path).to_owned(), rule)
                })
                .collect()
        })
        .collect()
}

const POLICY: &str = "
/ GET=open
/healthz GET=open
/.well-known/terraform.json GET=open
/packages/{*path} GET=open
/static/{name} GET=open
/favicon.ico GET=open
/sign-in GET=open POST=open
/sign-out POST=own
/_uploads/configuration-versions/{id} PUT=signed
/_uploads/state-versions/{id}/state PUT=signed
/_uploads/state-versions/{id}/json-state PUT=signed
/_logs/{id}/{signature} GET=signed

/agent/v1/register POST=agents
/agent/v1/sync POST=agents
/agent/v1/jobs/{job}/claim POST=agents
/agent/v1/jobs/{job}/start POST=agents
/agent/v1/jobs/{job}/bundle GET=agents
/agent/v1/jobs/{job}/log PATCH=agents
/agent/v1/jobs/{job}/state PUT=agents
/agent/v1/jobs/{job}/artifacts/{name} PUT=agents
/agent/v1/jobs/{job}/progress PUT=agents
/agent/v1/jobs/{job}/finish POST=agents
/agent/v1/jobs/{job}/relay/{*path} GET=agents

/api/v2/ping GET=open
/api/v2/account/details GET=own
/api/v2/account/update PATCH=own
/api/v2/users/{id} GET=member
/api/v2/users/{id}/authentication-tokens GET=site POST=site
/api/v2/authentication-tokens/{id} GET=owner DELETE=owner
/api/v2/organizations GET=own POST=own
/api/v2/organizations/{org} GET=member PATCH=owner DELETE=owner
/api/v2/organizations/{org}/entitlement-set GET=member
/api/v2/organizations/{org}/capacity GET=member
/api/v2/organizations/{org}/tags GET=member
/api/v2/organizations/{org}/authentication-token GET=owner POST=owner DELETE=owner
/api/v2/organizations/{org}/organization-memberships GET=member POST=owner
/api/v2/organization-memberships/{id} GET=member DELETE=owner
/api/v2/organizations/{org}/teams GET=member POST=owner
/api/v2/teams/{id} GET=owner PATCH=owner DELETE=owner
/api/v2/teams/{id}/relationships/users POST=owner DELETE=owner
/api/v2/teams/{id}/relationships/organization-memberships POST=owner DELETE=owner
/api/v2/team-workspaces GET=admin POST=owner
/api/v2/team-workspaces/{id} GET=admin PATCH=admin DELETE=admin
/api/v2/team-projects GET=admin POST=owner
/api/v2/team-projects/{id} GET=admin PATCH=admin DELETE=admin
/api/v2/organizations/{org}/projects GET=member POST=owner
/api/v2/projects/{id} GET=read PATCH=admin DELETE=admin
/api/v2/organizations/{org}/workspaces GET=member POST=admin
/api/v2/organizations/{org}/workspaces/{name} GET=read PATCH=admin DELETE=admin
/api/v2/organizations/{org}/workspaces/{name}/actions/safe-delete POST=admin
/api/v2/workspaces/{id} GET=read PATCH=admin DELETE=admin
/api/v2/workspaces/{id}/actions/safe-delete POST=admin
/api/v2/workspaces/{id}/actions/lock POST=write
/api/v2/workspaces/{id}/actions/unlock POST=write
/api/v2/workspaces/{id}/actions/force-unlock POST=admin
/api/v2/workspaces/{id}/relationships/tags GET=read POST=admin DELETE=admin
/api/v2/workspaces/{id}/tag-bindings GET=read PATCH=admin
/api/v2/workspaces/{id}/effective-tag-bindings GET=read
/api/v2/workspaces/{id}/relationships/remote-state-consumers GET=read POST=admin PATCH=admin DELETE=admin
/api/v2/workspaces/{id}/vars GET=read POST=write
/api/v2/workspaces/{id}/vars/{variable} GET=read PATCH=write DELETE=write
/api/v2/workspaces/{id}/all-vars GET=read
/api/v2/vars GET=read POST=write
/api/v2/vars/{variable} PATCH=write DELETE=write
/api/v2/workspaces/{id}/configuration-versions GET=read POST=plan
/api/v2/configuration-versions/{id} GET=read
/api/v2/configuration-versions/{id}/download GET=read
/api/v2/state-versions GET=read
/api/v2/workspaces/{id}/state-versions GET=read POST=write PATCH=write
/api/v2/workspaces/{id}/kept-apart-states GET=read
/api/v2/kept-apart-states/{id}/actions/promote POST=absent
/api/v2/kept-apart-states/{id}/actions/dismiss POST=absent
/api/v2/orphan-states GET=site
/api/v2/orphan-states/{id}/download GET=absent
/api/v2/workspaces/{id}/current-state-version GET=read
/api/v2/workspaces/{id}/current-state-version-outputs GET=read
/api/v2/state-versions/{id} GET=read
/api/v2/state-versions/{id}/download GET=read
/api/v2/state-versions/{id}/json-download GET=absent
/api/v2/state-versions/{id}/outputs GET=read
/api/v2/state-version-outputs/{id} GET=read
/api/v2/runs POST=plan
/api/v2/runs/{id} GET=read
/api/v2/runs/{id}/run-events GET=read
/api/v2/runs/{id}/whereabouts GET=read
/api/v2/runs/{id}/actions/apply POST=write
/api/v2/runs/{id}/actions/discard POST=write
/api/v2/runs/{id}/actions/cancel POST=write
/api/v2/runs/{id}/actions/force-cancel POST=admin
/api/v2/runs/{id}/plan GET=read
/api/v2/runs/{id}/apply GET=read
/api/v2/workspaces/{id}/runs GET=read
/api/v2/organizations/{org}/runs GET=member
/api/v2/organizations/{org}/runs/queue GET=member
/api/v2/plans/{id} GET=read
/api/v2/plans/{id}/json-output GET=read
/api/v2/plans/{id}/json-output-redacted GET=read
/api/v2/applies/{id} GET=read
/api/v2/organizations/{org}/agent-pools GET=member POST=owner
/api/v2/agent-pools/{id} GET=member PATCH=owner DELETE=owner
/api/v2/agent-pools/{id}/authentication-tokens GET=owner POST=owner
/api/v2/agent-pools/{id}/agents GET=member
/api/v2/agents/{id} GET=member DELETE=owner
/api/v2/agents/{id}/actions/drain POST=owner
/api/v2/agents/{id}/actions/resume POST=owner
/api/v2/admin/terraform-versions GET=site POST=site
/api/v2/admin/terraform-versions/{id} GET=absent PATCH=absent DELETE=absent
/api/v2/admin/opentofu-versions GET=site POST=site
/api/v2/admin/opentofu-versions/{id} GET=absent PATCH=absent DELETE=absent

/app GET=own
/app/organizations GET=own POST=own
/app/{org} GET=open
/app/{org}/search GET=member
/app/{org}/events GET=read
/app/{org}/projects GET=member POST=owner
/app/{org}/projects/delete POST=admin
/app/{org}/projects/{id} GET=read
/app/{org}/access GET=owner POST=owner
/app/{org}/fleet GET=owner
/app/{org}/audit GET=owner
/app/{org}/audit/export GET=owner
/app/{org}/settings GET=owner POST=owner
/app/{org}/people GET=owner POST=owner
/app/{org}/people/remove POST=owner
/app/{org}/people/teams POST=owner
/app/{org}/people/teams/{id} GET=owner POST=owner
/app/{org}/people/teams/{id}/members POST=owner
/app/{org}/people/teams/{id}/members/remove POST=owner
/app/{org}/people/teams/{id}/access POST=owner
/app/{org}/people/teams/{id}/access/revoke POST=admin
/app/{org}/people/teams/{id}/delete POST=owner
/app/{org}/runs GET=member
/app/{org}/{name}/runs/{run} GET=open
/app/{org}/workspaces GET=member POST=admin
/app/{org}/workspaces/new GET=admin
/app/{org}/workspaces/{name} GET=read
/app/{org}/workspaces/{name}/runs GET=read POST=plan
/app/{org}/workspaces/{name}/lock POST=write
/app/{org}/workspaces/{name}/unlock POST=write
/app/{org}/workspaces/{name}/force-unlock POST=admin
/app/{org}/workspaces/{name}/delete POST=admin
/app/{org}/workspaces/{name}/states GET=read
/app/{org}/workspaces/{name}/states/{id}/{action} POST=write
/app/{org}/workspaces/{name}/states/{id}/download GET=read
/app/{org}/workspaces/{name}/variables GET=read POST=write
/app/{org}/workspaces/{name}/variables/delete POST=write
/app/{org}/workspaces/{name}/settings GET=read POST=admin
/app/{org}/workspaces/{name}/runs/{run} GET=read
/app/{org}/workspaces/{name}/runs/{run}/confirm POST=write
/app/{org}/workspaces/{name}/runs/{run}/discard POST=write
/app/{org}/workspaces/{name}/runs/{run}/cancel POST=write
/app/{org}/workspaces/{name}/runs/{run}/force-cancel POST=admin
/app/{org}/workspaces/{name}/runs/{run}/memory POST=admin
/app/{org}/workspaces/{name}/runs/{run}/retry POST=plan
/app/{org}/workspaces/{name}/runs/{run}/lines GET=read
/app/{org}/workspaces/{name}/runs/{run}/plan.log GET=read
/app/{org}/workspaces/{name}/runs/{run}/apply.log GET=read
/app/{org}/workspaces/{name}/runs/{run}/plan.json GET=read
/app/{org}/agent-pools GET=member POST=owner
/app/{org}/agent-pools/new GET=owner
/app/{org}/agent-pools/{pool} GET=owner
/app/{org}/agent-pools/{pool}/install GET=owner
/app/{org}/agent-pools/{pool}/connect GET=owner
/app/{org}/agent-pools/{pool}/tokens GET=owner POST=owner
/app/{org}/agent-pools/{pool}/tokens/revoke POST=owner
/app/{org}/agent-pools/{pool}/access GET=owner POST=owner
/app/{org}/agent-pools/{pool}/settings GET=owner POST=owner
/app/{org}/agent-pools/{pool}/pause POST=owner
/app/{org}/agent-pools/{pool}/delete POST=owner
/app/{org}/agent-pools/{pool}/agents/{agent} GET=owner
/app/{org}/agent-pools/{pool}/agents/{agent}/delete POST=owner
/app/{org}/agent-pools/{pool}/agents/{agent}/drain POST=owner
/app/{org}/agent-pools/{pool}/agents/{agent}/resume POST=owner
/app/oauth/authorize GET=own POST=own
/oauth/token POST=open
/app/settings/profile GET=own POST=own
/app/settings/password POST=own
/app/settings/tokens GET=own POST=own
/app/settings/tokens/revoke POST=own
/app/settings/sessions GET=own
/app/settings/sessions/end POST=own
/app/settings/sessions/end-others POST=own
/app/settings/theme GET=own POST=own
/app/settings/keys GET=own POST=own
/app/admin GET=site
/app/admin/shared-token POST=site
/app/admin/shared-token/revoke POST=site
/app/admin/shared-pool GET=site POST=site
/app/admin/shared-pool/pause POST=site
/app/admin/shared-pool/agents/{agent}/drain POST=absent
/app/admin/shared-pool/agents/{agent}/resume POST=absent
/app/admin/users/disable POST=site
/app/admin/users/enable POST=site
/app/admin/audit GET=site
/app/admin/audit/export GET=site
";
