#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(
    clippy::missing_panics_doc,
    reason = "a fixture that cannot do its work fails the test"
)]

pub mod agent;
pub mod agent_user;
pub mod browser;
pub mod cli;
pub mod container_engine;
pub mod database;
pub mod file_server;
pub mod forms;
pub mod installation;
mod leftovers;
pub mod recorder;
pub mod runs;
pub mod secluded;
pub mod seed;
pub mod system;
pub mod wait;

/// Makes a test of each function for each driver of agents; the function is given the driver's name.
#[macro_export]
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        mod docker {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name("docker").await;
                }
            )*
        }
        mod native {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name("native").await;
                }
            )*
        }
    };
}
