//! An agent that speaks the agent protocol and is stepped by hand: no sandbox, no engine, no loop.

use axum::Router;
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use terrapool_model::id::{AttemptId, JobId};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{
    AttemptKey, AttemptReport, AttemptStage, CONTENT_SHA256, Capacity, Claim, Claimed, Finish, LogPosition,
    Offer, Progress, Register, Registered, STATE_LINEAGE, STATE_SERIAL, Start, StateStored, Sync, Synced,
};
use terrapool_protocol::health::Health;
use terrapool_protocol::job::{Artifact, ArtifactName, JobSpec, Outcome, Phase, StateMark, Usage};
use terrapool_protocol::secret::Secret;
use tower::ServiceExt as _;

/// SHA-256, lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as a message; fails the test when it is none.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!(
                "{}: {error}: {}",
                self.status,
                String::from_utf8_lossy(&self.body)
            )
        })
    }

    /// The message of a successful answer; fails the test when it is not one.
    pub fn ok<T: serde::de::DeserializeOwned>(&self) -> T {
        assert!(
            self.status.is_success(),
            "{}: {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        self.json()
    }
}

/// Sends a request to the routes, without a network between.
pub async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router
        .clone()
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {});
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .unwrap_or_else(|error| panic!("the answer ended early: {error}"))
        .to_bytes()
        .to_vec();
    Answer { status, body }
}

fn request(
    method: Method,
    path: &str,
    token: &Secret,
    headers: &[(&str, String)],
    body: Body,
) -> Request<Body> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    builder
        .body(body)
        .unwrap_or_else(|error| panic!("no request: {error}"))
}

/// An agent's process.
#[derive(Debug, Clone)]
pub struct SimulatedAgent {
    router: Router,
    /// What the registration answered.
    pub registered: Registered,
    /// What it tells it can take.
    pub capacity: Capacity,
    /// What it reports.
    pub attempts: Vec<AttemptReport>,
    /// It takes no new jobs.
    pub draining: bool,
    /// What it finds when it looks at itself.
    pub health: Option<Health>,
}

/// An attempt that holds a job.
#[derive(Debug, Clone)]
pub struct Attempt {
    router: Router,
    /// Which one.
    pub key: AttemptKey,
    /// Its credential.
    pub credential: Secret,
    /// What it is to do.
    pub spec: JobSpec,
    /// Bytes of log it has sent.
    pub log: Vec<u8>,
}

impl SimulatedAgent {
    /// What an agent of this name registers with; another nonce is another process.
    pub fn registration(name: &str, nonce: &str) -> Register {
        Register {
            instance_key: Secret::new(format!("instance key of {name}")),
            process_nonce: format!("nonce of this process: {nonce}"),
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            hostname: name.to_owned(),
            kernel: "6.1.0".to_owned(),
            driver: "docker".to_owned(),
            capacity: capacity(),
            engines: Vec::new(),
            root: false,
        }
    }

    /// Sends a registration.
    pub async fn try_register(router: &Router, token: &Secret, register: &Register) -> Answer {
        post(router, "/agent/v1/register", token, &register).await
    }

    /// Registers.
    pub async fn register(router: &Router, token: &Secret, name: &str, nonce: &str) -> Self {
        let answer = Self::try_register(router, token, &Self::registration(name, nonce)).await;
        Self {
            router: router.clone(),
            registered: answer.ok(),
            capacity: capacity(),
            attempts: Vec::new(),
            draining: false,
            health: None,
        }
    }

    /// The same process, talking to another replica.
    pub fn via(&self, router: &Router) -> Self {
        Self {
            router: router.clone(),
            ..self.clone()
        }
    }

    /// The attempt of a claim that was answered, reported from now on.
    pub fn holding(&mut self, job: &JobId, phase: Phase, attempt: &AttemptId, answer: &Answer) -> Attempt {
        let claimed: Claimed = answer.ok();
        let key = AttemptKey {
            job: job.clone(),
            generation: claimed.generation,
            attempt: attempt.clone(),
        };
        self.attempts.push(AttemptReport {
            key: key.clone(),
            phase,
            stage: AttemptStage::Preparing,
            incarnation: self.registered.incarnation,
        });
        Attempt {
            router: self.router.clone(),
            key,
            credential: claimed.credential,
            spec: claimed.spec,
            log: Vec::new(),
        }
    }

    /// Sends a sync that is held for at most `hold`.
    pub async fn try_sync(&self, hold: Millis) -> Answer {
        let sync = Sync {
            session: self.registered.session,
            capacity: self.capacity,
            draining: self.draining,
            hold,
            attempts: self.attempts.clone(),
            health: self.health.clone(),
        };
        post(
            &self.router,
            "/agent/v1/sync",
            &self.registered.session_token,
            &sync,
        )
        .await
    }

    /// Syncs.
    pub async fn sync(&self, hold: Millis) -> Synced {
        self.try_sync(hold).await.ok()
    }

    /// Sends a claim.
    pub async fn try_claim(&self, job: &JobId, generation_seen: u64, attempt: &AttemptId) -> Answer {
        let claim = Claim {
            session: self.registered.session,
            generation_seen,
            attempt: attempt.clone(),
            incarnation: self.registered.incarnation,
        };
        let path = format!("/agent/v1/jobs/{job}/claim");
        post(&self.router, &path, &self.registered.session_token, &claim).await
    }

    /// Claims what was offered, and reports it from now on.
    pub async fn claim(&mut self, offer: &Offer, attempt: &AttemptId) -> Attempt {
        let answer = self.try_claim(&offer.job, offer.generation, attempt).await;
        self.holding(&offer.job, offer.phase, attempt, &answer)
    }

    /// Waits for an offer of a phase and claims it.
    pub async fn take(&mut self, phase: Phase, attempt: &AttemptId) -> Attempt {
        let synced = self.sync(Millis::from_seconds(20)).await;
        let offer = synced
            .offers
            .into_iter()
            .find(|offer| offer.phase == phase)
            .unwrap_or_else(|| panic!("nothing of the phase {} was offered", phase.as_str()));
        self.claim(&offer, attempt).await
    }

    /// Reports an attempt at this stage from now on.
    pub fn stage(&mut self, key: &AttemptKey, stage: AttemptStage) {
        for report in &mut self.attempts {
            if report.key == *key {
                report.stage = stage;
            }
        }
    }

    /// Does not report an attempt any more.
    pub fn forget(&mut self, key: &AttemptKey) {
        self.attempts.retain(|report| report.key != *key);
    }
}

fn capacity() -> Capacity {
    Capacity {
        slots: 4,
        free_slots: 4,
        memory_mb: 8192,
        free_memory_mb: 8192,
        reserve_mb: 256,
    }
}

async fn post<T: serde::Serialize>(router: &Router, path: &str, token: &Secret, message: &T) -> Answer {
    let body = serde_json::to_vec(message).unwrap_or_default();
    let headers = [(CONTENT_TYPE.as_str(), "application/json".to_owned())];
    send(
        router,
        request(Method::POST, path, token, &headers, Body::from(body)),
    )
    .await
}

impl Attempt {
    /// The same attempt with another credential.
    pub fn with_credential(&self, credential: &Secret) -> Self {
        Self {
            credential: credential.clone(),
            ..self.clone()
        }
    }

    /// The same attempt, talking to another replica.
    pub fn via(&self, router: &Router) -> Self {
        Self {
            router: router.clone(),
            ..self.clone()
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/agent/v1/jobs/{}/{rest}", self.key.job)
    }

    /// Asks for the start grant.
    pub async fn try_start(&self) -> Answer {
        let start = Start {
            generation: self.key.generation,
            attempt: self.key.attempt.clone(),
        };
        post(&self.router, &self.path("start"), &self.credential, &start).await
    }

    /// Fetches the bundle.
    pub async fn bundle(&self) -> Answer {
        send(
            &self.router,
            request(
                Method::GET,
                &self.path("bundle"),
                &self.credential,
                &[],
                Body::empty(),
            ),
        )
        .await
    }

    /// Asks for something with the scope of the run.
    pub async fn relay(&self, method: Method, path: &str) -> Answer {
        let path = self.path(&format!("relay/api/v2/{path}"));
        send(
            &self.router,
            request(method, &path, &self.credential, &[], Body::empty()),
        )
        .await
    }

    /// Sends log bytes at an offset.
    pub async fn try_log(&self, offset: u64, bytes: &[u8]) -> Answer {
        let path = self.path(&format!("log?offset={offset}"));
        send(
            &self.router,
            request(
                Method::PATCH,
                &path,
                &self.credential,
                &[],
                Body::from(bytes.to_vec()),
            ),
        )
        .await
    }

    /// Appends to the log.
    pub async fn write_log(&mut self, bytes: &[u8]) -> LogPosition {
        let position = self.try_log(self.log.len() as u64, bytes).await.ok();
        self.log.extend_from_slice(bytes);
        position
    }

    /// Uploads a state.
    pub async fn try_state(&self, serial: u64, lineage: &str, bytes: &[u8]) -> Answer {
        let headers = [
            (STATE_SERIAL, serial.to_string()),
            (STATE_LINEAGE, lineage.to_owned()),
            (CONTENT_SHA256, sha256(bytes)),
        ];
        let path = self.path("state");
        send(
            &self.router,
            request(
                Method::PUT,
                &path,
                &self.credential,
                &headers,
                Body::from(bytes.to_vec()),
            ),
        )
        .await
    }

    /// Uploads a state and tells what became of it.
    pub async fn state(&self, serial: u64, lineage: &str, bytes: &[u8]) -> StateStored {
        self.try_state(serial, lineage, bytes).await.ok()
    }

    /// Sends an artifact.
    pub async fn try_artifact(&self, name: ArtifactName, bytes: &[u8]) -> Answer {
        let headers = [(CONTENT_SHA256, sha256(bytes))];
        let path = self.path(&format!("artifacts/{}", name.as_str()));
        send(
            &self.router,
            request(
                Method::PUT,
                &path,
                &self.credential,
                &headers,
                Body::from(bytes.to_vec()),
            ),
        )
        .await
    }

    /// Uploads an artifact.
    pub async fn artifact(&self, name: ArtifactName, bytes: &[u8]) -> Artifact {
        let answer = self.try_artifact(name, bytes).await;
        assert_eq!(
            answer.status,
            StatusCode::NO_CONTENT,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        Artifact {
            name,
            size: bytes.len() as u64,
            sha256: sha256(bytes),
        }
    }

    /// What it reports as its end.
    pub fn end(&self, outcome: Outcome) -> Finish {
        Finish {
            generation: self.key.generation,
            attempt: self.key.attempt.clone(),
            outcome,
            log_size: self.log.len() as u64,
            log_sha256: sha256(&self.log),
            state: None,
            artifacts: Vec::new(),
            engine_sha256: Some("e".repeat(64)),
            engine: "1.11.4"
                .parse()
                .ok()
                .map(|version| terrapool_model::engine::Engine {
                    kind: terrapool_model::engine::EngineKind::Terraform,
                    version,
                }),
            counts: None,
            usage: Usage::default(),
            memory: None,
        }
    }

    /// Tells what it has used so far.
    pub async fn try_progress(&self, progress: &Progress) -> Answer {
        let path = self.path("progress");
        let headers = [(CONTENT_TYPE.as_str(), "application/json".to_owned())];
        let body = Body::from(serde_json::to_vec(progress).expect("progress is JSON"));
        send(
            &self.router,
            request(Method::PUT, &path, &self.credential, &headers, body),
        )
        .await
    }

    /// Reports its end.
    pub async fn try_finish(&self, finish: &Finish) -> Answer {
        post(&self.router, &self.path("finish"), &self.credential, finish).await
    }
}

/// The mark of a state document.
pub fn state_mark(serial: u64, lineage: &str, bytes: &[u8]) -> StateMark {
    StateMark {
        serial: Some(serial),
        lineage: Some(lineage.to_owned()),
        sha256: sha256(bytes),
        size: bytes.len() as u64,
    }
}

/// Sends a request of the API with a user's token.
pub async fn api(router: &Router, token: &Secret, method: Method, path: &str, body: Option<&Json>) -> Answer {
    let headers = [(CONTENT_TYPE.as_str(), "application/vnd.api+json".to_owned())];
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let path = format!("/api/v2/{path}");
    send(router, request(method, &path, token, &headers, body)).await
}

/// Reads from an address without a credential, as clients read logs.
pub async fn read(router: &Router, path: &str) -> Answer {
    let request = Request::builder()
        .uri(path)
        .body(Body::empty())
        .unwrap_or_else(|error| panic!("no request: {error}"));
    send(router, request).await
}

/// Whether a JSON answer names a reason.
pub fn reason(answer: &Answer) -> String {
    let json: Json = answer.json();
    json["reason"].as_str().unwrap_or_default().to_owned()
}
