//! One binary, many verbs. It answers to `kubectl wsroll …` too, under the name `kubectl-wsroll`.

pub mod cluster;
pub mod conformance;
pub mod crd;
pub mod history;
pub mod lint;
pub mod load;
pub mod operator;
pub mod output;
pub mod probe;
pub mod rehearse;
pub mod report;
pub mod request;
pub mod service;
pub mod sidecar;
pub mod status;
pub mod telemetry;

use std::process::ExitCode;
use std::str::FromStr as _;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::api::status::Verb as Request;

/// Ships new versions of WebSocket services without anybody's session noticing.
#[derive(Debug, Parser)]
#[command(name = "wsroll", version, propagate_version = true, max_term_width = 110)]
pub struct Args {
    #[command(flatten)]
    telemetry: telemetry::TelemetryArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the operator
    Operator(operator::OperatorArgs),
    /// Relay WebSockets to an application, and let them go when the operator asks
    Sidecar(sidecar::SidecarArgs),
    /// Show where a rollout is: phase, weights, sessions, drain, verdict
    Status(status::StatusArgs),
    /// Show the last releases: what they shipped, how long they took, how they ended
    History(history::HistoryArgs),
    /// Tell the story of one release: timeline, figures, verdicts, what to look at
    Report(report::ReportArgs),
    /// Go on to the next step now
    Promote(request::RequestArgs),
    /// Stand still until `resume`
    Pause(request::RequestArgs),
    /// Go on after a pause
    Resume(request::RequestArgs),
    /// Go back: weights first, then the sessions
    Abort(request::RequestArgs),
    /// Try a rejected template again
    Retry(request::RequestArgs),
    /// Hold WebSocket sessions, move with their service, and count what gets lost
    Load(load::LoadArgs),
    /// Check that sessions of a service survive a reconnect
    Probe(probe::ProbeArgs),
    /// Play the five scenarios against a service without a cluster: hand-off, state, graceful shutdown, crash, back-off
    Rehearse(Box<rehearse::RehearseArgs>),
    /// Say what will go wrong, from the manifests alone
    Lint(lint::LintArgs),
    /// Play the drain protocol against an implementation, and say what holds and what does not
    Conformance(conformance::ConformanceArgs),
    /// Print the CustomResourceDefinition as YAML
    Crd,
}

impl Args {
    /// Runs the chosen verb. What fails is told on stderr, and by the exit code.
    pub fn run(self) -> ExitCode {
        match self.try_run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprint!("{}", output::explain(error.chain()));
                ExitCode::FAILURE
            }
        }
    }

    fn try_run(self) -> anyhow::Result<()> {
        let Self { telemetry, verb } = self;
        telemetry.init(matches!(verb, Verb::Operator(_) | Verb::Sidecar(_)))?;
        // An error means that a provider was chosen already, which is as good.
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let runtime = match &verb {
            Verb::Sidecar(args) => args.runtime()?,
            _ => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        };
        runtime.block_on(verb.run())
    }
}

impl Verb {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Operator(args) => crate::operator::run(args).await,
            Self::Sidecar(args) => args.run().await,
            Self::Status(args) => args.run().await,
            Self::History(args) => args.run().await,
            Self::Report(args) => args.run().await,
            Self::Promote(args) => args.run(Request::Promote).await,
            Self::Pause(args) => args.run(Request::Pause).await,
            Self::Resume(args) => args.run(Request::Resume).await,
            Self::Abort(args) => args.run(Request::Abort).await,
            Self::Retry(args) => args.run(Request::Retry).await,
            Self::Load(args) => args.run().await,
            Self::Probe(args) => args.run().await,
            Self::Rehearse(args) => args.run().await,
            Self::Lint(args) => args.run(),
            Self::Conformance(args) => args.run().await,
            Self::Crd => output::print(&crd::yaml()?),
        }
    }
}

/// Parses a duration on the command line: `500ms`, `10s`, `1h30m`. For `value_parser`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = kube::core::Duration::from_str(text).map_err(|error| error.to_string())?;
    if parsed.is_negative() {
        return Err(format!("{text} is negative"));
    }
    Ok(parsed.into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn verbs_read_as_documented() {
        for line in [
            "wsroll operator",
            "wsroll operator --namespace prod --listen 127.0.0.1:0",
            "wsroll operator --audit stdout --audit file:/var/log/wsroll/audit.jsonl --audit https://logs.example.com/in --stories false",
            "wsroll operator --audit stdout,file:/tmp/a.jsonl --audit-file-mib 1 --audit-files 2 --audit-header-file /etc/h",
            "wsroll history chat -o yaml",
            "kubectl-wsroll report chat --release 7 -o markdown",
            "wsroll report chat --audit-file audit.jsonl -o json",
            "kubectl-wsroll status chat -n prod -o json",
            "wsroll promote chat -n prod --wait 0s",
            "wsroll pause chat",
            "wsroll resume chat -o yaml",
            "wsroll abort chat",
            "wsroll retry chat --wait 1m30s",
            "wsroll load --url ws://chat/ws --sessions 5 --say-every 500ms -o json",
            "wsroll probe --url ws://chat/ws --connect-to 10.0.0.1:80",
            "wsroll rehearse --url ws://127.0.0.1:8080/ws --start-command ./serve --scenarios crash,BackOff --clients 5,10 --duration 1h -o junit",
            "wsroll sidecar --listen 0.0.0.0:9910 --application 127.0.0.1:8080 --threads 2 --grace 5s",
            "wsroll conformance --url http://10.0.0.1:9911 --token-file /t --ws ws://10.0.0.1:8080/ws --declare-notice wsroll=1",
            "wsroll crd",
            "wsroll lint -f rollout.yaml -f - -o json",
            "wsroll lint --file a.yaml b.yaml",
            "wsroll --log debug --log-format json crd",
        ] {
            Args::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "wsroll",
            "wsroll promote",
            "wsroll lint",
            "wsroll operator --audit file:relative",
            "wsroll operator --audit https://jane:pw@logs.example.com/",
            "wsroll operator --audit https://logs.example.com/?token=x",
            "wsroll operator --audit ftp://logs.example.com/",
            "wsroll report chat -o yaml",
            "wsroll promote chat --wait -1s",
            "wsroll rehearse --url ws://chat/ws --scenarios Fire",
            "wsroll rehearse --url ws://chat/ws --stop-command ./stop",
            "wsroll status chat -o table",
        ] {
            Args::try_parse_from(line.split(' ')).unwrap_err();
        }
    }

    #[test]
    fn durations_in_gos_notation() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        duration("-1s").unwrap_err();
        duration("soon").unwrap_err();
    }
}
