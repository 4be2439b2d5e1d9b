//! `wsroll operator`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::outbound::Allowed;
use crate::report::audit::{FileSettings, HttpSettings, Sinks, Target};

/// How the operator is run.
#[derive(Clone, Debug, Args)]
pub struct OperatorArgs {
    /// Watch only this namespace; without it all
    #[arg(long, env = "WSROLL_NAMESPACE", value_name = "NS")]
    pub namespace: Option<String>,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(
        long,
        env = "WSROLL_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// Image of the sidecar (drain.via: Sidecar) where a rollout names none; absent: the image this operator runs from
    #[arg(long, env = "WSROLL_SIDECAR_IMAGE", value_name = "IMAGE")]
    pub sidecar_image: Option<String>,
    /// Where the audit trail goes: `stdout`, `file:/path`, `https://host/path`; may be repeated
    #[arg(long, env = "WSROLL_AUDIT", value_name = "SINK", value_delimiter = ',')]
    pub audit: Vec<Target>,
    /// Audit files are rotated at this size, MiB
    #[arg(long, env = "WSROLL_AUDIT_FILE_MIB", default_value_t = 64, value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub audit_file_mib: u64,
    /// So many audit files are kept, the one that is written included
    #[arg(long, env = "WSROLL_AUDIT_FILES", default_value_t = 5, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub audit_files: u32,
    /// A file with request headers for the audit collector, `Name: value` per line; read again for every batch
    #[arg(long, env = "WSROLL_AUDIT_HEADER_FILE", value_name = "FILE")]
    pub audit_header_file: Option<PathBuf>,
    /// Keep the stories of the last releases in a ConfigMap per rollout, for `wsroll history` and `report`
    #[arg(long, env = "WSROLL_STORIES", default_value_t = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub stories: bool,
    /// Lets URLs in rollouts (probes and whatever else is called for them) name what is refused otherwise: loopback, link-local,
    /// metadata, unspecified and multicast addresses. A network, an address or a host name; may be repeated
    #[arg(
        long,
        env = "WSROLL_ALLOW_OUTBOUND",
        value_delimiter = ',',
        value_name = "CIDR|HOST"
    )]
    pub allow_outbound: Vec<Allowed>,
}

impl OperatorArgs {
    /// The audit trail's sinks.
    pub fn sinks(&self) -> Sinks {
        Sinks {
            targets: self.audit.clone(),
            file: FileSettings {
                max_bytes: self.audit_file_mib * 1024 * 1024,
                count: self.audit_files,
            },
            http: HttpSettings {
                header_file: self.audit_header_file.clone(),
                ..HttpSettings::default()
            },
        }
    }
}
