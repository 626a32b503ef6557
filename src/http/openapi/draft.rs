//! One operation of the document.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use http::StatusCode;
use http::header::{
    CACHE_CONTROL, ETAG, HeaderName, LOCATION, RETRY_AFTER, SET_COOKIE, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use serde_json::{Value, json};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    Content, Header, HeaderBuilder, OpenApi, RefOr, Required, Response, ResponseBuilder, Schema, SecurityRequirement,
};
use utoipa::openapi::{ContentBuilder, example::ExampleBuilder};

use super::refusals::{Refusals, when};
use super::schemas;
use crate::config::ResolvedSettings;
use crate::http::problem::Problem;
use crate::http::rejection::HX_REDIRECT;

const JSON: &str = "application/json";
const PROBLEM_JSON: &str = "application/problem+json";

/// An operation that is being described.
pub(super) struct Draft<'a> {
    settings: &'a ResolvedSettings,
    operation: OperationBuilder,
    responses: BTreeMap<String, Response>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(settings: &'a ResolvedSettings, tag: &str, id: &str, summary: &str, description: &str) -> Self {
        let operation = OperationBuilder::new()
            .tag(tag)
            .operation_id(Some(in_realm(settings, id)))
            .summary(Some(summary))
            .description(Some(description));
        Self { settings, operation, responses: BTreeMap::new() }
    }

    /// Who may call it: any of these is enough.
    pub(super) fn security(mut self, any_of: Vec<SecurityRequirement>) -> Self {
        self.operation = self.operation.securities(Some(any_of));
        self
    }

    pub(super) fn parameter(mut self, parameter: Parameter) -> Self {
        self.operation = self.operation.parameter(parameter);
        self
    }

    pub(super) fn body(
        mut self,
        required: Required,
        schema: impl Into<RefOr<Schema>>,
        examples: &[(&str, Value)],
    ) -> Self {
        let body = RequestBodyBuilder::new().required(Some(required)).content(JSON, content(schema, examples));
        self.operation = self.operation.request_body(Some(body.build()));
        self
    }

    /// Adds a response with these headers, beside those that every response of the routers has.
    pub(super) fn response(mut self, status: StatusCode, response: ResponseBuilder) -> Self {
        self.responses.insert(status.as_str().to_owned(), response.build());
        self
    }

    pub(super) fn refusals(mut self, refusals: Refusals, method: &http::Method) -> Self {
        self.responses.extend(self::refusals(self.settings, refusals, method));
        self
    }

    pub(super) fn finish(self) -> Operation {
        let responses: utoipa::openapi::Responses = self.responses.into_iter().collect();
        self.operation.responses(responses).build()
    }
}

/// A name that two realms of an app must not share.
pub(super) fn in_realm(settings: &ResolvedSettings, name: &str) -> String {
    match &settings.realm {
        Some(realm) => format!("{name}_{realm}"),
        None => name.to_owned(),
    }
}

/// The responses for refusals, by status.
pub(super) fn refusals(
    settings: &ResolvedSettings,
    refusals: Refusals,
    method: &http::Method,
) -> BTreeMap<String, Response> {
    let by_layer = refusals.by_layer;
    let step_up_page = settings.step_up_page.as_ref().filter(|_| refusals.step_up_by_layer);
    let mut by_status: BTreeMap<StatusCode, Vec<Problem>> = BTreeMap::new();
    for problem in refusals.into_problems() {
        by_status.entry(problem.status()).or_default().push(problem);
    }
    let mut responses = BTreeMap::new();
    for (status, problems) in &by_status {
        let mut response = refusal(*status, problems);
        let page = settings.login_page.as_ref().or(step_up_page).filter(|_| by_layer);
        if let (&StatusCode::UNAUTHORIZED, Some(page)) = (status, page.and_then(|page| page.to_str().ok())) {
            let page = header("Where htmx leads the user, if the request is one of htmx.", json!(page), false);
            response = with_header(response, &HX_REDIRECT, page);
        }
        responses.insert(status.as_str().to_owned(), response.build());
    }
    // A page that has to be loaded again is redirected, and so is a form to the page where a user authenticates again.
    let page = settings.login_page.as_ref().filter(|_| method.is_safe()).or(step_up_page);
    if let Some(page) = page.filter(|_| by_layer) {
        let location = format!("{}?next=/", page.to_str().unwrap_or_default());
        let vary = fixed("What the response depends on.", "accept, hx-request");
        let response = redirect("The request accepts a page, and would be refused with 401 otherwise.", &location);
        responses.insert("303".to_owned(), with_header(response, &VARY, vary).build());
    }
    responses
}

/// The response for these refusals, which have one status.
pub(super) fn refusal(status: StatusCode, problems: &[Problem]) -> ResponseBuilder {
    let line = |problem: &Problem| {
        format!("- `{}`: {}", problem.code(), when(problem.code())).trim_end_matches(": ").to_owned()
    };
    let lines: Vec<_> = problems.iter().map(line).collect();
    let schema = schemas::problem(Some(status.as_u16()), problems.iter().map(Problem::code));
    let examples: Vec<_> = problems.iter().map(|problem| (problem.code(), body_of(problem))).collect();
    let mut response = no_store(&lines.join("\n")).content(PROBLEM_JSON, content(schema, &examples));
    let challenges: Vec<_> = problems.iter().filter_map(Problem::challenge).collect();
    if let Some(challenge) = challenges.first().and_then(|challenge| challenge.to_str().ok()) {
        let schema = schemas::described("The challenge (RFC 6750 §3, RFC 9470 §3).").pattern(Some("^Bearer( .+)?$"));
        response = with_header(response, &WWW_AUTHENTICATE, header_of(schema, json!(challenge), true));
    }
    if let Some(seconds) = problems.iter().find_map(Problem::retry_after) {
        let schema = schemas::count("After how many seconds to try again.");
        let always = problems.iter().all(|problem| problem.retry_after().is_some());
        response = with_header(response, &RETRY_AFTER, header_of(schema, json!(seconds), always));
    }
    response
}

/// Adds a response to an operation. If it has refusals of the same status, it gets the codes of the other ones too; any other
/// response of the app's own stays as it is.
pub(super) fn add(operation: &mut Operation, status: String, response: Response) {
    match operation.responses.responses.entry(status) {
        Entry::Vacant(entry) => {
            entry.insert(response.into());
        }
        Entry::Occupied(mut entry) => {
            if let RefOr::T(known) = entry.get_mut() {
                merge(known, response);
            }
        }
    }
}

fn merge(known: &mut Response, mut added: Response) {
    let Some(RefOr::T(added_content)) = added.content.swap_remove(PROBLEM_JSON) else { return };
    let Some(RefOr::T(content)) = known.content.get_mut(PROBLEM_JSON) else { return };
    let (Some(codes), Some(others)) = (content.schema.as_mut().and_then(codes), added_content.schema.as_ref()) else {
        return;
    };
    let mut others = others.clone();
    for code in self::codes(&mut others).map(std::mem::take).unwrap_or_default() {
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    content.examples.extend(added_content.examples);
    for line in added.description.lines() {
        if !known.description.lines().any(|known| known == line) {
            known.description.push('\n');
            known.description.push_str(line);
        }
    }
    for (name, header) in added.headers {
        known.headers.entry(name).or_insert(header);
    }
}

/// The codes in the schema of refusals.
fn codes(schema: &mut RefOr<Schema>) -> Option<&mut Vec<Value>> {
    let RefOr::T(Schema::Object(problem)) = schema else { return None };
    let RefOr::T(Schema::Object(code)) = problem.properties.get_mut("code")? else { return None };
    code.enum_values.as_mut()
}

/// The operations of a document, with their methods.
pub(super) fn operations(document: &mut OpenApi) -> impl Iterator<Item = (http::Method, &mut Operation)> {
    document.paths.paths.values_mut().flat_map(|item| {
        let operations = [
            (http::Method::GET, &mut item.get),
            (http::Method::PUT, &mut item.put),
            (http::Method::POST, &mut item.post),
            (http::Method::DELETE, &mut item.delete),
            (http::Method::OPTIONS, &mut item.options),
            (http::Method::HEAD, &mut item.head),
            (http::Method::PATCH, &mut item.patch),
            (http::Method::TRACE, &mut item.trace),
        ];
        operations.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
    })
}

/// The body of a refusal as it is sent.
fn body_of(problem: &Problem) -> Value {
    serde_json::from_slice(problem.clone().render().body()).unwrap_or_default()
}

/// A response of the routers without a body: never cached.
pub(super) fn no_store(description: &str) -> ResponseBuilder {
    with_header(ResponseBuilder::new().description(description), &CACHE_CONTROL, fixed("Never cached.", "no-store"))
}

/// The same with a JSON body.
pub(super) fn json_response(description: &str, schema: impl Into<RefOr<Schema>>, example: Value) -> ResponseBuilder {
    no_store(description).content(JSON, ContentBuilder::new().schema(Some(schema)).example(Some(example)))
}

/// A redirect to a page.
pub(super) fn redirect(description: &str, location: &str) -> ResponseBuilder {
    with_header(no_store(description), &LOCATION, header("The page.", json!(location), true))
}

/// A response that is cached, and that is 304 while it is unchanged.
pub(super) fn cached(description: &str, cache: &str) -> ResponseBuilder {
    let response = ResponseBuilder::new().description(description);
    let response = with_header(response, &CACHE_CONTROL, fixed("How long it may be kept.", cache));
    let response = with_header(response, &X_CONTENT_TYPE_OPTIONS, fixed("The content type is exact.", "nosniff"));
    with_header(response, &ETAG, header("The entity tag of the body.", json!(schemas::TAG), true))
}

/// Adds the header that sets cookies; the example shows the first.
pub(super) fn sets_cookies(
    response: ResponseBuilder,
    description: &str,
    example: Option<&http::HeaderValue>,
    always: bool,
) -> ResponseBuilder {
    let example = example.and_then(|example| example.to_str().ok()).unwrap_or_default();
    with_header(response, &SET_COOKIE, header(description, json!(example), always))
}

pub(super) fn with_header(response: ResponseBuilder, name: &HeaderName, header: Header) -> ResponseBuilder {
    response.header(spelled(name), header)
}

/// The name of a header as the RFCs spell it. The case does not matter.
fn spelled(name: &HeaderName) -> String {
    let word = |word: &str| match word {
        "etag" => "ETag".to_owned(),
        "hx" | "www" => word.to_ascii_uppercase(),
        _ => word.get(..1).unwrap_or_default().to_ascii_uppercase() + word.get(1..).unwrap_or_default(),
    };
    name.as_str().split('-').map(word).collect::<Vec<_>>().join("-")
}

fn header(description: &str, example: Value, always: bool) -> Header {
    header_of(schemas::described(description), example, always)
}

/// A header that always has this value.
pub(super) fn fixed(description: &str, value: &str) -> Header {
    header_of(schemas::one_of([value]).description(Some(description)), json!(value), true)
}

fn header_of(schema: impl Into<RefOr<Schema>>, example: Value, always: bool) -> Header {
    // The builder has no field for it.
    let required = always.then(|| Extensions::from_iter([("required", true)]));
    HeaderBuilder::new().schema(Some(schema)).example(Some(example)).extensions(required).build()
}

fn content(schema: impl Into<RefOr<Schema>>, examples: &[(&str, Value)]) -> Content {
    let examples = examples.iter().map(|(name, value)| (*name, ExampleBuilder::new().value(Some(value.clone()))));
    ContentBuilder::new().schema(Some(schema)).examples_from_iter(examples).build()
}

pub(super) fn path_parameter(name: &str, schema: impl Into<RefOr<Schema>>, example: &str) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
    parameter.schema(Some(schema)).example(Some(json!(example))).build()
}

pub(super) fn header_parameter(name: &HeaderName, description: &str, example: &str) -> Parameter {
    let parameter =
        ParameterBuilder::new().name(spelled(name)).parameter_in(ParameterIn::Header).required(Required::False);
    parameter.description(Some(description)).schema(Some(schemas::text())).example(Some(json!(example))).build()
}
