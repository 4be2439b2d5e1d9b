//! A call to Prometheus or a webhook. Calls have limits of time and size, follow no redirect and carry no credentials.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::spec::Analysis;
use crate::outbound::{self, Client, Policy};

/// How long a call may take, connecting included.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read, bytes.
const MOST: usize = 64 * 1024;

/// Which release is asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Namespace of the rollout.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Number of the release.
    pub release: u64,
    /// Hash of the new revision.
    pub revision: String,
    /// Hash of the old one.
    pub stable: String,
    /// Index of the step, from 0.
    pub step: u32,
}

/// What a source answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// Prometheus' one number.
    Number(f64),
    /// A webhook's JSON.
    Body(Value),
}

/// Why there is no answer. Nothing that was read is in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("it cannot be called from here")]
    NoClient,
    #[error("its address is not a URL")]
    Address,
    #[error("it is not called: {0}")]
    Refused(String),
    #[error("it could not be reached: {0}")]
    Unreachable(&'static str),
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("its answer is longer than 64 KiB")]
    TooLong,
    #[error("its answer cannot be read: {0}")]
    Unreadable(&'static str),
    #[error("the query found nothing")]
    NoData,
    #[error("the query found {0} series: aggregate them to one")]
    ManySeries(usize),
    #[error("the condition cannot be evaluated: {0}")]
    Condition(String),
}

impl Error {
    /// The closed set that logs use.
    pub(super) fn category(&self) -> &'static str {
        match self {
            Self::NoClient => "NoClient",
            Self::Address => "Address",
            Self::Refused(_) => "Refused",
            Self::Unreachable(_) => "Unreachable",
            Self::Status(_) => "Status",
            Self::TooLong => "TooLong",
            Self::Unreadable(_) => "Unreadable",
            Self::NoData => "NoData",
            Self::ManySeries(_) => "ManySeries",
            Self::Condition(_) => "Condition",
        }
    }
}

/// A client that calls what the policy lets it call.
pub(super) fn client(policy: Arc<Policy>) -> Result<Client, outbound::Error> {
    Client::new(policy, LIMIT)
}

/// Asks a source once.
pub(super) async fn ask(client: &Client, analysis: &Analysis, subject: &Subject) -> Result<Answer, Error> {
    let request = if let Some(prometheus) = &analysis.prometheus {
        let base = prometheus.address.trim_end_matches('/');
        let mut url = url::Url::parse(&format!("{base}/api/v1/query")).map_err(|_| Error::Address)?;
        url.query_pairs_mut()
            .append_pair("query", &subject.fill(&prometheus.query));
        client.request(Method::GET, &url).map_err(|e| why(&e))?
    } else if let Some(webhook) = &analysis.webhook {
        let url = url::Url::parse(&webhook.url).map_err(|_| Error::Address)?;
        let request = client.request(Method::POST, &url).map_err(|e| why(&e))?;
        request.json(&json!({
            "analysis": analysis.name,
            "namespace": subject.namespace,
            "name": subject.name,
            "release": subject.release,
            "revision": subject.revision,
            "stable": subject.stable,
            "step": subject.step,
        }))
    } else {
        return Err(Error::Address);
    };
    let body = read(client, request).await?;
    if analysis.prometheus.is_some() {
        number(&body).map(Answer::Number)
    } else {
        serde_json::from_slice(&body)
            .map(Answer::Body)
            .map_err(|_| Error::Unreadable("it is not JSON"))
    }
}

async fn read(client: &Client, request: reqwest::RequestBuilder) -> Result<Vec<u8>, Error> {
    match client.send(request, MOST).await.map_err(|e| why(&e))? {
        (reqwest::StatusCode::OK, body) => Ok(body),
        // Prometheus says what is wrong with a query by 400 and 422: whose fault that is does not matter.
        (status, _) => Err(Error::Status(status.as_u16())),
    }
}

fn why(error: &outbound::Error) -> Error {
    match error {
        outbound::Error::Refused(refused) => Error::Refused(refused.to_string()),
        outbound::Error::TooLong(_) => Error::TooLong,
        outbound::Error::Unreachable(call) if call.is_timeout() => Error::Unreachable("no answer within 5 s"),
        outbound::Error::Unreachable(call) if call.is_connect() => Error::Unreachable("no connection"),
        _ => Error::Unreachable("the call failed"),
    }
}

/// The answer of `/api/v1/query`.
#[derive(Deserialize)]
struct Queried {
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

/// The one number of an instant query: a scalar, or a vector of one series.
fn number(body: &[u8]) -> Result<f64, Error> {
    let queried: Queried =
        serde_json::from_slice(body).map_err(|_| Error::Unreadable("it is not an answer of Prometheus"))?;
    let data = queried.data.ok_or(Error::NoData)?;
    let pair = match data.result_type.as_str() {
        "scalar" => data.result,
        "vector" => {
            let mut series: Vec<Value> = serde_json::from_value(data.result)
                .map_err(|_| Error::Unreadable("its vector is no list"))?;
            match (series.pop(), series.len()) {
                (None, _) => return Err(Error::NoData),
                (Some(mut one), 0) => one.get_mut("value").map(Value::take).unwrap_or_default(),
                (Some(_), others) => return Err(Error::ManySeries(others + 1)),
            }
        }
        _ => return Err(Error::Unreadable("it is neither a scalar nor a vector")),
    };
    let text = pair.get(1).and_then(Value::as_str);
    let number: f64 = text
        .and_then(|text| text.parse().ok())
        .ok_or(Error::Unreadable("its value is no number"))?;
    // 0/0: nothing was counted.
    if number.is_nan() {
        Err(Error::NoData)
    } else {
        Ok(number)
    }
}

// === impl Subject ===

impl Subject {
    /// Fills in a query's placeholders. Hashes and names of Kubernetes need no quoting.
    fn fill(&self, query: &str) -> String {
        query
            .replace("${namespace}", &self.namespace)
            .replace("${name}", &self.name)
            .replace("${revision}", &self.revision)
            .replace("${stable}", &self.stable)
    }
}
