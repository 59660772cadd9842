//! A browser without scripts: cookies, pages and forms.

use terrapool_protocol::secret::Secret;
use terrapool_server::admin::{self, UserRequest};

use crate::common::Plane;

/// A browser: keeps cookies, does not follow redirects.
pub struct Browser {
    client: reqwest::Client,
    base: String,
    cookies: std::collections::BTreeMap<String, String>,
}

pub struct Seen {
    pub status: u16,
    pub location: String,
    pub policy: String,
    pub text: String,
}

impl Browser {
    pub fn new(plane: &Plane) -> Self {
        Self {
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            base: plane.base(),
            cookies: std::collections::BTreeMap::new(),
        }
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Seen {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let answer = request.header("cookie", cookies.join("; ")).send().await.unwrap();
        for cookie in answer.headers().get_all("set-cookie") {
            let text = cookie.to_str().unwrap();
            assert!(
                text.contains("HttpOnly") && text.contains("SameSite=Lax"),
                "{text}"
            );
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            if text.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        Seen {
            status: answer.status().as_u16(),
            location: header("location"),
            policy: header("content-security-policy"),
            text: answer.text().await.unwrap(),
        }
    }

    pub async fn get(&mut self, path: &str) -> Seen {
        let request = self.client.get(format!("{}{path}", self.base));
        self.send(request).await
    }

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

    pub async fn sign_in(&mut self, login: &str, password: &str) -> Seen {
        let page = self.get("/sign-in").await;
        let token = form_token(&page.text);
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
        form_token(&self.get(path).await.text)
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

pub fn form_token(html: &str) -> String {
    let (_, rest) = html
        .split_once("name=\"token\" value=\"")
        .expect("the page has a form");
    rest.split('"').next().unwrap().to_owned()
}

pub const PASSWORD: &str = "correct horse battery";

pub async fn account(plane: &Plane, name: &str, site_admin: bool) {
    let request = UserRequest {
        username: name.to_owned(),
        email: format!("{name}@example.com"),
        site_admin,
        password: Some(Secret::new(PASSWORD)),
    };
    admin::create_user(&plane.running.app, request).await.unwrap();
}
