//! Execution mode and agent pool of workspaces and projects, as requests set them.

use serde_json::Value;
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::AgentPoolId;
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::{Field, Item};

/// What a request says, by the names that the resource uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) mode: &'static str,
    pub(super) pool: &'static str,
    pub(super) overwrite_mode: &'static str,
    pub(super) overwrite_pool: &'static str,
    pub(super) pool_relationship: &'static str,
}

/// Of a workspace.
pub(super) const WORKSPACE: Names = Names {
    mode: "execution-mode",
    pool: "agent-pool-id",
    overwrite_mode: "execution-mode",
    overwrite_pool: "agent-pool",
    pool_relationship: "agent-pool",
};

/// Of a project.
pub(super) const PROJECT: Names = Names {
    mode: "default-execution-mode",
    pool: "default-agent-pool-id",
    overwrite_mode: "default-execution-mode",
    overwrite_pool: "default-agent-pool",
    pool_relationship: "default-agent-pool",
};

/// A mode and a pool of the resource's own; no mode: inherited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) mode: Option<ExecutionMode>,
    pub(super) pool: Option<AgentPoolId>,
}

/// What the resource has after a request. `own` is what it has now, `effective` what holds now with inheritance.
pub(super) fn resolve(item: &Item, names: Names, own: &Own, effective: &Own) -> Result<Own, Problem> {
    let mode = requested_mode(item, names)?;
    let (overwrite_mode, overwrite_pool) = overwrites(item, names)?;
    if let (Some(one), Some(other)) = (overwrite_mode, overwrite_pool)
        && one != other
    {
        return Err(Problem::attribute(
            "setting-overwrites",
            "If agent-pool and execution-mode are both included in setting-overwrites, their values must be the same.",
        ));
    }
    let pool = requested_pool(item, names)?;
    let overwrite = overwrite_mode.or(overwrite_pool);
    let new_mode = match (mode, overwrite) {
        (_, Some(false)) => None,
        (Some(mode), _) => Some(mode),
        (None, Some(true)) => own.mode.or(effective.mode),
        (None, None) => own.mode,
    };
    if new_mode != Some(ExecutionMode::Agent) {
        if pool.clone().value().is_some() && overwrite != Some(false) {
            return Err(Problem::attribute(
                names.pool,
                "Agent pool must not be specified unless using 'agent' execution mode",
            ));
        }
        return Ok(Own {
            mode: new_mode,
            pool: None,
        });
    }
    let kept = match (own.mode, overwrite) {
        (Some(_), _) => own.pool.clone(),
        (None, Some(true)) => effective.pool.clone(),
        (None, _) => None,
    };
    let pool = match pool {
        Field::Value(pool) => Some(pool),
        Field::Absent => kept,
        Field::Null => None,
    };
    if pool.is_none() {
        return Err(Problem::attribute(
            names.pool,
            "Agent pool must be specified when using 'agent' execution mode",
        ));
    }
    Ok(Own { mode: new_mode, pool })
}

fn requested_mode(item: &Item, names: Names) -> Result<Option<ExecutionMode>, Problem> {
    let mode = item.text(names.mode)?.filter(|mode| !mode.is_empty());
    let operations = match names.mode {
        "execution-mode" => item.flag("operations")?,
        _ => None,
    };
    match (mode, operations) {
        (Some(_), Some(_)) => Err(Problem::attribute(
            "operations",
            "Operations is deprecated and cannot be specified when execution mode is used",
        )),
        (Some(mode), None) => Ok(Some(parse_mode(names.mode, &mode)?)),
        (None, Some(true)) => Ok(Some(ExecutionMode::Remote)),
        (None, Some(false)) => Ok(Some(ExecutionMode::Local)),
        (None, None) => Ok(None),
    }
}

/// Reads a mode.
pub(super) fn parse_mode(attribute: &str, text: &str) -> Result<ExecutionMode, Problem> {
    text.parse()
        .map_err(|error: terrapool_model::execution::InvalidExecutionMode| {
            Problem::attribute(attribute, format!("Execution mode is invalid: {error}"))
        })
}

fn overwrites(item: &Item, names: Names) -> Result<(Option<bool>, Option<bool>), Problem> {
    let Some(object) = item
        .attribute::<serde_json::Map<String, Value>>("setting-overwrites")?
        .value()
    else {
        return Ok((None, None));
    };
    let read = |name: &str| object.get(name).and_then(Value::as_bool);
    Ok((
        // The documentation of projects says `execution-mode`, clients say `default-execution-mode`.
        read(names.overwrite_mode).or_else(|| read("execution-mode")),
        read(names.overwrite_pool).or_else(|| read("agent-pool")),
    ))
}

/// The pool as an attribute, or as a relationship, which older clients send. An empty text means none.
pub(super) fn requested_pool(item: &Item, names: Names) -> Result<Field<AgentPoolId>, Problem> {
    let text = match item.attribute::<String>(names.pool)? {
        Field::Absent => item.related(names.pool_relationship),
        // The provider sends an empty text beside a mode that needs none.
        Field::Value(text) if text.is_empty() => Field::Null,
        field => field,
    };
    match text {
        Field::Absent => Ok(Field::Absent),
        Field::Null => Ok(Field::Null),
        Field::Value(text) => text
            .parse()
            .map(Field::Value)
            .map_err(|_| Problem::attribute(names.pool, format!("Agent pool `{text}` does not exist"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use terrapool_tfe::request::Body;

    use super::*;

    const NONE: Own = Own {
        mode: None,
        pool: None,
    };

    fn pool() -> AgentPoolId {
        AgentPoolId::from_random([1; 16])
    }

    fn item(attributes: &Value) -> Item {
        let body = json!({"data": {"attributes": attributes}}).to_string();
        Body::parse(body.as_bytes()).unwrap().item
    }

    fn own(mode: ExecutionMode) -> Own {
        Own {
            mode: Some(mode),
            pool: (mode == ExecutionMode::Agent).then(pool),
        }
    }

    #[test]
    fn without_any_setting_everything_is_inherited() {
        let inherited = own(ExecutionMode::Agent);
        assert_eq!(
            resolve(&item(&json!({})), WORKSPACE, &NONE, &inherited).unwrap(),
            NONE
        );
        let overwrites = json!({"setting-overwrites": {"execution-mode": false, "agent-pool": false}});
        assert_eq!(
            resolve(
                &item(&overwrites),
                WORKSPACE,
                &own(ExecutionMode::Local),
                &inherited
            )
            .unwrap(),
            NONE
        );
    }

    #[test]
    fn agent_mode_needs_a_pool_and_a_pool_needs_agent_mode() {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": pool().as_str()});
        let remote = own(ExecutionMode::Remote);
        assert_eq!(
            resolve(&item(&attributes), WORKSPACE, &NONE, &remote).unwrap(),
            own(ExecutionMode::Agent)
        );
        let missing = resolve(
            &item(&json!({"execution-mode": "agent"})),
            WORKSPACE,
            &NONE,
            &remote,
        )
        .unwrap_err();
        assert!(
            missing
                .detail
                .contains("must be specified when using 'agent' execution mode")
        );
        let without = json!({"agent-pool-id": pool().as_str(), "execution-mode": "remote"});
        let without = resolve(&item(&without), WORKSPACE, &NONE, &remote).unwrap_err();
        assert!(
            without
                .detail
                .contains("must not be specified unless using 'agent' execution mode")
        );
        let back = resolve(
            &item(&json!({"execution-mode": "local", "agent-pool-id": ""})),
            WORKSPACE,
            &own(ExecutionMode::Agent),
            &own(ExecutionMode::Agent),
        );
        assert_eq!(back.unwrap(), own(ExecutionMode::Local));
    }

    #[test]
    fn overwrites_that_differ_are_refused_and_true_freezes_what_is_inherited() {
        let differ = json!({"setting-overwrites": {"execution-mode": true, "agent-pool": false}});
        let inherited = own(ExecutionMode::Agent);
        let problem = resolve(&item(&differ), WORKSPACE, &NONE, &inherited).unwrap_err();
        assert!(problem.detail.contains("their values must be the same"));
        let freeze = json!({"setting-overwrites": {"execution-mode": true, "agent-pool": true}});
        assert_eq!(
            resolve(&item(&freeze), WORKSPACE, &NONE, &inherited).unwrap(),
            inherited
        );
    }

    #[test]
    fn the_legacy_operations_flag_is_local_or_remote() {
        let off = resolve(&item(&json!({"operations": false})), WORKSPACE, &NONE, &NONE).unwrap();
        assert_eq!(off, own(ExecutionMode::Local));
        let both = json!({"operations": true, "execution-mode": "remote"});
        assert!(resolve(&item(&both), WORKSPACE, &NONE, &NONE).is_err());
    }
}
