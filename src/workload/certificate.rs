//! The certificate with which a revision's sidecars prove who they are.
//!
//! A revision has a certificate authority of its own: its key signs one certificate and is dropped where it was made, so that nobody
//! can steal it, and nobody has to keep it. What is kept is the certificate of the authority, by which the operator knows the
//! revision's pods, and the certificate and key that the sidecars are mounted.
//!
//! Both are good for ten years. They live as long as the revision's pods, which are never restarted for a certificate's sake: an open
//! session is worth more than a fresh key, and a new revision brings one anyway.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// How long certificates are good for.
const YEARS: i16 = 10;

/// What was issued, all of it PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate of the authority: whom the operator trusts.
    pub authority: String,
    /// The sidecars' certificate.
    pub certificate: String,
    /// Its key. Never shown by `Debug`.
    pub key: String,
}

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name does not fit a certificate, or no key could be made.
    #[error("failed to issue a certificate for the sidecars")]
    Issue(#[source] rcgen::Error),
    /// The clock is so far off that no date can be reckoned with.
    #[error("failed to reckon a certificate's dates")]
    Clock(#[source] jiff::Error),
}

/// The name that a rollout's sidecars prove. No DNS server knows it: pods are dialled by address.
pub fn server_name(rollout: &str) -> String {
    format!("sidecar.{rollout}.wsroll")
}

/// Issues a certificate for the sidecars of a revision. It is good from the day before, since clocks differ.
pub fn issue(rollout: &str, revision: &str, now: Timestamp) -> Result<Issued, Error> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let from = today.checked_sub(1.day()).map_err(Error::Clock)?;
    let until = today.checked_add(YEARS.years()).map_err(Error::Clock)?;
    let dated = |names: Vec<String>, title: String| {
        let mut params = CertificateParams::new(names).map_err(Error::Issue)?;
        let midnight = |date: Date| {
            let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
            rcgen::date_time_ymd(i32::from(date.year()), month, day)
        };
        params.not_before = midnight(from);
        params.not_after = midnight(until);
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, title);
        Ok(params)
    };

    let mut authority = dated(Vec::new(), format!("wsroll {rollout} {revision}"))?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let own_key = KeyPair::generate().map_err(Error::Issue)?;
    let authority = CertifiedIssuer::self_signed(authority, own_key).map_err(Error::Issue)?;

    let mut server = dated(vec![server_name(rollout)], "wsroll sidecar".to_owned())?;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(Error::Issue)?;
    let certificate = server.signed_by(&key, &authority).map_err(Error::Issue)?;
    Ok(Issued {
        authority: authority.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_revision_has_an_authority_of_its_own() {
        let now = "2026-11-22T08:00:00Z".parse().unwrap();
        let (one, other) = (issue("chat", "a", now).unwrap(), issue("chat", "b", now).unwrap());
        assert_ne!(one.authority, other.authority);
        assert_ne!(one.key, other.key);
        for (text, kind) in [
            (&one.authority, "CERTIFICATE"),
            (&one.certificate, "CERTIFICATE"),
            (&one.key, "PRIVATE KEY"),
        ] {
            assert!(text.starts_with(&format!("-----BEGIN {kind}-----")), "{kind}");
        }
        assert!(!format!("{one:?}").contains("BEGIN"));
    }

    #[test]
    fn a_leap_day_and_a_name_with_dots_are_fine() {
        issue("a.b-c.d", "r", "2028-02-29T23:59:59Z".parse().unwrap()).unwrap();
    }
}
