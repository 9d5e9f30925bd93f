//! `ringnbd ctl resize`.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::question::{Form, Question, refused};
use crate::cli::Outcome;
use crate::cli::http::HttpAnswer;
use crate::cli::info::export_name;
use crate::cli::text::{human, json, print};
use crate::config::size::parse_size;

/// Which export, and its size from now on.
#[derive(Debug, clap::Args)]
pub(crate) struct ResizeCommand {
    /// Its name; '' is the default export
    name: String,
    /// Such as 100G; without it the server looks at the size of the file or device again
    size: Option<String>,
    /// It may become smaller: what lies behind the new end is lost
    #[arg(long)]
    shrink: bool,
    /// Cut clients off, so that those which connect again see the new size at once: attached devices do
    #[arg(long)]
    cut_off: bool,
    #[command(flatten)]
    pub(super) form: Form,
}

pub(super) fn question(command: &ResizeCommand) -> Result<Question, String> {
    let ResizeCommand { name, size, shrink, cut_off, .. } = command;
    let size = size.as_deref().map(parse_size).transpose().map_err(|error| error.to_string())?;
    let target = format!("/api/v1/resize/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let body = serde_json::json!({ "size": size, "shrink": shrink, "cut_off": cut_off });
    Ok(Question { body: body.to_string(), ..Question::new("POST", target) })
}

pub(super) fn show(command: &ResizeCommand, answer: &HttpAnswer) -> Outcome {
    match (answer.status, answer.body["size_bytes"].as_u64()) {
        (200, Some(_)) if command.form.json => print(&json(&answer.body)),
        (200, Some(size)) => {
            let (name, size) = (export_name(&command.name), human(size));
            print(&format!("{name} has {size}; clients see it when they connect again.\n"))
        }
        _ => refused(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes() {
        let command = |size: &str| ResizeCommand {
            name: "a/b".into(),
            size: Some(size.into()),
            shrink: true,
            cut_off: false,
            form: Form { json: false },
        };
        let asked = question(&command("2M")).unwrap();
        assert_eq!((asked.method, &*asked.target), ("POST", "/api/v1/resize/a%2Fb"));
        assert_eq!(asked.body, r#"{"cut_off":false,"shrink":true,"size":2097152}"#);
        assert!(question(&command("much")).is_err());
        let again = ResizeCommand { size: None, ..command("") };
        assert!(question(&again).unwrap().body.contains("\"size\":null"));
    }
}
