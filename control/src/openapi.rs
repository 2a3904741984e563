//! The OpenAPI 3.1 document, made of the table of endpoints and of the types that travel.

use hyper::Method;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::access::Access;
use crate::routes::{ENDPOINTS, Endpoint};

/// The document, for the server at `origin` (empty: the one that it was fetched from).
pub(crate) fn document(origin: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let mut operation = json!({
            "summary": endpoint.summary,
            "operationId": operation_id(endpoint),
            "parameters": parameters(endpoint),
            "responses": {
                endpoint.status.as_str(): success(endpoint, &(endpoint.answers)(&mut schemas).to_value()),
                "default": { "$ref": "#/components/responses/problem" },
            },
            "security": match endpoint.access {
                Access::Everybody => json!([]),
                Access::Relays | Access::Operator | Access::Tenant(_) => json!([{ "token": [] }]),
            },
        });
        if let Some(takes) = endpoint.takes {
            let schema = takes(&mut schemas).to_value();
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        let path = paths.entry(format!("/api/v1{}", endpoint.path)).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gatepass control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Identifiers are hexadecimal digits, signed bytes base64, times seconds since 1970 (UTC). \
                            What is signed is verified by agents and phones themselves, whoever brings it.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": if origin.is_empty() { "/" } else { origin } }],
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "responses": { "problem": {
                "description": "An RFC 9457 problem: what happened, to what, what to do next",
                "content": { "application/problem+json": { "schema": {
                    "type": "object",
                    "properties": {
                        "type": { "type": "string" }, "title": { "type": "string" },
                        "status": { "type": "integer" }, "detail": { "type": "string" },
                    },
                    "required": ["type", "title", "status", "detail"],
                } } },
            } },
        },
    })
}

fn operation_id(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{'));
    let by = if endpoint.path.ends_with('}') && !endpoint.is_list { "one" } else { "" };
    let words: Vec<&str> = words.chain([by]).filter(|word| !word.is_empty()).collect();
    format!("{}-{}", endpoint.method.as_str().to_ascii_lowercase(), words.join("-")).replace('.', "-")
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let places = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let place = |name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    let mut parameters: Vec<Value> = places.map(place).collect();
    if endpoint.is_list {
        parameters.push(json!({
            "name": "after", "in": "query", "schema": { "type": "string" },
            "description": "What the page before said is next",
        }));
        parameters.push(json!({
            "name": "limit", "in": "query", "schema": { "type": "integer", "minimum": 1, "maximum": 200 },
        }));
    }
    for (name, description) in endpoint.parameters {
        parameters
            .push(json!({ "name": name, "in": "query", "schema": { "type": "string" }, "description": description }));
    }
    let header = |name, description| json!({ "name": name, "in": "header", "schema": { "type": "string" }, "description": description });
    if endpoint.method == Method::PUT || endpoint.method == Method::DELETE {
        parameters.push(header("If-Match", "Only if it still is what this ETag says"));
    }
    let is_repeatable = endpoint.method == Method::POST && endpoint.access != Access::Everybody;
    if is_repeatable {
        parameters.push(header("Idempotency-Key", "Repeated with the same key within a day, it is not done twice"));
    }
    if endpoint.method == Method::GET {
        parameters.push(header("If-None-Match", "304 if it still is what this ETag says"));
    }
    parameters
}

fn success(endpoint: &Endpoint, schema: &Value) -> Value {
    let description = endpoint.status.canonical_reason().unwrap_or("Done");
    if *schema == Value::Bool(false) {
        return json!({ "description": description });
    }
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}
