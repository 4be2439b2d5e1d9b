//! What probes show of themselves: tokens and TLS, read from Secrets or got by a login, seldom, and never told.

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use tokio::time::Instant;

use super::context::{Context, Memory, lock};
use crate::api::ValidatedRollout;
use crate::api::spec::{LoginMethod, SecretKeyRef, TokenFrom, TokenLogin};
use crate::engine::observed::Problem;
use crate::session::{Login, Tls, TlsFiles, Token};

/// How long what was read from a Secret is good for.
const SECRET_AGE: Duration = Duration::from_secs(30);
/// How long a failure is believed, and how long a login whose token is refused is left alone.
const RETRY: Duration = Duration::from_secs(10);

/// The reason of what is no fault of the spec.
const UNREADABLE: &str = "SecretUnreadable";

/// What is known of the probes' credentials.
#[derive(Default)]
pub struct Credentials {
    own: Known,
    other: Known,
    tls: Option<(Instant, TlsFiles, Result<Tls, Trouble>)>,
}

impl Credentials {
    /// The tokens that are known now.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        [&self.own, &self.other]
            .into_iter()
            .filter_map(|known| known.token.as_ref())
    }
}

/// A token, and where it is from.
#[derive(Default)]
struct Known {
    from: Option<TokenFrom>,
    at: Option<Instant>,
    token: Option<Token>,
    trouble: Option<Trouble>,
}

/// Why there is none: a reason of a condition, and a sentence with field, value and remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    reason: &'static str,
    message: String,
}

/// Whose token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The probes' user.
    Own,
    /// Somebody else's.
    Other,
}

// === tokens ===

/// The token, if the spec names one. Sessions that hold it dial with a new one as soon as there is one.
pub async fn token(
    ctx: &Context,
    rollout: &ValidatedRollout,
    whose: Whose,
    memory: &Mutex<Memory>,
) -> Result<Option<Token>, Trouble> {
    let Some(from) = whose.from(rollout) else {
        return Ok(None);
    };
    if let Some(known) = whose.known(&mut lock(memory).credentials).fresh(from) {
        return known.map(Some);
    }
    let field = whose.field();
    let read = match (&from.secret_key_ref, &from.login) {
        (Some(reference), None) => {
            let bytes = secret(ctx, rollout, reference, field).await;
            bytes.and_then(|bytes| text(bytes, reference, field))
        }
        (None, Some(login)) => log_in(ctx, rollout, login, field, memory).await,
        _ => Err(Trouble::new(
            "SecretMissing",
            format!("{field} has not exactly one of secretKeyRef and login; keep one of them"),
        )),
    };
    let mut memory = lock(memory);
    whose.known(&mut memory.credentials).learn(from, read).map(Some)
}

impl Whose {
    fn from(self, rollout: &ValidatedRollout) -> Option<&TokenFrom> {
        match self {
            Self::Own => rollout.spec.probes.token_from.as_ref(),
            Self::Other => rollout.spec.probes.other_token_from.as_ref(),
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::Own => "spec.probes.tokenFrom",
            Self::Other => "spec.probes.otherTokenFrom",
        }
    }

    fn known(self, credentials: &mut Credentials) -> &mut Known {
        match self {
            Self::Own => &mut credentials.own,
            Self::Other => &mut credentials.other,
        }
    }
}

impl Known {
    /// What is still good.
    fn fresh(&self, from: &TokenFrom) -> Option<Result<Token, Trouble>> {
        let age = self.at.filter(|_| self.from.as_ref() == Some(from))?.elapsed();
        if let Some(trouble) = &self.trouble {
            return (age < RETRY).then(|| self.token.clone().ok_or_else(|| trouble.clone()));
        }
        let token = self.token.as_ref()?;
        let good_for = match &from.login {
            // Somebody took it back, or it expired sooner than was thought.
            Some(_) if token.was_refused() => RETRY,
            Some(login) => login.refresh.0,
            None => SECRET_AGE,
        };
        (age < good_for).then(|| Ok(token.clone()))
    }

    fn learn(&mut self, from: &TokenFrom, read: Result<String, Trouble>) -> Result<Token, Trouble> {
        self.at = Some(Instant::now());
        if self.from.as_ref() != Some(from) {
            self.from = Some(from.clone());
            self.token = None;
        }
        match read {
            Ok(value) => {
                self.trouble = None;
                if let Some(token) = &self.token {
                    token.renew(value);
                    return Ok(token.clone());
                }
                let token = Token::new(value);
                self.token = Some(token.clone());
                Ok(token)
            }
            Err(trouble) => {
                self.trouble = Some(trouble.clone());
                // Probes that run go on with what they have: the service will say when it is too old.
                self.token.clone().ok_or(trouble)
            }
        }
    }
}

async fn log_in(
    ctx: &Context,
    rollout: &ValidatedRollout,
    spec: &TokenLogin,
    field: &str,
    memory: &Mutex<Memory>,
) -> Result<String, Trouble> {
    let trouble = |what: String| {
        Trouble::new(
            "LoginFailed",
            format!(
                "{field}.login: {} {:?}: {what}; correct the login, or mend what answers it",
                method(spec.method),
                spec.url
            ),
        )
    };
    let bad = |error: crate::session::ConfigError| trouble(error.to_string());
    let mut login = Login::new(&spec.url, &spec.token_path)
        .and_then(|login| login.method(method(spec.method)))
        .map_err(bad)?
        .outbound(ctx.outbound.clone());
    for (name, value) in &spec.headers {
        login = login.header(name, value).map_err(bad)?;
    }
    if let Some(body) = &spec.body {
        login = login.body(body.clone().into_bytes());
    }
    if let Some(from) = &spec.body_from {
        let field = format!("{field}.login.bodyFrom");
        login = login.body(secret(ctx, rollout, &from.secret_key_ref, &field).await?);
    }
    if spec.url.starts_with("https://")
        && let Some(tls) = tls(ctx, rollout, memory).await?
    {
        // The name is the probes' own: the login has one in its URL.
        login = login.secured(&tls, None);
    }
    login.token().await.map_err(|error| trouble(error.to_string()))
}

fn method(method: LoginMethod) -> &'static str {
    match method {
        LoginMethod::Post => "POST",
        LoginMethod::Get => "GET",
        LoginMethod::Put => "PUT",
    }
}

// === TLS ===

/// The TLS set-up, if the spec names one. It is made anew only where the Secrets changed, so that probes may go on.
pub async fn tls(
    ctx: &Context,
    rollout: &ValidatedRollout,
    memory: &Mutex<Memory>,
) -> Result<Option<Tls>, Trouble> {
    let Some(spec) = &rollout.spec.probes.tls else {
        return Ok(None);
    };
    if let Some((at, _, made)) = &lock(memory).credentials.tls {
        let good_for = if made.is_ok() { SECRET_AGE } else { RETRY };
        if at.elapsed() < good_for {
            return made.clone().map(Some);
        }
    }
    let field = "spec.probes.tls";
    let mut files = TlsFiles::default();
    if let Some(from) = &spec.ca_from {
        let field = format!("{field}.caFrom");
        files.roots = Some(secret(ctx, rollout, &from.secret_key_ref, &field).await?);
    }
    if let Some(from) = &spec.client_certificate {
        let field = format!("{field}.clientCertificate");
        let key = |key: &str| SecretKeyRef {
            name: from.name.clone(),
            key: key.to_owned(),
        };
        let certificate = secret(ctx, rollout, &key("tls.crt"), &field).await?;
        let private = secret(ctx, rollout, &key("tls.key"), &field).await?;
        files.client = Some((certificate, private));
    }
    let mut memory = lock(memory);
    let known = memory.credentials.tls.take();
    let made = match known {
        Some((_, known, made)) if known == files => made,
        _ => Tls::new(&files).map_err(|error| {
            Trouble::new(
                "TlsInvalid",
                format!("{field} cannot be used: {error}; correct the Secret that it names"),
            )
        }),
    };
    memory.credentials.tls = Some((Instant::now(), files, made.clone()));
    made.map(Some)
}

// === problems ===

/// What stands in the way of probes, before they are needed.
pub async fn problems(ctx: &Context, rollout: &ValidatedRollout, memory: &Mutex<Memory>) -> Vec<Problem> {
    let mut troubles = vec![tls(ctx, rollout, memory).await.err()];
    for whose in [Whose::Own, Whose::Other] {
        let trouble = token(ctx, rollout, whose, memory).await.err();
        let known = lock(memory);
        let credentials = &known.credentials;
        let kept = match whose {
            Whose::Own => &credentials.own,
            Whose::Other => &credentials.other,
        };
        let kept = kept.trouble.clone().filter(|_| whose.from(rollout).is_some());
        troubles.push(trouble.or(kept));
    }
    let mut found: Vec<Problem> = troubles
        .into_iter()
        .flatten()
        // What the API server did not answer now it may answer in the next round.
        .filter(|trouble| trouble.reason != UNREADABLE)
        .map(|trouble| Problem {
            reason: trouble.reason,
            message: trouble.message,
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

async fn secret(
    ctx: &Context,
    rollout: &ValidatedRollout,
    reference: &SecretKeyRef,
    field: &str,
) -> Result<Vec<u8>, Trouble> {
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &rollout.namespace);
    let secret = ctx
        .read("read what the probes show", secrets.get_opt(&reference.name))
        .await
        .map_err(|error| Trouble::new(UNREADABLE, format!("{field}: {error}; the operator tries again")))?;
    let missing = |what: &str| {
        Trouble::new(
            "SecretMissing",
            format!(
                "{field} names key {:?} of Secret {:?}, which {what}; create it, or correct the reference",
                reference.key, reference.name
            ),
        )
    };
    let secret = secret.ok_or_else(|| missing("does not exist"))?;
    let bytes = secret.data.and_then(|mut data| data.remove(&reference.key));
    bytes
        .map(|bytes| bytes.0)
        .ok_or_else(|| missing("has no such key"))
}

fn text(bytes: Vec<u8>, reference: &SecretKeyRef, field: &str) -> Result<String, Trouble> {
    let text = String::from_utf8(bytes).map(|text| text.trim().to_owned());
    text.map_err(|_| {
        Trouble::new(
            "SecretMissing",
            format!(
                "{field} names key {:?} of Secret {:?}, which is no text; put the token there",
                reference.key, reference.name
            ),
        )
    })
}

impl Trouble {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn from(value: serde_json::Value) -> TokenFrom {
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_of_a_login_is_used_until_it_is_old_or_refused_and_then_renewed_where_it_is_held() {
        let login = from(json!({"login": {"url": "http://auth/", "tokenPath": "$.t", "refresh": "60s"}}));
        let mut known = Known::default();
        assert!(known.fresh(&login).is_none());
        let held = known.learn(&login, Ok("one".to_owned())).unwrap();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(known.fresh(&login).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(known.fresh(&login).is_none());
        known.learn(&login, Ok("two".to_owned())).unwrap();
        assert_eq!(&*held.reveal(), "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_login_is_tried_again_and_another_spec_is_another_token() {
        let login = from(json!({"login": {"url": "http://auth/", "tokenPath": "$.t"}}));
        let mut known = Known::default();
        let trouble = Trouble::new("LoginFailed", "no".to_owned());
        assert!(known.learn(&login, Err(trouble)).is_err());
        assert!(known.fresh(&login).is_some_and(|known| known.is_err()));
        tokio::time::advance(RETRY).await;
        assert!(known.fresh(&login).is_none());
        let held = known.learn(&login, Ok("one".to_owned())).unwrap();
        let secret = from(json!({"secretKeyRef": {"name": "a", "key": "b"}}));
        assert!(known.fresh(&secret).is_none());
        let gone = Trouble::new("LoginFailed", "no".to_owned());
        let kept = known.learn(&login, Err(gone)).unwrap();
        assert_eq!(&*kept.reveal(), "one");
        assert!(known.trouble.is_some(), "probes go on, and the trouble is told");
        known.learn(&secret, Ok("two".to_owned())).unwrap();
        assert_eq!(&*held.reveal(), "one");
    }
}
