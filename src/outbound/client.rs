//! The HTTP client for URLs that people write.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use url::Url;

use super::policy::{Policy, Refused};
use super::resolve::Resolver;
use super::tls;

/// Calls what the policy lets it call. Cheap to clone: clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    policy: Arc<Policy>,
}

/// Why there is no answer. Holds neither path, query nor headers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// TLS could not be set up.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP client itself could not be made.
    #[error("failed to build the http client")]
    Build(#[source] reqwest::Error),
    /// The policy refuses the URL.
    #[error(transparent)]
    Refused(Refused),
    /// No connection, or no whole answer in time.
    #[error("failed to reach the URL's host")]
    Unreachable(#[source] reqwest::Error),
    /// A longer answer than the caller takes.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

// === impl Error ===

impl Error {
    /// A closed set, for metric labels and Event reasons.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Tls(_) | Self::Build(_) => "build",
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::TooLong(_) => "too_long",
        }
    }
}

// === impl Client ===

impl Client {
    /// A client whose calls take at most `timeout` each, look-up and body included. It follows no redirect, uses no proxy, and keeps
    /// no connection long: a name that moves is looked up, and checked, again.
    pub fn new(policy: Arc<Policy>, timeout: Duration) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(Resolver(Arc::clone(&policy))))
            .tls_backend_preconfigured(tls::public().map_err(Error::Tls)?)
            .pool_idle_timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(1)
            .user_agent(concat!("wsroll/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Build)?;
        Ok(Self { http, policy })
    }

    /// A request for a URL, where the policy has nothing against it. Addresses in the URL itself are checked here, since no look-up
    /// comes by them.
    pub fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, Error> {
        self.policy.check_url(url).map_err(Error::Refused)?;
        Ok(self.http.request(method, url.clone()))
    }

    /// Sends, and reads at most `most` bytes of the answer.
    pub async fn send(&self, request: RequestBuilder, most: usize) -> Result<(StatusCode, Vec<u8>), Error> {
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        Ok((status, read(answer, most).await?))
    }
}

/// Without the URL: a query may hold what is nobody's business. What the resolver refused is told as such.
fn failed(error: reqwest::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(one) = cause {
        if let Some(refused) = one.downcast_ref::<Refused>() {
            return Error::Refused(refused.clone());
        }
        cause = one.source();
    }
    Error::Unreachable(error.without_url())
}

async fn read(mut answer: Response, most: usize) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > most {
            return Err(Error::TooLong(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;

    use super::*;

    async fn serve() -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "hello" })).route(
            "/away",
            get(|| async { Redirect::to("http://169.254.169.254/latest") }),
        );
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    fn client(allowed: &[&str]) -> Client {
        let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
        Client::new(Arc::new(Policy::new(allowed)), Duration::from_secs(5)).unwrap()
    }

    async fn get_from(client: &Client, url: &str) -> Result<(u16, String), &'static str> {
        let url = Url::parse(url).unwrap();
        let request = client
            .request(Method::GET, &url)
            .map_err(|error| error.category())?;
        let (status, body) = client
            .send(request, 100)
            .await
            .map_err(|error| error.category())?;
        Ok((status.as_u16(), String::from_utf8(body).unwrap()))
    }

    #[tokio::test]
    async fn what_is_refused_is_never_sent_and_what_is_allowed_is() {
        let port = serve().await.port();
        let nobody = client(&[]);
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            assert_eq!(
                get_from(&nobody, &format!("http://{host}:{port}/")).await,
                Err("refused"),
                "{host}"
            );
        }
        // Names that only their address gives away: refused where they are looked up.
        let named = client(&["localhost"]);
        assert_eq!(
            get_from(&named, &format!("http://localhost:{port}/")).await,
            Ok((200, "hello".to_owned()))
        );
        assert_eq!(
            get_from(&named, &format!("http://127.0.0.1:{port}/")).await,
            Err("refused")
        );
        let local = client(&["127.0.0.1"]);
        let url = format!("http://127.0.0.1:{port}");
        assert_eq!(
            get_from(&local, &format!("{url}/")).await,
            Ok((200, "hello".to_owned()))
        );
        let (status, _) = get_from(&local, &format!("{url}/away")).await.unwrap();
        assert_eq!(status, 303, "a redirect is an answer, and is not followed");
    }

    #[tokio::test]
    async fn answers_have_a_limit() {
        let address = serve().await;
        let client = client(&["127.0.0.1"]);
        let url = Url::parse(&format!("http://{address}/")).unwrap();
        let request = client.request(Method::GET, &url).unwrap();
        assert_eq!(client.send(request, 4).await.unwrap_err().category(), "too_long");
    }
}
