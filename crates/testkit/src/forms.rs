//! A browser without scripts: cookies, pages and forms.

use std::collections::BTreeMap;

/// A browser: keeps cookies, does not follow redirects.
#[derive(Debug, Clone)]
pub struct FormBrowser {
    client: reqwest::Client,
    base: String,
    cookies: BTreeMap<String, String>,
}

/// What was answered.
#[derive(Debug)]
pub struct Seen {
    /// The status.
    pub status: u16,
    /// Where to go next; empty for nowhere.
    pub location: String,
    /// The content security policy.
    pub policy: String,
    /// The page.
    pub text: String,
}

impl FormBrowser {
    /// Looks at a server at this address. The client is made without redirects.
    pub fn new(base: &str, client: reqwest::ClientBuilder) -> Self {
        Self {
            client: client
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("a client can be made"),
            base: base.to_owned(),
            cookies: BTreeMap::new(),
        }
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Seen {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let answer = request
            .header("cookie", cookies.join("; "))
            .send()
            .await
            .expect("the server answers");
        for cookie in answer.headers().get_all("set-cookie") {
            let text = cookie.to_str().expect("a cookie is text");
            assert!(
                text.contains("HttpOnly") && text.contains("SameSite=Lax"),
                "{text}"
            );
            let pair = text.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').expect("a cookie has a name");
            if text.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let header = |name: &str| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Seen {
            status: answer.status().as_u16(),
            location: header("location"),
            policy: header("content-security-policy"),
            text: answer.text().await.expect("an answer has a body"),
        }
    }

    /// Asks for a page.
    pub async fn get(&mut self, path: &str) -> Seen {
        let request = self.client.get(format!("{}{path}", self.base));
        self.send(request).await
    }

    /// Sends a form.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Seen {
        let body: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let request = self
            .client
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"));
        self.send(request).await
    }

    /// Signs in by the page's form.
    pub async fn sign_in(&mut self, login: &str, password: &str) -> Seen {
        let token = self.token("/sign-in").await;
        let fields = [
            ("token", token.as_str()),
            ("login", login),
            ("password", password),
            ("to", "/app"),
        ];
        self.post("/sign-in", &fields).await
    }

    /// The token that the forms of a page carry.
    pub async fn token(&mut self, path: &str) -> String {
        hidden(&self.get(path).await.text, "token")
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// A hidden field of a page's forms.
pub fn hidden(html: &str, name: &str) -> String {
    let (_, rest) = html
        .split_once(&format!("name=\"{name}\" value=\""))
        .unwrap_or_else(|| panic!("the page has no field {name}: {html}"));
    rest.split('"').next().unwrap_or_default().to_owned()
}
