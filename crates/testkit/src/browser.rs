//! A real browser: Chromium, driven by the WebDriver protocol of `chromedriver`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::installation::{bin_dir, free_port};
use crate::secluded;
use crate::wait::until;

/// How long is waited for anything on a page. Machines that test many things at once are slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// The member of an answer that names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// What is wrong with a page, as its own script finds it: too wide, things without names, text that is hard to read.
/// Contrast is that of WCAG 2.1 AA: 4.5, and 3 for large text; what can't be used is left out, as there.
const PROBLEMS: &str = include_str!("problems.js");

/// Where pictures of pages are kept.
pub fn pictures() -> PathBuf {
    let folder = bin_dir().join("../screenshots");
    std::fs::create_dir_all(&folder).expect("a folder for pictures can be made");
    folder
}

/// A browser with one window. Ends with this value.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    session: String,
    http: reqwest::Client,
    base: String,
    /// Keeps the browser's profile.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser that looks at pages of this address, and takes its certificate.
    pub async fn start(base: &str) -> Self {
        let port = free_port();
        let profile = tempfile::Builder::new()
            .prefix("terrapool-browser-")
            .tempdir()
            .expect("a temporary folder");
        let target = base
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .expect("an address with a port");
        let program = ["chromedriver", &format!("--port={port}")];
        let driver = secluded::start(profile.path(), target, port, &program).await;
        // chromedriver closes connections that wait, also at the moment when the next command is sent on one.
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client");
        let address = format!("http://127.0.0.1:{port}");
        let status = format!("{address}/status");
        let ready = until(PATIENCE, async || {
            let answer: Value = http.get(&status).send().await.ok()?.json().await.ok()?;
            (answer["value"]["ready"] == true).then_some(())
        })
        .await;
        assert!(ready.is_some(), "chromedriver did not become ready");
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--ignore-certificate-errors".to_owned(),
            format!("--user-data-dir={}", profile.path().join("profile").display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "acceptInsecureCerts": true,
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let answer = http
            .post(format!("{address}/session"))
            .timeout(PATIENCE)
            .json(&wanted)
            .send()
            .await
            .expect("chromedriver answers");
        let answer: Value = answer.json().await.expect("chromedriver answers JSON");
        let id = answer["value"]["sessionId"].as_str();
        let id = id.unwrap_or_else(|| panic!("no browser: {answer}"));
        Self {
            session: format!("{address}/session/{id}"),
            driver,
            http,
            base: base.to_owned(),
            _profile: profile,
        }
    }

    async fn command(&self, path: &str, body: Option<&Value>) -> Result<Value, Value> {
        let address = format!("{}{path}", self.session);
        let request = match body {
            Some(body) => self.http.post(address).json(body),
            None => self.http.get(address),
        };
        let answer = request
            .timeout(PATIENCE)
            .send()
            .await
            .expect("the browser answers");
        let answer: Value = answer.json().await.expect("the browser answers JSON");
        if answer["value"]["error"].is_string() {
            return Err(answer["value"].clone());
        }
        Ok(answer["value"].clone())
    }

    async fn must(&self, path: &str, body: Option<&Value>) -> Value {
        match self.command(path, body).await {
            Ok(value) => value,
            Err(error) => panic!("{path} {body:?}: {error}"),
        }
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, name: &str, parameters: &Value) -> Value {
        let body = json!({"cmd": name, "params": parameters});
        self.must("/goog/cdp/execute", Some(&body)).await
    }

    /// Opens a page.
    pub async fn open(&self, path: &str) {
        let url = format!("{}{path}", self.base);
        self.must("/url", Some(&json!({"url": url}))).await;
    }

    /// The path of the page that is shown.
    pub async fn path(&self) -> String {
        let url = self.must("/url", None).await;
        let url = url.as_str().expect("a page has an address");
        url.strip_prefix(&self.base).unwrap_or(url).to_owned()
    }

    /// The title of the page.
    pub async fn title(&self) -> String {
        let title = self.must("/title", None).await;
        title.as_str().unwrap_or_default().to_owned()
    }

    async fn find(&self, selector: &str) -> Option<String> {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.command("/element", Some(&body)).await.ok()?;
        found[ELEMENT].as_str().map(str::to_owned)
    }

    /// Whether the page has such an element now.
    pub async fn has(&self, selector: &str) -> bool {
        self.find(selector).await.is_some()
    }

    async fn fail(&self, what: &str) -> ! {
        let text = self.text("body").await;
        panic!("{what} on {}\n{text}", self.path().await)
    }

    /// Waits for an element.
    pub async fn wait_for(&self, selector: &str) {
        let found = until(PATIENCE, async || self.find(selector).await).await;
        if found.is_none() {
            self.fail(&format!("no `{selector}`")).await;
        }
    }

    /// Waits until an element has a text in it.
    pub async fn wait_for_text(&self, selector: &str, text: &str) {
        let found = until(PATIENCE, async || {
            self.text(selector).await.contains(text).then_some(())
        })
        .await;
        if found.is_none() {
            self.fail(&format!("`{selector}` does not say `{text}`")).await;
        }
    }

    /// Waits until the page's path fits.
    pub async fn wait_for_path(&self, fits: impl Fn(&str) -> bool) -> String {
        let found = until(PATIENCE, async || {
            Some(self.path().await).filter(|path| fits(path))
        })
        .await;
        match found {
            Some(path) => path,
            None => self.fail("another page was expected").await,
        }
    }

    /// Waits until a script returns true on the page.
    pub async fn wait_for_script(&self, script: &str) {
        let found = until(PATIENCE, async || {
            (self.script(script).await == json!(true)).then_some(())
        })
        .await;
        if found.is_none() {
            self.fail(&format!("not true: {script}")).await;
        }
    }

    /// Clicks an element as soon as it can be clicked. Elements that are replaced meanwhile are looked for again.
    pub async fn click(&self, selector: &str) {
        let clicked = until(PATIENCE, async || {
            let element = self.find(selector).await?;
            let path = format!("/element/{element}/click");
            self.command(&path, Some(&json!({}))).await.ok()
        })
        .await;
        if clicked.is_none() {
            self.fail(&format!("`{selector}` can't be clicked")).await;
        }
    }

    /// Types into a field, instead of what is in it.
    pub async fn fill(&self, selector: &str, text: &str) {
        let typed = until(PATIENCE, async || {
            let element = self.find(selector).await?;
            let path = format!("/element/{element}/property/value");
            let value = self.command(&path, None).await.ok()?;
            if value.as_str().is_some_and(|value| !value.is_empty()) {
                let path = format!("/element/{element}/clear");
                self.command(&path, Some(&json!({}))).await.ok()?;
            }
            let path = format!("/element/{element}/value");
            self.command(&path, Some(&json!({"text": text}))).await.ok()
        })
        .await;
        if typed.is_none() {
            self.fail(&format!("`{selector}` can't be filled in")).await;
        }
    }

    /// The text of an element as it is seen; empty when there is none.
    pub async fn text(&self, selector: &str) -> String {
        let Some(element) = self.find(selector).await else {
            return String::new();
        };
        let text = self.command(&format!("/element/{element}/text"), None).await;
        text.ok()
            .and_then(|text| text.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// What a script returns on the page.
    pub async fn script(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.must("/execute/sync", Some(&body)).await
    }

    /// What is wrong with the page; empty when nothing is. A page that reloads by itself meanwhile is looked at again.
    pub async fn problems(&self) -> String {
        let body = json!({"script": PROBLEMS, "args": []});
        let found = until(PATIENCE, async || {
            let found = self.command("/execute/sync", Some(&body)).await.ok()?;
            found.as_str().map(str::to_owned)
        })
        .await;
        match found {
            Some(found) => found,
            None => self.fail("the page can't be looked at").await,
        }
    }

    /// The size of the window, a phone's when it is narrow, and the system's theme.
    pub async fn look(&self, width: u32, height: u32, dark: bool) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics)
            .await;
        let theme = if dark { "dark" } else { "light" };
        let media = json!({"features": [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.devtools("Emulation.setEmulatedMedia", &media).await;
    }

    /// What the page complained about since the last call: scripts' errors, refused resources, broken policies.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.must("/se/log", Some(&json!({"type": "browser"}))).await;
        log.as_array()
            .into_iter()
            .flatten()
            .filter(|entry| entry["level"] == "SEVERE")
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Keeps a picture of the whole page.
    pub async fn picture(&self, file: &Path) {
        let size = self.devtools("Page.getLayoutMetrics", &json!({})).await;
        let size = &size["cssContentSize"];
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let shot = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let shot = self.devtools("Page.captureScreenshot", &shot).await;
        let bytes = BASE64
            .decode(shot["data"].as_str().expect("a picture"))
            .expect("a picture is base64");
        std::fs::write(file, bytes).expect("a picture can be written");
    }
}

impl Browser {
    /// Asks the driver to end its browser, without an executor: this happens in a drop.
    fn end_session(&self) -> std::io::Result<()> {
        use std::io::{Read as _, Write as _};
        let rest = self.session.trim_start_matches("http://");
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut stream = std::net::TcpStream::connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(
            stream,
            "DELETE /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser's processes are the driver's to end; without an answer they end when their profile is gone.
        let _ = self.end_session();
        let _ = self.driver.start_kill();
    }
}
