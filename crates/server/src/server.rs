//! A running control plane.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use listenfd::ListenFd;
use terrapool_objects::{Keyring, ObjectError, Objects};
use terrapool_store::db::{Clock, Db, Entropy, SystemClock, SystemEntropy};
use terrapool_store::error::StoreError;
use terrapool_store::installation;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::config::{Config, Tls};
use crate::logs::{LogError, LogStore};
use crate::reconcile::{self, Reconcilers};
use crate::tls::{self, TlsError};
use crate::{http, shared_agent};

/// How long open requests may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(10);

/// The control plane can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder can't be made.
    #[error(
        "the data folder {path} can't be used: set TERRAPOOL_DATA_DIR to a folder that this user may write to"
    )]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The address is no address.
    #[error("`{listen}` is no address to listen on: write address:port, for example 127.0.0.1:8443")]
    Address {
        /// What is configured.
        listen: String,
    },
    /// The port is taken.
    #[error(
        "{listen} is in use by another program: stop it (another terrapool server?), or set TERRAPOOL_LISTEN to \
         another port"
    )]
    InUse {
        /// The address.
        listen: String,
    },
    /// The address can't be listened on.
    #[error("{listen} can't be listened on")]
    Listen {
        /// The address.
        listen: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The database can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key ring or the object folder can't be opened.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The log folder can't be opened.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The agent of the shared pool can't be started.
    #[error(transparent)]
    SharedAgent(#[from] shared_agent::SharedAgentError),
}

/// A control plane that serves requests. Dropping it does not stop it; [`Running::shutdown`] does.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its metrics are, if anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// Its parts.
    pub app: App,
    handle: Handle<SocketAddr>,
    metrics_handle: Option<Handle<SocketAddr>>,
    serving: JoinHandle<std::io::Result<()>>,
    reconcilers: Reconcilers,
    agent: Option<shared_agent::SharedAgent>,
}

impl Running {
    /// Takes no more requests, lets the open ones end, and returns.
    ///
    /// # Errors
    /// The error that ended the listener before.
    pub async fn shutdown(self) -> std::io::Result<()> {
        if let Some(agent) = self.agent {
            agent.stop().await;
        }
        self.handle.graceful_shutdown(Some(GRACE));
        self.app.presence.stop_holding();
        if let Some(handle) = self.metrics_handle {
            handle.shutdown();
        }
        let ended = self.serving.await.unwrap_or(Ok(()));
        self.reconcilers.stop(&self.app).await;
        ended
    }

    /// Returns when the listener has ended by itself, which it only does when it fails.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> std::io::Result<()> {
        (&mut self.serving).await.unwrap_or(Ok(()))
    }
}

/// Opens data folder, database, key ring and objects.
///
/// # Errors
/// [`StartError`] that says what can't be opened.
pub async fn open(config: Config) -> Result<App, StartError> {
    open_with(config, Arc::new(SystemClock), Arc::new(SystemEntropy)).await
}

/// As [`open`], with another clock and other randomness.
///
/// # Errors
/// [`StartError`] that says what can't be opened.
pub async fn open_with(
    config: Config,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<App, StartError> {
    create_data_dir(&config)?;
    let keyring = if config.is_postgres() {
        Keyring::open(&config.keyring_file)?
    } else {
        Keyring::open_or_create(&config.keyring_file)?
    };
    let db = Db::open(config.database_url.expose(), clock, entropy).await?;
    let restored = db
        .write::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                installation::get_or_create(tx).await?;
                installation::finish_restore(tx).await
            })
        })
        .await?;
    if let Some(installation) = restored {
        tracing::warn!(
            incarnation = installation.incarnation,
            "the database was restored from a backup: runs that had not ended have ended, and the next run of every \
             workspace waits for a person"
        );
    }
    let objects = Objects::open(&config.objects, Arc::new(keyring))?;
    let logs = LogStore::open(&config.data_dir.join("logs"))?;
    Ok(App {
        db,
        objects,
        logs,
        log_lines: http::web::logs::LogLines::default(),
        presence: crate::presence::Presence::default(),
        rate_limiter: http::rate_limit::RateLimiter::default(),
        sign_in_attempts: crate::auth::attempts::Attempts::default(),
        fetches: crate::packages::Fetches::default(),
        refusals: crate::refusals::Refusals::default(),
        config: Arc::new(config),
    })
}

fn create_data_dir(config: &Config) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(&config.data_dir)
        .map_err(|source| StartError::DataDir {
            path: config.data_dir.clone(),
            source,
        })
}

fn bind(listen: &str) -> Result<TcpListener, StartError> {
    let wrong = || StartError::Address {
        listen: listen.to_owned(),
    };
    let addresses: Vec<SocketAddr> = listen.to_socket_addrs().map_err(|_| wrong())?.collect();
    if addresses.is_empty() {
        return Err(wrong());
    }
    let fail = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::InUse {
            listen: listen.to_owned(),
        },
        _ => StartError::Listen {
            listen: listen.to_owned(),
            source,
        },
    };
    let listener = TcpListener::bind(addresses.as_slice()).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

/// The listener that systemd hands over, where a socket unit holds the port; else one of our own.
fn listener(listen: &str) -> Result<TcpListener, StartError> {
    let fail = |source| StartError::Listen {
        listen: "the socket that systemd hands over".to_owned(),
        source,
    };
    match ListenFd::from_env().take_tcp_listener(0).map_err(fail)? {
        Some(listener) => {
            listener.set_nonblocking(true).map_err(fail)?;
            Ok(listener)
        }
        None => bind(listen),
    }
}

fn local_address(listener: &TcpListener, listen: &str) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen {
        listen: listen.to_owned(),
        source,
    })
}

/// Starts a control plane and returns when it listens. Port 0 takes a free one.
///
/// # Errors
/// [`StartError`] that says what is in the way.
pub async fn start(mut config: Config) -> Result<Running, StartError> {
    // Fails only when a provider was installed before, which is then the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // The port first: a second server must not touch the first one's data.
    let listener = listener(&config.listen)?;
    let address = local_address(&listener, &config.listen)?;
    if config.public_url.is_empty() {
        let scheme = if config.tls == Tls::Off { "http" } else { "https" };
        config.public_url = format!("{scheme}://localhost:{}", address.port());
    }
    create_data_dir(&config)?;
    let tls = tls::server_config(&config)?;
    let app = open(config).await?;
    let fail = |source| StartError::Listen {
        listen: app.config.listen.clone(),
        source,
    };
    let handle = Handle::new();
    let serving = serve(
        listener,
        tls.map(RustlsConfig::from_config),
        http::router(&app),
        handle.clone(),
    );
    let serving = tokio::spawn(serving.map_err(&fail)?);
    let (metrics_address, metrics_handle) = match &app.config.metrics_listen {
        None => (None, None),
        Some(listen) => {
            let listener = bind(listen)?;
            let address = local_address(&listener, listen)?;
            let handle = Handle::new();
            let serving = serve(listener, None, http::ops::metrics_router(&app), handle.clone());
            tokio::spawn(serving.map_err(&fail)?);
            (Some(address), Some(handle))
        }
    };
    let reconcilers = reconcile::start(app.clone());
    let agent = if app.config.shared_agent {
        Some(shared_agent::start(&app).await?)
    } else {
        None
    };
    Ok(Running {
        address,
        metrics_address,
        app,
        handle,
        metrics_handle,
        serving,
        reconcilers,
        agent,
    })
}

/// The task that serves a listener.
fn serve(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    router: Router,
    handle: Handle<SocketAddr>,
) -> std::io::Result<futures_util::future::BoxFuture<'static, std::io::Result<()>>> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    Ok(match tls {
        Some(tls) => {
            // Small answers must not wait for the acknowledgement of the ones before.
            let acceptor = RustlsAcceptor::new(tls).acceptor(NoDelayAcceptor::new());
            let server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle);
            Box::pin(server.serve(service))
        }
        None => {
            let server = axum_server::from_tcp(listener)?
                .acceptor(NoDelayAcceptor::new())
                .handle(handle);
            Box::pin(server.serve(service))
        }
    })
}
