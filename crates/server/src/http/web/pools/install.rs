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
use crate::tls::CA_FILE;

/// What stands for a token that was not made on this page.
const NO_TOKEN: &str = "<token>";

/// A token that is shown once.
pub(super) struct NewToken {
    pub(super) description: String,
    pub(super) secret: String,
}

/// The commands, one for each way.
pub(super) struct Commands {
    pub(super) terminal: Code,
    pub(super) service: Code,
    pub(super) container: Code,
    pub(super) proxy: Code,
    pub(super) root: Code,
    pub(super) more: Code,
    pub(super) doctor: Code,
}

/// The certificates that agents have to trust besides their system's, when this server has an authority of its own.
pub(super) async fn own_ca(app: &App) -> Option<String> {
    if app.config.tls != Tls::Local {
        return None;
    }
    tokio::fs::read_to_string(app.config.data_dir.join(CA_FILE))
        .await
        .ok()
}

/// A file that a command writes, by a text that ends at `mark`.
fn here(path: &str, mark: &str, text: &str) -> String {
    format!("cat > {path} <<'{mark}'\n{}\n{mark}\n", text.trim_end())
}

/// The commands for a token.
pub(super) fn commands(url: &str, ca: Option<&str>, token: Option<&str>, needs_mb: u64) -> Commands {
    let token = token.unwrap_or(NO_TOKEN);
    let code = |id, text: String| Code {
        id,
        text: text.trim_end().to_owned(),
        marked: token.to_owned(),
    };
    let (own, system) = ("~/.terrapool-agent", "/etc/terrapool");
    let ca_in =
        |folder: &str| ca.map_or_else(String::new, |pem| here(&format!("{folder}/ca.pem"), "CA", pem));
    let terminal = format!(
        "mkdir -p {own} && chmod 700 {own}\n{}{}TERRAPOOL_URL={url} \\\n  TERRAPOOL_TOKEN_FILE={own}/token \\\n{}  \
         TERRAPOOL_AGENT_DATA_DIR={own}/data \\\n  terrapool-agent run\n",
        here(&format!("{own}/token"), "TOKEN", token),
        ca_in(own),
        ca.map_or_else(String::new, |_| format!("  TERRAPOOL_CA_FILE={own}/ca.pem \\\n")),
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
        "sudo install -m 755 terrapool-agent /usr/local/bin/terrapool-agent\n{files}\
         sudo tee /etc/systemd/system/terrapool-agent.service >/dev/null <<'UNIT'\n[Unit]\n\
         Description=Terrapool agent\nAfter=network-online.target docker.service\nWants=network-online.target\n\n\
         [Service]\nEnvironment=TERRAPOOL_URL={url}\nEnvironment=TERRAPOOL_TOKEN_FILE={system}/agent.token\n{trust}\
         Environment=TERRAPOOL_AGENT_DATA_DIR=/var/lib/terrapool-agent\nExecStart=/usr/local/bin/terrapool-agent run\n\
         Restart=always\nRestartSec=5\nTimeoutStopSec=15min\nKillMode=mixed\n\n[Install]\nWantedBy=multi-user.target\n\
         UNIT\nsudo systemctl daemon-reload && sudo systemctl enable --now terrapool-agent\n"
    );
    let container = format!(
        "{files}sudo docker run -d --name terrapool-agent --restart unless-stopped --stop-timeout 900 --network host \\\n  \
         -e TERRAPOOL_URL={url} -e TERRAPOOL_TOKEN_FILE={system}/agent.token \\\n  {}\
         -e TERRAPOOL_AGENT_DATA_DIR=/var/lib/terrapool-agent \\\n  -v {system}:{system}:ro \\\n  \
         -v /var/run/docker.sock:/var/run/docker.sock \\\n  \
         -v /var/lib/terrapool-agent:/var/lib/terrapool-agent \\\n  \
         -v \"$(command -v terrapool-agent)\":/usr/local/bin/terrapool-agent:ro \\\n  \
         debian:12-slim terrapool-agent run\n",
        ca.map_or("", |_| "-e TERRAPOOL_CA_FILE=/etc/terrapool/ca.pem \\\n  "),
    );
    let drop_in = "sudo mkdir -p /etc/systemd/system/terrapool-agent.service.d\nsudo tee \
                   /etc/systemd/system/terrapool-agent.service.d";
    let restart = "sudo systemctl daemon-reload && sudo systemctl restart terrapool-agent";
    Commands {
        terminal: code("c-bin", terminal),
        service: code("c-service", service),
        container: code("c-docker", container),
        proxy: Code::new(
            "c-proxy",
            format!(
                "{drop_in}/proxy.conf >/dev/null <<'EOF'\n[Service]\n\
                 Environment=\"HTTPS_PROXY=http://proxy.example.com:3128\" \"NO_PROXY=localhost,10.0.0.0/8\"\nEOF\n{restart}"
            ),
        ),
        root: Code::new(
            "c-root",
            format!(
                "{drop_in}/root.conf >/dev/null <<'EOF'\n[Service]\nEnvironment=TERRAPOOL_AGENT_USER=root\nEOF\n{restart}"
            ),
        ),
        more: Code::new(
            "c-more",
            format!(
                "{drop_in}/runs.conf >/dev/null <<'EOF'\n[Service]\n\
                 Environment=TERRAPOOL_AGENT_CONCURRENCY=4 TERRAPOOL_AGENT_MEMORY={}\nEOF\n{restart}",
                needs_mb * 4
            ),
        ),
        doctor: Code::new("c-doctor", "terrapool-agent doctor"),
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
    let secret = new.as_ref().map(|token| token.secret.as_str());
    let page = InstallPage {
        shell: seen.shell("Install"),
        host: app.config.public_host().to_owned(),
        commands: commands(&app.config.public_url, ca.as_deref(), secret, needs_mb),
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

    #[test]
    fn a_token_goes_in_by_a_file_and_never_as_an_argument() {
        let commands = commands("https://tp.example:8443", Some("PEM\n"), Some("tpa_x"), 512);
        for code in [&commands.terminal, &commands.service, &commands.container] {
            assert_eq!(code.text.matches("tpa_x").count(), 1, "{}", code.text);
            let line = code.text.lines().find(|line| line.contains("tpa_x"));
            assert_eq!(line, Some("tpa_x"), "{}", code.text);
            assert!(code.text.contains("https://tp.example:8443"));
            assert!(code.text.contains("TERRAPOOL_CA_FILE="));
        }
    }

    #[test]
    fn without_an_authority_of_its_own_no_certificate_is_copied() {
        let commands = commands("https://tp.example", None, None, 512);
        assert!(!commands.terminal.text.contains("CA_FILE"));
        assert!(commands.terminal.text.contains(NO_TOKEN));
    }
}
