//! How an agent is installed: commands that this server makes, with its address, its CA and a token.

use askama::Template;
use axum::extract::{Path, State};

use super::frame::{self, Frame, Names, Seen, Tab};
use crate::app::App;
use crate::config::Tls;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::parts::words::megabytes;
use crate::http::web::parts::{Code, Icon};
use crate::http::web::visitor::Visitor;
use crate::packages::Offered;
use crate::tls::CA_FILE;

/// What stands for a token that was not made on this page.
const NO_TOKEN: &str = "<token>";

/// Makes a Docker engine known to yum, where the distribution has none.
const RPM_ENGINE: &str = "sudo yum install -y yum-utils\nsudo yum-config-manager --add-repo \
                          https://download.docker.com/linux/centos/docker-ce.repo";

/// A token that is shown once.
pub(super) struct NewToken {
    pub(super) description: String,
    pub(super) secret: String,
}

/// The commands for hosts of one architecture, one for each way.
pub(super) struct Ways {
    /// As `uname -m` says it.
    pub(super) machine: &'static str,
    pub(super) deb: Option<Code>,
    pub(super) rpm: Option<Code>,
    pub(super) terminal: Code,
    pub(super) service: Code,
    pub(super) container: Code,
    /// Whether this server has the programs, so that nobody has to bring them.
    pub(super) has_tarball: bool,
    pub(super) has_image: bool,
}

/// All commands.
pub(super) struct Commands {
    /// For each architecture that there are packages for, at least one.
    pub(super) ways: Vec<Ways>,
    pub(super) rpm_engine: Code,
    pub(super) proxy: Code,
    pub(super) root: Code,
    pub(super) authority: Code,
    pub(super) more: Code,
    pub(super) doctor: Code,
}

impl Commands {
    pub(super) fn has_deb(&self) -> bool {
        self.ways.iter().any(|ways| ways.deb.is_some())
    }

    pub(super) fn has_rpm(&self) -> bool {
        self.ways.iter().any(|ways| ways.rpm.is_some())
    }
}

/// The certificates that agents have to trust besides their system's, when this server has an authority of its own.
pub(in crate::http::web) async fn own_ca(app: &App) -> Option<String> {
    if app.config.tls != Tls::Local {
        return None;
    }
    tokio::fs::read_to_string(app.config.data_dir.join(CA_FILE))
        .await
        .ok()
}

/// A file that a command writes, by a text that ends at `mark`.
pub(in crate::http::web) fn here(path: &str, mark: &str, text: &str) -> String {
    format!("cat > {path} <<'{mark}'\n{}\n{mark}\n", text.trim_end())
}

/// What commands are made of.
pub(super) struct Ingredients<'a> {
    /// The server's address.
    pub(super) url: &'a str,
    /// Certificates that have to be trusted.
    pub(super) ca: Option<&'a str>,
    /// The token, when it was just made.
    pub(super) token: Option<&'a str>,
    /// Memory in MiB for a run.
    pub(super) needs_mb: u64,
    /// The pool.
    pub(super) pool: &'a str,
    /// What the server has, for each architecture.
    pub(super) offered: &'a [Offered],
}

/// Fetches a package, installs it, configures and starts the agent.
fn from_package(made: &Ingredients<'_>, file: &str, end: &str, install: &str) -> String {
    let (url, pool) = (made.url, made.pool);
    let token = made.token.unwrap_or(NO_TOKEN);
    let ca = made.ca.map_or_else(String::new, |pem| here("ca.pem", "CA", pem));
    let (trusted, trust) = made
        .ca
        .map_or(("", ""), |_| (" --cacert ca.pem", " --ca-file ca.pem"));
    format!(
        "{ca}curl -fsS{trusted} -o terrapool-agent.{end} '{url}/packages/{file}?pool={pool}'\n{install} \
         ./terrapool-agent.{end}\nsudo terrapool-agent configure --url {url}{trust} --token-stdin <<'TOKEN'\n{token}\n\
         TOKEN\nsudo systemctl enable --now terrapool-agent\n"
    )
}

/// The commands for a token, on hosts of one architecture. Those for the first of several have plain ids.
fn ways(made: &Ingredients<'_>, offered: &Offered, is_first: bool) -> Ways {
    let (url, ca) = (made.url, made.ca);
    let token = made.token.unwrap_or(NO_TOKEN);
    let code = |ids: [&'static str; 2], text: String| Code {
        id: ids[usize::from(!is_first)],
        text: text.trim_end().to_owned(),
        marked: token.to_owned(),
    };
    let (own, system) = ("~/.terrapool-agent", "/etc/terrapool");
    let ca_in =
        |folder: &str| ca.map_or_else(String::new, |pem| here(&format!("{folder}/ca.pem"), "CA", pem));
    let unpack = |trusted: &str, options: &str| {
        offered.tarball.as_deref().map(|file| {
            format!(
                "curl -fsS{} '{url}/packages/{file}?pool={}' | tar -xz --strip-components=1{options}\n",
                ca.map_or("", |_| trusted),
                made.pool
            )
        })
    };
    let fetched = unpack(" --cacert ~/.terrapool-agent/ca.pem", " -C ~/.terrapool-agent");
    let terminal = format!(
        "mkdir -p {own} && chmod 700 {own}\n{}{}{}TERRAPOOL_URL={url} \\\n  TERRAPOOL_TOKEN_FILE={own}/token \\\n{}  \
         TERRAPOOL_AGENT_DATA_DIR={own}/data \\\n  {}terrapool-agent run\n",
        here(&format!("{own}/token"), "TOKEN", token),
        ca_in(own),
        fetched.as_deref().unwrap_or_default(),
        ca.map_or_else(String::new, |_| format!("  TERRAPOOL_CA_FILE={own}/ca.pem \\\n")),
        fetched.as_ref().map_or(String::new(), |_| format!("{own}/")),
    );
    let files = format!(
        "sudo install -d -m 700 {system}\nsudo sh -c 'umask 077; cat > {system}/agent.token' <<'TOKEN'\n{token}\nTOKEN\n{}",
        ca.map_or_else(String::new, |pem| format!(
            "sudo tee {system}/ca.pem >/dev/null <<'CA'\n{}\nCA\n",
            pem.trim_end()
        )),
    );
    let trust = ca.map_or("", |_| "Environment=TERRAPOOL_CA_FILE=/etc/terrapool/ca.pem\n");
    let service = format!(
        "{files}{}sudo install -m 755 terrapool-agent /usr/local/bin/terrapool-agent\n\
         sudo install -D -m 644 sandbox-image.tar /usr/share/terrapool-agent/sandbox-image.tar\n\
         sudo tee /etc/systemd/system/terrapool-agent.service >/dev/null <<'UNIT'\n[Unit]\n\
         Description=Terrapool agent\nAfter=network-online.target docker.service\nWants=network-online.target\n\n\
         [Service]\nType=notify\nEnvironment=TERRAPOOL_URL={url}\nEnvironment=TERRAPOOL_TOKEN_FILE={system}/agent.token\n{trust}\
         Environment=TERRAPOOL_AGENT_DATA_DIR=/var/lib/terrapool-agent\nExecStart=/usr/local/bin/terrapool-agent run\n\
         Restart=always\nRestartPreventExitStatus=78 79\nSuccessExitStatus=79\nRestartSec=5\nTimeoutStartSec=5min\n\
         TimeoutStopSec=15min\nKillMode=process\nRestartKillSignal=SIGQUIT\n\n[Install]\n\
         WantedBy=multi-user.target\n\
         UNIT\nsudo systemctl daemon-reload && sudo systemctl enable --now terrapool-agent\n",
        unpack(" --cacert /etc/terrapool/ca.pem", "").unwrap_or_default(),
    );
    let image = offered.image.as_deref().zip(offered.image_tag());
    let (load, binary, image) = match &image {
        Some((file, tag)) => (
            format!(
                "sudo curl -fsS{} '{url}/packages/{file}?pool={}' | sudo docker load\n",
                ca.map_or("", |_| " --cacert /etc/terrapool/ca.pem"),
                made.pool
            ),
            "",
            tag.as_str(),
        ),
        None => (
            String::new(),
            "-v \"$(command -v terrapool-agent)\":/usr/local/bin/terrapool-agent:ro \\\n  ",
            "debian:12-slim terrapool-agent run",
        ),
    };
    let container = format!(
        "{files}{load}sudo docker run -d --name terrapool-agent --restart unless-stopped --stop-timeout 900 --network host \\\n  \
         -e TERRAPOOL_URL={url} -e TERRAPOOL_TOKEN_FILE={system}/agent.token \\\n  {}\
         -v {system}:{system}:ro -v /var/run/docker.sock:/var/run/docker.sock \\\n  \
         -v terrapool-agent:/var/lib/terrapool-agent \\\n  \
         {binary}{image}\n",
        ca.map_or("", |_| "-e TERRAPOOL_CA_FILE=/etc/terrapool/ca.pem \\\n  "),
    );
    Ways {
        machine: offered.architecture.machine(),
        deb: offered.deb.as_deref().map(|file| {
            let text = from_package(made, file, "deb", "sudo apt-get install -y");
            code(["c-deb", "c-deb-other"], text)
        }),
        rpm: offered.rpm.as_deref().map(|file| {
            let text = from_package(made, file, "rpm", "sudo yum install -y");
            code(["c-rpm", "c-rpm-other"], text)
        }),
        terminal: code(["c-bin", "c-bin-other"], terminal),
        service: code(["c-service", "c-service-other"], service),
        container: code(["c-docker", "c-docker-other"], container),
        has_tarball: fetched.is_some(),
        has_image: offered.image.is_some(),
    }
}

/// All commands for a token.
pub(super) fn commands(made: &Ingredients<'_>) -> Commands {
    let (ca, needs_mb) = (made.ca, made.needs_mb);
    let nothing = [Offered::nothing()];
    let offered = if made.offered.is_empty() {
        &nothing
    } else {
        made.offered
    };
    let ways: Vec<Ways> = offered
        .iter()
        .enumerate()
        .map(|(place, offered)| ways(made, offered, place == 0))
        .collect();
    let packaged = ways.iter().any(|ways| ways.deb.is_some() || ways.rpm.is_some());
    let drop_in = "sudo mkdir -p /etc/systemd/system/terrapool-agent.service.d\nsudo tee \
                   /etc/systemd/system/terrapool-agent.service.d";
    let restart = "sudo systemctl daemon-reload && sudo systemctl restart terrapool-agent";
    // The package's engine pulls images by itself.
    let (also, restart_all) = if packaged {
        let engine = "/etc/systemd/system/terrapool-docker.service.d";
        (
            format!(
                "sudo mkdir -p {engine}\nsudo ln -sf /etc/systemd/system/terrapool-agent.service.d/proxy.conf \
                 {engine}/proxy.conf\n"
            ),
            "sudo systemctl daemon-reload\nsudo systemctl restart terrapool-docker\nsudo systemctl restart terrapool-agent",
        )
    } else {
        (String::new(), restart)
    };
    let configured = |what: &str| {
        format!(
            "sudo terrapool-agent configure {what}\nsudo systemctl daemon-reload\nsudo systemctl restart terrapool-agent"
        )
    };
    // One file names all that are trusted besides the system's.
    let (both, authority) = ca.map_or_else(
        || (String::new(), "proxy-ca.pem"),
        |pem| {
            let own = here("ca.pem", "CA", pem);
            (
                format!("{own}cat ca.pem proxy-ca.pem > authorities.pem\n"),
                "authorities.pem",
            )
        },
    );
    Commands {
        ways,
        rpm_engine: Code::new("c-rpm-engine", RPM_ENGINE),
        proxy: Code::new(
            "c-proxy",
            format!(
                "{drop_in}/proxy.conf >/dev/null <<'EOF'\n[Service]\n\
                 Environment=\"HTTPS_PROXY=http://user:password@proxy.example.com:3128\"\n\
                 Environment=\"HTTP_PROXY=http://user:password@proxy.example.com:3128\"\n\
                 Environment=\"NO_PROXY=169.254.169.254,10.0.0.0/8\"\nEOF\n{also}{restart_all}"
            ),
        ),
        root: Code::new(
            "c-root",
            if packaged {
                configured("--user=root")
            } else {
                format!(
                    "{drop_in}/root.conf >/dev/null <<'EOF'\n[Service]\nEnvironment=TERRAPOOL_AGENT_USER=root\nEOF\n{restart}"
                )
            },
        ),
        authority: Code::new(
            "c-authority",
            if packaged {
                configured("--ca-file=proxy-ca.pem")
            } else {
                format!(
                    "{both}sudo install -D -m 644 {authority} /etc/terrapool/proxy-ca.pem\n\
                     {drop_in}/authority.conf >/dev/null <<'EOF'\n[Service]\n\
                     Environment=TERRAPOOL_CA_FILE=/etc/terrapool/proxy-ca.pem\nEOF\n{restart}"
                )
            },
        ),
        more: Code::new(
            "c-more",
            if packaged {
                configured(&format!("--concurrency=4 --memory={}", needs_mb * 4))
            } else {
                format!(
                    "{drop_in}/runs.conf >/dev/null <<'EOF'\n[Service]\n\
                 Environment=TERRAPOOL_AGENT_CONCURRENCY=4 TERRAPOOL_AGENT_MEMORY={}\nEOF\n{restart}",
                    needs_mb * 4
                )
            },
        ),
        doctor: Code::new("c-doctor", "sudo terrapool-agent doctor"),
    }
}

#[derive(Template)]
#[template(path = "pool/install.html")]
struct InstallPage {
    shell: Shell,
    frame: Frame,
    host: String,
    new: Option<NewToken>,
    commands: Commands,
    needs: String,
    for_four: u64,
}

/// The page, with a token that was just made or without.
pub(super) async fn page(app: &App, seen: Seen, new: Option<NewToken>) -> Page {
    let ca = own_ca(app).await;
    let needs_mb = seen.pool().settings.default_limits.memory_mb;
    let offered = Offered::find(app.config.packages_dir.as_deref());
    let made = Ingredients {
        url: &app.config.public_url,
        ca: ca.as_deref(),
        token: new.as_ref().map(|token| token.secret.as_str()),
        needs_mb,
        pool: seen.pool().id.as_str(),
        offered: &offered,
    };
    let page = InstallPage {
        shell: seen.shell("Install"),
        host: app.config.public_host().to_owned(),
        commands: commands(&made),
        needs: megabytes(needs_mb),
        for_four: needs_mb * 4 + 256,
        new,
        frame: seen.frame,
    };
    html(&page)
}

/// `GET /app/:org/agent-pools/:id/install`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    let mut connection = app.db.read().await?;
    let seen = frame::see(&app, &mut connection, &visitor, &names, Tab::Install).await?;
    drop(connection);
    page(&app, seen, None).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::Architecture;

    #[test]
    fn a_token_goes_in_by_a_file_and_never_as_an_argument() {
        let offered = [Offered {
            deb: Some("a.deb".to_owned()),
            rpm: Some("a.rpm".to_owned()),
            ..Offered::nothing()
        }];
        let commands = commands(&Ingredients {
            url: "https://tp.example:8443",
            ca: Some("PEM\n"),
            token: Some("tpa_x"),
            needs_mb: 512,
            pool: "apool-1",
            offered: &offered,
        });
        let ways = &commands.ways[0];
        for code in [&ways.deb, &ways.rpm].into_iter().flatten() {
            assert!(code.text.contains("?pool=apool-1'"), "{}", code.text);
            assert!(code.text.contains("\ntpa_x\nTOKEN\n"), "{}", code.text);
            assert!(code.text.contains(" --ca-file ca.pem "), "{}", code.text);
        }
        assert!(
            commands
                .root
                .text
                .starts_with("sudo terrapool-agent configure --user=root\n")
        );
        for code in [&ways.terminal, &ways.service, &ways.container] {
            assert_eq!(code.text.matches("tpa_x").count(), 1, "{}", code.text);
            let line = code.text.lines().find(|line| line.contains("tpa_x"));
            assert_eq!(line, Some("tpa_x"), "{}", code.text);
            assert!(code.text.contains("https://tp.example:8443"));
            assert!(code.text.contains("TERRAPOOL_CA_FILE="));
        }
    }

    #[test]
    fn without_an_authority_of_its_own_no_certificate_is_copied() {
        let commands = commands(&Ingredients {
            url: "https://tp.example",
            ca: None,
            token: None,
            needs_mb: 512,
            pool: "apool-1",
            offered: &[],
        });
        assert_eq!(commands.ways.len(), 1);
        let ways = &commands.ways[0];
        assert!(ways.deb.is_none() && ways.container.text.contains("debian:12-slim"));
        assert!(!ways.terminal.text.contains("CA_FILE"));
        assert!(ways.terminal.text.contains(NO_TOKEN));
    }

    #[test]
    fn hosts_of_each_architecture_have_commands_of_their_own_under_ids_of_their_own() {
        let offered = [Architecture::Amd64, Architecture::Arm64].map(|architecture| Offered {
            architecture,
            deb: Some(format!("{}.deb", architecture.machine())),
            ..Offered::nothing()
        });
        let commands = commands(&Ingredients {
            url: "https://tp.example",
            ca: None,
            token: None,
            needs_mb: 512,
            pool: "apool-1",
            offered: &offered,
        });
        assert!(commands.has_deb() && !commands.has_rpm());
        let mut ids = std::collections::BTreeSet::new();
        for ways in &commands.ways {
            let deb = ways.deb.as_ref().unwrap();
            assert!(
                deb.text.contains(&format!("/{}.deb?", ways.machine)),
                "{}",
                deb.text
            );
            for code in [deb, &ways.terminal, &ways.service, &ways.container] {
                assert!(ids.insert(code.id), "{} twice", code.id);
            }
        }
    }

    const MANUAL: &str = include_str!("../../../../../../docs/install.md");

    /// The commands of a manual's sections, block by block.
    fn blocks(heading: &str) -> Vec<&'static str> {
        let section = MANUAL
            .split("\n## ")
            .find(|section| section.lines().next() == Some(heading));
        let section = section.unwrap_or_else(|| panic!("the manual has no section `{heading}`"));
        section.split("```\n").skip(1).step_by(2).collect()
    }

    /// What the page writes into files and tells of the pool is in files of the user's in the manual.
    fn as_in_the_manual(code: &Code) -> String {
        let text = code
            .text
            .replace(" <<'CA'\nPEM\nCA\n", " < ca.pem\n")
            .replace(" <<'TOKEN'\ntpa_x\nTOKEN\n", " < token\n")
            .replace("cat > ca.pem < ca.pem\n", "")
            .replace("?pool=apool-1'", "")
            .replace("'https://", "https://");
        text + "\n"
    }

    #[test]
    fn the_page_shows_the_commands_of_the_manual() {
        let named = |name: &str| Some(name.to_owned());
        let offered = [Offered {
            architecture: Architecture::Amd64,
            deb: named("terrapool-agent_0.1.0-1_amd64.deb"),
            rpm: named("terrapool-agent-0.1.0-1.x86_64.rpm"),
            image: named("terrapool-agent-0.1.0-linux-amd64.image.tar"),
            tarball: named("terrapool-agent-0.1.0-linux-amd64.tar.gz"),
        }];
        let shown = commands(&Ingredients {
            url: "https://terrapool.example.com",
            ca: Some("PEM\n"),
            token: Some("tpa_x"),
            needs_mb: 512,
            pool: "apool-1",
            offered: &offered,
        });
        let ways = &shown.ways[0];
        let deb = ways.deb.as_ref().map(as_in_the_manual).unwrap_or_default();
        let rpm = ways.rpm.as_ref().map(as_in_the_manual).unwrap_or_default();
        let engine = as_in_the_manual(&shown.rpm_engine);
        for (heading, wanted) in [
            ("Debian 10, 11 and 12", vec![&deb]),
            ("Ubuntu 18.04, 20.04, 22.04 and 24.04", vec![&deb]),
            ("RHEL and CentOS 7", vec![&engine, &rpm]),
            ("RHEL, CentOS Stream, Rocky and Alma 8 and 9", vec![&engine, &rpm]),
            ("Amazon Linux 2", vec![&rpm]),
            ("Amazon Linux 2023", vec![&rpm]),
            ("A container", vec![&as_in_the_manual(&ways.container)]),
            (
                "Without a package",
                vec![
                    &as_in_the_manual(&ways.service),
                    &as_in_the_manual(&ways.terminal),
                ],
            ),
        ] {
            assert_eq!(blocks(heading), wanted, "{heading}");
        }
        for (heading, code) in [
            ("Settings", &shown.root),
            ("Settings", &shown.more),
            ("Behind a proxy", &shown.proxy),
            ("Behind a proxy", &shown.authority),
        ] {
            let wanted = as_in_the_manual(code);
            assert!(blocks(heading).contains(&wanted.as_str()), "{heading}: {wanted}");
        }
        let looked_after = blocks("Looking after it").concat();
        assert!(
            looked_after.contains(&format!("\n{} ", shown.doctor.text)),
            "{looked_after}"
        );
    }
}
