//! `terrapool-agent configure`: writes the configuration file, and the token and certificates beside it.

use std::io::{BufRead, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use terrapool_protocol::secret::Secret;
use toml::Value;

use crate::config::edit::{Change, EditError, edit};
use crate::config::{self, ConfigError, File};

/// The user that the packages' service runs as. What it has to read belongs to it, when it exists.
const SERVICE_USER: &str = "terrapool-agent";
/// Names of the files beside the configuration.
const TOKEN_FILE: &str = "token";
const CA_FILE: &str = "ca.pem";

/// What `terrapool-agent configure` is told.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// Configuration file
    #[arg(long, env = "TERRAPOOL_AGENT_CONFIG", value_name = "FILE", default_value = config::DEFAULT_FILE)]
    pub config: PathBuf,
    /// Address of the control plane, https://…
    #[arg(long)]
    pub url: Option<String>,
    /// Read the agent token from standard input
    #[arg(long, conflicts_with = "token_file")]
    pub token_stdin: bool,
    /// Read the agent token from a file; it is copied beside the configuration
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Name for people
    #[arg(long)]
    pub name: Option<String>,
    /// Jobs at once at most
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// Memory to hand out in all, for example 4096 (MB) or 4GB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Processors to hand out in all
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
    /// User inside the sandboxes: default or root
    #[arg(long)]
    pub user: Option<String>,
    /// Certificates to trust besides the system's (PEM); they are added to those beside the configuration
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// How jobs are isolated: docker, or native where there is no container engine
    #[arg(long)]
    pub driver: Option<String>,
    /// Address of the container engine, for example unix:///var/run/docker.sock
    #[arg(long, value_name = "ADDRESS")]
    pub docker_host: Option<String>,
    /// Loopback address for /healthz and /metrics, for example 127.0.0.1:9465; an empty one switches them off
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
}

impl Settings {
    fn says_nothing(&self) -> bool {
        let texts = [
            &self.url,
            &self.name,
            &self.memory,
            &self.user,
            &self.driver,
            &self.docker_host,
            &self.listen,
        ];
        let files = [&self.token_file, &self.ca_file];
        let numbers = [self.concurrency, self.cpu];
        !self.token_stdin
            && texts.iter().all(|text| text.is_none())
            && files.iter().all(|file| file.is_none())
            && numbers.iter().all(Option::is_none)
    }
}

/// Why nothing was configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// A value that makes no sense, or a configuration that cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file cannot be changed.
    #[error("{path} is not changed")]
    Edit {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: EditError,
    },
    /// A file cannot be read or written.
    #[error("{path} cannot be {action}{advice}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What helps, if anything is known to.
        advice: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Where a token was expected there is none.
    #[error("{place} has no agent token: it is one line that the pool's page shows when a token is made")]
    NoToken {
        /// Where it was looked for.
        place: String,
    },
    /// A file that holds no certificates.
    #[error("{path} holds no certificate in PEM format")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Nothing was said, and nobody can be asked.
    #[error(
        "nothing to configure: name settings (terrapool-agent configure --help), or call it on a terminal"
    )]
    NothingSaid,
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> ConfigureError {
    let path = path.to_owned();
    move |source| ConfigureError::Io {
        path,
        action,
        advice: if source.kind() == std::io::ErrorKind::PermissionDenied {
            ": call it with sudo"
        } else {
            ""
        },
        source,
    }
}

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// The configuration file.
    pub path: PathBuf,
    /// Names of the settings and files that are different now.
    pub changed: Vec<&'static str>,
}

/// Asks on a terminal. Answers that are empty keep what there is.
pub trait Questions {
    /// A line of text.
    ///
    /// # Errors
    /// When the terminal is gone.
    fn ask(&mut self, question: &str, current: &str) -> std::io::Result<String>;
    /// A line that is not shown.
    ///
    /// # Errors
    /// When the terminal is gone.
    fn ask_secret(&mut self, question: &str) -> std::io::Result<Secret>;
}

/// Changes the configuration as it is told; asks when it is told nothing and `questions` can be asked.
///
/// # Errors
/// [`ConfigureError`], and no setting is changed.
pub fn configure(
    mut settings: Settings,
    input: &mut dyn BufRead,
    mut questions: Option<&mut dyn Questions>,
) -> Result<Written, ConfigureError> {
    let path = std::path::absolute(&settings.config).map_err(failed(&settings.config, "used"))?;
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => config::DEFAULT_TEXT.to_owned(),
        Err(error) => return Err(failed(&path, "read")(error)),
    };
    let current = File::parse(&path, &before)?;
    let mut token = None;
    if settings.says_nothing() {
        let questions = questions.as_deref_mut().ok_or(ConfigureError::NothingSaid)?;
        token = ask(&mut settings, &current, questions).map_err(failed(Path::new("the terminal"), "read"))?;
    }
    if settings.token_stdin {
        // On a terminal it is typed: it is not shown, and a line ends it.
        let typed = questions.map(|questions| questions.ask_secret("Agent token (not shown)"));
        let typed = typed
            .transpose()
            .map_err(failed(Path::new("the terminal"), "read"))?;
        token = Some(match typed {
            Some(typed) => token_of(&mut typed.expose().as_bytes(), "the answer")?,
            None => token_of(input, "standard input")?,
        });
    }
    if let Some(file) = &settings.token_file {
        let opened = std::fs::File::open(file).map_err(failed(file, "read"))?;
        token = Some(token_of(
            &mut std::io::BufReader::new(opened),
            &file.display().to_string(),
        )?);
    }
    let beside = path.parent().unwrap_or(Path::new("/"));
    let certificates = settings.ca_file.as_deref().map(certificates).transpose()?;
    // Those of the control plane do not give way to those of a proxy.
    let certificates = certificates.map(|new| match std::fs::read_to_string(beside.join(CA_FILE)) {
        Ok(kept) if current.ca_file.as_deref() == Some(&beside.join(CA_FILE)) => together(&kept, &new),
        _ => new,
    });
    let mut changes = changes(&settings)?;
    let in_folder = |name: &str| Value::String(beside.join(name).display().to_string());
    if token.is_some() {
        changes.push(Change::Remove("token"));
        changes.push(Change::Set("token_file", in_folder(TOKEN_FILE)));
    }
    if certificates.is_some() {
        changes.push(Change::Set("ca_file", in_folder(CA_FILE)));
    }
    let after = edit(&before, &changes).map_err(|source| ConfigureError::Edit {
        path: path.clone(),
        source,
    })?;
    File::parse(&path, &after)?;

    let owner = Owner::find();
    make_folder(beside, &owner)?;
    let mut changed = Vec::new();
    // First what the file names, then the file: an agent that starts between the two finds what it reads.
    if let Some(token) = &token
        && put(
            &beside.join(TOKEN_FILE),
            &format!("{}\n", token.expose()),
            &owner,
            Kept::Secret,
        )?
    {
        changed.push("token");
    }
    if let Some(pem) = &certificates
        && put(&beside.join(CA_FILE), pem, &owner, Kept::Readable)?
    {
        changed.push("certificates");
    }
    put(&path, &after, &owner, Kept::Readable)?;
    changed.extend(differences(&before, &after));
    Ok(Written { path, changed })
}

/// The settings whose values differ.
fn differences(before: &str, after: &str) -> Vec<&'static str> {
    const NAMES: [&str; 10] = [
        "url",
        "name",
        "concurrency",
        "memory",
        "cpu",
        "user",
        "ca_file",
        "driver",
        "docker_host",
        "listen",
    ];
    let parse = |text: &str| toml::from_str::<toml::Table>(text).unwrap_or_default();
    let (before, after) = (parse(before), parse(after));
    let differs = |name: &&str| before.get(*name) != after.get(*name);
    NAMES.into_iter().filter(differs).collect()
}

/// Settings as changes of the file, checked as the agent checks them.
fn changes(settings: &Settings) -> Result<Vec<Change>, ConfigError> {
    let mut changes = Vec::new();
    if let Some(url) = &settings.url {
        changes.push(Change::Set("url", Value::String(config::parse_url(url)?)));
    }
    if let Some(memory) = &settings.memory {
        config::parse_memory(memory)?;
    }
    if let Some(user) = &settings.user {
        config::parse_user(user)?;
    }
    if let Some(driver) = &settings.driver {
        config::parse_driver(driver)?;
    }
    if let Some(listen) = settings.listen.as_deref().filter(|text| !text.is_empty()) {
        config::parse_listen(listen)?;
    }
    for (key, number) in [("concurrency", settings.concurrency), ("cpu", settings.cpu)] {
        if let Some(number) = number {
            config::at_least_one(key, number)?;
            changes.push(Change::Set(key, Value::Integer(number.into())));
        }
    }
    for (key, text) in [
        ("name", &settings.name),
        ("memory", &settings.memory),
        ("user", &settings.user),
        ("driver", &settings.driver),
        ("docker_host", &settings.docker_host),
        ("listen", &settings.listen),
    ] {
        if let Some(text) = text {
            changes.push(Change::Set(key, Value::String(text.clone())));
        }
    }
    Ok(changes)
}

/// The questions, with what is configured as the answer to a plain Enter.
fn ask(
    settings: &mut Settings,
    current: &File,
    questions: &mut dyn Questions,
) -> std::io::Result<Option<Secret>> {
    let said = |text: String| Some(text).filter(|text| !text.is_empty());
    let url = current.url.clone().unwrap_or_default();
    settings.url = said(questions.ask("Address of the control plane (https://…)", &url)?);
    let has_token = current.token.is_some() || current.token_file.is_some();
    let token = questions.ask_secret(if has_token {
        "Agent token (not shown; Enter keeps the one there is)"
    } else {
        "Agent token (not shown)"
    })?;
    let trusted = current.ca_file.as_ref().map(|path| path.display().to_string());
    let question = "File with certificates to trust besides the system's (PEM; Enter for none)";
    settings.ca_file = said(questions.ask(question, &trusted.unwrap_or_default())?).map(PathBuf::from);
    let name = current.name.clone().unwrap_or_else(config::hostname);
    settings.name = said(questions.ask("Name of this agent", &name)?);
    let concurrency = current.concurrency.unwrap_or(5).to_string();
    let answer = questions.ask("Jobs at once at most", &concurrency)?;
    if !answer.is_empty() {
        let number = answer
            .parse()
            .map_err(|_| std::io::Error::other(format!("`{answer}` is no number of jobs")))?;
        settings.concurrency = Some(number);
    }
    Ok(Some(token).filter(|token| !token.expose().is_empty()))
}

fn token_of(input: &mut dyn BufRead, place: &str) -> Result<Secret, ConfigureError> {
    const LONGEST: u64 = 4096;
    let mut text = String::new();
    input
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(failed(Path::new(place), "read"))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        let place = place.to_owned();
        return Err(ConfigureError::NoToken { place });
    }
    Ok(Secret::new(token))
}

fn certificates(path: &Path) -> Result<String, ConfigureError> {
    let text = std::fs::read_to_string(path).map_err(failed(path, "read"))?;
    match reqwest::Certificate::from_pem_bundle(text.as_bytes()) {
        Ok(found) if !found.is_empty() => Ok(text),
        _ => Err(ConfigureError::NoCertificate {
            path: path.to_owned(),
        }),
    }
}

/// Certificates that are trusted, with those of `new` that are not among them.
fn together(kept: &str, new: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let mut all = kept.trim_end().to_owned();
    for block in new.split_inclusive(END) {
        let Some(at) = block.find("-----BEGIN CERTIFICATE-----") else {
            continue;
        };
        if !kept.contains(&block[at..]) {
            all.push('\n');
            all.push_str(&block[at..]);
        }
    }
    all.push('\n');
    all
}

/// Whom new files belong to: the service's user when root configures a host that has one.
struct Owner {
    service: Option<(u32, u32)>,
}

impl Owner {
    fn find() -> Self {
        let service = rustix::process::geteuid()
            .is_root()
            .then(|| std::fs::read_to_string("/etc/passwd").ok())
            .flatten()
            .and_then(|users| service_user(&users));
        Self { service }
    }
}

/// User and group id of the service's user in a text like `/etc/passwd`.
fn service_user(users: &str) -> Option<(u32, u32)> {
    let line = users
        .lines()
        .find(|line| line.split(':').next() == Some(SERVICE_USER))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn make_folder(path: &Path, owner: &Owner) -> Result<(), ConfigureError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(failed(path, "made"))?;
    if let Some((_, group)) = owner.service {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed(path, "given to the service"))?;
    }
    Ok(())
}

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// The agent's user alone.
    Secret,
    /// Its group, too; a file that is there keeps its permissions and its owner.
    Readable,
}

/// Puts a file in its place, whole or not at all. Answers whether its content is another one now.
fn put(path: &Path, content: &str, owner: &Owner, kept: Kept) -> Result<bool, ConfigureError> {
    let there = std::fs::metadata(path).ok();
    let same = std::fs::read(path).is_ok_and(|found| found == content.as_bytes());
    let (mode, belongs) = match (kept, &there, owner.service) {
        (Kept::Secret, _, Some((user, group))) => (0o600, Some((user, group))),
        (Kept::Secret, ..) => (0o600, None),
        (Kept::Readable, Some(file), _) => (file.mode() & 0o7777, Some((file.uid(), file.gid()))),
        (Kept::Readable, None, Some((_, group))) => (0o640, Some((0, group))),
        (Kept::Readable, None, None) => (0o644, None),
    };
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        if let Some((user, group)) = belongs
            && rustix::process::geteuid().is_root()
        {
            std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    // A token whose content is right may still have the wrong permissions.
    if !same || kept == Kept::Secret {
        write().map_err(failed(path, "written"))?;
    }
    Ok(!same)
}

/// The terminal that the program was called on.
#[derive(Debug)]
pub struct Terminal;

fn say(question: &str) -> std::io::Result<()> {
    let mut output = std::io::stderr();
    write!(output, "{question}: ")?;
    output.flush()
}

fn line() -> std::io::Result<String> {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim().to_owned())
}

impl Questions for Terminal {
    fn ask(&mut self, question: &str, current: &str) -> std::io::Result<String> {
        if current.is_empty() {
            say(question)?;
        } else {
            say(&format!("{question} [{current}]"))?;
        }
        line()
    }

    fn ask_secret(&mut self, question: &str) -> std::io::Result<Secret> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        say(question)?;
        let input = std::io::stdin();
        let shown = tcgetattr(&input)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Now, &hidden)?;
        let line = line();
        tcsetattr(&input, OptionalActions::Now, &shown)?;
        writeln!(std::io::stderr())?;
        line.map(Secret::new)
    }
}

#[cfg(test)]
mod tests;
