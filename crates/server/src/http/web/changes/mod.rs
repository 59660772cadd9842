//! Changes of resources, as a plan or two states tell them: what is shown, and in which order.

use std::fmt;

use super::parts::words::{Number, count};
use super::parts::{Escaped, Icon, Tone, html};

pub mod plan;
pub mod raw;
pub mod state;
mod values;

/// What happens to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is destroyed.
    Destroy,
    /// It is destroyed and made again.
    Replace {
        /// The new one is made first.
        create_first: bool,
    },
    /// It is made.
    Create,
    /// It is changed in place.
    Update,
    /// It has another address.
    Move,
    /// It is taken over.
    Import,
    /// It is only forgotten.
    Forget,
    /// It is read.
    Read,
    /// Its values were changed by somebody else.
    Outside,
}

impl Action {
    /// Colour, picture and word.
    pub fn look(self) -> (Tone, &'static str, &'static str) {
        match self {
            Self::Destroy => (Tone::Bad, "del", "destroy"),
            Self::Replace { .. } => (Tone::Bad, "rep", "replace"),
            Self::Create => (Tone::Good, "add", "create"),
            Self::Update => (Tone::Warn, "chg", "update in place"),
            Self::Move => (Tone::Mute, "mov", "moved"),
            Self::Import => (Tone::Mute, "imp", "import"),
            Self::Forget => (Tone::Mute, "discard", "forget"),
            Self::Read => (Tone::Mute, "read", "read"),
            Self::Outside => (Tone::Warn, "warn", "changed outside"),
        }
    }

    /// The value in addresses of filters.
    pub fn key(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Replace { .. } => "replace",
            Self::Create => "create",
            Self::Update => "change",
            Self::Move => "moved",
            Self::Import => "import",
            Self::Forget => "forget",
            Self::Read => "read",
            Self::Outside => "outside",
        }
    }

    /// The word of its filter.
    pub fn chip(self) -> &'static str {
        match self {
            Self::Destroy => "Destroy",
            Self::Replace { .. } => "Replace",
            Self::Create => "Add",
            Self::Update => "Change",
            Self::Move => "Moved",
            Self::Import => "Import",
            Self::Forget => "Forget",
            Self::Read => "Read",
            Self::Outside => "Changed outside",
        }
    }

    /// Whether something that exists is destroyed.
    pub fn destroys(self) -> bool {
        match self {
            Self::Destroy | Self::Replace { .. } => true,
            Self::Create
            | Self::Update
            | Self::Move
            | Self::Import
            | Self::Forget
            | Self::Read
            | Self::Outside => false,
        }
    }
}

/// The action's picture with its word for readers.
#[derive(Debug, Clone, Copy)]
pub struct Sign(pub Action);

impl fmt::Display for Sign {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tone, icon, word) = self.0.look();
        write!(
            out,
            r#"<span class="act {tone}">{}</span>"#,
            super::parts::NamedIcon(icon, word)
        )
    }
}

/// The same for templates, which hand over references.
pub fn sign(action: &Action) -> Sign {
    Sign(*action)
}

/// One side of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A value.
    Text(String),
    /// It is known after the apply.
    Unknown,
    /// It is never shown.
    Sensitive,
    /// There is none.
    Null,
}

/// Characters of a value that are shown.
const LONGEST: usize = 2000;

impl Shown {
    fn write(&self, out: &mut fmt::Formatter<'_>, tag: &str) -> fmt::Result {
        match self {
            Self::Text(text) => {
                let cut: String = text.chars().take(LONGEST).collect();
                let more = text.chars().count().saturating_sub(LONGEST);
                let (open, close) = if tag.is_empty() {
                    (String::new(), String::new())
                } else {
                    (format!("<{tag}>"), format!("</{tag}>"))
                };
                write!(out, "{open}")?;
                for (number, line) in cut.lines().enumerate() {
                    if number > 0 {
                        out.write_str("<br>")?;
                    }
                    write!(out, "{}", Escaped(line))?;
                }
                write!(out, "{close}")?;
                if more > 0 {
                    write!(out, "<em> … {} more characters</em>", Number(more as u64))?;
                }
                Ok(())
            }
            Self::Unknown => out.write_str("<em>known after apply</em>"),
            Self::Sensitive => out.write_str("<em>sensitive value</em>"),
            Self::Null => out.write_str("<em>null</em>"),
        }
    }
}

/// An attribute that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its path.
    pub name: String,
    /// Its value before; `None` when there was none.
    pub old: Option<Shown>,
    /// Its value after; `None` when there is none.
    pub new: Option<Shown>,
    /// Its change is why the resource is replaced.
    pub forces: bool,
}

impl fmt::Display for Attribute {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tone, sign) = match (&self.old, &self.new) {
            _ if self.forces => (Tone::Bad, "!"),
            (None, _) => (Tone::Good, "+"),
            (Some(_), None) => (Tone::Bad, "−"),
            (Some(_), Some(_)) => (Tone::Warn, "~"),
        };
        write!(
            out,
            r#"<tr><td class="s {tone}">{sign}</td><th scope="row">{}</th><td>"#,
            Escaped(&self.name)
        )?;
        if let Some(old) = &self.old {
            old.write(out, "del")?;
        }
        if self.old.is_some() && self.new.is_some() {
            out.write_str(r#"<span class="arr" role="img" aria-label="becomes">→</span>"#)?;
        }
        if let Some(new) = &self.new {
            new.write(out, "ins")?;
        }
        if self.forces {
            write!(
                out,
                r#" <span class="tag bad">{}forces replacement</span>"#,
                Icon("rep")
            )?;
        }
        out.write_str("</td></tr>")
    }
}

/// What happens to a resource, or to an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happens.
    pub action: Action,
    /// Its module; empty for the root.
    pub module: String,
    /// Its address within the module.
    pub name: String,
    /// The attributes that differ.
    pub attributes: Vec<Attribute>,
    /// Attributes that are as they were.
    pub unchanged: usize,
    /// More about it: where it was moved from, its import's id.
    pub note: Option<String>,
    /// It was changed outside besides.
    pub also_outside: bool,
}

impl Change {
    /// The whole address.
    pub fn address(&self) -> String {
        if self.module.is_empty() {
            self.name.clone()
        } else {
            format!("{}.{}", self.module, self.name)
        }
    }

    /// The words at the end of its line: exceptions only.
    pub fn exceptions(&self) -> Exceptions<'_> {
        Exceptions(self)
    }

    /// How many attributes differ, in words.
    pub fn size(&self) -> String {
        count(self.attributes.len() as u64, "attribute", "attributes")
    }
}

/// What is special about a change.
#[derive(Debug, Clone, Copy)]
pub struct Exceptions<'a>(&'a Change);

impl fmt::Display for Exceptions<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = self.0;
        if change.also_outside {
            write!(
                out,
                r#"<span class="tag warn">{}also changed outside</span> "#,
                Icon("warn")
            )?;
        }
        match change.action {
            Action::Destroy => out.write_str(r#"<span class="tag bad">destroy</span>"#),
            Action::Replace { create_first: true } => {
                out.write_str(r#"<span class="tag bad">create, then destroy</span>"#)
            }
            Action::Replace { create_first: false } => {
                out.write_str(r#"<span class="tag bad">destroy, then create</span>"#)
            }
            Action::Move | Action::Import | Action::Forget => {
                write!(out, "{}", Escaped(change.note.as_deref().unwrap_or_default()))
            }
            Action::Create | Action::Update | Action::Read | Action::Outside => {
                write!(out, "{}", Escaped(&change.size()))
            }
        }
    }
}

html!(Sign, Attribute, Exceptions<'_>);

/// The changes of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name; "Root module" for the root.
    pub name: String,
    /// Whether it is open at first.
    pub open: bool,
    /// Its changes, in the order in which they are read.
    pub changes: Vec<Change>,
}

impl Module {
    /// "8 changes".
    pub fn size(&self) -> String {
        count(self.changes.len() as u64, "change", "changes")
    }
}

/// Changes up to which all modules are open.
const OPEN_UP_TO: usize = 60;

/// Changes by module: within one destroy, replace, create, change, then by address. The root comes last.
pub fn in_order(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by(|one, two| {
        (one.module.is_empty(), &one.module, one.action, &one.name).cmp(&(
            two.module.is_empty(),
            &two.module,
            two.action,
            &two.name,
        ))
    });
    changes
}

/// Groups changes by module, in their order.
pub fn by_module(changes: Vec<Change>) -> Vec<Module> {
    let open = changes.len() <= OPEN_UP_TO;
    let changes = in_order(changes);
    let mut modules: Vec<(String, Module)> = Vec::new();
    for change in changes {
        match modules.last_mut() {
            Some((path, module)) if *path == change.module => module.changes.push(change),
            _ => {
                let name = if change.module.is_empty() {
                    "Root module".to_owned()
                } else {
                    change.module.clone()
                };
                let module = Module {
                    name,
                    open,
                    changes: vec![change.clone()],
                };
                modules.push((change.module, module));
            }
        }
    }
    modules.into_iter().map(|(_, module)| module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(module: &str, name: &str, action: Action) -> Change {
        Change {
            action,
            module: module.to_owned(),
            name: name.to_owned(),
            attributes: Vec::new(),
            unchanged: 0,
            note: None,
            also_outside: false,
        }
    }

    #[test]
    fn modules_come_before_the_root_and_what_is_destroyed_before_the_rest() {
        let modules = by_module(vec![
            change("", "a.z", Action::Create),
            change("module.vpc", "a.b", Action::Update),
            change("module.vpc", "a.c", Action::Destroy),
            change("", "a.y", Action::Create),
        ]);
        let order: Vec<(&str, Vec<&str>)> = modules
            .iter()
            .map(|module| {
                (
                    module.name.as_str(),
                    module.changes.iter().map(|change| change.name.as_str()).collect(),
                )
            })
            .collect();
        assert_eq!(
            order,
            [
                ("module.vpc", vec!["a.c", "a.b"]),
                ("Root module", vec!["a.y", "a.z"])
            ]
        );
    }

    #[test]
    fn hostile_values_are_inert() {
        let attribute = Attribute {
            name: "<b>".to_owned(),
            old: Some(Shown::Text("<script>".to_owned())),
            new: Some(Shown::Sensitive),
            forces: false,
        };
        let html = attribute.to_string();
        assert!(
            html.contains("&lt;script&gt;") && html.contains("&lt;b&gt;"),
            "{html}"
        );
        assert!(!html.contains("<script>"));
    }
}
