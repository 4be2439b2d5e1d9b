//! The Secret with a revision's drain token, and with the key that all revisions of a rollout share.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use rand::Rng as _;

use super::certificate::Issued;
use super::labels::{self, Parent};
use crate::drain::Token;

/// The Secret's key of the token, and the file's name in the pod.
pub const KEY: &str = "token";
/// The Secret's key of the identity key, and the file's name in the pod. Secrets of older operators have none.
pub const IDENTITY_KEY: &str = "identity-key";

/// The Secret's keys of the sidecars' certificate and its key, and the files' names in the pod. Only Secrets of revisions with sidecars
/// have them.
pub const CERTIFICATE: &str = "tls.crt";
/// See [`CERTIFICATE`].
pub const CERTIFICATE_KEY: &str = "tls.key";
/// The Secret's key of the authority that issued the certificate: whom the operator trusts. Mounted nowhere.
pub const AUTHORITY: &str = "ca.crt";

/// A new random token: 32 bytes, as 64 hexadecimal characters.
pub fn random() -> Token {
    Token::new(&random_text())
}

/// A new random identity key, in the same form.
pub fn random_identity_key() -> String {
    random_text()
}

fn random_text() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// The Secret of a revision. It lives as long as the revision's pods; it is created once and never rewritten,
/// since pods keep the token they were started with.
pub fn build(
    parent: &Parent<'_>,
    revision: &str,
    token: &Token,
    identity_key: &str,
    issued: Option<&Issued>,
) -> Secret {
    let mut data = vec![(KEY, token.expose()), (IDENTITY_KEY, identity_key)];
    if let Some(Issued {
        authority,
        certificate,
        key,
    }) = issued
    {
        data.extend([
            (AUTHORITY, authority.as_str()),
            (CERTIFICATE, certificate),
            (CERTIFICATE_KEY, key),
        ]);
    }
    let mut labels = parent.labels();
    labels.extend(labels::revision_labels(parent.name, revision));
    Secret {
        metadata: ObjectMeta {
            name: Some(labels::token_name(parent.name, revision)),
            namespace: Some(parent.namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(parent.annotations()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(
            data.into_iter()
                .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// The token a Secret holds, if it holds one.
pub fn read(secret: &Secret) -> Option<Token> {
    text(secret, KEY).map(Token::new)
}

/// The identity key a Secret holds, if it holds one.
pub fn read_identity_key(secret: &Secret) -> Option<String> {
    text(secret, IDENTITY_KEY).map(str::to_owned)
}

/// The authority of the sidecars' certificate, PEM; `None` where the revision serves plain HTTP.
pub fn read_authority(secret: &Secret) -> Option<String> {
    text(secret, AUTHORITY).map(str::to_owned)
}

/// What is missing of a revision's seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The ReplicaSet says that its pods prove a name, and not by whose word.
    #[error("the Secret has no ca.crt, and the ReplicaSet's annotation wsroll.dev/drain-tls asks for one")]
    NoAuthority,
    /// The Secret has an authority, and nobody says what its pods prove.
    #[error("the ReplicaSet has no annotation wsroll.dev/drain-tls, and the Secret has a ca.crt")]
    NoName,
}

/// By what a revision's pods prove who they are: authority (PEM) and name. `Ok(None)` where it was created without. Either half alone
/// is broken, and never a reason to call in plain text: half of it is what somebody leaves who takes the other half away.
pub fn seal(secret: &Secret, name: Option<&str>) -> Result<Option<(String, String)>, Broken> {
    match (read_authority(secret), name) {
        (None, None) => Ok(None),
        (Some(authority), Some(name)) => Ok(Some((authority, name.to_owned()))),
        (None, Some(_)) => Err(Broken::NoAuthority),
        (Some(_), None) => Err(Broken::NoName),
    }
}

fn text<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: Parent<'_> = Parent {
        name: "chat",
        namespace: "prod",
        uid: "u-1",
    };

    #[test]
    fn a_token_comes_back_from_its_secret() {
        let token = random();
        let key = random_identity_key();
        let secret = build(&PARENT, "bcdfg24567", &token, &key, None);
        assert_eq!(secret.metadata.name.as_deref(), Some("chat-bcdfg24567-token"));
        assert_eq!(
            secret.metadata.owner_references, None,
            "a foreground delete would take the token from live pods"
        );
        assert_eq!(read(&secret), Some(token.clone()));
        assert_eq!(read_identity_key(&secret), Some(key));
        assert_eq!(token.expose().len(), 64);
        assert_ne!(token, random());
    }

    #[test]
    fn an_empty_secret_holds_no_token() {
        assert_eq!(read(&Secret::default()), None);
        assert_eq!(read(&build(&PARENT, "x", &Token::new(""), "k", None)), None);
    }

    #[test]
    fn half_a_seal_is_broken_and_never_plain_text() {
        let issued = Issued {
            authority: "ca".to_owned(),
            certificate: "crt".to_owned(),
            key: "key".to_owned(),
        };
        let sealed = build(&PARENT, "x", &Token::new("t"), "k", Some(&issued));
        let plain = build(&PARENT, "x", &Token::new("t"), "k", None);
        assert_eq!(
            seal(&sealed, Some("n")),
            Ok(Some(("ca".to_owned(), "n".to_owned())))
        );
        assert_eq!(seal(&plain, None), Ok(None), "of an older operator");
        assert_eq!(seal(&sealed, None), Err(Broken::NoName));
        assert_eq!(seal(&plain, Some("n")), Err(Broken::NoAuthority));
        let data = sealed.data.unwrap();
        assert_eq!(data[CERTIFICATE].0, b"crt");
        assert_eq!(data[CERTIFICATE_KEY].0, b"key");
    }

    #[test]
    fn a_secret_of_an_older_operator_has_a_token_and_no_identity_key() {
        let mut secret = build(&PARENT, "x", &Token::new("t"), "k", None);
        secret.data.as_mut().unwrap().remove(IDENTITY_KEY);
        assert_eq!(
            (read(&secret), read_identity_key(&secret)),
            (Some(Token::new("t")), None)
        );
    }
}
