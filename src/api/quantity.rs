//! Values that people write in two ways: durations (`10m`, `1h30m`) and counts that may be a share (`3`, `25%`).

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration in Go's notation, never negative: `500ms`, `30s`, `10m`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

/// A number of pods, or a share of `spec.replicas`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many pods.
    Pods(u32),
    /// So many percent of the replicas, rounded up.
    Percent(u32),
}

// === impl Span ===

impl Span {
    /// A span of whole seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// The same as a signed duration for arithmetic on timestamps; saturates at about 292,000 years.
    pub fn signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::try_from(self.0).unwrap_or(jiff::SignedDuration::MAX)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        kube::core::Duration::from(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        read_span(&text).map(Self).map_err(|problem| {
            let shown: String = text.chars().take(40).collect();
            de::Error::custom(format!(
                "duration {shown:?} {problem}; write it as 30s, 10m or 1h30m"
            ))
        })
    }
}

/// Reads Go's notation. `kube::core::Duration` reads it too, but panics at numbers that no duration holds: what people
/// and their tools write has to be answered, whatever it is.
fn read_span(text: &str) -> Result<Duration, &'static str> {
    if text.starts_with('-') {
        return Err("is negative");
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    while !rest.is_empty() && rest != "0" {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or("has no unit")?;
        let (value, behind) = rest.split_at(number);
        let unit = behind
            .find(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "\u{00b5}s" | "\u{03bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err("has a unit other than h, m, s, ms, us and ns"),
        };
        let value: f64 = value.parse().map_err(|_| "has no number before its unit")?;
        let part = Duration::try_from_secs_f64(value * seconds).map_err(|_| "is too long")?;
        total = total.checked_add(part).ok_or("is too long")?;
        rest = next;
    }
    Ok(total)
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 32, "pattern": r"^([0-9]{1,7}(\.[0-9]{1,3})?(ms|s|m|h))+$"})
    }
}

// === impl Count ===

impl Count {
    /// The number of pods this means with `replicas` pods in all; shares are rounded up.
    pub fn of(self, replicas: u32) -> u32 {
        match self {
            Self::Pods(pods) => pods,
            Self::Percent(percent) => {
                let pods = (u64::from(replicas) * u64::from(percent)).div_ceil(100);
                u32::try_from(pods).unwrap_or(u32::MAX)
            }
        }
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Pods(pods) => serializer.serialize_u32(*pods),
            Self::Percent(percent) => serializer.serialize_str(&format!("{percent}%")),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(pods) => Ok(Self::Pods(pods)),
            Written::Text(text) => {
                let percent = text
                    .strip_suffix('%')
                    .and_then(|n| n.parse::<u32>().ok())
                    .filter(|n| *n <= 100);
                percent.map(Self::Percent).ok_or_else(|| {
                    de::Error::custom(format!(
                        "{text:?} is neither a number of pods nor a share from 0% to 100%"
                    ))
                })
            }
        }
    }
}

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": "^(100|[1-9]?[0-9])%$",
            "minimum": 0,
            "maximum": 10_000,
            "maxLength": 4
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write_as_people_write_them() {
        let span: Span = serde_json::from_str("\"1h30m\"").unwrap();
        assert_eq!(span, Span::secs(5_400));
        assert_eq!(
            serde_json::to_string(&Span(Duration::from_millis(500))).unwrap(),
            "\"500ms\""
        );
        assert!(serde_json::from_str::<Span>("\"-5s\"").is_err());
        assert!(serde_json::from_str::<Span>("\"10\"").is_err());
    }

    #[test]
    fn shares_round_up() {
        assert_eq!(Count::Percent(25).of(10), 3);
        assert_eq!(Count::Percent(0).of(10), 0);
        assert_eq!(Count::Pods(2).of(10), 2);
        assert!(serde_json::from_str::<Count>("\"101%\"").is_err());
        assert_eq!(
            serde_json::from_str::<Count>("\"25%\"").unwrap(),
            Count::Percent(25)
        );
    }
}
