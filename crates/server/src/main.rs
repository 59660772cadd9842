//! The control plane's command line.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sd_notify::NotifyState;
use terrapool_protocol::secret::Secret;
use terrapool_server::admin::{self, UserRequest};
use terrapool_server::config::{Config, ConfigArgs, DEFAULT_FILE};
use terrapool_server::demo::{self, DemoArgs};
use terrapool_server::{backup, doctor, server, shared_agent};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Self-hosted Terraform and OpenTofu runs on agent pools: the control plane.
#[derive(Debug, Parser)]
#[command(name = "terrapool", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane
    Server(ServerArgs),
    /// Make users and tokens, with the server running or stopped
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Bring the database's schema up to date and end
    Migrate,
    /// Start a whole installation on this machine and run an example through it
    Demo(DemoArgs),
    /// Write manual pages and shell completions into a folder, for packages
    #[command(hide = true)]
    Documentation {
        /// The folder
        folder: PathBuf,
    },
    /// Look at configuration, database, key ring and disk, and say what is wrong
    Doctor,
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// Print the default configuration file with its documentation and end
    #[arg(long)]
    print_config: bool,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Make a user; prints a token for it
    CreateUser {
        /// The user's name
        name: String,
        /// The user's e-mail address
        #[arg(long)]
        email: String,
        /// The user may do everything in every organization
        #[arg(long)]
        site_admin: bool,
        /// Read a password for the web UI from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a user a new password for the web UI; ends the user's sessions
    ResetPassword {
        /// The user's name
        name: String,
        /// Read the password from standard input
        #[arg(long, required = true)]
        password_stdin: bool,
    },
    /// Disable an account: its sessions end, nobody signs in with it, and its tokens are refused
    DisableUser {
        /// The user's name
        name: String,
    },
    /// Enable an account that was disabled; its tokens are accepted as before
    EnableUser {
        /// The user's name
        name: String,
    },
    /// Set whether a user may do everything in every organization
    SetSiteAdmin {
        /// The user's name
        name: String,
        /// on or off
        state: Switch,
    },
    /// Make an agent token; prints it
    CreateAgentToken {
        /// For the shared pool, which runs workspaces with execution mode remote
        #[arg(long, required = true)]
        shared: bool,
        /// What the token is for
        #[arg(long, default_value = "made by terrapool admin create-agent-token")]
        description: String,
    },
    /// Back up database, objects, logs and key ring into a new folder, with the server running or stopped
    Backup {
        /// The folder
        folder: PathBuf,
    },
    /// Restore a backup into the empty data folder and database that the configuration names, with the server stopped
    Restore {
        /// The backup's folder
        folder: PathBuf,
    },
    /// Tell the control plane that its database was restored by other means, with the server stopped
    Restored,
    /// Make the key ring file that the configuration names, for a control plane on PostgreSQL; prints its path
    CreateKeyring,
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// The setting holds.
    On,
    /// It does not.
    Off,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The demo's output is the command line's; what the server says beside it matters only when something is wrong.
    start_logging(if matches!(cli.command, Command::Demo(_)) {
        "warn"
    } else {
        "info"
    });
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // The whole chain in one line: what happened, to what, and why.
            eprintln!("terrapool: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs go to standard error: lines for people on a terminal, JSON otherwise. TERRAPOOL_LOG filters them.
fn start_logging(default: &str) {
    let filter = EnvFilter::try_from_env("TERRAPOOL_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().try_init()
    };
    if let Err(error) = installed {
        eprintln!("terrapool: logging could not be started: {error}");
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Server(ServerArgs { print_config: true }) = cli.command {
        print(DEFAULT_FILE)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Demo(arguments) = cli.command {
        let runtime = tokio::runtime::Runtime::new().context("the runtime can't be started")?;
        return Ok(ExitCode::from(runtime.block_on(demo::run(arguments))?));
    }
    if let Command::Documentation { folder } = cli.command {
        return write_documentation(&folder).map(|()| ExitCode::SUCCESS);
    }
    let config = Config::load(&cli.config)?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime can't be started")?;
    runtime.block_on(async {
        match cli.command {
            Command::Server(_) => serve(config).await,
            Command::Admin(command) => administer(config, command).await,
            Command::Migrate => {
                server::open(config).await?;
                eprintln!("the database is up to date");
                Ok(ExitCode::SUCCESS)
            }
            Command::Doctor => examine(config).await,
            Command::Demo(arguments) => Ok(ExitCode::from(demo::run(arguments).await?)),
            Command::Documentation { folder } => write_documentation(&folder).map(|()| ExitCode::SUCCESS),
        }
    })
}

/// Manual pages and shell completions.
fn write_documentation(folder: &Path) -> anyhow::Result<()> {
    let man = folder.join("man");
    std::fs::create_dir_all(&man)?;
    clap_mangen::generate_to(Cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), "terrapool", folder)?;
    }
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("signals can't be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals can't be watched")?;
    let mut running = server::start(config).await?;
    tracing::info!(
        address = %running.address,
        url = running.app.config.public_url,
        "the control plane is ready"
    );
    // Where systemd does not listen, nothing happens.
    sd_notify::notify(&[NotifyState::Ready]).context("systemd can't be told")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = running.ended() => {
            ended.context("the listener has ended")?;
            anyhow::bail!("the listener has ended");
        }
    }
    tracing::info!("stopping");
    sd_notify::notify(&[NotifyState::Stopping]).context("systemd can't be told")?;
    running.shutdown().await.context("stopping")?;
    Ok(ExitCode::SUCCESS)
}

async fn administer(config: Config, command: AdminCommand) -> anyhow::Result<ExitCode> {
    if matches!(command, AdminCommand::CreateKeyring) {
        let path = admin::create_keyring(&config)?;
        print(&format!("{}\n", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let AdminCommand::Restore { folder } = &command {
        let installation = backup::restore(config, folder).await?;
        return print(&restored_text(installation.incarnation)).map(|()| ExitCode::SUCCESS);
    }
    let app = server::open(config).await?;
    let token = match command {
        AdminCommand::Backup { folder } => {
            let manifest = backup::backup(&app, &folder).await?;
            let text = format!(
                "backed up into {}: {} objects, schema {}, incarnation {}\n",
                folder.display(),
                manifest.objects,
                manifest.schema,
                manifest.incarnation
            );
            return print(&text).map(|()| ExitCode::SUCCESS);
        }
        AdminCommand::Restored => {
            let installation = backup::restored(&app).await?;
            return print(&restored_text(installation.incarnation)).map(|()| ExitCode::SUCCESS);
        }
        AdminCommand::CreateUser {
            name,
            email,
            site_admin,
            password_stdin,
        } => {
            let password = if password_stdin {
                Some(read_password()?)
            } else {
                None
            };
            let request = UserRequest {
                username: name,
                email,
                site_admin,
                password,
            };
            admin::create_user(&app, request).await?
        }
        AdminCommand::ResetPassword {
            name,
            password_stdin: _,
        } => {
            admin::reset_password(&app, &name, &read_password()?).await?;
            return print(&format!("{name} has a new password, and no session any more\n"))
                .map(|()| ExitCode::SUCCESS);
        }
        AdminCommand::DisableUser { name } => {
            admin::disable_user(&app, &name, admin::COMMAND_LINE).await?;
            return print(&format!("{name} is disabled\n")).map(|()| ExitCode::SUCCESS);
        }
        AdminCommand::EnableUser { name } => {
            admin::enable_user(&app, &name, admin::COMMAND_LINE).await?;
            return print(&format!("{name} is enabled\n")).map(|()| ExitCode::SUCCESS);
        }
        AdminCommand::SetSiteAdmin { name, state } => {
            let on = state == Switch::On;
            admin::set_site_admin(&app, &name, on).await?;
            let said = if on { "is a" } else { "is no" };
            return print(&format!("{name} {said} site administrator\n")).map(|()| ExitCode::SUCCESS);
        }
        AdminCommand::CreateAgentToken {
            shared: _,
            description,
        } => shared_agent::create_token(&app, &description).await?,
        // Need no database that is open, and were done above.
        AdminCommand::CreateKeyring | AdminCommand::Restore { .. } => return Ok(ExitCode::SUCCESS),
    };
    print(&format!("{}\n", token.expose()))?;
    Ok(ExitCode::SUCCESS)
}

fn restored_text(incarnation: u64) -> String {
    format!(
        "restored as incarnation {incarnation}: runs that had not ended have ended, and the next run of every workspace \
         waits for a person\n"
    )
}

fn read_password() -> anyhow::Result<Secret> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("the password can't be read from standard input")?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

async fn examine(config: Config) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for finding in doctor::examine(&config).await {
        let line = match &finding.result {
            Ok(text) => format!("ok       {}: {text}\n", finding.subject),
            Err(text) => {
                code = ExitCode::FAILURE;
                format!("problem  {}: {text}\n", finding.subject)
            }
        };
        print(&line)?;
    }
    Ok(code)
}

/// Writes to standard output, where a closed pipe is an error and no panic.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output is closed")
}
