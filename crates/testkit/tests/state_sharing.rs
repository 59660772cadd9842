//! What a run reads of other workspaces: through its runner, without a credential and without a network.

use serde_json::{Value, json};
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::runs::Workspace;

struct Site {
    installation: Installation,
    pool: String,
    _agent: AgentProcess,
}

impl Site {
    /// With a pool whose sandboxes have no network at all.
    async fn start(driver: &str) -> Self {
        let installation = Installation::start().await;
        let (pool, token) = installation.create_pool("private").await;
        let closed = json!({"data": {"type": "agent-pools", "attributes": {"sandbox": {"network": "none"}}}});
        installation.patch(&format!("/agent-pools/{pool}"), &closed).await;
        let agent = installation
            .start_agent("private", &token, &[("TERRAPOOL_AGENT_DRIVER", driver)])
            .await;
        Self {
            installation,
            pool,
            _agent: agent,
        }
    }

    async fn workspace(&self, name: &str, configuration: &str) -> Workspace {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true});
        self.installation
            .workspace(name, &attributes, configuration)
            .await
    }

    async fn run(&self, workspace: &Workspace) -> String {
        self.installation
            .run(workspace, &json!({"auto-apply": true}))
            .await
    }

    /// A workspace with an output that others may want to read.
    async fn network(&self) -> Workspace {
        let configuration =
            "resource \"terraform_data\" \"a\" {}\noutput \"subnet\" {\n  value = \"subnet-4711\"\n}\n";
        let workspace = self.workspace("network", configuration).await;
        let run = self.run(&workspace).await;
        self.installation.run_reaches(&run, "applied").await;
        workspace
    }

    async fn share_with(&self, workspace: &Workspace, method: &str, consumers: &[&Workspace]) {
        let list: Vec<Value> = consumers
            .iter()
            .map(|consumer| json!({"type": "workspaces", "id": consumer.id}))
            .collect();
        let path = format!(
            "/workspaces/{}/relationships/remote-state-consumers",
            workspace.id
        );
        let (status, answer) = self
            .installation
            .call(method, &path, Some(&json!({"data": list})))
            .await;
        assert_eq!(status, 204, "{answer}");
    }

    async fn refused(&self, workspace: &Workspace) {
        let run = self.run(workspace).await;
        self.installation.run_reaches(&run, "errored").await;
        let log = self.installation.phase_log(&run, "plan").await;
        assert!(!log.contains("subnet-4711"), "{log}");
        assert!(log.contains("network"), "{log}");
    }

    async fn reads(&self, workspace: &Workspace) {
        let run = self.run(workspace).await;
        self.installation.run_reaches(&run, "applied").await;
        let log = self.installation.phase_log(&run, "apply").await;
        assert!(log.contains("the subnet is subnet-4711"), "{log}");
    }
}

async fn case_08_a_run_without_network_reads_the_states_that_are_shared_with_its_workspace_and_no_others(
    driver: &str,
) {
    let site = Site::start(driver).await;
    let network = site.network().await;
    let reading = format!(
        r#"data "terraform_remote_state" "network" {{
  backend = "remote"
  config = {{
    hostname     = "{}"
    organization = "acme"
    workspaces   = {{ name = "network" }}
  }}
}}
resource "terraform_data" "a" {{
  triggers_replace = timestamp()
  provisioner "local-exec" {{
    command = "echo the subnet is ${{data.terraform_remote_state.network.outputs.subnet}}"
  }}
}}
"#,
        site.installation.host()
    );
    let app = site.workspace("app", &reading).await;
    site.refused(&app).await;

    site.share_with(&network, "POST", &[&app]).await;
    site.reads(&app).await;
    let path = format!("/workspaces/{}/relationships/remote-state-consumers", network.id);
    let listed = site.installation.get(&path).await;
    assert_eq!(listed["data"][0]["id"], json!(app.id), "{listed}");

    // What is decided counts at the next read.
    site.share_with(&network, "DELETE", &[&app]).await;
    site.refused(&app).await;
    let global = json!({"data": {"type": "workspaces", "attributes": {"global-remote-state": true}}});
    site.installation
        .patch(&format!("/workspaces/{}", network.id), &global)
        .await;
    site.reads(&app).await;
}

async fn case_08_processes_of_a_run_ask_for_what_is_on_the_list_and_get_nothing_else(driver: &str) {
    let site = Site::start(driver).await;
    let network = site.network().await;
    let hidden = site
        .workspace("hidden", "resource \"terraform_data\" \"a\" {}\n")
        .await;
    let run = site.run(&hidden).await;
    site.installation.run_reaches(&run, "applied").await;
    let script = format!(
        r#"relay=$(sed -n 's,.*"tfe.v2" = "http://127.0.0.1:\([0-9]*\)/.*,\1,p' $TF_CLI_CONFIG_FILE)
ask() {{
  exec 3<>/dev/tcp/127.0.0.1/$relay
  printf '%s /api/v2/%s HTTP/1.1\r\nContent-Length: 0\r\n\r\n' "$1" "$2" >&3
  echo "answer to $1 $2: $(head -n 1 <&3)"
  exec 3>&-
}}
ask GET organizations/acme/workspaces/network
ask GET workspaces/{network}/current-state-version
ask GET organizations/acme/workspaces/hidden
ask GET workspaces/{hidden}/current-state-version
ask GET workspaces/{network}/vars
ask GET organizations/acme/agent-pools
ask GET runs/{run}
ask GET account/details
ask POST workspaces/{network}/state-versions
ask POST workspaces/{network}/actions/lock
ask POST workspaces/{network}/vars
ask PATCH workspaces/{network}"#,
        network = network.id,
        hidden = hidden.id,
    );
    let configuration = format!(
        "resource \"terraform_data\" \"probe\" {{\n  provisioner \"local-exec\" {{\n    interpreter = [\"bash\", \"-c\"]\n    command = <<-EOT\n{script}\n    EOT\n  }}\n}}\n"
    );
    let prober = site.workspace("prober", &configuration).await;
    site.share_with(&network, "PATCH", &[&prober]).await;
    let run = site.run(&prober).await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    let status = |question: &str| {
        let marker = format!("answer to {question}: HTTP/1.1 ");
        log.lines()
            .find_map(|line| line.split_once(&marker))
            .and_then(|(_, rest)| rest.split(' ').next()?.parse::<u16>().ok())
            .unwrap_or_else(|| panic!("no answer to {question}\n{log}"))
    };
    assert_eq!(status("GET organizations/acme/workspaces/network"), 200);
    let network = &network.id;
    assert_eq!(
        status(&format!("GET workspaces/{network}/current-state-version")),
        200
    );
    assert_eq!(status("GET organizations/acme/workspaces/hidden"), 404);
    assert_eq!(
        status(&format!("GET workspaces/{}/current-state-version", hidden.id)),
        404
    );
    for question in [
        format!("GET workspaces/{network}/vars"),
        "GET organizations/acme/agent-pools".to_owned(),
        "GET account/details".to_owned(),
        format!("POST workspaces/{network}/state-versions"),
        format!("POST workspaces/{network}/actions/lock"),
        format!("POST workspaces/{network}/vars"),
        format!("PATCH workspaces/{network}"),
    ] {
        assert_eq!(status(&question), 403, "{question}\n{log}");
    }
    let unlocked = site.installation.get(&format!("/workspaces/{network}")).await;
    assert_eq!(unlocked["data"]["attributes"]["locked"], json!(false));
}

terrapool_testkit::on_both_drivers!(
    case_08_a_run_without_network_reads_the_states_that_are_shared_with_its_workspace_and_no_others,
    case_08_processes_of_a_run_ask_for_what_is_on_the_list_and_get_nothing_else
);
