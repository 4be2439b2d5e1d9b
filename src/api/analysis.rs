//! `spec.analysis`: what other systems say of a new revision: queries and webhooks.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Span;
use super::thresholds::BreachAction;

/// A question that is asked again and again in a release, from the first weight to the end of the monitoring window. What it costs, and
/// whom it tells, is the source's affair; an error of the source is never a failure of the version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.prometheus) != has(self.webhook)").message("an analysis has exactly one of prometheus and webhook"))]
pub struct Analysis {
    /// Its name, in verdicts and events.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,
    /// A query of Prometheus, or of what answers as it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// An HTTP endpoint that answers with JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// What has to be so, in CEL: over `result`, the query's number, or `body`, the webhook's answer. `result < 0.05`
    #[schemars(length(min = 1, max = 1024))]
    pub condition: String,
    /// How often it is asked.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// A required analysis holds a step until it was so, so many times, at that step.
    #[serde(default = "default_samples")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_samples: u32,
    /// It is a breach when it was not so, so many times in a row.
    #[serde(default = "default_samples")]
    #[schemars(range(min = 1, max = 1000))]
    pub failure_limit: u32,
    /// What happens at a breach.
    #[serde(default)]
    pub action: BreachAction,
    /// Whether a step waits for it. One that is not required can breach, and holds nobody up when its source does not answer.
    #[serde(default = "default_required")]
    pub required: bool,
}

/// A query of Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Prometheus {
    /// Where it is: `http://prometheus.monitoring:9090`. No credentials.
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(
        validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')").message("an address starts with http:// or https://"),
        validation = Rule::new("!self.contains('@')").message("an address carries no credentials")
    )]
    pub address: String,
    /// A query that answers with one number. `${namespace}`, `${name}`, `${revision}` (the new one's hash) and `${stable}` are filled in.
    #[schemars(length(min = 1, max = 2048))]
    pub query: String,
}

/// An HTTP endpoint that is asked by POST, and answers 200 with JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Where it is. No credentials.
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(
        validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')").message("a URL starts with http:// or https://"),
        validation = Rule::new("!self.contains('@')").message("a URL carries no credentials")
    )]
    pub url: String,
}

/// What a query may have filled in.
pub const PLACEHOLDERS: [&str; 4] = ["namespace", "name", "revision", "stable"];

const fn default_interval() -> Span {
    Span::secs(30)
}

const fn default_samples() -> u32 {
    3
}

const fn default_required() -> bool {
    true
}

/// What the schema cannot say: URLs, placeholders, conditions, times.
pub(super) fn check(analyses: &[Analysis], found: &mut impl FnMut(&str, String, &str)) {
    for (n, analysis) in analyses.iter().enumerate() {
        let field = |name: &str| format!("spec.analysis[{n}].{name}");
        if analysis.prometheus.is_some() == analysis.webhook.is_some() {
            found(
                &field("prometheus"),
                "it has both of prometheus and webhook, or none".to_owned(),
                "give exactly one of them",
            );
        }
        let address = match (&analysis.prometheus, &analysis.webhook) {
            (Some(prometheus), _) => Some(("prometheus.address", &prometheus.address)),
            (None, Some(webhook)) => Some(("webhook.url", &webhook.url)),
            (None, None) => None,
        };
        if let Some((name, address)) = address {
            match url::Url::parse(address) {
                Ok(url) if !matches!(url.scheme(), "http" | "https") => found(
                    &field(name),
                    format!("it has the scheme {}", url.scheme()),
                    "use http:// or https://",
                ),
                Ok(url) if !url.username().is_empty() || url.password().is_some() => found(
                    &field(name),
                    "the URL carries credentials".to_owned(),
                    "remove them: let the source trust the operator's address or a proxy beside it",
                ),
                Ok(_) => {}
                Err(error) => found(
                    &field(name),
                    format!("{address:?} is not a URL: {error}"),
                    "write it with scheme and host: http://prometheus.monitoring:9090",
                ),
            }
        }
        if let Some(unknown) = analysis
            .prometheus
            .as_ref()
            .and_then(|p| unknown_placeholder(&p.query))
        {
            found(
                &field("prometheus.query"),
                format!("nothing is known of ${{{unknown}}}"),
                "use ${namespace}, ${name}, ${revision} or ${stable}",
            );
        }
        if let Some(problem) = condition_problem(analysis) {
            found(
                &field("condition"),
                format!("{:?} {problem}", analysis.condition),
                "write CEL over result (a number, of prometheus) or body (JSON, of webhook): result < 0.05",
            );
        }
        if !(1_000..=3_600_000).contains(&analysis.interval.as_millis()) {
            found(
                &field("interval"),
                format!("{:?} is out of bounds", analysis.interval.0),
                "use 1s to 1h",
            );
        }
    }
}

/// The first placeholder of a query that is none of ours.
fn unknown_placeholder(query: &str) -> Option<&str> {
    let mut parts = query
        .split("${")
        .skip(1)
        .filter_map(|part| Some(part.split_once('}')?.0));
    parts.find(|name| !PLACEHOLDERS.contains(name))
}

/// What is wrong with a condition.
fn condition_problem(analysis: &Analysis) -> Option<String> {
    let Ok(program) = cel::Program::compile(&analysis.condition) else {
        return Some("is not CEL".to_owned());
    };
    let known = if analysis.webhook.is_some() {
        "body"
    } else {
        "result"
    };
    // Names of macros (`all(i, …)`) count as references as well, so others are not looked at.
    let looks = program.references().has_variable(known);
    (!looks).then(|| format!("does not look at {known}"))
}
