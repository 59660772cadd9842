//! What every page has around its content.

use std::fmt;

use askama::Template;
use askama::filters::HtmlSafe;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Redirect, Response};
use terrapool_store::organizations::OrganizationRecord;
use terrapool_store::overview::Counts;

use super::assets;
use super::error::WebError;
use super::parts::time::Ago;
use super::parts::{Escaped, Tone, words};
use super::visitor::Visitor;

/// What handlers of pages return.
pub type Page = Result<Response, WebError>;

/// Where in the navigation a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Workspaces.
    Workspaces,
    /// Runs.
    Runs,
    /// Projects.
    Projects,
    /// Agent pools.
    Pools,
    /// Fleet.
    Fleet,
    /// Pool access.
    Access,
    /// Members and teams.
    People,
    /// Audit log.
    Audit,
    /// The organization's settings.
    Settings,
    /// The choice of an organization.
    Organizations,
    /// The user's own account.
    Account,
    /// The installation.
    Admin,
}

/// A step on the way to the page.
#[derive(Debug, Clone)]
pub struct Crumb {
    /// Its name.
    pub name: String,
    /// Its page; none for the page itself.
    pub address: Option<String>,
}

/// The organization in the navigation.
#[derive(Debug, Clone)]
pub struct Navigation {
    /// Its name.
    pub name: String,
    /// What stands beside the links.
    pub counts: Counts,
    /// What the visitor may look at.
    pub rights: Rights,
}

/// Which pages of an organization the visitor may look at, beyond those of every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Pages that show what waits and runs everywhere.
    pub reads_queues: bool,
    /// Pages of owners.
    pub manages: bool,
}

/// A sentence about what was just done.
#[derive(Debug, Clone)]
pub struct Flash {
    /// Its colour.
    pub tone: Tone,
    /// Its picture.
    pub icon: &'static str,
    /// The sentence.
    pub text: String,
}

/// What a page has around its content.
#[derive(Debug, Clone)]
pub struct Shell {
    /// Title of the tab.
    pub title: String,
    /// Where in the navigation it is.
    pub section: Section,
    /// The way to it.
    pub crumbs: Vec<Crumb>,
    /// The organization, on pages of one.
    pub organization: Option<Navigation>,
    /// Whose page it is.
    pub user: String,
    /// The letters that stand for the user.
    pub initials: String,
    /// Whether the user administers the installation.
    pub site_admin: bool,
    /// The page's own address.
    pub path: String,
    /// Where its events come from.
    pub events: Option<String>,
    /// Whether it reloads by itself where scripts are off.
    pub refreshes: bool,
    /// What was just done.
    pub flash: Option<Flash>,
    /// Since when the database has taken no writes.
    pub read_only: Option<Ago>,
    token: String,
    once: String,
    root: RootAttributes,
}

/// Attributes of `<html>` that hold for a whole page: theme, keys, events.
#[derive(Debug, Clone, Default)]
pub struct RootAttributes {
    /// The theme that was chosen; else the system's.
    pub theme: Option<Theme>,
    /// Single keys are switched off.
    pub keys_off: bool,
    /// Where events come from.
    pub events: Option<String>,
    /// The database takes no writes.
    pub read_only: bool,
}

/// A chosen theme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

impl Theme {
    /// The word in the cookie and in `data-theme`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// The theme of a word.
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "light" => Some(Self::Light),
            "dark" => Some(Self::Dark),
            _ => None,
        }
    }
}

impl fmt::Display for RootAttributes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(theme) = self.theme {
            write!(out, r#" data-theme="{}""#, theme.as_str())?;
        }
        if self.keys_off {
            out.write_str(r#" data-keys="off""#)?;
        }
        if self.read_only {
            out.write_str(" data-read-only")?;
        }
        if let Some(events) = &self.events {
            write!(out, r#" data-events="{}""#, Escaped(events))?;
        }
        Ok(())
    }
}

impl HtmlSafe for RootAttributes {}

/// The hidden fields that every form carries: the session's token, and a name for what the form makes, so that a form
/// that is sent twice makes it once.
#[derive(Debug, Clone)]
pub struct TokenField<'a> {
    token: &'a str,
    once: Option<&'a str>,
}

impl<'a> TokenField<'a> {
    /// The field with a session's token only, for forms that make nothing.
    pub fn new(token: &'a str) -> Self {
        Self { token, once: None }
    }

    /// The fields of a visitor's forms.
    pub fn of(visitor: &'a Visitor) -> Self {
        Self {
            token: &visitor.form_token,
            once: Some(&visitor.once),
        }
    }
}

impl fmt::Display for TokenField<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |out: &mut fmt::Formatter<'_>, name: &str, value: &str| {
            write!(
                out,
                r#"<input type="hidden" name="{name}" value="{}">"#,
                Escaped(value)
            )
        };
        hidden(out, "token", self.token)?;
        self.once.map_or(Ok(()), |once| hidden(out, "once", once))
    }
}

impl HtmlSafe for TokenField<'_> {}

/// The attribute that marks the current one among links.
#[derive(Debug, Clone, Copy)]
pub struct Current(pub bool);

impl fmt::Display for Current {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.0 { r#" aria-current="page""# } else { "" })
    }
}

impl HtmlSafe for Current {}

impl Shell {
    /// The frame of a page that belongs to no organization.
    pub fn new(visitor: &Visitor, section: Section, title: impl Into<String>) -> Self {
        let title = title.into();
        let user = visitor.user.username.clone();
        Self {
            crumbs: vec![Crumb {
                name: title.clone(),
                address: None,
            }],
            title,
            section,
            organization: None,
            initials: words::initials(&user),
            user,
            site_admin: visitor.user.site_admin,
            path: visitor.path.clone(),
            events: None,
            refreshes: false,
            flash: visitor.flash.clone(),
            read_only: visitor.read_only,
            token: visitor.form_token.clone(),
            once: visitor.once.clone(),
            root: visitor.root.clone(),
        }
    }

    /// The frame of a page of an organization.
    pub fn of(
        visitor: &Visitor,
        organization: &OrganizationRecord,
        counts: Counts,
        rights: Rights,
        section: Section,
        title: impl Into<String>,
    ) -> Self {
        let mut shell = Self::new(visitor, section, title);
        shell.organization = Some(Navigation {
            name: organization.name.clone(),
            counts,
            rights,
        });
        let page = shell.title.clone();
        shell.crumbs = vec![Crumb {
            name: organization.name.clone(),
            address: Some(format!("/app/{}/workspaces", organization.name)),
        }];
        shell.step(page, None);
        shell.title = format!("{} · {}", shell.title, organization.name);
        shell
    }

    /// Replaces the last step by these and itself.
    #[must_use]
    pub fn behind(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        let last = self.crumbs.pop();
        self.step(name.into(), Some(address.into()));
        self.crumbs.extend(last);
        self
    }

    fn step(&mut self, name: String, address: Option<String>) {
        self.crumbs.push(Crumb { name, address });
    }

    /// With events from here: an address with a query.
    #[must_use]
    pub fn live(mut self, events: impl fmt::Display) -> Self {
        let events = format!("{events}&v={}", assets::version());
        self.root.events = Some(events.clone());
        self.events = Some(events);
        self.refreshes = true;
        self
    }

    /// Attributes of `<html>`.
    pub fn root_attributes(&self) -> &RootAttributes {
        &self.root
    }

    /// The hidden fields of forms.
    pub fn token(&self) -> TokenField<'_> {
        TokenField {
            token: &self.token,
            once: Some(&self.once),
        }
    }

    /// Marks the link of the page's section.
    pub fn current(&self, section: Section) -> Current {
        Current(self.section == section)
    }
}

/// A page as an answer.
///
/// # Errors
/// [`WebError`] when the template fails.
pub fn html(template: &impl Template) -> Page {
    html_with(StatusCode::OK, template)
}

/// A page as an answer with another status.
///
/// # Errors
/// [`WebError`] when the template fails.
pub fn html_with(status: StatusCode, template: &impl Template) -> Page {
    let text = template
        .render()
        .map_err(|error| WebError::internal(format!("a page can't be written: {error}")))?;
    let mut response = (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response();
    response.extensions_mut().insert(WholePage);
    Ok(response)
}

/// Marks answers that are whole pages: they have shown what was just done.
#[derive(Debug, Clone, Copy)]
pub struct WholePage;

/// The answer to a form that did its work: look there now.
pub fn see(address: &str) -> Page {
    Ok(Redirect::to(address).into_response())
}

/// The same, with a sentence about what was done.
///
/// # Errors
/// [`WebError`] when the sentence can't be a header.
pub fn see_with(visitor: &Visitor, address: &str, sentence: &str) -> Page {
    Ok((
        [(axum::http::header::SET_COOKIE, visitor.flash_cookie(sentence))],
        Redirect::to(address),
    )
        .into_response())
}
