//! Error documents.

use serde_json::{Value, json};

/// One problem with a request. Clients print title and detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Short text of the kind of problem.
    pub title: String,
    /// What is wrong, with what, and what to do.
    pub detail: String,
    /// JSON pointer to the part of the request, when it is one part.
    pub pointer: Option<String>,
}

impl Problem {
    /// A problem with an attribute of the request.
    pub fn attribute(name: &str, detail: impl Into<String>) -> Self {
        Self {
            title: "invalid attribute".to_owned(),
            detail: detail.into(),
            pointer: Some(format!("/data/attributes/{name}")),
        }
    }

    /// A problem with a relationship of the request.
    pub fn relationship(name: &str, detail: impl Into<String>) -> Self {
        Self {
            title: "invalid relationship".to_owned(),
            detail: detail.into(),
            pointer: Some(format!("/data/relationships/{name}")),
        }
    }

    /// A problem with the request as a whole.
    pub fn new(title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            detail: detail.into(),
            pointer: None,
        }
    }
}

/// The error document. The status is text: a number makes the Go client drop the whole message.
pub fn document(status: u16, problems: &[Problem]) -> Value {
    let errors: Vec<Value> = problems
        .iter()
        .map(|problem| {
            let mut error = json!({
                "status": status.to_string(),
                "title": problem.title,
                "detail": problem.detail,
            });
            if let (Value::Object(error), Some(pointer)) = (&mut error, &problem.pointer) {
                error.insert("source".to_owned(), json!({"pointer": pointer}));
            }
            error
        })
        .collect();
    json!({"errors": errors})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_error_is_text() {
        let value = document(422, &[Problem::attribute("name", "it is empty")]);
        assert_eq!(value["errors"][0]["status"], "422");
        assert_eq!(value["errors"][0]["source"]["pointer"], "/data/attributes/name");
    }
}
