//! What is sent to a route: bodies and forms.

use base64::Engine as _;
use serde_json::{Value, json};

use super::world::{PASSWORD, World, document, form};
use crate::common::{md5, state};

impl World {
    /// A body that is well enough formed for a handler to come to the question who asks.
    pub(super) fn body(&self, method: &str, path: &str) -> Value {
        let mut attributes = json!({
            "name": format!("n{}", self.made), "description": "d", "key": "other", "category": "env", "value": "v",
            "username": self.thing("newcomer"), "access": "read", "visibility": "secret", "tool": "x",
        });
        if (method, path) == ("PATCH", "/api/v2/organizations/{org}") {
            attributes = json!({"email": "a@example.com"});
        }
        let mut document = document(
            attributes,
            &[
                ("workspace", self.thing("workspace")),
                ("project", self.thing("project")),
                ("team", self.thing("team")),
                ("configuration-version", self.thing("configuration")),
                ("state-version", self.thing("state")),
            ],
        );
        if path.ends_with("/relationships/tags") {
            document = json!({"data": [{"type": "tags", "attributes": {"name": "zone"}}]});
        } else if path.ends_with("/tag-bindings") {
            let binding = json!({"type": "tag-bindings", "attributes": {"key": "zone", "value": "a"}});
            document = json!({"data": [binding]});
        } else if path.ends_with("/relationships/remote-state-consumers") {
            document = json!({"data": [{"type": "workspaces", "id": self.thing("workspace")}]});
        } else if path == "/api/v2/workspaces/{id}/state-versions" {
            document = self.state_version(method);
        } else if path.contains("admin/") {
            document = self.engine_version(path);
        } else if path.ends_with("/relationships/users") {
            document = json!({"data": [{"type": "users", "id": self.thing("guest")}]});
        } else if path.ends_with("/relationships/organization-memberships") {
            document =
                json!({"data": [{"type": "organization-memberships", "id": self.thing("membership")}]});
        }
        document
    }

    /// A second state of the workspace, or its first one again.
    fn state_version(&self, method: &str) -> Value {
        if method == "PATCH" {
            let earlier = [("rollback-state-version", self.thing("state"))];
            return document(json!({}), &earlier);
        }
        let raw = state(2, "lineage");
        document(
            json!({
                "serial": 2, "lineage": "lineage", "md5": md5(&raw),
                "state": base64::engine::general_purpose::STANDARD.encode(&raw),
            }),
            &[],
        )
    }

    /// A version of an engine that the operator offers.
    fn engine_version(&self, path: &str) -> Value {
        let name = if path.contains("opentofu") {
            "tofu"
        } else {
            "terraform"
        };
        document(
            json!({
                "version": format!("1.9.{}", self.made), "enabled": true, "official": false,
                "url": format!("https://engines.example.com/{name}.zip"), "sha": "0".repeat(64),
            }),
            &[],
        )
    }

    /// Fields of a form, likewise.
    pub(super) fn fields(&self, path: &str, form_token: &str) -> String {
        let id = match path {
            "/app/{org}/projects/delete" => self.thing("project"),
            "/app/{org}/people/remove" => self.thing("membership"),
            "/app/{org}/people/teams/{id}/access/revoke" => self.thing("team-workspace"),
            "/app/{org}/workspaces/{name}/variables/delete" => self.thing("variable"),
            "/app/{org}/agent-pools/{pool}/tokens/revoke" => self.thing("token"),
            "/app/admin/shared-token/revoke" => self.thing("shared-token"),
            "/app/settings/tokens/revoke" => self.thing("own-token"),
            "/app/settings/sessions/end" => self.thing("other-session"),
            _ => "",
        };
        let made = format!("form-{}", self.made);
        // What is dangerous wants a name typed.
        let name = match path {
            "/app/{org}/workspaces/{name}/delete"
            | "/app/{org}/workspaces/{name}/force-unlock"
            | "/app/{org}/workspaces/{name}/runs/{run}/force-cancel" => self.thing("workspace-name"),
            "/app/{org}/workspaces/{name}/states/{id}/{action}" => self.thing("serial"),
            "/app/{org}/agent-pools/{pool}/delete" => self.thing("pool-name"),
            "/app/{org}/agent-pools/{pool}/tokens/revoke" => "d",
            _ => &made,
        };
        form(&[
            ("token", form_token),
            ("id", id),
            ("name", name),
            ("key", "other"),
            ("category", "env"),
            ("login", self.thing("newcomer")),
            ("username", name),
            ("kind", "plan"),
            ("mode", "remote"),
            ("abandon", "on"),
            ("engine", "terraform"),
            ("version", "latest"),
            ("memory", "512"),
            ("cpu", "1000"),
            ("plan", "60"),
            ("apply", "60"),
            ("silence", "30"),
            ("log", "64"),
            ("grace", "5"),
            ("contact", "30"),
            ("plan-lease", "180"),
            ("apply-lease", "180"),
            ("network", "closed"),
            ("old", PASSWORD),
            ("new", "another correct horse"),
            ("email", "a@example.com"),
            ("runs-on", "remote"),
            ("description", "d"),
            ("user", self.thing("guest")),
            ("place", self.thing("project")),
            ("project", self.thing("project")),
            ("role", "read"),
            ("pool", self.thing("pool")),
            ("subject", self.thing("workspace-name")),
            ("change", "exclude-workspace"),
        ])
    }
}
