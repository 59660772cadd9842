//! The store's runs, jobs, locks, agents and logs behave the same on SQLite and PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod agents;
mod claims;
mod clocks;
mod durability;
mod losses;
mod people;
mod pool_minutes;
mod restores;
mod states;
mod support;

/// Runs each test on both engines.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(&$crate::support::world(terrapool_testkit::database::DatabaseKind::Sqlite).await).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(&$crate::support::world(terrapool_testkit::database::DatabaseKind::Postgres).await).await;
                }
            )*
        }
    };
}
