//! JSON:API documents.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::page::Pagination;

/// A resource type. Clients compare these texts, also in relationships.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `agents`
    Agents,
    /// `agent-pools`
    AgentPools,
    /// `applies`
    Applies,
    /// `authentication-tokens`
    AuthenticationTokens,
    /// `configuration-versions`
    ConfigurationVersions,
    /// `entitlement-sets`
    EntitlementSets,
    /// `opentofu-versions`
    OpentofuVersions,
    /// `kept-apart-states`
    KeptApartStates,
    /// `organizations`
    Organizations,
    /// `organization-memberships`
    OrganizationMemberships,
    /// `organization-capacity`
    OrganizationCapacity,
    /// `plans`
    Plans,
    /// `projects`
    Projects,
    /// `runs`
    Runs,
    /// `run-events`
    RunEvents,
    /// `run-whereabouts`
    RunWhereabouts,
    /// `state-versions`
    StateVersions,
    /// `state-version-outputs`
    StateVersionOutputs,
    /// `tags`
    Tags,
    /// `tag-bindings`
    TagBindings,
    /// `effective-tag-bindings`
    EffectiveTagBindings,
    /// `terraform-versions`
    TerraformVersions,
    /// `teams`
    Teams,
    /// `team-projects`
    TeamProjects,
    /// `team-workspaces`
    TeamWorkspaces,
    /// `users`
    Users,
    /// `vars`
    Vars,
    /// `workspaces`
    Workspaces,
}

impl Kind {
    /// The text in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::AgentPools => "agent-pools",
            Self::Applies => "applies",
            Self::AuthenticationTokens => "authentication-tokens",
            Self::ConfigurationVersions => "configuration-versions",
            Self::EntitlementSets => "entitlement-sets",
            Self::OpentofuVersions => "opentofu-versions",
            Self::TerraformVersions => "terraform-versions",
            Self::KeptApartStates => "kept-apart-states",
            Self::Organizations => "organizations",
            Self::OrganizationCapacity => "organization-capacity",
            Self::Plans => "plans",
            Self::Projects => "projects",
            Self::Runs => "runs",
            Self::RunEvents => "run-events",
            Self::RunWhereabouts => "run-whereabouts",
            Self::StateVersions => "state-versions",
            Self::StateVersionOutputs => "state-version-outputs",
            Self::Tags => "tags",
            Self::TagBindings => "tag-bindings",
            Self::EffectiveTagBindings => "effective-tag-bindings",
            Self::Teams => "teams",
            Self::TeamProjects => "team-projects",
            Self::TeamWorkspaces => "team-workspaces",
            Self::OrganizationMemberships => "organization-memberships",
            Self::Users => "users",
            Self::Vars => "vars",
            Self::Workspaces => "workspaces",
        }
    }
}

/// A reference to a resource.
pub type Reference = (Kind, String);

fn identifier(reference: &Reference) -> Value {
    json!({"type": reference.0.as_str(), "id": reference.1})
}

/// One resource with its attributes, relationships and links.
#[derive(Debug, Clone)]
pub struct Resource {
    kind: Kind,
    id: String,
    attributes: Value,
    relationships: Map<String, Value>,
    links: Map<String, Value>,
}

impl Resource {
    /// A resource with the attributes of a serializable value.
    pub fn new(kind: Kind, id: impl Into<String>, attributes: &impl Serialize) -> Self {
        Self {
            kind,
            id: id.into(),
            // Attributes are plain structs of texts, numbers and maps with text keys: they always serialize.
            attributes: serde_json::to_value(attributes).unwrap_or_else(|_| json!({})),
            relationships: Map::new(),
            links: Map::new(),
        }
    }

    /// One more attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &impl Serialize) -> Self {
        if let (Value::Object(attributes), Ok(value)) = (&mut self.attributes, serde_json::to_value(value)) {
            attributes.insert(name.to_owned(), value);
        }
        self
    }

    /// A relationship to one resource.
    #[must_use]
    pub fn one(self, name: &str, kind: Kind, id: impl Into<String>) -> Self {
        self.maybe(name, Some((kind, id.into())))
    }

    /// A relationship to one resource or none (`data: null`).
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "references are made where they are given"
    )]
    pub fn maybe(mut self, name: &str, reference: Option<Reference>) -> Self {
        let data = reference.as_ref().map_or(Value::Null, identifier);
        self.relationships.insert(name.to_owned(), json!({"data": data}));
        self
    }

    /// A relationship to any number of resources.
    #[must_use]
    pub fn many(mut self, name: &str, references: &[Reference]) -> Self {
        let data: Vec<Value> = references.iter().map(identifier).collect();
        self.relationships.insert(name.to_owned(), json!({"data": data}));
        self
    }

    /// A relationship that is only a link.
    #[must_use]
    pub fn related(mut self, name: &str, link: impl Into<String>) -> Self {
        self.relationships
            .insert(name.to_owned(), json!({"links": {"related": link.into()}}));
        self
    }

    /// A link of the resource.
    #[must_use]
    pub fn link(mut self, name: &str, link: impl Into<String>) -> Self {
        self.links.insert(name.to_owned(), Value::String(link.into()));
        self
    }

    /// The resource's type and id.
    pub fn reference(&self) -> (Kind, &str) {
        (self.kind, &self.id)
    }

    fn into_value(self) -> Value {
        let mut value = json!({"id": self.id, "type": self.kind.as_str(), "attributes": self.attributes});
        if let Value::Object(object) = &mut value {
            if !self.relationships.is_empty() {
                object.insert("relationships".to_owned(), Value::Object(self.relationships));
            }
            if !self.links.is_empty() {
                object.insert("links".to_owned(), Value::Object(self.links));
            }
        }
        value
    }
}

#[derive(Debug, Clone)]
enum Primary {
    One(Box<Resource>),
    List(Vec<Resource>),
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Document {
    primary: Primary,
    included: Vec<Resource>,
    meta: Map<String, Value>,
    links: Map<String, Value>,
}

impl Document {
    /// A document about one resource.
    pub fn one(resource: Resource) -> Self {
        Self::with(Primary::One(Box::new(resource)))
    }

    /// A document with a list that is not paged.
    pub fn list(resources: Vec<Resource>) -> Self {
        Self::with(Primary::List(resources))
    }

    fn with(primary: Primary) -> Self {
        Self {
            primary,
            included: Vec::new(),
            meta: Map::new(),
            links: Map::new(),
        }
    }

    /// Adds `meta.pagination` and the links to the neighbouring pages. `path` is the request's path and query without
    /// page parameters.
    #[must_use]
    pub fn paged(mut self, pagination: &Pagination, path: &str) -> Self {
        self.meta.insert("pagination".to_owned(), pagination.meta());
        self.links = pagination.links(path);
        self
    }

    /// Adds a member of `meta`.
    #[must_use]
    pub fn meta(mut self, name: &str, value: Value) -> Self {
        self.meta.insert(name.to_owned(), value);
        self
    }

    /// Adds resources to `included`.
    #[must_use]
    pub fn include(mut self, resources: impl IntoIterator<Item = Resource>) -> Self {
        self.included.extend(resources);
        self
    }

    /// The document as JSON. What is primary is never included again, and nothing is included twice.
    pub fn into_value(self) -> Value {
        let mut seen: HashSet<(Kind, String)> = HashSet::new();
        let own = |resource: &Resource| (resource.kind, resource.id.clone());
        match &self.primary {
            Primary::One(resource) => {
                seen.insert(own(resource));
            }
            Primary::List(resources) => seen.extend(resources.iter().map(own)),
        }
        let included: Vec<Value> = self
            .included
            .into_iter()
            .filter(|resource| seen.insert(own(resource)))
            .map(Resource::into_value)
            .collect();
        let data = match self.primary {
            Primary::One(resource) => resource.into_value(),
            Primary::List(resources) => resources.into_iter().map(Resource::into_value).collect(),
        };
        let mut value = json!({"data": data});
        if let Value::Object(object) = &mut value {
            if !included.is_empty() {
                object.insert("included".to_owned(), Value::Array(included));
            }
            if !self.meta.is_empty() {
                object.insert("meta".to_owned(), Value::Object(self.meta));
            }
            if !self.links.is_empty() {
                object.insert("links".to_owned(), Value::Object(self.links));
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str) -> Resource {
        Resource::new(Kind::Runs, id, &json!({"status": "pending"}))
    }

    #[test]
    fn the_primary_resource_is_never_included_again() {
        let document = Document::one(run("run-1")).include([run("run-1"), run("run-2"), run("run-2")]);
        let value = document.into_value();
        assert_eq!(value["included"].as_array().unwrap().len(), 1);
        assert_eq!(value["included"][0]["id"], "run-2");
    }

    #[test]
    fn relationships_keep_their_types_and_may_be_null() {
        let resource = run("run-1")
            .one("plan", Kind::Plans, "plan-1")
            .maybe("created-by", None)
            .many("tags", &[]);
        let value = Document::one(resource).into_value();
        let relationships = &value["data"]["relationships"];
        assert_eq!(
            relationships["plan"]["data"],
            json!({"type": "plans", "id": "plan-1"})
        );
        assert_eq!(relationships["created-by"]["data"], Value::Null);
        assert_eq!(relationships["tags"]["data"], json!([]));
    }
}
