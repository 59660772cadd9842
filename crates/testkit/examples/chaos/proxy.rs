//! The network between agents and server: a relay that can refuse, cut and stall.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Everything passes.
    Fair,
    /// Connections are cut, new ones refused.
    Cut,
    /// Connections stay, and nothing passes.
    Stalled,
}

/// The relay.
#[derive(Debug)]
pub(crate) struct Proxy {
    weather: watch::Sender<Weather>,
    /// Its port on loopback.
    pub(crate) port: u16,
}

impl Proxy {
    /// Relays to a port of this machine.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the proxy listens");
        let port = listener.local_addr().expect("a listener has an address").port();
        let (weather, seen) = watch::channel(Weather::Fair);
        tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                let seen = seen.clone();
                if *seen.borrow() == Weather::Cut {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(outbound) = TcpStream::connect(("127.0.0.1", target)).await else {
                        return;
                    };
                    let (from_agent, to_agent) = inbound.into_split();
                    let (from_server, to_server) = outbound.into_split();
                    tokio::select! {
                        () = pass(from_agent, to_server, seen.clone()) => {}
                        () = pass(from_server, to_agent, seen) => {}
                    }
                });
            }
        });
        Self { weather, port }
    }

    /// Changes the weather.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = tokio::select! {
            count = from.read(&mut buffer) => count.unwrap_or(0),
            cut = weather.wait_for(|weather| *weather == Weather::Cut) => {
                drop(cut);
                return;
            }
        };
        if count == 0 {
            return;
        }
        match weather
            .wait_for(|weather| *weather != Weather::Stalled)
            .await
            .map(|now| *now)
        {
            Ok(Weather::Cut) | Err(_) => return,
            Ok(Weather::Fair | Weather::Stalled) => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
