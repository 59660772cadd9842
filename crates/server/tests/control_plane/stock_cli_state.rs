//! The stock `terraform` command line against a control plane without agents: everything that needs no remote run.

use serde_json::{Value, json};
use terrapool_testkit::cli::Cli;
use terrapool_testkit::installation::Installation;

fn cloud(host: &str, workspaces: &str) -> String {
    format!(
        r#"
terraform {{
  cloud {{
    hostname     = "{host}"
    organization = "acme"
    workspaces {{
      {workspaces}
    }}
  }}
}}
resource "terraform_data" "a" {{ input = "x" }}
output "o" {{ value = terraform_data.a.output }}
output "s" {{
  value     = "hunter2"
  sensitive = true
}}
"#
    )
}

fn remote(host: &str) -> String {
    format!(
        r#"
terraform {{
  backend "remote" {{
    hostname     = "{host}"
    organization = "acme"
    workspaces {{ name = "rem" }}
  }}
}}
resource "terraform_data" "a" {{ input = "x" }}
output "o" {{ value = terraform_data.a.output }}
"#
    )
}

async fn set_local(plane: &Installation, name: &str) -> String {
    let found = plane.get(&format!("/organizations/acme/workspaces/{name}")).await;
    let id = found["data"]["id"].as_str().unwrap().to_owned();
    let body = json!({"data": {"type": "workspaces", "attributes": {"execution-mode": "local"}}});
    plane.patch(&format!("/workspaces/{id}"), &body).await;
    id
}

#[tokio::test]
async fn a_workspace_with_local_execution_is_applied_read_moved_and_pushed() {
    let plane = Installation::start().await;
    let cli = plane.cli(&cloud(&plane.host(), r#"name = "one""#));
    cli.run(&["init", "-input=false"]).await.succeeded();
    cli.run(&["init", "-input=false"]).await.succeeded();
    let empty = cli.run(&["output"]).await.succeeded();
    assert!(empty.contains("No outputs found"), "{empty}");
    let id = set_local(&plane, "one").await;
    let applied = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(applied.contains("1 added"), "{applied}");
    let outputs = cli.run(&["output"]).await.succeeded();
    assert!(outputs.contains("s = <sensitive>"), "{outputs}");
    assert!(
        cli.run(&["output", "-raw", "s"])
            .await
            .succeeded()
            .contains("hunter2")
    );
    cli.run(&["state", "mv", "terraform_data.a", "terraform_data.b"])
        .await
        .succeeded();
    assert!(
        cli.run(&["state", "list"])
            .await
            .succeeded()
            .contains("terraform_data.b")
    );
    let pulled: Value = serde_json::from_str(&cli.run(&["state", "pull"]).await.succeeded()).unwrap();
    assert_eq!(pulled["serial"], 2);
    let workspace = plane.get(&format!("/workspaces/{id}")).await;
    assert_eq!(workspace["data"]["attributes"]["terraform-version"], "1.11.4");
    assert_eq!(workspace["data"]["attributes"]["resource-count"], 1);
    assert_eq!(workspace["data"]["attributes"]["locked"], false);
    // The CLI sends no force for `state push -force`: an older serial is accepted all the same.
    let mut old = pulled;
    old["serial"] = json!(1);
    old["outputs"]["o"]["value"] = json!("pushed");
    cli.write("old.tfstate", &old.to_string());
    cli.run(&["state", "push", "old.tfstate"]).await.failed();
    cli.run(&["state", "push", "-force", "old.tfstate"])
        .await
        .succeeded();
    assert!(
        cli.run(&["output", "-raw", "o"])
            .await
            .succeeded()
            .contains("pushed")
    );
    old["lineage"] = json!("another");
    old["serial"] = json!(7);
    cli.write("other.tfstate", &old.to_string());
    cli.run(&["state", "push", "other.tfstate"]).await.failed();
    cli.run(&["state", "push", "-force", "other.tfstate"])
        .await
        .succeeded();
    let unlocked = plane.get(&format!("/workspaces/{id}")).await;
    assert_eq!(unlocked["data"]["attributes"]["locked"], false);
}

#[tokio::test]
async fn local_state_moves_into_a_new_workspace_and_a_lock_can_be_forced() {
    let plane = Installation::start().await;
    let local = "resource \"terraform_data\" \"a\" {\n  input = \"x\"\n}\n";
    let cli = plane.cli(local);
    cli.run(&["init"]).await.succeeded();
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    cli.write("main.tf", &cloud(&plane.host(), r#"name = "moved""#));
    let moved = cli.run_with_input(&["init"], "yes\n").await.succeeded();
    assert!(moved.contains("successfully"), "{moved}");
    assert!(
        cli.run(&["state", "list"])
            .await
            .succeeded()
            .contains("terraform_data.a")
    );
    let id = set_local(&plane, "moved").await;
    plane
        .post(&format!("/workspaces/{id}/actions/lock"), &json!({}))
        .await;
    let refused = cli.run(&["apply", "-auto-approve"]).await.failed();
    assert!(refused.contains("locked"), "{refused}");
    cli.run(&["force-unlock", "-force", "acme/moved"])
        .await
        .succeeded();
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
}

#[tokio::test]
async fn workspaces_by_tags_are_made_listed_selected_and_deleted() {
    let plane = Installation::start().await;
    let cli = plane.cli(&cloud(&plane.host(), "tags = [\"app\"]\n project = \"Team\""));
    let made = cli.run_with_input(&["init"], "first\n").await.succeeded();
    assert!(made.contains("successfully"), "{made}");
    let first = plane.get("/organizations/acme/workspaces/first").await;
    assert_eq!(first["data"]["attributes"]["tag-names"], json!(["app"]));
    set_local(&plane, "first").await;
    cli.run(&["workspace", "new", "second"]).await.succeeded();
    let list = cli.run(&["workspace", "list"]).await.succeeded();
    assert!(list.contains("first") && list.contains("* second"), "{list}");
    cli.run(&["workspace", "select", "first"]).await.succeeded();
    assert!(
        cli.run(&["workspace", "show"])
            .await
            .succeeded()
            .contains("first")
    );
    cli.run(&["workspace", "delete", "second"]).await.succeeded();
    assert_eq!(
        plane
            .call("GET", "/organizations/acme/workspaces/second", None)
            .await
            .0,
        404
    );
    // A workspace that manages something goes with force only.
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    cli.run(&["workspace", "new", "third"]).await.succeeded();
    cli.run(&["workspace", "delete", "first"]).await.failed();
    cli.run(&["workspace", "delete", "-force", "first"])
        .await
        .succeeded();
}

#[tokio::test]
async fn key_value_tags_find_their_workspaces() {
    let plane = Installation::start().await;
    let cli = plane.cli(&cloud(&plane.host(), r#"tags = { env = "prod" }"#));
    cli.run_with_input(&["init"], "kv\n").await.succeeded();
    let id = plane.get("/organizations/acme/workspaces/kv").await["data"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let bindings = plane.get(&format!("/workspaces/{id}/tag-bindings")).await;
    assert_eq!(
        bindings["data"][0]["attributes"],
        json!({"key": "env", "value": "prod"})
    );
    assert!(cli.run(&["workspace", "list"]).await.succeeded().contains("kv"));
}

#[tokio::test]
async fn backend_remote_keeps_its_state_here() {
    let plane = Installation::start().await;
    let cli = plane.cli(&remote(&plane.host()));
    cli.run(&["init", "-input=false"]).await.succeeded();
    set_local(&plane, "rem").await;
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(cli.run(&["output", "-raw", "o"]).await.succeeded().contains('x'));
    cli.run(&["state", "mv", "terraform_data.a", "terraform_data.b"])
        .await
        .succeeded();
    let mut old: Value = serde_json::from_str(&cli.run(&["state", "pull"]).await.succeeded()).unwrap();
    old["serial"] = json!(1);
    cli.write("old.tfstate", &old.to_string());
    cli.run(&["state", "push", "-force", "old.tfstate"])
        .await
        .succeeded();
}

#[tokio::test]
async fn login_takes_a_pasted_token() {
    let plane = Installation::start_with(&[("TERRAPOOL_LOGIN", "token")]).await;
    let cli = plane.cli("");
    std::fs::write(cli.home().join("cli.tfrc"), "").unwrap();
    let (code, answer) = login(&cli, &plane.host(), &plane.token).await;
    assert_eq!(code, Some(0), "{answer}");
    let (code, answer) = login(&cli, &plane.host(), "tpu_wrong").await;
    assert_ne!(code, Some(0), "{answer}");
    assert!(answer.contains("Token is invalid"), "{answer}");
}

/// Answers one question after the other: each prompt reads what is there, and drops what it does not need.
async fn login(cli: &Cli, host: &str, token: &str) -> (Option<i32>, String) {
    let mut running = cli.start(&["login", host]);
    running.wait_for("Only 'yes' will be accepted").await;
    running.write("yes\n").await;
    running.wait_for("Token for").await;
    running.write(&format!("{token}\n")).await;
    let ended = running.end().await;
    (ended.code, ended.output)
}

/// A browser that runs no scripts.
struct Browser {
    client: reqwest::Client,
    cookies: Vec<String>,
}

impl Browser {
    fn of(plane: &Installation) -> Self {
        let ca = reqwest::Certificate::from_pem(&std::fs::read(plane.ca()).unwrap()).unwrap();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([ca])
            .build()
            .unwrap();
        Self {
            client,
            cookies: Vec::new(),
        }
    }

    /// Where it leads, and what it shows.
    async fn send(&mut self, request: reqwest::RequestBuilder) -> (String, String) {
        let answer = request
            .header("cookie", self.cookies.join("; "))
            .send()
            .await
            .unwrap();
        for cookie in answer.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
            let name = cookie.split('=').next().unwrap().to_owned();
            self.cookies.retain(|old| !old.starts_with(&format!("{name}=")));
            self.cookies.push(cookie);
        }
        let location = answer.headers().get("location");
        let location = location.map_or(String::new(), |to| to.to_str().unwrap().to_owned());
        (location, answer.text().await.unwrap())
    }

    async fn open(&mut self, address: &str) -> (String, String) {
        self.send(self.client.get(address)).await
    }

    /// Sends a form with what it holds already, and these fields.
    async fn submit(&mut self, address: &str, page: &str, fields: &[(&str, &str)]) -> (String, String) {
        let mut pairs: Vec<(String, String)> = Vec::new();
        let form = page
            .split_once(&format!("action=\"{}\"", path_of(address)))
            .unwrap()
            .1;
        for input in form.split("</form>").next().unwrap().split("<input ").skip(1) {
            let value = |name: &str| {
                let rest = input.split_once(&format!("{name}=\""))?.1;
                Some(
                    rest.split('"')
                        .next()?
                        .replace("&amp;", "&")
                        .replace("&#38;", "&"),
                )
            };
            if let (Some(name), Some(value)) = (value("name"), value("value")) {
                pairs.push((name, value));
            }
        }
        for (name, value) in fields {
            pairs.retain(|(old, _)| old != name);
            pairs.push(((*name).to_owned(), (*value).to_owned()));
        }
        let body: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let request = self
            .client
            .post(address)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"));
        self.send(request).await
    }
}

fn path_of(address: &str) -> &str {
    let rest = address.split_once("://").unwrap().1;
    &rest[rest.find('/').unwrap()..]
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[tokio::test]
async fn login_goes_through_the_browser() {
    let plane = Installation::start().await;
    plane.create_account("grace", "correct horse battery").await;
    let cli = plane.cli("");
    std::fs::write(cli.home().join("cli.tfrc"), "").unwrap();
    std::fs::create_dir_all(cli.home().join(".terraform.d")).unwrap();
    let mut running = cli.start(&["login", &plane.host()]);
    running.wait_for("Only 'yes' will be accepted").await;
    running.write("yes\n").await;
    running.wait_for("code_challenge").await;
    running.wait_for("\n").await;
    let output = running.output();
    let address = output
        .split_whitespace()
        .find(|word| word.contains("/app/oauth/authorize?"))
        .unwrap()
        // Where it finds no browser, it quotes the address.
        .trim_matches(['\'', '"', '.'])
        .to_owned();

    let mut browser = Browser::of(&plane);
    let (to_sign_in, _) = browser.open(&address).await;
    assert!(to_sign_in.starts_with("/sign-in"), "{to_sign_in}");
    let sign_in = format!("{}/sign-in", plane.url());
    let (_, page) = browser.open(&format!("{}{to_sign_in}", plane.url())).await;
    let fields = [("login", "grace"), ("password", "correct horse battery")];
    let (back, _) = browser.submit(&sign_in, &page, &fields).await;
    let (_, page) = browser.open(&format!("{}{back}", plane.url())).await;
    assert!(page.contains("Give terraform a token of yours?"), "{page}");
    let authorize = format!("{}/app/oauth/authorize", plane.url());
    let (to_terraform, _) = browser.submit(&authorize, &page, &[]).await;
    assert!(to_terraform.starts_with("http://localhost:100"), "{to_terraform}");
    // Once it has the code it may end before it has answered.
    let _ = browser.client.get(&to_terraform).send().await;
    let ended = running.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.output);

    let kept = std::fs::read_to_string(cli.home().join(".terraform.d/credentials.tfrc.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let token = kept["credentials"][plane.host()]["token"].as_str().unwrap();
    let details = plane
        .http()
        .get(format!("{}/api/v2/account/details", plane.url()))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    let details: Value = serde_json::from_str(&details.text().await.unwrap()).unwrap();
    assert_eq!(details["data"]["attributes"]["username"], "grace");

    // The code was good for one token.
    let code = to_terraform
        .split_once("code=")
        .unwrap()
        .1
        .split('&')
        .next()
        .unwrap();
    let again = browser
        .client
        .post(format!("{}/oauth/token", plane.url()))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!(
            "grant_type=authorization_code&client_id=terraform-cli&code={code}&code_verifier=x"
        ))
        .send()
        .await
        .unwrap();
    assert_eq!(again.status().as_u16(), 400);
}

#[tokio::test]
async fn an_unknown_organization_and_a_wrong_token_are_told_apart() {
    let plane = Installation::start().await;
    let cli = plane.cli(&cloud(&plane.host(), r#"name = "x""#).replace("acme", "nobody"));
    let missing = cli.run(&["init", "-input=false"]).await.failed();
    assert!(
        missing.contains("nobody") && missing.contains("not found"),
        "{missing}"
    );
    let cli = plane.cli(&cloud(&plane.host(), r#"name = "x""#));
    let credentials = format!(
        "credentials \"{}\" {{\n  token = \"tpu_wrong\"\n}}\n",
        plane.host()
    );
    std::fs::write(cli.home().join("cli.tfrc"), credentials).unwrap();
    let wrong = cli.run(&["init", "-input=false"]).await.failed();
    assert!(
        wrong.to_lowercase().contains("unauthorized") || wrong.contains("token"),
        "{wrong}"
    );
}
