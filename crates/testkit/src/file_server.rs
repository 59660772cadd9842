//! An HTTPS server with a certificate of its own, for what agents download.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use futures_util::{StreamExt as _, stream};

/// The name of a file of which the first bytes come, and then nothing more.
pub const STALLS: &str = "stalls";

/// A server that ends when it is dropped.
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    /// The certificate that clients have to trust, PEM.
    pub certificate: String,
    handle: Handle<SocketAddr>,
    requests: Arc<AtomicU32>,
}

impl FileServer {
    /// Serves each file under its name.
    pub async fn start(files: Vec<(String, Bytes)>) -> Self {
        // Fails only when a provider was installed before, which is then the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .expect("a certificate can be made");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let tls = RustlsConfig::from_pem(certificate.clone().into_bytes(), key.into_bytes())
            .await
            .expect("the certificate can be used");
        let requests = Arc::new(AtomicU32::new(0));
        let mut router = Router::new();
        for (name, content) in files {
            let count = Arc::clone(&requests);
            let answer = move || async move {
                count.fetch_add(1, Ordering::Relaxed);
                content
            };
            router = router.route(&format!("/{name}"), get(answer));
        }
        let count = Arc::clone(&requests);
        let stalls = move || async move {
            count.fetch_add(1, Ordering::Relaxed);
            let some = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"PK")) });
            Body::from_stream(some.chain(stream::pending()))
        };
        router = router.route(&format!("/{STALLS}"), get(stalls));
        let handle = Handle::new();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = axum_server::bind_rustls(address, tls).handle(handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
        let address = handle.listening().await.expect("a loopback port is free");
        Self {
            address,
            certificate,
            handle,
            requests,
        }
    }

    /// The address of a file.
    pub fn url(&self, name: &str) -> String {
        format!("https://localhost:{}/{name}", self.address.port())
    }

    /// How many files were asked for.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}
