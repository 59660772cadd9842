//! What most tests begin with: an organization with a workspace, an uploaded configuration, a pool and agents.

use terrapool_model::access::PoolAccess;
use terrapool_model::engine::EngineKind;
use terrapool_model::id::{
    AgentId, AgentPoolId, AttemptId, ConfigurationVersionId, OrganizationId, ProjectId, RunId, TokenId,
    UserId, WorkspaceId,
};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::Capacity;
use terrapool_protocol::job::OutputFormat;
use terrapool_store::agents::{AgentRecord, Registration};
use terrapool_store::configuration_versions::NewConfigurationVersion;
use terrapool_store::db::Db;
use terrapool_store::error::StoreError;
use terrapool_store::pools::{NewPool, PoolChange, PoolError, PoolSettings};
use terrapool_store::runs::{NewRun, RunRecord};
use terrapool_store::users::NewUser;
use terrapool_store::workspaces::{NewWorkspace, WorkspaceSettings};
use terrapool_store::{
    agent_tokens, agents, configuration_versions, installation, organizations, pools, projects, runs, users,
    workspaces,
};

/// The rows.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Database.
    pub db: Db,
    /// A user.
    pub user: UserId,
    /// Another user.
    pub other_user: UserId,
    /// The organization.
    pub organization: OrganizationId,
    /// Its default project.
    pub project: ProjectId,
    /// A pool that everybody in the organization may use.
    pub pool: AgentPoolId,
    /// A token of the pool, without a secret that would be known.
    pub token: TokenId,
    /// A workspace.
    pub workspace: WorkspaceId,
    /// An uploaded configuration of the workspace.
    pub configuration: ConfigurationVersionId,
    /// The incarnation.
    pub incarnation: u64,
}

/// Sixteen random bytes.
pub fn draw(db: &Db) -> [u8; 16] {
    db.entropy().draw()
}

macro_rules! write {
    ($db:expr, $error:ty, |$tx:ident| $body:expr, [$($captured:ident),*]) => {
        $db.write::<_, $error, _>(move |$tx| {
            $(let $captured = $captured.clone();)*
            Box::pin(async move { $body })
        })
        .await
        .unwrap_or_else(|error| panic!("a fixture could not be written: {error:?}"))
    };
}

impl Seed {
    /// Writes the rows.
    pub async fn new(db: &Db) -> Self {
        let (user, other_user) = (new_user(db, "ada").await, new_user(db, "grace").await);
        let owner = user.clone();
        let organization = write!(
            db,
            StoreError,
            |tx| organizations::create(
                tx,
                "acme",
                "acme@example.com",
                Some(&owner),
                &serde_json::Map::new()
            )
            .await,
            [owner]
        );
        let id = organization.id.clone();
        let project = projects::default_of(&mut connection(db).await, &id)
            .await
            .unwrap_or_else(|error| panic!("the organization has no default project: {error:?}"));
        let new = NewPool {
            organization_id: organization.id.clone(),
            name: "pool".to_owned(),
            access: PoolAccess {
                organization_scoped: true,
                ..PoolAccess::default()
            },
            settings: PoolSettings::default(),
        };
        let pool = write!(db, StoreError, |tx| pools::create(tx, &new).await, [new]);
        let (of, hash) = (pool.id.clone(), draw(db).to_vec());
        let token = write!(
            db,
            StoreError,
            |tx| agent_tokens::create(tx, &of, &hash, "test", None, None).await,
            [of, hash]
        );
        let installation = write!(db, StoreError, |tx| installation::get_or_create(tx).await, []);
        let mut seed = Self {
            db: db.clone(),
            user,
            other_user,
            organization: organization.id,
            project: project.id,
            pool: pool.id,
            token: token.id,
            workspace: WorkspaceId::from_random([0; 16]),
            configuration: ConfigurationVersionId::from_random([0; 16]),
            incarnation: installation.incarnation,
        };
        (seed.workspace, seed.configuration) = seed.workspace("app").await;
        seed
    }

    /// Makes another workspace with an uploaded configuration, whose object does not exist.
    pub async fn workspace(&self, name: &str) -> (WorkspaceId, ConfigurationVersionId) {
        let new = NewWorkspace {
            organization_id: self.organization.clone(),
            project_id: self.project.clone(),
            settings: WorkspaceSettings {
                name: name.to_owned(),
                description: None,
                execution_mode: None,
                agent_pool_id: None,
                engine: EngineKind::Terraform,
                engine_version: "1.11.4".to_owned(),
                working_directory: String::new(),
                auto_apply: false,
                global_remote_state: false,
                structured_run_output: true,
                further: serde_json::Map::new(),
            },
            source: "tfe-api".to_owned(),
        };
        let workspace = write!(
            self.db,
            StoreError,
            |tx| workspaces::create(tx, &new).await,
            [new]
        );
        let new = NewConfigurationVersion {
            workspace_id: workspace.clone(),
            speculative: false,
            provisional: false,
            auto_queue_runs: false,
            source: "tfe-api".to_owned(),
        };
        let configuration = write!(
            self.db,
            StoreError,
            |tx| {
                let version = configuration_versions::create(tx, &new).await?;
                let key = format!("configurations/{}", version.id);
                let digest = "0".repeat(64);
                configuration_versions::finish_upload(tx, &version.id, &key, 1, &digest).await?;
                Ok(version.id)
            },
            [new]
        );
        (workspace, configuration)
    }

    /// Changes the pool's settings.
    pub async fn set_pool(&self, change: impl FnOnce(&mut PoolSettings)) {
        let mut settings = pools::get(&mut connection(&self.db).await, &self.pool)
            .await
            .ok()
            .flatten()
            .map(|pool| pool.settings)
            .unwrap_or_default();
        change(&mut settings);
        let (pool, change) = (
            self.pool.clone(),
            PoolChange {
                settings: Some(settings),
                ..PoolChange::default()
            },
        );
        write!(
            self.db,
            PoolError,
            |tx| pools::update(tx, &pool, &change).await,
            [pool, change]
        );
    }

    /// Makes leases end at once, so that tests need not wait for them.
    pub async fn end_leases_at_once(&self) {
        self.set_pool(|settings| {
            settings.times.flush = Millis::ZERO;
            settings.times.lease_plan = Millis::ZERO;
            settings.times.lease_apply = Millis::ZERO;
            settings.times.hold = Millis::ZERO;
            settings.times.cool_off = Millis::ZERO;
        })
        .await;
    }

    /// A run to be made: a plan that waits for a person.
    pub fn new_run(&self) -> NewRun {
        NewRun {
            id: RunId::from_random(draw(&self.db)),
            workspace_id: self.workspace.clone(),
            configuration_version_id: self.configuration.clone(),
            source: "tfe-api".to_owned(),
            message: "a test".to_owned(),
            created_by: Some(self.user.clone()),
            plan_only: false,
            save_plan: false,
            auto_apply: false,
            is_destroy: false,
            refresh: true,
            refresh_only: false,
            allow_empty_apply: false,
            allow_config_generation: false,
            target_addrs: Vec::new(),
            replace_addrs: Vec::new(),
            variables: None,
            output_format: OutputFormat::Json,
            engine: EngineKind::Terraform,
            engine_version: "1.11.4".to_owned(),
            pool_id: self.pool.clone(),
            request_key: None,
        }
    }

    /// Makes a run.
    pub async fn create(&self, new: NewRun) -> RunRecord {
        write!(self.db, StoreError, |tx| runs::create(tx, &new).await, [new])
    }

    /// A run as it stands.
    pub async fn run(&self, id: &RunId) -> RunRecord {
        runs::get(&mut connection(&self.db).await, id)
            .await
            .ok()
            .flatten()
            .unwrap_or_else(|| panic!("there is no run {id}"))
    }

    /// What an agent tells of itself; the same name is the same agent, another nonce another process.
    pub fn registration(&self, name: &str, nonce: &str) -> Registration {
        Registration {
            pool_id: self.pool.clone(),
            token_id: self.token.clone(),
            instance_key_hash: name.as_bytes().to_vec(),
            process_nonce: nonce.to_owned(),
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            hostname: name.to_owned(),
            kernel: "6.1.0".to_owned(),
            driver: "docker".to_owned(),
            ip_address: "192.0.2.1".to_owned(),
            capacity: Capacity {
                slots: 4,
                free_slots: 4,
                memory_mb: 4096,
                free_memory_mb: 4096,
                reserve_mb: 256,
            },
            root_sandboxes: false,
            engines: Vec::new(),
        }
    }

    /// Registers an agent's process.
    pub async fn register(&self, name: &str, nonce: &str) -> AgentRecord {
        let new = self.registration(name, nonce);
        write!(self.db, StoreError, |tx| agents::register(tx, &new).await, [new])
    }

    /// Registers an agent with one process, and gives its id.
    pub async fn agent(&self, name: &str) -> AgentId {
        self.register(name, "nonce-1").await.id
    }

    /// A new attempt.
    pub fn attempt(&self) -> AttemptId {
        AttemptId::from_random(draw(&self.db))
    }
}

async fn connection(db: &Db) -> terrapool_store::db::Connection {
    db.read()
        .await
        .unwrap_or_else(|error| panic!("no connection: {error:?}"))
}

async fn new_user(db: &Db, name: &str) -> UserId {
    let new = NewUser {
        username: name.to_owned(),
        email: format!("{name}@example.com"),
        site_admin: false,
        password_hash: None,
    };
    write!(db, StoreError, |tx| users::create(tx, &new).await, [new]).id
}
