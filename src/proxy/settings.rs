//! What a sidecar is told about its application. Frozen per revision, since it stands in the pod's template.

use std::time::Duration;

use super::fields::{FieldError, Fields};
use crate::api::spec::{CloseCodes, IdFrom, NoticeFormat, SidecarNotice};

/// The variable that holds the settings as JSON.
pub const SETTINGS_ENV: &str = "WSROLL_SIDECAR";

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Checked settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where the application listens, at 127.0.0.1.
    pub application_port: u16,
    /// Notices, by subprotocol, for clients that declared that they understand them.
    pub notices: Vec<SidecarNotice>,
    /// Close codes, by subprotocol, where the usual ones do not fit.
    pub close_codes: Vec<CloseCodes>,
    /// Where a session's identity is.
    pub session: Option<Identity>,
    /// Whether requests of one session are led to the pod that has it. Needs `session`.
    pub affinity: bool,
    /// Proxies in front whose `X-Forwarded-*` headers are believed.
    pub trusted_hops: u8,
    /// What the sidecar takes on.
    pub limits: Limits,
    /// A client silent for so long is pinged; silent for two of them it is dormant.
    pub ping_interval: Option<Duration>,
    /// With mode `whenIdle`: a session that had data within this time is busy.
    pub idle_for: Duration,
    /// How the pod drains when it is asked to end.
    pub shutdown: Shutdown,
}

/// Where a session's identity is in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A query parameter.
    Query(String),
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
}

/// What the sidecar takes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of clients at one time.
    pub connections: u32,
    /// Bytes of a request's head.
    pub header_bytes: u32,
    /// How long a client may take for a request's head, and the application for its answer to an upgrade.
    pub handshake_timeout: Duration,
    /// How long a socket may be silent in both directions; none: without end.
    pub idle_timeout: Option<Duration>,
}

/// The drain of a pod that is about to end.
#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    /// Sessions per second; more where they would not be done in time.
    pub rate_per_second: f64,
    /// How long it may take.
    pub within: Duration,
    /// The close code.
    pub close_code: u16,
}

// === impl Settings ===

impl Settings {
    /// Settings for an application on this port, all else being default.
    pub fn new(application_port: u16) -> Self {
        Self {
            application_port,
            notices: Vec::new(),
            close_codes: Vec::new(),
            session: None,
            affinity: false,
            trusted_hops: 1,
            limits: Limits {
                connections: 10_000,
                header_bytes: 16_384,
                handshake_timeout: Duration::from_secs(10),
                idle_timeout: None,
            },
            ping_interval: None,
            idle_for: Duration::from_secs(5),
            shutdown: Shutdown {
                rate_per_second: 50.0,
                within: Duration::from_secs(20),
                close_code: 1012,
            },
        }
    }

    /// Reads and checks settings. Every field but `applicationPort` has a default; unknown ones are ignored.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::parse(text.as_bytes(), "the settings")?;
        let application_port: u16 = fields.need("applicationPort")?;
        if application_port == 0 {
            return Err(fields.error("applicationPort", "must be 1 to 65535"));
        }
        let defaults = Self::new(application_port);
        let session = match fields.get::<IdFrom>("session")? {
            Some(from) => Some(Identity::of(from, &fields)?),
            None => None,
        };
        let affinity = fields.get("affinity")?.unwrap_or(false);
        if affinity && session.is_none() {
            return Err(fields.error("affinity", "needs session, which says where the identity is"));
        }
        let notices: Vec<SidecarNotice> = fields.get("notices")?.unwrap_or_default();
        check_notices(&notices, &fields)?;
        let close_codes: Vec<CloseCodes> = fields.get("closeCodes")?.unwrap_or_default();
        for code in close_codes
            .iter()
            .flat_map(|codes| [codes.client, codes.application])
        {
            if code.is_some_and(|code| !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)) {
                return Err(fields.error("closeCodes", "has a code that an endpoint may not send"));
            }
        }
        let mut limits = fields.object("limits")?;
        let mut shutdown = fields.object("shutdown")?;
        let settings = Self {
            application_port,
            notices,
            close_codes,
            session,
            affinity,
            trusted_hops: fields.number("trustedHops", defaults.trusted_hops, 0..=16)?,
            limits: Limits::of(&mut limits, &defaults.limits)?,
            ping_interval: milliseconds(&mut fields, "pingIntervalMs")?,
            idle_for: milliseconds(&mut fields, "idleForMs")?.unwrap_or(defaults.idle_for),
            shutdown: Shutdown::of(&mut shutdown, &defaults.shutdown)?,
        };
        Ok(settings)
    }
}

// === impl Identity ===

impl Identity {
    fn of(from: IdFrom, fields: &Fields) -> Result<Self, FieldError> {
        match from {
            IdFrom {
                query: Some(name),
                header: None,
                cookie: None,
            } if !name.is_empty() => Ok(Self::Query(name)),
            IdFrom {
                query: None,
                header: Some(name),
                cookie: None,
            } if http::HeaderName::try_from(&name).is_ok() => Ok(Self::Header(name)),
            IdFrom {
                query: None,
                header: None,
                cookie: Some(name),
            } if !name.is_empty() => Ok(Self::Cookie(name)),
            _ => Err(fields.error(
                "session",
                "must have exactly one of query, header and cookie, with a name",
            )),
        }
    }
}

// === impl Limits ===

impl Limits {
    fn of(fields: &mut Fields, default: &Self) -> Result<Self, FieldError> {
        let timeout = milliseconds(fields, "handshakeTimeoutMs")?;
        Ok(Self {
            connections: fields.number("connections", default.connections, 1..=1_000_000)?,
            header_bytes: fields.number("headerBytes", default.header_bytes, 1024..=1_048_576)?,
            handshake_timeout: timeout.unwrap_or(default.handshake_timeout),
            idle_timeout: milliseconds(fields, "idleTimeoutMs")?,
        })
    }
}

// === impl Shutdown ===

impl Shutdown {
    fn of(fields: &mut Fields, default: &Self) -> Result<Self, FieldError> {
        let rate_per_second = fields.get("ratePerSecond")?.unwrap_or(default.rate_per_second);
        if !(rate_per_second > 0.0 && rate_per_second <= 10_000.0) {
            return Err(fields.error("ratePerSecond", "must be above 0 and at most 10000"));
        }
        let close_code = fields.get("closeCode")?.unwrap_or(default.close_code);
        if !may_be_sent(close_code) {
            return Err(fields.error(
                "closeCode",
                "must be 1001, 1008, 1011, 1012, 1013 or 3000 to 4999",
            ));
        }
        Ok(Self {
            rate_per_second,
            within: milliseconds(fields, "withinMs")?.unwrap_or(default.within),
            close_code,
        })
    }
}

fn check_notices(notices: &[SidecarNotice], fields: &Fields) -> Result<(), FieldError> {
    for notice in notices {
        if notice.subprotocol.is_none() && notice.declared_by_query.is_none() {
            let problem = "has a notice for everybody: give subprotocol or declaredByQuery, since an unknown message \
                           breaks many clients";
            return Err(fields.error("notices", problem));
        }
        if notice.format == NoticeFormat::Text && notice.template.is_none() {
            return Err(fields.error("notices", "needs template for the format Text"));
        }
    }
    Ok(())
}

/// Codes that may end a session that is to come back: never 1000, and none that stands for an absent one.
pub(super) fn may_be_sent(code: u16) -> bool {
    matches!(code, 1001 | 1008 | 1011..=1013 | 3000..=4999)
}

fn milliseconds(fields: &mut Fields, name: &str) -> Result<Option<Duration>, FieldError> {
    let Some(ms) = fields.get::<u64>(name)? else {
        return Ok(None);
    };
    if (1..=DAY_MS).contains(&ms) {
        return Ok(Some(Duration::from_millis(ms)));
    }
    Err(fields.error(name, "must be 1 to 86400000 milliseconds"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_port_is_needed_and_unknown_fields_are_ignored() {
        let settings = Settings::parse(r#"{"applicationPort": 8080, "fromTheFuture": 1}"#).unwrap();
        assert_eq!(settings, Settings::new(8080));
    }

    #[test]
    fn the_whole_thing() {
        let text = json!({"applicationPort": 8080,
            "notices": [{"subprotocol": "chat", "format": "Json"},
                        {"declaredByQuery": "notice=1", "format": "Text", "template": "bye {afterMs}"}],
            "closeCodes": [{"subprotocol": "stomp", "client": 4000, "application": 1001}],
            "session": {"query": "sid"}, "affinity": true, "trustedHops": 0,
            "limits": {"connections": 5, "headerBytes": 8192, "handshakeTimeoutMs": 100, "idleTimeoutMs": null},
            "pingIntervalMs": 25000, "idleForMs": 100,
            "shutdown": {"ratePerSecond": 10.0, "withinMs": 1000, "closeCode": 1001}});
        let settings = Settings::parse(&text.to_string()).unwrap();
        assert_eq!(settings.session, Some(Identity::Query("sid".to_owned())));
        assert_eq!(settings.limits.handshake_timeout, Duration::from_millis(100));
        assert_eq!((settings.shutdown.close_code, settings.trusted_hops), (1001, 0));
        assert_eq!(settings.notices.len(), 2);
    }

    #[test]
    fn bad_fields_are_named() {
        for (field, value, words) in [
            ("applicationPort", json!("x"), "applicationPort cannot be read"),
            ("applicationPort", json!(0), "applicationPort must be"),
            ("applicationPort", json!(null), "applicationPort is missing"),
            ("session", json!({}), "session must have exactly one"),
            (
                "session",
                json!({"query": "a", "cookie": "b"}),
                "session must have exactly one",
            ),
            (
                "session",
                json!({"header": "a b"}),
                "session must have exactly one",
            ),
            ("affinity", json!(true), "affinity needs session"),
            (
                "notices",
                json!([{"format": "Json"}]),
                "notices has a notice for everybody",
            ),
            (
                "notices",
                json!([{"subprotocol": "a", "format": "Text"}]),
                "notices needs template",
            ),
            (
                "notices",
                json!([{"subprotocol": "a", "format": "Xml"}]),
                "notices cannot be read",
            ),
            (
                "closeCodes",
                json!([{"subprotocol": "a", "client": 1006}]),
                "closeCodes has a code",
            ),
            ("trustedHops", json!(99), "trustedHops must be 0 to 16"),
            ("limits", json!([]), "limits must be a JSON object"),
            ("limits", json!({"connections": 0}), "limits.connections must be"),
            ("limits", json!({"headerBytes": 10}), "limits.headerBytes must be"),
            (
                "limits",
                json!({"handshakeTimeoutMs": 0}),
                "limits.handshakeTimeoutMs must be",
            ),
            ("pingIntervalMs", json!(-1), "pingIntervalMs cannot be read"),
            (
                "shutdown",
                json!({"ratePerSecond": 0}),
                "shutdown.ratePerSecond must be",
            ),
            (
                "shutdown",
                json!({"closeCode": 1000}),
                "shutdown.closeCode must be",
            ),
        ] {
            let mut text = json!({"applicationPort": 8080});
            text[field] = value;
            let error = Settings::parse(&text.to_string()).unwrap_err().to_string();
            assert!(error.starts_with(words), "{field}: {error}");
        }
        assert!(
            Settings::parse("{")
                .unwrap_err()
                .to_string()
                .starts_with("the settings must be")
        );
    }
}
