//! The drain port, called with as much freedom as a caller with bad intentions has.

use std::time::Duration;

use http::{Method, header};
use serde_json::Value;

use crate::drain::http::with_roots;
use crate::drain::protocol::{DRAIN_PATH, DrainProgress, EVENTS_PATH, SESSIONS_PATH, SessionsReport};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, bytes: a full page of events and some more.
const MAX_ANSWER: usize = 512 * 1024;

/// What a request says of its sender.
#[derive(Clone, Copy, Debug)]
pub(super) enum Auth<'a> {
    /// The right token.
    Right,
    /// No header.
    Missing,
    /// This header.
    Header(&'a str),
}

/// The drain port of the implementation that is looked at.
#[derive(Clone)]
pub(super) struct Port {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// An answer, or the want of one.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// None where nothing came.
    pub(super) status: Option<u16>,
    pub(super) body: Vec<u8>,
    /// Why nothing came.
    trouble: String,
}

// === impl Port ===

impl Port {
    pub(super) fn new(url: &str, token: &str) -> Result<Self, reqwest::Error> {
        let http = with_roots(reqwest::Client::builder(), rustls::RootCertStore::empty())
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("wsroll-conformance/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            base: url.trim_end_matches('/').to_owned(),
            token: token.trim().to_owned(),
        })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        auth: Auth<'_>,
        body: Option<Vec<u8>>,
    ) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = match auth {
            Auth::Right => request.bearer_auth(&self.token),
            Auth::Missing => request,
            Auth::Header(value) => request.header(header::AUTHORIZATION, value),
        };
        if let Some(body) = body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        match request.send().await {
            Ok(response) => Answer::read(response).await,
            Err(error) => Answer::trouble(&error.without_url()),
        }
    }

    /// The report; the error says what is wrong with the answer.
    pub(super) async fn sessions(&self) -> Result<SessionsReport, String> {
        self.call(Method::GET, SESSIONS_PATH, Auth::Right, None)
            .await
            .json()
    }

    pub(super) async fn put(&self, order: &Value) -> Answer {
        self.call(
            Method::PUT,
            DRAIN_PATH,
            Auth::Right,
            Some(order.to_string().into_bytes()),
        )
        .await
    }

    pub(super) async fn delete(&self, id: &str) -> Answer {
        self.call(Method::DELETE, &format!("{DRAIN_PATH}/{id}"), Auth::Right, None)
            .await
    }

    pub(super) async fn events(&self, after: u64) -> Answer {
        self.call(
            Method::GET,
            &format!("{EVENTS_PATH}?after={after}"),
            Auth::Right,
            None,
        )
        .await
    }

    /// The progress of the order of this id, where the report tells it.
    pub(super) async fn progress(&self, id: &str) -> Option<DrainProgress> {
        let report = self.sessions().await.ok()?;
        report.drain.filter(|drain| drain.id == id)
    }
}

// === impl Answer ===

impl Answer {
    async fn read(mut response: reqwest::Response) -> Self {
        let status = Some(response.status().as_u16());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWER => body.extend_from_slice(&chunk),
                Ok(Some(_)) => {
                    return Self {
                        status: None,
                        body: Vec::new(),
                        trouble: format!("more than {MAX_ANSWER} bytes"),
                    };
                }
                Ok(None) => break,
                Err(error) => return Self::trouble(&error.without_url()),
            }
        }
        Self {
            status,
            body,
            trouble: String::new(),
        }
    }

    fn trouble(error: &dyn std::error::Error) -> Self {
        let mut last = error;
        while let Some(source) = last.source() {
            last = source;
        }
        Self {
            status: None,
            body: Vec::new(),
            trouble: last.to_string(),
        }
    }

    pub(super) fn is(&self, status: u16) -> bool {
        self.status == Some(status)
    }

    pub(super) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// The body of a 200; the error says what is wrong.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        if !self.is(200) {
            return Err(self.to_string());
        }
        serde_json::from_slice(&self.body).map_err(|error| format!("200, but {error}"))
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}"),
            None => write!(f, "no answer ({})", self.trouble),
        }
    }
}
