//! The HTTP client of the agent protocol. See `terrapool_protocol::agent` for the calls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use terrapool_model::id::JobId;
use terrapool_protocol::agent::{
    CONTENT_SHA256, Claim, Claimed, Finish, Finished, Incomplete, LogPosition, Progress, Refused, Register,
    Registered, SERVER_VERSION, STATE_LINEAGE, STATE_SERIAL, Start, Started, StateStored, Sync, Synced,
};
use terrapool_protocol::job::{Artifact, StateMark};
use terrapool_protocol::secret::Secret;
use tokio::sync::OnceCell;

use crate::clock::{http_date, wall_seconds};
use crate::config::Config;

/// Time to a connection, and to an answer of every call that is not held.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The credential is not valid (any more).
    #[error("the control plane does not accept the credential")]
    Unauthorized,
    /// A newer process of this agent has registered.
    #[error("a newer process of this agent has registered")]
    Superseded,
    /// 409 to a claim or start.
    #[error("refused: {}", .0.reason)]
    Refused(Refused),
    /// 409 to a finish.
    #[error("the control plane still misses something of the job")]
    Incomplete(Incomplete),
    /// 416 to a log append.
    #[error("the log has another position")]
    LogPosition(LogPosition),
    /// No answer, or a 5xx: the same request may succeed later.
    #[error("the control plane cannot be reached: {0}")]
    Unavailable(String),
    /// An answer that no control plane gives: something else has its address, for now or because the address is wrong.
    #[error("the answer is none of a control plane's")]
    Foreign,
    /// An answer that means the request itself is wrong.
    #[error("unexpected answer {status}: {text}")]
    Unexpected {
        /// HTTP status.
        status: u16,
        /// Beginning of the body.
        text: String,
    },
    /// The client could not be set up.
    #[error("{context}")]
    Setup {
        /// What was tried.
        context: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + std::marker::Sync>,
    },
}

impl CallError {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Foreign)
    }
}

/// The control plane, as the agent calls it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    http: reqwest::Client,
    /// Follows no redirects: what a sandbox asks for leads to the control plane and nowhere else. Made when one first asks:
    /// many never do, and every client has certificates of its own in memory.
    relay: Arc<OnceCell<reqwest::Client>>,
    /// Those of `ca_file`.
    certificates: Vec<reqwest::Certificate>,
    url: String,
    base: String,
    /// What the last answer said of the clocks.
    clock_ahead_seconds: Arc<Mutex<Option<i64>>>,
}

/// An error with everything that led to it, in a line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn unavailable(error: reqwest::Error) -> CallError {
    CallError::Unavailable(describe(&error.without_url()))
}

fn client(
    certificates: &[reqwest::Certificate],
    redirects: redirect::Policy,
) -> Result<reqwest::Client, CallError> {
    reqwest::Client::builder()
        .user_agent(concat!("terrapool-agent/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .https_only(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(20))
        .tcp_nodelay(true)
        .redirect(redirects)
        .tls_certs_merge(certificates.iter().cloned())
        .build()
        .map_err(|error| CallError::Setup {
            context: "the HTTPS client cannot be set up".to_owned(),
            source: Box::new(error),
        })
}

impl ControlPlane {
    /// Sets up the client: system certificates, those of `ca_file`, proxies from the environment.
    ///
    /// # Errors
    /// [`CallError::Setup`] when the certificates cannot be read.
    pub fn new(config: &Config) -> Result<Self, CallError> {
        let mut certificates = Vec::new();
        if let Some(path) = &config.ca_file {
            let setup = |source: Box<dyn std::error::Error + Send + std::marker::Sync>| CallError::Setup {
                context: format!("certificates of {} cannot be used", path.display()),
                source,
            };
            let pem = std::fs::read(path).map_err(|error| setup(Box::new(error)))?;
            certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| setup(Box::new(error)))?;
        }
        Ok(Self {
            http: client(&certificates, redirect::Policy::default())?,
            relay: Arc::default(),
            certificates,
            url: config.url.clone(),
            base: format!("{}/agent/v1", config.url),
            clock_ahead_seconds: Arc::default(),
        })
    }

    /// The HTTPS client, with its certificates and proxies, for downloads.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Host of the control plane, with its port unless that is 443.
    pub fn host(&self) -> String {
        let host = self.url.trim_start_matches("https://");
        let host = host.split('/').next().unwrap_or_default();
        host.strip_suffix(":443").unwrap_or(host).to_owned()
    }

    /// What a run reads, with the scope of its job. `path` is one of the list of routes, with its query.
    ///
    /// # Errors
    /// [`CallError::Unavailable`] when there is no answer, [`CallError::Setup`] when the certificates cannot be read.
    pub async fn relay(
        &self,
        credential: &Secret,
        job: &JobId,
        path: &str,
        headers: &[(String, String)],
    ) -> Result<Response, CallError> {
        let url = format!("{}/jobs/{job}/relay{path}", self.base);
        self.hand_on(credential, Method::GET, url, headers, Bytes::new())
            .await
    }

    /// A request to the API with a credential that is the configuration's own. `path` begins at the root.
    ///
    /// # Errors
    /// [`CallError::Unavailable`] when there is no answer.
    pub async fn forward(
        &self,
        credential: &Secret,
        method: Method,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<Response, CallError> {
        let url = format!("{}{path}", self.url);
        self.hand_on(credential, method, url, headers, body).await
    }

    async fn hand_on(
        &self,
        credential: &Secret,
        method: Method,
        url: String,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<Response, CallError> {
        let relay = self
            .relay
            .get_or_try_init(async || client(&self.certificates, redirect::Policy::none()))
            .await?;
        let mut request = relay
            .request(method, url)
            .bearer_auth(credential.expose())
            .body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Only until the answer begins: a state may be large, and whoever reads it slow.
        tokio::time::timeout(ANSWER_TIMEOUT, self.send(request))
            .await
            .unwrap_or_else(|_| Err(CallError::Unavailable("it took too long".to_owned())))
    }

    fn request(&self, method: Method, path: &str, credential: &Secret) -> RequestBuilder {
        self.http
            .request(method, format!("{}/{path}", self.base))
            .bearer_auth(credential.expose())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let response = request.send().await.map_err(unavailable)?;
        self.compare_clocks(&response);
        Ok(response)
    }

    fn compare_clocks(&self, response: &Response) {
        let date = response.headers().get(reqwest::header::DATE);
        if let Some(theirs) = date.and_then(|date| http_date(date.to_str().ok()?)) {
            let mut ahead = self
                .clock_ahead_seconds
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *ahead = Some(wall_seconds() - theirs);
        }
    }

    /// By how many seconds this host's clock is ahead of the control plane's, as its last answer says.
    pub fn clock_ahead_seconds(&self) -> Option<i64> {
        *self
            .clock_ahead_seconds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is there (`GET /healthz`), and which version it is when it says so.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn look(&self) -> Result<Option<String>, CallError> {
        let request = self
            .http
            .get(format!("{}/healthz", self.url))
            .timeout(CONNECT_TIMEOUT);
        let response = check(self.send(request).await?).await?;
        let version = response.headers().get(SERVER_VERSION);
        Ok(version.and_then(|version| version.to_str().ok().map(str::to_owned)))
    }

    async fn call<A: DeserializeOwned>(
        &self,
        path: &str,
        credential: &Secret,
        body: &(impl Serialize + std::marker::Sync),
        timeout: Duration,
    ) -> Result<A, CallError> {
        let request = self
            .request(Method::POST, path, credential)
            .json(body)
            .timeout(timeout);
        let response = check(self.send(request).await?).await?;
        let answer = response.bytes().await.map_err(unavailable)?;
        serde_json::from_slice(&answer).map_err(|_| CallError::Foreign)
    }

    /// Makes this process known.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn register(&self, token: &Secret, body: &Register) -> Result<Registered, CallError> {
        self.call("register", token, body, ANSWER_TIMEOUT).await
    }

    /// Heartbeat and request for work; may be held for the time that `body` names.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn sync(&self, session: &Secret, body: &Sync) -> Result<Synced, CallError> {
        self.call("sync", session, body, body.hold.to_std() + ANSWER_TIMEOUT / 2)
            .await
    }

    /// Takes a job.
    ///
    /// # Errors
    /// [`CallError::Refused`] when another attempt has it.
    pub async fn claim(&self, session: &Secret, job: &JobId, body: &Claim) -> Result<Claimed, CallError> {
        self.call(&format!("jobs/{job}/claim"), session, body, ANSWER_TIMEOUT)
            .await
    }

    /// Asks for the start grant.
    ///
    /// # Errors
    /// [`CallError::Refused`] when the apply may not start.
    pub async fn start(&self, credential: &Secret, job: &JobId, body: &Start) -> Result<Started, CallError> {
        self.call(&format!("jobs/{job}/start"), credential, body, ANSWER_TIMEOUT)
            .await
    }

    /// The bundle, as it streams in.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn bundle(&self, credential: &Secret, job: &JobId) -> Result<Response, CallError> {
        check(
            self.send(self.request(Method::GET, &format!("jobs/{job}/bundle"), credential))
                .await?,
        )
        .await
    }

    /// Appends to the log.
    ///
    /// # Errors
    /// [`CallError::LogPosition`] when the control plane has less than `offset`.
    pub async fn append_log(
        &self,
        credential: &Secret,
        job: &JobId,
        offset: u64,
        bytes: Bytes,
    ) -> Result<LogPosition, CallError> {
        let request = self
            .request(
                Method::PATCH,
                &format!("jobs/{job}/log?offset={offset}"),
                credential,
            )
            .body(bytes)
            .timeout(ANSWER_TIMEOUT);
        let response = self.send(request).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(CallError::LogPosition(
                response.json().await.map_err(unavailable)?,
            ));
        }
        check(response).await?.json().await.map_err(unavailable)
    }

    /// Uploads a copy of the state.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_state(
        &self,
        credential: &Secret,
        job: &JobId,
        mark: &StateMark,
        bytes: Bytes,
    ) -> Result<StateStored, CallError> {
        let mut request = self
            .request(Method::PUT, &format!("jobs/{job}/state"), credential)
            .header(CONTENT_SHA256, &mark.sha256)
            .body(bytes);
        if let Some(serial) = mark.serial {
            request = request.header(STATE_SERIAL, serial);
        }
        if let Some(lineage) = &mark.lineage {
            request = request.header(STATE_LINEAGE, lineage);
        }
        check(self.send(request).await?)
            .await?
            .json()
            .await
            .map_err(unavailable)
    }

    /// Uploads an artifact.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_artifact(
        &self,
        credential: &Secret,
        job: &JobId,
        artifact: &Artifact,
        body: Body,
    ) -> Result<(), CallError> {
        let path = format!("jobs/{job}/artifacts/{}", artifact.name.as_str());
        let request = self
            .request(Method::PUT, &path, credential)
            .header(CONTENT_SHA256, &artifact.sha256)
            .header(reqwest::header::CONTENT_LENGTH, artifact.size)
            .body(body);
        check(self.send(request).await?).await.map(|_| ())
    }

    /// Tells what the job has used so far.
    ///
    /// # Errors
    /// [`CallError`]; it is not worth another try.
    pub async fn put_progress(
        &self,
        credential: &Secret,
        job: &JobId,
        body: &Progress,
    ) -> Result<(), CallError> {
        let request = self
            .request(Method::PUT, &format!("jobs/{job}/progress"), credential)
            .json(body)
            .timeout(ANSWER_TIMEOUT);
        check(self.send(request).await?).await.map(|_| ())
    }

    /// Reports the job's end.
    ///
    /// # Errors
    /// [`CallError::Incomplete`] when something has to be sent (again) first.
    pub async fn finish(
        &self,
        credential: &Secret,
        job: &JobId,
        body: &Finish,
    ) -> Result<Finished, CallError> {
        let request = self
            .request(Method::POST, &format!("jobs/{job}/finish"), credential)
            .json(body)
            .timeout(ANSWER_TIMEOUT);
        let response = self.send(request).await?;
        if response.status() == StatusCode::CONFLICT {
            return Err(CallError::Incomplete(response.json().await.map_err(unavailable)?));
        }
        check(response).await?.json().await.map_err(unavailable)
    }
}

/// Turns statuses into errors.
async fn check(response: Response) -> Result<Response, CallError> {
    let status = response.status();
    match status {
        status if status.is_success() => Ok(response),
        StatusCode::UNAUTHORIZED => Err(CallError::Unauthorized),
        StatusCode::GONE => Err(CallError::Superseded),
        StatusCode::CONFLICT => Err(CallError::Refused(response.json().await.map_err(unavailable)?)),
        status
            if status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::REQUEST_TIMEOUT
                || status == StatusCode::PROXY_AUTHENTICATION_REQUIRED =>
        {
            Err(CallError::Unavailable(format!("it answered {status}")))
        }
        status => {
            let text = response.text().await.unwrap_or_default();
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            Err(CallError::Unexpected {
                status: status.as_u16(),
                text: line.chars().take(300).collect(),
            })
        }
    }
}
