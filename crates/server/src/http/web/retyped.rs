//! Forms that ask for a name to be typed: what happens then cannot be undone. A button that the browser disables is no
//! check, so the server makes it, and answers the form with what was wrong.

use super::error::WebError;
use super::form::Fields;

/// A form whose typed name is another one, to be shown again with everything that was filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retyped {
    /// What was typed.
    pub typed: String,
    /// What has to be.
    pub expected: String,
    /// The other fields.
    pub fields: Vec<(String, String)>,
    /// What the form does, as its button says.
    pub button: &'static str,
    /// Where the form stood.
    pub back: String,
}

/// Refuses a form unless its field `name` has the name of what it is about. `button` is what the form does, as its
/// button says, and `back` the page that it stands on.
///
/// # Errors
/// [`WebError::Retyped`], which is shown as the form with the error under its field.
pub(super) fn require_name(
    fields: &Fields,
    name: &str,
    button: &'static str,
    back: &str,
) -> Result<(), WebError> {
    if fields.text("name") == name {
        return Ok(());
    }
    let others = fields.pairs().iter().filter(|(field, _)| field != "name");
    Err(WebError::Retyped(Box::new(Retyped {
        typed: fields.text("name").to_owned(),
        expected: name.to_owned(),
        fields: others.cloned().collect(),
        button,
        back: back.to_owned(),
    })))
}
