//! The Secret with a revision's drain token, and with the key that all revisions of a rollout share.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use rand::Rng as _;

use super::labels::{self, Parent};
use crate::drain::Token;

/// The Secret's key of the token, and the file's name in the pod.
pub const KEY: &str = "token";
/// The Secret's key of the identity key, and the file's name in the pod. Secrets of older operators have none.
pub const IDENTITY_KEY: &str = "identity-key";

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
pub fn build(parent: &Parent<'_>, revision: &str, token: &Token, identity_key: &str) -> Secret {
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
            [(KEY, token.expose()), (IDENTITY_KEY, identity_key)]
                .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
                .into(),
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
        let secret = build(&PARENT, "bcdfg24567", &token, &key);
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
        assert_eq!(read(&build(&PARENT, "x", &Token::new(""), "k")), None);
    }

    #[test]
    fn a_secret_of_an_older_operator_has_a_token_and_no_identity_key() {
        let mut secret = build(&PARENT, "x", &Token::new("t"), "k");
        secret.data.as_mut().unwrap().remove(IDENTITY_KEY);
        assert_eq!(
            (read(&secret), read_identity_key(&secret)),
            (Some(Token::new("t")), None)
        );
    }
}
