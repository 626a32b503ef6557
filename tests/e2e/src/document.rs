//! The OpenAPI document of a demo, held against its responses.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, Url};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::demo::Answer;

/// Where the demo has its document.
pub const PATH: &str = "/auth/openapi.json";

/// Fetches the document of a demo with the first response, and checks every response.
#[derive(Clone)]
pub struct Contract {
    url: Url,
    http: Client,
    document: Arc<OnceCell<Option<Document>>>,
}

impl Contract {
    pub fn new(base: &Url, http: Client) -> Self {
        Self { url: base.join(PATH).unwrap(), http, document: Arc::default() }
    }

    /// Panics if the document does not allow the response. A demo without a document may answer anything.
    pub async fn check(&self, method: &Method, path: &str, answer: &Answer) {
        let document = self.document.get_or_init(|| async {
            let response = self.http.get(self.url.clone()).timeout(Duration::from_secs(5)).send().await.ok()?;
            response.json().await.ok().map(Document::new)
        });
        if let Some(document) = document.await
            && let Err(problem) = document.check(method, path, answer)
        {
            let headers = &answer.headers;
            panic!(
                "not in the OpenAPI document: {method} {path}: {problem}: {} {headers:?} {}",
                answer.status,
                answer.text()
            );
        }
    }
}

/// An OpenAPI document.
pub struct Document(pub Value);

impl Document {
    pub const fn new(document: Value) -> Self {
        Self(document)
    }

    /// The operation for a request. `None` if the path is not in the document.
    fn operation(&self, method: &Method, path: &str) -> Option<Option<&Value>> {
        let paths = self.0["paths"].as_object().unwrap();
        let matches = |template: &str| {
            let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            let same = |(template, segment): (&&str, &&str)| {
                template == segment || (template.starts_with('{') && !segment.is_empty())
            };
            template.len() == path.len() && template.iter().zip(&path).all(same)
        };
        // A path without parameters comes first.
        let found =
            paths.get(path).or_else(|| paths.iter().find(|(template, _)| matches(template)).map(|(_, item)| item))?;
        Some(found.get(method.as_str().to_ascii_lowercase()))
    }

    /// Says what is wrong with a response.
    fn check(&self, method: &Method, path: &str, answer: &Answer) -> Result<(), String> {
        let operation = match self.operation(method, path) {
            None => return Ok(()),
            Some(None) if (400..500).contains(&answer.status) => return Ok(()),
            Some(None) if *method == Method::HEAD => return Ok(()),
            Some(None) => return Err("another method succeeds".to_owned()),
            Some(Some(operation)) => operation,
        };
        let response = operation["responses"].get(answer.status.to_string()).ok_or("another status")?;
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            if header["required"] == true && !answer.headers.contains_key(name) {
                return Err(format!("without the header {name}"));
            }
        }
        let Some(content) = response["content"].as_object() else {
            return if answer.body.is_empty() { Ok(()) } else { Err("a body".to_owned()) };
        };
        let kind = answer.header("content-type").unwrap_or_default();
        let content = content.get(kind).ok_or("another content type")?;
        if kind == "application/problem+json" {
            let codes = content["schema"]["properties"]["code"]["enum"].as_array().ok_or("no codes")?;
            let problem = answer.json();
            if !codes.contains(&problem["code"]) {
                return Err("another code".to_owned());
            }
        }
        Ok(())
    }
}
