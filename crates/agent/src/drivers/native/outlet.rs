//! How sandboxes are joined to the world: by links that root makes, or by a program of the agent's user.

use std::path::Path;

use super::network::{self, Network};
use super::privilege::Privilege;
use super::process::ProcessId;
use super::setup::{Link, Way};
use super::user_mode::{self, UserMode};
use crate::drivers::DriverError;

/// What joins sandboxes to the world.
#[derive(Debug)]
pub(super) enum Outlet {
    Links(Network),
    UserMode(UserMode),
}

impl Outlet {
    /// Prepares what this agent may use.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] when the host lacks what it takes.
    pub(super) async fn prepare(privilege: Privilege) -> Result<Self, DriverError> {
        Ok(match privilege {
            Privilege::Root => Self::Links(Network::prepare().await?),
            Privilege::User => Self::UserMode(UserMode::find()),
        })
    }

    /// Why sandboxes cannot have a network now, as far as it is known.
    pub(super) fn refusal(&self) -> Option<DriverError> {
        match self {
            Self::Links(_) => None,
            Self::UserMode(user_mode) => user_mode.program().err(),
        }
    }

    /// A way that nobody else has, and what must not be reached by it.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] when there is none.
    pub(super) async fn take(
        &self,
        sandbox: &Path,
        runner: &Path,
    ) -> Result<(Way, Vec<String>), DriverError> {
        match self {
            Self::Links(network) => {
                let mut random = [0; 2];
                let _ = getrandom::fill(&mut random);
                network.keep().await?;
                let closed = network::host_addresses(runner).await?;
                Ok((Way::Link(network.take(random, sandbox)?), closed))
            }
            Self::UserMode(user_mode) => Ok((Way::UserMode, user_mode.closed(runner).await?)),
        }
    }

    /// Joins the network namespace of a process, and answers the process that has to live as long as the sandbox does.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] when it cannot be made.
    pub(super) async fn connect(
        &self,
        way: &Way,
        process: u32,
        sandbox: &Path,
    ) -> Result<Option<ProcessId>, DriverError> {
        match (self, way) {
            (Self::Links(network), Way::Link(link)) => {
                network.connect(link, process).await?;
                Ok(None)
            }
            (Self::UserMode(user_mode), Way::UserMode) => {
                let mut child = user_mode.connect(process, sandbox).await?;
                let process = child.id().and_then(ProcessId::of);
                // Whoever started a process has to wait for its end.
                tokio::spawn(async move {
                    let _ = child.wait().await;
                });
                Ok(process)
            }
            (Self::Links(_), Way::UserMode) | (Self::UserMode(_), Way::Link(_)) => Err(
                DriverError::NotNative("a sandbox was made for another network".to_owned()),
            ),
        }
    }

    /// Whether a sandbox with this link, or this process, still reaches the world. The rules of the host are made again
    /// where they are gone.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] when they cannot be made.
    pub(super) async fn keeps(
        &self,
        link: Option<&Link>,
        process: Option<&ProcessId>,
    ) -> Result<bool, DriverError> {
        match self {
            Self::Links(network) => {
                network.keep().await?;
                Ok(link.is_some_and(network::exists))
            }
            Self::UserMode(_) => Ok(process.is_some_and(ProcessId::is_alive)),
        }
    }

    /// The `/etc/resolv.conf` of sandboxes.
    pub(super) fn resolvers(&self) -> String {
        match self {
            Self::Links(_) => network::resolvers(),
            Self::UserMode(_) => user_mode::resolvers(),
        }
    }
}
