//! The agent's command line.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use terrapool_agent::config::{self, Config, ConfigError, Overrides};
use terrapool_agent::configure::{self, Questions, Settings, Terminal};
use terrapool_agent::control::{self, Request};
use terrapool_agent::doctor::{self, Finding};
use terrapool_agent::drivers::native;
use terrapool_agent::monitoring;
use terrapool_agent::service::{self, Ended, Lifetime, ServiceError};
use terrapool_model::time::Millis;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Runs Terraform and OpenTofu jobs of a Terrapool agent pool in containers on this host.
#[derive(Parser)]
#[command(name = "terrapool-agent", version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Take and run jobs until told to end.
    Run {
        #[command(flatten)]
        overrides: Box<Overrides>,
        /// Write the log as JSON lines.
        #[arg(long, env = "TERRAPOOL_AGENT_LOG_JSON")]
        log_json: bool,
        /// End after one job, for autoscalers that start an agent for each
        #[arg(long, env = "TERRAPOOL_AGENT_ONCE", conflicts_with = "idle_exit")]
        once: bool,
        /// End after so many seconds without a job, for autoscalers
        #[arg(long, env = "TERRAPOOL_AGENT_IDLE_EXIT", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        idle_exit: Option<u64>,
    },
    /// Write the configuration: what is named is changed, everything else stays. Asks when nothing is named.
    Configure(Box<Settings>),
    /// Say what the agent on this host does now.
    Status {
        #[command(flatten)]
        overrides: Box<Overrides>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Fail, and say why, unless the control plane and the container engine answer.
        #[arg(long)]
        check: bool,
    },
    /// Let the agent on this host take no new jobs; it finishes what it holds and stays connected.
    Drain {
        #[command(flatten)]
        overrides: Box<Overrides>,
        /// Return only when it holds nothing any more.
        #[arg(long)]
        wait: bool,
        /// Take jobs again.
        #[arg(long, conflicts_with = "wait")]
        undo: bool,
    },
    /// Write manual pages and shell completions into a folder, for packages
    #[command(hide = true)]
    Documentation {
        /// The folder.
        folder: PathBuf,
    },
    /// The processes around a sandbox of the native driver; started by the agent itself
    #[command(hide = true)]
    NativeSandbox {
        /// Which of them.
        step: String,
    },
    /// Check what the agent needs, and name cures.
    Doctor {
        #[command(flatten)]
        overrides: Box<Overrides>,
    },
}

fn main() -> ExitCode {
    let command = Command::parse();
    if let Action::NativeSandbox { step } = &command.action {
        // Before there are threads, which could not leave their namespaces.
        return match native::setup::run(step) {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("terrapool-agent: {error}");
                ExitCode::FAILURE
            }
        };
    }
    terrapool_allocator::share_one_arena();
    // One thread is plenty for an agent, and takes the least memory: the work is in the sandboxes, and what takes long
    // here (hashing, redacting, unpacking) is done on threads that end afterwards.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime
        .context("the runtime cannot be started")
        .and_then(|runtime| {
            let outcome = runtime.block_on(act(command.action));
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            outcome
        });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("terrapool-agent: {error:#}");
            exit_code(&error)
        }
    }
}

/// Status of an end that another start would only repeat, as `sysexits.h` has it (EX_CONFIG). The packages' service is
/// not started again after it.
const NEEDS_A_PERSON: u8 = 78;

/// Status of a service of systemd that worked as long as it was to (`--once`, `--idle-exit`), so that it is not started
/// again. Elsewhere that end is 0.
const SPENT: u8 = 79;

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let configuration = error.downcast_ref::<ConfigError>().is_some();
    let refused = matches!(
        error.downcast_ref(),
        Some(ServiceError::Token { .. } | ServiceError::Superseded { .. })
    );
    if configuration || refused {
        ExitCode::from(NEEDS_A_PERSON)
    } else {
        ExitCode::FAILURE
    }
}

async fn act(action: Action) -> anyhow::Result<ExitCode> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("the cryptography library was set up twice"))?;
    match action {
        Action::Run {
            overrides,
            log_json,
            once,
            idle_exit,
        } => {
            start_log(log_json);
            let mut config = Config::load(&overrides)?;
            let lifetime = match (once, idle_exit) {
                (true, _) => Lifetime::Once,
                (false, Some(seconds)) => Lifetime::UntilIdle(Millis::from_seconds(seconds)),
                (false, None) => Lifetime::UntilTold,
            };
            if once {
                config.concurrency = 1;
            }
            // Whoever starts services again has to know that this one has done what it was to do.
            let is_service = std::env::var_os("NOTIFY_SOCKET").is_some();
            Ok(match service::run(config, lifetime).await? {
                Ended::Spent if is_service => ExitCode::from(SPENT),
                Ended::Spent | Ended::Told => ExitCode::SUCCESS,
            })
        }
        Action::NativeSandbox { .. } => Ok(ExitCode::FAILURE),
        Action::Documentation { folder } => {
            write_documentation(&folder)?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Configure(settings) => write_configuration(*settings),
        Action::Status {
            overrides,
            json,
            check,
        } => {
            let status = control::ask(&config::data_dir(&overrides)?, Request::Status).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                println!("{status}");
            }
            let troubles = monitoring::troubles(&status);
            anyhow::ensure!(!check || troubles.is_empty(), "{}", troubles.join("; "));
            Ok(ExitCode::SUCCESS)
        }
        Action::Drain {
            overrides,
            wait,
            undo,
        } => {
            let data_dir = config::data_dir(&overrides)?;
            let request = if undo { Request::Resume } else { Request::Drain };
            let mut status = control::ask(&data_dir, request).await?;
            while wait && !status.jobs.is_empty() {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                status = control::ask(&data_dir, Request::Status).await?;
            }
            println!("{status}");
            Ok(ExitCode::SUCCESS)
        }
        Action::Doctor { overrides } => {
            look_as_the_service(&overrides)?;
            let (config, gaps) = Config::with_gaps(&overrides)?;
            let checks = doctor::examine(&config, &gaps).await;
            for check in &checks {
                println!("{check}");
            }
            let broken = checks
                .iter()
                .any(|check| matches!(check.finding, Finding::Broken { .. }));
            Ok(if broken {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            })
        }
    }
}

/// Starts the doctor anew with what drop-ins set for the packages' service, unless it is to look at another agent.
fn look_as_the_service(overrides: &Overrides) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    const DONE: &str = "TERRAPOOL_AGENT_DOCTOR";
    let other_agent = overrides.config.is_some() || overrides.url.is_some() || overrides.data_dir.is_some();
    if other_agent || std::env::var_os(DONE).is_some() {
        return Ok(());
    }
    let environment = doctor::of_service();
    if environment.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = environment.iter().map(|(name, _)| name.as_str()).collect();
    println!("With {} of terrapool-agent.service:", names.join(", "));
    let error = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .envs(environment)
        .env(DONE, "1")
        .exec();
    Err(error).context("the doctor cannot be started with the service's environment")
}

fn write_configuration(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut terminal = Terminal;
    let on_terminal = std::io::stdin().is_terminal();
    let questions = on_terminal.then_some(&mut terminal as &mut dyn Questions);
    let mut input = std::io::BufReader::new(std::io::stdin());
    let written = configure::configure(settings, &mut input, questions)?;
    let path = written.path.display();
    if written.changed.is_empty() {
        println!("{path} is as it was");
    } else {
        println!("{path}: changed {}", written.changed.join(", "));
        println!("A running agent takes it up with: systemctl restart terrapool-agent");
    }
    Ok(ExitCode::SUCCESS)
}

fn write_documentation(folder: &Path) -> anyhow::Result<()> {
    let man = folder.join("man");
    std::fs::create_dir_all(&man)?;
    clap_mangen::generate_to(Command::command(), &man)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Command::command(), "terrapool-agent", folder)?;
    }
    Ok(())
}

/// Journald adds time and level itself; a terminal gets them here.
fn start_log(json: bool) {
    let filter: Targets = std::env::var("TERRAPOOL_LOG")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let log = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let under_journald = std::env::var_os("JOURNAL_STREAM").is_some();
    if json {
        log.with(lines.json()).init();
    } else if under_journald {
        log.with(lines.without_time().with_ansi(false)).init();
    } else {
        log.with(lines.with_ansi(std::io::stderr().is_terminal())).init();
    }
}
