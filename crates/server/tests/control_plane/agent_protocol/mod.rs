//! The agent protocol, spoken by simulated agents to the routes of a control plane in this process.

mod clocks;
mod credentials;
mod histories;
mod interleavings;
mod lifecycle;
mod losses;
mod outages;
mod refusals;
mod relay;
mod support;
mod syncs;

/// Runs each test on both databases.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(terrapool_testkit::database::DatabaseKind::Sqlite).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(terrapool_testkit::database::DatabaseKind::Postgres).await;
                }
            )*
        }
    };
}

use on_both;
