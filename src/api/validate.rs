//! Parse, don't validate: a [`ValidatedRollout`] is a spec whose parts fit together. The CRD holds most rules already;
//! what it cannot say (the template, the port, names that derive from the rollout's) is checked here, for lint and operator alike.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt as _;

use super::GROUP;
use super::quantity::Span;
use super::spec::{
    Budget, Drain, DrainMode, MoveSessions, NoticeFormat, Sidecar, Via, WebSocketRollout,
    WebSocketRolloutSpec,
};

/// The longest name of a rollout: `<name>-<hash>-token` and pods' names stay within Kubernetes' 63 characters.
pub const MAX_NAME: usize = 40;
/// The time over which a rollback spreads where its spec does not say.
pub const EMERGENCY: std::time::Duration = std::time::Duration::from_secs(120);
/// The most sessions per second that `overDuration` asks for.
pub const MAX_DEFAULT_RATE: u32 = 50;

/// A rollout whose spec was found to be whole.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidatedRollout {
    /// Namespace of the rollout and of everything it owns.
    pub namespace: String,
    /// Name of the rollout.
    pub name: String,
    /// UID of the rollout.
    pub uid: String,
    /// Generation of the spec.
    pub generation: i64,
    /// Pods that serve.
    pub replicas: u32,
    /// The pod template, typed.
    pub template: PodTemplateSpec,
    /// The spec as written, defaults filled in.
    pub spec: WebSocketRolloutSpec,
}

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {remedy}")]
pub struct Finding {
    /// Path of the field.
    pub field: String,
    /// What is wrong, with the value.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// Everything that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" · "))]
pub struct Findings(pub Vec<Finding>);

impl ValidatedRollout {
    /// Checks a rollout.
    ///
    /// # Errors
    /// All findings at once, each with field, value and remedy.
    pub fn new(rollout: &WebSocketRollout) -> Result<Self, Findings> {
        let mut findings = Vec::new();
        let mut found = |field: &str, problem: String, remedy: &str| {
            findings.push(Finding {
                field: field.to_owned(),
                problem,
                remedy: remedy.to_owned(),
            });
        };
        let name = rollout.name_any();
        if name.len() > MAX_NAME {
            found(
                "metadata.name",
                format!("{name:?} has {} characters", name.len()),
                "use at most 40: names of Services and pods are derived from it",
            );
        }
        let spec = &rollout.spec;
        check_steps(spec, &mut found);
        check_drain(&spec.drain, &mut found);
        super::probes_check::check(&spec.probes, &mut found);
        super::analysis::check(&spec.analysis, &mut found);
        let template = check_template(spec, &mut found);
        match (template, findings.is_empty()) {
            (Some(template), true) => Ok(Self {
                template,
                ..Self::unchecked(rollout)
            }),
            _ => Err(Findings(findings)),
        }
    }

    /// The slots of this rollout.
    pub fn slots(&self) -> &'static [&'static str] {
        super::slots(self.spec.traffic.slots)
    }

    /// The rollout as it is, with an empty template: for what has to go on, or to be given back, whatever an edit broke.
    pub fn unchecked(rollout: &WebSocketRollout) -> Self {
        Self {
            namespace: rollout.namespace().unwrap_or_default(),
            name: rollout.name_any(),
            uid: rollout.uid().unwrap_or_default(),
            generation: rollout.metadata.generation.unwrap_or_default(),
            replicas: rollout.spec.replicas.unwrap_or(1).max(1).unsigned_abs(),
            template: PodTemplateSpec::default(),
            spec: rollout.spec.clone(),
        }
    }
}

impl WebSocketRolloutSpec {
    /// The budget of a rollback. Where none is given: `drain.budget.connectsPerSecond`, which says what the service can take; a
    /// spread over time only says how gentle a release shall be, so a rollback takes two minutes at most.
    pub fn rollback_budget(&self) -> Budget {
        if let Some(own) = &self.rollback.budget {
            return own.clone();
        }
        let mut budget = self.drain.budget.clone();
        if budget.connects_per_second.is_none() {
            let own = budget
                .over_duration
                .map_or(EMERGENCY, |span| span.0.min(EMERGENCY));
            budget.over_duration = Some(Span(own));
        }
        budget
    }
}

impl Budget {
    /// Sessions per second that may be moved when `sessions` are to be moved in all.
    pub fn per_second(&self, sessions: u64) -> f64 {
        if let Some(rate) = self.connects_per_second {
            return f64::from(rate);
        }
        let seconds = self
            .over_duration
            .map_or(900.0, |span| span.0.as_secs_f64())
            .max(1.0);
        (sessions as f64 / seconds).clamp(1.0, f64::from(MAX_DEFAULT_RATE))
    }
}

fn check_steps(spec: &WebSocketRolloutSpec, found: &mut impl FnMut(&str, String, &str)) {
    let weights: Vec<u8> = spec.steps.iter().map(|s| s.weight).collect();
    if weights.last() != Some(&100) {
        found(
            "spec.steps",
            format!("the weights {weights:?} do not end at 100"),
            "let the last step have weight 100",
        );
    }
    if !weights.is_sorted_by(|a, b| a < b) {
        found(
            "spec.steps",
            format!("the weights {weights:?} do not rise"),
            "give each step a greater weight than the one before",
        );
    }
    let pinned = spec.steps.iter().any(|s| s.move_sessions == MoveSessions::Pinned);
    if pinned && spec.drain.notice.hint == super::spec::HintKind::None {
        found(
            "spec.steps[].moveSessions",
            "Pinned needs a hint, and spec.drain.notice.hint is None".to_owned(),
            "set spec.drain.notice.hint to Query, Path or Header, or moveSessions to Auto",
        );
    }
}

fn check_drain(drain: &Drain, found: &mut impl FnMut(&str, String, &str)) {
    if drain.sidecar.is_some() && drain.via != Via::Sidecar {
        found(
            "spec.drain.sidecar",
            format!("spec.drain.via is {}: there is no sidecar to set", drain.via),
            "set spec.drain.via to Sidecar, or remove it",
        );
    }
    if drain.via == Via::Signal && drain.mode != DrainMode::Ask {
        found(
            "spec.drain.mode",
            format!(
                "{:?} needs somebody to ask, and spec.drain.via is Signal",
                drain.mode
            ),
            "use spec.drain.via Protocol or Sidecar, or spec.drain.mode Ask",
        );
    }
    if let Some(from) = &drain.sessions_from {
        if !from.path.starts_with('/') {
            found(
                "spec.drain.sessionsFrom.path",
                format!("{:?} does not begin with a slash", from.path),
                "write the path of the metrics: /metrics",
            );
        }
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        if !from.metric.chars().all(name) {
            found(
                "spec.drain.sessionsFrom.metric",
                format!("{:?} is no name of a metric", from.metric),
                "write its name without labels: its series are added up",
            );
        }
    }
    if let Some(header) = drain.session.as_ref().and_then(|s| s.id_from.header.as_ref()) {
        // RFC 9110, section 5.6.2: what a field's name is made of.
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if header.is_empty() || !header.chars().all(token) {
            found(
                "spec.drain.session.idFrom.header",
                format!("{header:?} is no name of a header"),
                "write it as x-session-id",
            );
        }
    }
    if let Some(sidecar) = &drain.sidecar {
        check_sidecar(sidecar, found);
    }
}

fn check_sidecar(sidecar: &Sidecar, found: &mut impl FnMut(&str, String, &str)) {
    for (n, notice) in sidecar.notices.iter().enumerate() {
        let field = format!("spec.drain.sidecar.notices[{n}].template");
        match (notice.format, &notice.template) {
            (NoticeFormat::Text, None) => found(
                &field,
                "the format is Text, and there is none".to_owned(),
                "write the message that clients are sent, or use the format Json",
            ),
            (NoticeFormat::Json, Some(_)) => found(
                &field,
                "the format is Json, which has none".to_owned(),
                "remove it, or set the format to Text",
            ),
            _ => {}
        }
        if notice.subprotocol.is_none() && notice.declared_by_query.is_none() {
            found(
                &format!("spec.drain.sidecar.notices[{n}]"),
                "it goes to every client: an unknown message breaks many of them".to_owned(),
                "name the subprotocol whose clients understand it, or declaredByQuery",
            );
        }
    }
    let times = [
        ("pingInterval", sidecar.ping_interval),
        ("limits.handshakeTimeout", sidecar.limits.handshake_timeout),
        ("limits.idleTimeout", sidecar.limits.idle_timeout),
    ];
    for (name, time) in times {
        if let Some(time) = time.filter(|t| !(1..=24 * 3_600_000).contains(&t.as_millis())) {
            found(
                &format!("spec.drain.sidecar.{name}"),
                format!("{:?} is out of bounds", time.0),
                "use 1ms to 24h, or leave it out",
            );
        }
    }
    for (n, codes) in sidecar.close_codes.iter().enumerate() {
        for (name, code) in [("client", codes.client), ("application", codes.application)] {
            // RFC 6455, section 7.4: 1004 to 1006 and 1015 are never sent, 1016 to 2999 mean nothing yet.
            let sendable = |code: u16| matches!(code, 1001..=1003 | 1007..=1014 | 3000..=4999);
            if let Some(code) = code.filter(|code| !sendable(*code)) {
                found(
                    &format!("spec.drain.sidecar.closeCodes[{n}].{name}"),
                    format!("{code} is no close code that an endpoint may send"),
                    "use 1001, 1012, 1013 or 3000 to 4999",
                );
            }
        }
    }
}

fn check_template(
    spec: &WebSocketRolloutSpec,
    found: &mut impl FnMut(&str, String, &str),
) -> Option<PodTemplateSpec> {
    let template: PodTemplateSpec = match serde_json::from_value(spec.template.clone()) {
        Ok(template) => template,
        Err(error) => {
            found(
                "spec.template",
                format!("not a pod template: {error}"),
                "write it as in a Deployment",
            );
            return None;
        }
    };
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if let Some(key) = labels.and_then(|l| l.keys().find(|k| k.starts_with(GROUP))) {
        found(
            "spec.template.metadata.labels",
            format!("the label {key} belongs to wsroll"),
            "remove it: the operator sets it",
        );
    }
    let containers = template
        .spec
        .as_ref()
        .map(|s| s.containers.as_slice())
        .unwrap_or_default();
    if containers.is_empty() {
        found(
            "spec.template.spec.containers",
            "there is no container".to_owned(),
            "name at least one",
        );
        return None;
    }
    let declared: Vec<i32> = containers
        .iter()
        .flat_map(|c| c.ports.iter().flatten())
        .map(|p| p.container_port)
        .collect();
    if !declared.is_empty() && !declared.contains(&i32::from(spec.traffic.port)) {
        found(
            "spec.traffic.port",
            format!(
                "{} is no port of the pods: the containers declare {declared:?}",
                spec.traffic.port
            ),
            "name the port on which the pods accept WebSockets, or declare it in the template",
        );
    }
    Some(template)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rollout(patch: serde_json::Value) -> WebSocketRollout {
        let mut value = json!({
            "apiVersion": "wsroll.dev/v1alpha1", "kind": "WebSocketRollout",
            "metadata": {"name": "chat", "namespace": "default", "uid": "u", "generation": 3},
            "spec": {
                "template": {"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [
                    {"name": "app", "image": "chat:1", "ports": [{"containerPort": 8080}]}]}},
                "traffic": {"port": 8080, "routes": [{"name": "chat"}]},
                "probes": {"url": "ws://chat.example.com/ws"}
            }
        });
        json_patch::merge(&mut value, &patch);
        serde_json::from_value(value).unwrap()
    }

    /// A rollout with one analysis.
    fn analysis(patch: serde_json::Value) -> serde_json::Value {
        let mut whole = json!({"name": "errors", "condition": "body.ok"});
        json_patch::merge(&mut whole, &patch);
        json!({"spec": {"analysis": [whole]}})
    }

    #[test]
    fn an_analysis_that_is_whole_is_taken() {
        let query = json!({"address": "http://prometheus:9090", "query": "rate(errors{revision=\"${revision}\"}[1m])"});
        for patch in [
            json!({"prometheus": query, "condition": "result < 0.05"}),
            json!({"webhook": {"url": "https://judge.example.com/"}, "condition": "body.checks.all(c, c.ok)"}),
        ] {
            ValidatedRollout::new(&rollout(analysis(patch))).unwrap();
        }
    }

    #[test]
    fn a_rollback_is_as_fast_as_the_service_can_take_or_takes_two_minutes() {
        let budget = |drain: serde_json::Value| {
            let drain = json!({"spec": {"drain": {"budget": drain}}});
            rollout(drain).spec.rollback_budget().per_second(2_400)
        };
        assert!((budget(json!({})) - 20.0).abs() < 1e-9);
        assert!((budget(json!({"overDuration": "60s"})) - 40.0).abs() < 1e-9);
        assert!((budget(json!({"connectsPerSecond": 7})) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn a_minimal_rollout_is_whole_and_has_the_defaults_of_the_mission() {
        let valid = ValidatedRollout::new(&rollout(json!({}))).unwrap();
        let weights: Vec<u8> = valid.spec.steps.iter().map(|s| s.weight).collect();
        assert_eq!(weights, [10, 50, 100]);
        assert_eq!(valid.spec.thresholds.reconnect_success.rollback_below_percent, 80);
        assert_eq!(valid.spec.thresholds.failures_in_a_row.max, 3);
        assert_eq!(valid.spec.drain.deadline, super::super::Span::secs(1800));
        assert_eq!(valid.replicas, 1);
    }

    #[rstest::rstest]
    #[case(json!({"spec": {"steps": [{"weight": 10}, {"weight": 50}]}}), "spec.steps")]
    #[case(json!({"spec": {"steps": [{"weight": 50}, {"weight": 10}, {"weight": 100}]}}), "spec.steps")]
    #[case(json!({"spec": {"steps": [{"weight": 100, "moveSessions": "Pinned"}]}}), "spec.steps[].moveSessions")]
    #[case(json!({"spec": {"drain": {"sidecar": {}}}}), "spec.drain.sidecar")]
    #[case(json!({"spec": {"drain": {"via": "Signal", "mode": "Leave"}}}), "spec.drain.mode")]
    #[case(json!({"spec": {"drain": {"via": "Signal", "sessionsFrom": {"port": 1, "path": "@x/", "metric": "a"}}}}),
        "spec.drain.sessionsFrom.path")]
    #[case(json!({"spec": {"drain": {"via": "Signal", "sessionsFrom": {"port": 1, "metric": "a{b=\"c\"}"}}}}),
        "spec.drain.sessionsFrom.metric")]
    #[case(json!({"spec": {"drain": {"via": "Sidecar", "sidecar": {"notices": [{"subprotocol": "a", "format": "Text"}]}}}}),
        "spec.drain.sidecar.notices[0].template")]
    #[case(json!({"spec": {"drain": {"via": "Sidecar", "sidecar": {"notices": [{}]}}}}), "spec.drain.sidecar.notices[0]")]
    #[case(json!({"spec": {"drain": {"via": "Sidecar", "sidecar": {"closeCodes": [{"subprotocol": "a", "client": 1006}]}}}}),
        "spec.drain.sidecar.closeCodes[0].client")]
    #[case(json!({"spec": {"drain": {"via": "Sidecar", "sidecar": {"pingInterval": "0s"}}}}), "spec.drain.sidecar.pingInterval")]
    #[case(json!({"spec": {"drain": {"via": "Sidecar", "sidecar": {"limits": {"idleTimeout": "48h"}}}}}),
        "spec.drain.sidecar.limits.idleTimeout")]
    #[case(json!({"spec": {"drain": {"session": {"idFrom": {"header": "a b"}}}}}), "spec.drain.session.idFrom.header")]
    #[case(json!({"spec": {"probes": {"url": "http://chat/ws"}}}), "spec.probes.url")]
    #[case(json!({"spec": {"probes": {"url": "ws://me:pw@chat/ws"}}}), "spec.probes.url")]
    #[case(json!({"spec": {"probes": {"url": "chat"}}}), "spec.probes.url")]
    #[case(json!({"spec": {"probes": {"dialect": "Script"}}}), "spec.probes.script")]
    #[case(json!({"spec": {"probes": {"script": {"exchange": [{"ping": {}}]}}}}), "spec.probes.script")]
    #[case(json!({"spec": {"probes": {"dialect": "Script", "script": {"exchange": [{"expect": {"that": "text =="}}]}}}}),
        "spec.probes.script.exchange[0].expect.that")]
    #[case(json!({"spec": {"probes": {"dialect": "Script", "script": {"exchange": [{"send": {"text": "${sid}"}}, {"ping": {}}]}}}}),
        "spec.probes.script.exchange[0].send")]
    #[case(json!({"spec": {"probes": {"tokenFrom": {}}}}), "spec.probes.tokenFrom")]
    #[case(json!({"spec": {"probes": {"tokenFrom": {"login": {"url": "http://auth/", "tokenPath": "$.["}}}}}),
        "spec.probes.tokenFrom.login.tokenPath")]
    #[case(json!({"spec": {"probes": {"tokenFrom": {"login": {"url": "ftp://auth/", "tokenPath": "$.t"}}}}}),
        "spec.probes.tokenFrom.login.url")]
    #[case(json!({"spec": {"probes": {"tls": {"serverName": "chat"}}}}), "spec.probes.tls")]
    #[case(json!({"spec": {"probes": {"tokenIn": "Query"}}}), "spec.probes.tokenIn")]
    #[case(json!({"spec": {"probes": {"profiles": {"rolling": []}}}}), "spec.probes.profiles.rolling")]
    #[case(json!({"spec": {"probes": {"profiles": {"emergency": ["2s", "1s"]}}}}), "spec.probes.profiles.emergency")]
    #[case(json!({"spec": {"traffic": {"port": 9090}}}), "spec.traffic.port")]
    #[case(json!({"spec": {"template": {"spec": {"containers": []}}}}), "spec.template.spec.containers")]
    #[case(json!({"spec": {"template": {"spec": {"containers": "x"}}}}), "spec.template")]
    #[case(json!({"spec": {"template": {"metadata": {"labels": {"wsroll.dev/role": "x"}}}}}), "spec.template.metadata.labels")]
    #[case(json!({"metadata": {"name": "a-name-that-is-far-too-long-for-a-rollout-of-ours"}}), "metadata.name")]
    #[case(analysis(json!({"webhook": {"url": "ftp://h/"}})), "spec.analysis[0].webhook.url")]
    #[case(analysis(json!({"webhook": {"url": "http://a:b@h/"}})), "spec.analysis[0].webhook.url")]
    #[case(analysis(json!({"prometheus": {"address": "prometheus", "query": "up"}})), "spec.analysis[0].prometheus.address")]
    #[case(analysis(json!({"prometheus": {"address": "http://h", "query": "up{a=\"${pod}\"}"}})), "spec.analysis[0].prometheus.query")]
    #[case(analysis(json!({"webhook": {"url": "http://h/"}, "condition": "result < 1"})), "spec.analysis[0].condition")]
    #[case(analysis(json!({"prometheus": {"address": "http://h", "query": "up"}, "condition": "result <"})), "spec.analysis[0].condition")]
    #[case(analysis(json!({"webhook": {"url": "http://h/"}, "interval": "10ms"})), "spec.analysis[0].interval")]
    #[case(analysis(json!({})), "spec.analysis[0].prometheus")]
    fn what_does_not_fit_is_named_by_field(#[case] patch: serde_json::Value, #[case] field: &str) {
        let findings = ValidatedRollout::new(&rollout(patch)).unwrap_err();
        assert!(findings.0.iter().any(|f| f.field == field), "{findings}");
    }

    #[test]
    fn a_budget_is_a_rate_or_a_time_to_spread_over() {
        let spread = Budget::default();
        assert!((spread.per_second(9_000) - 10.0).abs() < f64::EPSILON);
        assert!(
            (spread.per_second(1_000_000) - 50.0).abs() < f64::EPSILON,
            "at most 50 per second"
        );
        assert!((spread.per_second(1) - 1.0).abs() < f64::EPSILON, "at least one");
        let fixed = Budget {
            connects_per_second: Some(200),
            adaptive: true,
            over_duration: None,
        };
        assert!((fixed.per_second(1) - 200.0).abs() < f64::EPSILON);
    }
}
