//! Where requests are taken: who asks, and the engine that works for them.
//!
//! Guarantees: a handler can only get an engine that is bound to the tenant of the request's token ([`Asked`]); the one for everything is
//! private to this module. What is not asked with a good token is answered with 401 or 403 before any route is looked at.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tailwater_config::access;
use tailwater_config::settings::Query;
use tailwater_runtime::access::{Access, Denied, Role};

use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::limits::Limits;

/// The engine and who may use it.
#[derive(Debug, Clone)]
pub struct Desk {
    engine: Engine,
    access: Arc<Access>,
    /// `None`: no tenant has a limit of its own unless the file of tokens says so.
    settings: Option<Arc<Query>>,
    /// `None`: the clock of this machine.
    now_ms: Option<i64>,
}

impl Desk {
    /// Asks `access` who is asking; the limits of tenants are those of the settings.
    pub fn new(engine: Engine, access: Arc<Access>, settings: Query) -> Desk {
        Desk {
            engine,
            access,
            settings: Some(Arc::new(settings)),
            now_ms: None,
        }
    }

    /// Everybody is the tenant `default`.
    pub fn open(engine: Engine) -> Desk {
        Desk {
            engine,
            access: Access::anybody(),
            settings: None,
            now_ms: None,
        }
    }

    /// The same with a clock that stands, ms since 1970. For tests of what depends on it.
    #[doc(hidden)]
    #[must_use]
    pub fn at(self, now_ms: i64) -> Desk {
        Desk {
            now_ms: Some(now_ms),
            ..self
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        self.engine.limits()
    }

    fn bound(&self, request: &Request) -> Result<Engine, Denied> {
        let who = self.access.ask(request.headers(), Role::Read, "query")?;
        let overrides = self.access.overrides(&who.tenant);
        let settings = self.settings.as_deref();
        let queries = settings.and_then(|settings| access::queries(settings, overrides.as_ref()));
        let plans = who.has(Role::Admin);
        Ok(self.engine.for_tenant(who.tenant, queries, plans))
    }
}

/// When a request is answered, ms since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now(pub i64);

impl FromRequestParts<Desk> for Now {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, desk: &Desk) -> Result<Now, Infallible> {
        Ok(Now(desk.now_ms.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })))
    }
}

/// The engine of the tenant that asks.
#[derive(Debug, Clone)]
pub(super) struct Asked(pub Engine);

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Asked, Error> {
        let bound = parts.extensions.get::<Asked>().cloned();
        bound.ok_or_else(|| Error::new(ErrorKind::Internal, "nobody looked who is asking"))
    }
}

/// The same, in one of the seats that the tenant has. Before the body in the arguments of a handler: what is refused for want of a seat is not read.
#[derive(Debug, Clone)]
pub(super) struct Seated(pub Engine);

impl<S: Sync> FromRequestParts<S> for Seated {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Seated, Error> {
        let Asked(engine) = Asked::from_request_parts(parts, state).await?;
        engine.sit()?;
        Ok(Seated(engine))
    }
}

/// Lets a request in, with its engine.
pub(super) async fn admit(State(desk): State<Desk>, mut request: Request, next: Next) -> Response {
    match desk.bound(&request) {
        Ok(engine) => {
            request.extensions_mut().insert(Asked(engine));
            next.run(request).await
        }
        Err(denied) => refuse(denied, request.uri().path()),
    }
}

/// In the words of the interface that was asked.
fn refuse(denied: Denied, path: &str) -> Response {
    if !path.starts_with("/prometheus/") {
        return tailwater_runtime::admin::refuse(denied);
    }
    let kind = if denied.is_forbidden() {
        "forbidden"
    } else {
        "unauthorized"
    };
    let body = json!({ "status": "error", "errorType": kind, "error": denied.to_string() });
    let mut response = (denied.http_status(), axum::Json(body)).into_response();
    if !denied.is_forbidden() {
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
